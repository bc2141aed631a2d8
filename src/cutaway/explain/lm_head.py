"""Neurons named by the unembedding: which tokens their weights point to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..catalogue import method
from ..network import At, Edit, Network
from ..network.families import inputs_of, outputs_of

if TYPE_CHECKING:
    import pandas as pd

UP = ("up_proj", "c_fc", "dense_h_to_4h", "fc1", "gate_up_proj")   # what families call the projection that neurons read by
SIDES = ("reads", "writes")
PART = 512                                                          # neurons that are decoded at a time


@dataclass(frozen=True, eq=False)
class Decoded:
    """The tokens that neurons point to, the likeliest first.

    side: `reads` or `writes`; block, unit: int [n]; tokens: ids [n, k]; probabilities: [n, k].
    """

    net: Network
    side: str
    block: Tensor
    unit: Tensor
    tokens: Tensor
    probabilities: Tensor

    def __len__(self) -> int:
        return len(self.unit)

    def peaked(self, n: int) -> Decoded:
        """The neurons whose likeliest token has the largest probability: the most specialised, at most n."""
        return self.pick(self.probabilities[:, 0].argsort(descending=True, stable=True)[:n])

    def pick(self, rows: Tensor) -> Decoded:
        """Some of the neurons."""
        return Decoded(self.net, self.side, *(x[rows] for x in (self.block, self.unit, self.tokens, self.probabilities)))

    @property
    def frame(self) -> pd.DataFrame:
        """One row a neuron: block, unit, its tokens as text, and the probability of the first."""
        import pandas as pd
        words = [[self.net.tokenizer.decode([i]) for i in row] for row in self.tokens.tolist()]
        return pd.DataFrame({"block": self.block.numpy(), "unit": self.unit.numpy(), "tokens": words,
                             "probability": self.probabilities[:, 0].numpy()})


@method("lm-head-decode", family="explain", title="Neurons decoded by the LM head", paper="arXiv 2501.02688", roster="069")
@torch.no_grad()
def lm_head_decode(net: Network, blocks: Sequence[int] | None = None, side: str = "reads", k: int = 10,
                   gain: bool = False) -> Decoded:
    """Name every MLP neuron by the tokens to which the LM head takes its weight vector; no data is needed.

    p = softmax(W_lm w), with W_lm [vocabulary, d_model]. side: `reads` takes for w the row of the up-projection by which the
    neuron reads the residual stream, as the paper does; `writes` the column of the down-projection by which it writes to it.
    blocks: all when left out. k: tokens a neuron. gain: multiply w with the last norm's weight first; the paper does not
    say, and without it is the default here. Raises ValueError for a network without an unembedding or without neurons.
    """
    if side not in SIDES:
        raise ValueError(f"neurons are decoded by what they {' or '.join(SIDES)}; found {side!r}.")
    head = _head(net)
    norm: Any = net.module.get_submodule(net.named["norm"].path) if gain and "norm" in net.named else None
    scale = torch.ones(()) if norm is None else norm.weight
    parts: list[list[Tensor]] = [[], [], [], []]
    for block in range(net.n_blocks) if blocks is None else blocks:
        weight = vectors(net, block, side) * scale.to(head)
        found = [torch.softmax(part @ head.T, -1).topk(min(k, len(head))) for part in weight.split(PART)]
        made = (torch.full((len(weight),), block), torch.arange(len(weight)), torch.cat([f.indices for f in found]).cpu(),
                torch.cat([f.values for f in found]).cpu())
        for part, new in zip(parts, made, strict=True):
            part.append(new)
    return Decoded(net, side, *map(torch.cat, parts))


def vectors(net: Network, block: int, side: str) -> Tensor:
    """The vectors by which a block's neurons read the residual stream, or by which they write to it: [neurons, d_model]."""
    path, start = _up(net, block)
    if side == "reads":
        module = net.module.get_submodule(path)
        weight = _rows(module)[start:]
    else:
        weight = _rows(net.module.get_submodule(net.site(f"blocks.{block}.mlp.neurons").path)).T
    return weight.detach().float()


def clamped(net: Network, side: str, block: int, unit: int, value: float) -> Edit:
    """Hold a neuron at a value at every token: its up-projection (`reads`), or what its down-projection gets (`writes`).

    In a gated MLP the up-projection is multiplied by the gate afterwards, so that it acts only where the gate is open, and
    with the gate's sign.
    """
    site, start = place(net, side, block)

    def ref(x: Tensor, at: At) -> Tensor:
        new = x.clone()
        new[..., start + unit] = value
        return new
    return Edit(site, ref)


def place(net: Network, side: str, block: int) -> tuple[str, int]:
    """The site at which a block's neurons are read or clamped, and where they begin there."""
    path, start = _up(net, block)
    return (f"{path}:out", start) if side == "reads" else (f"blocks.{block}.mlp.neurons", 0)


def _up(net: Network, block: int) -> tuple[str, int]:
    """The path of the up-projection of a block, and where its neurons begin: after the gate, where both are one."""
    neurons = f"blocks.{block}.mlp.neurons"
    if neurons not in net.named:
        raise ValueError(f"{net.name} has no MLP neurons in block {block} that Cutaway knows by name.")
    n, inside = inputs_of(net.module.get_submodule(net.named[neurons].path)), net.named[f"blocks.{block}"].path
    modules = dict(net.module.get_submodule(inside).named_modules())
    for name in UP:
        for path, module in modules.items():
            wide = outputs_of(module) if path.split(".")[-1] == name else None
            if n is not None and wide in (n, 2 * n):
                return f"{inside}.{path}", wide - n
    raise ValueError(f"no module of {inside} in {net.name} is known to be its up-projection; there are {', '.join(modules)}.")


def _rows(module: Any) -> Tensor:
    """A linear module's weight as [out, in], whichever way round it is stored."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


def _head(net: Network) -> Tensor:
    find: Any = getattr(net.module, "get_output_embeddings", lambda: None)
    head = find()
    if head is None or head.weight.shape[1] != net.d_model:
        raise ValueError(f"{net.name} has no unembedding by which neurons could be decoded.")
    return head.weight.detach().float()
