"""Several networks that read the same text, as one network whose sites are those of all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from .network import Network


class SideBySide(nn.Module):
    """Runs every network on the same inputs; gives what each of them returns."""

    def __init__(self, modules: list[nn.Module], main_input_name: str):
        super().__init__()
        self.networks = nn.ModuleList(modules)
        self.main_input_name = main_input_name

    def forward(self, **inputs: Any) -> list[Any]:
        return [module(**inputs) for module in self.networks]


def side_by_side(*nets: Network) -> Network:
    """Several networks as one: the site `blocks.2` of the first is `0.blocks.2`, of the second `1.blocks.2`, and `*.blocks.2`
    is both.

    For what compares networks on the same tokens, such as a crosscoder of a model before and after tuning:
    `learn(side_by_side(base, tuned), data, {"*.blocks.2": Crosscoder(4096, 32)})`. Data is that of the first network, whose
    tokenizer the others must share. The result has no loss of its own. Raises ValueError for fewer than two networks, or for
    networks with different tokens.
    """
    if len(nets) < 2:
        raise ValueError(f"networks are put side by side from two on; found {len(nets)}.")
    known = [None if net.tokenizer is None else net.tokenizer.get_vocab() for net in nets]
    if any(vocabulary != known[0] for vocabulary in known):
        names = ", ".join(net.name for net in nets)
        raise ValueError(f"{names} have different tokenizers, so they do not read the same tokens.")
    main: Any = getattr(nets[0].base, "main_input_name", "input_ids")
    module = SideBySide([net.module for net in nets], main)
    made = Network(module, nets[0].tokenizer, nets[0].processor, " | ".join(net.name for net in nets))
    made.named = {f"{i}.{name}": replace(site, name=f"{i}.{name}", path=f"networks.{i}.{site.path}".rstrip("."))
                  for i, net in enumerate(nets) for name, site in net.named.items()}
    made.parts = nets
    return made
