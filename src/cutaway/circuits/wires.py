"""Where the parts of a block read the residual stream: one row of data a family.

A part reads what all parts before it have added to the stream. That holds for networks whose norms stand before their
parts; where a norm stands behind one (BERT, Gemma 2 and 3), what a head adds depends on the other heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..network import Network

PARTS = ("q", "k", "v")


@dataclass(frozen=True)
class Wires:
    """Paths inside a block: the norm and the maps through which heads read (q, k, v), and the norm before the MLP.

    layout: how queries, keys and values lie in their maps' outputs.
    """

    families: tuple[str, ...]
    norm1: str
    maps: tuple[str, str, str]
    norm2: str
    layout: str = "apart"


def _apart(part: int, sizes: tuple[int, int, int], d: int) -> Tensor:
    return torch.arange(sizes[part] * d).view(-1, d)


def _joined(part: int, sizes: tuple[int, int, int], d: int) -> Tensor:
    return torch.arange(sizes[part] * d).view(-1, d) + sum(sizes[:part]) * d


def _interleaved(part: int, sizes: tuple[int, int, int], d: int) -> Tensor:
    return torch.arange(3 * sizes[part] * d).view(-1, 3, d)[:, part]


# How the outputs of a map belong to heads: (which of q k v, how many heads each, a head's width) -> outputs [heads, width]
LAYOUTS: dict[str, Callable[[int, tuple[int, int, int], int], Tensor]] = {
    "apart": _apart, "joined": _joined, "interleaved": _interleaved}

WIRES = (
    Wires(("gpt2",), "ln_1", ("attn.c_attn",) * 3, "ln_2", "joined"),
    Wires(("gpt-neox",), "input_layernorm", ("attention.query_key_value",) * 3, "post_attention_layernorm", "interleaved"),
    Wires(("llama", "mixture-of-experts"), "input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
          "post_attention_layernorm"),
    Wires(("llama",), "input_layernorm", ("self_attn.qkv_proj",) * 3, "post_attention_layernorm", "joined"),
    Wires(("vit",), "layernorm_before", ("attention.q_proj", "attention.k_proj", "attention.v_proj"), "layernorm_after"),
)


def wires_of(net: Network) -> Wires:
    """The row of a network's family; a sentence where it has none."""
    family = net.family.name if net.family and "norm" in net.named else ""
    block = net.module.get_submodule(net.site("blocks.0").path) if family else nn.Module()
    present = {path for path, _ in block.named_modules()}
    for row in WIRES:
        if family in row.families and {row.norm1, row.norm2, *row.maps} <= present:
            return row
    known = ", ".join(dict.fromkeys(name for row in WIRES for name in row.families))
    raise ValueError(f"edges between the parts of {net.name} are not known: its parts must read a residual stream through a "
                     f"norm of their own, as in {known}. Patch its activations instead (activation_patching).")


def weight_of(module: Any) -> Tensor:
    """The weight of a linear map as [outputs, inputs], whichever way round it is stored."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight
