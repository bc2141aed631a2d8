"""How many independent ways of looking back an attention head has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import method
from .column import Column, facts
from .reading import Limits, Reader
from .running import only

if TYPE_CHECKING:
    from ..units import Units

of_heads_and_layers = only("heads", "layers")


def without_patterns(units: Units) -> str:
    """Why no attention pattern belongs to the units of a table; empty where one does."""
    lacking = [name for name in units.sites if pattern_of(name) not in units.net.named]
    return of_heads_and_layers(units) or (f"{lacking[0]} has no attention pattern that is known by name." if lacking else "")


def pattern_of(name: str) -> str:
    """The name of the attention pattern of a block or of its heads."""
    return f"{name.removesuffix('.attn.heads')}.attn.pattern"


@method("attention_rank", family="score", title="Rank of the attention pattern (ARank)", refuses=without_patterns,
        paper="Luo et al. 2024, arXiv:2410.13859")
@torch.no_grad()
def attention_rank(units: Units, data: Any, *, rows: int = 8, tokens: int | None = None, batch_size: int = 16,
                   seed: int | None = None, progress: bool = False) -> Column:
    """The rank of a head's attention pattern without its diagonal, mean over rows; for a layer the mean over its heads.

    rows: on so many rows at most, because ranks take a singular value decomposition for each head and row. The rank is
    torch's in float32, as in the paper's code. It hangs on the length of the text and on how sharp attention is: compare it
    within one text length.
    """
    if rows < 1:
        raise ValueError(f"it takes at least one row; found rows={rows}.")
    net, where = units.net, {name: pattern_of(name) for name in units.sites}
    reader = Reader(units, data, Limits(tokens, batch_size, seed, rows), progress)
    total = {name: torch.zeros(net.site(pattern).n or 1, dtype=torch.float64) for name, pattern in where.items()}
    for part in reader:
        patterns = net.record(part.batch, list(where.values()))
        for name, pattern in where.items():
            total[name] += ranks(patterns[pattern], pattern).double().sum(0).cpu()
        reader.passed(len(part.batch.rows))
    means = {name: (x / max(reader.rows, 1)).numpy() for name, x in total.items()}
    values = [means[site][unit] if units.kind.axis else means[site].mean()
              for site, unit in zip(units.frame["site"], units.frame["unit"], strict=True)]
    return Column(np.array(values), facts("attention_rank", reader, None, None, rows=rows))


def ranks(pattern: Tensor, name: str) -> Tensor:
    """The ranks of attention patterns [b, heads, t, t] without their diagonals: [b, heads]."""
    if not bool(torch.isfinite(pattern).all()):
        raise ValueError(f"{name} holds NaN or infinity; look for it in the network's weights or inputs.")
    return torch.linalg.matrix_rank(pattern.float() - torch.diag_embed(pattern.diagonal(dim1=-2, dim2=-1).float()))
