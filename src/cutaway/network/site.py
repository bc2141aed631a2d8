"""A site: one tensor of a network, and how it is cut into units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from .edit import At


class Cut(Protocol):
    """How a tensor is cut into units: `join(*split(x))` gives x again, bit for bit."""

    @property
    def n(self) -> int | None: ...
    def split(self, x: Tensor, at: At) -> tuple[Tensor, Any]: ...
    def join(self, z: Tensor, rest: Any) -> Tensor: ...
    def spread(self, gate: Tensor, over: str, z: Tensor, rest: Any, at: At) -> Tensor: ...


@dataclass(frozen=True)
class View:
    """A cut that only reshapes, in einops notation, such as `b t (u d) -> b t u d` for heads.

    The axis named `u` counts units, `b` rows of the batch and `t` tokens. A leading `...` stands for axes
    whose names follow from the tensor: `b`, and `t` for the middle one of three; units come second in images.
    """

    pattern: str = "... u -> ... u"
    n: int | None = None

    @property
    def axes(self) -> list[str]:
        return self.pattern.split("->")[1].split()

    def names(self, z: Tensor, at: At | None = None) -> list[str]:
        """The name of each axis of z, this site's tensor when it is cut; "" for axes without a name."""
        if self.axes[0] != "...":
            return self.axes
        if z.ndim == 4 and at is not None and at.reads_images:
            return ["b", "u", "h", "w"]
        leading = ["b", "t"] if z.ndim == 3 else ["b", *[""] * (z.ndim - 2)]
        return [*leading[:z.ndim - 1], *self.axes[1:]]

    def split(self, x: Tensor, at: At) -> tuple[Tensor, Any]:
        left, right = (side.strip() for side in self.pattern.split("->"))
        if left == right:
            return x, None
        sizes = {"u": self.n} if "(u d)" in left else {}
        return rearrange(x, self.pattern, **sizes), f"{right} -> {left}"

    def join(self, z: Tensor, rest: Any) -> Tensor:
        return z if rest is None else rearrange(z, rest)

    def spread(self, gate: Tensor, over: str, z: Tensor, rest: Any, at: At) -> Tensor:
        """Shape a gate over the named axes so that it broadcasts against z; `t` is read as the absolute position."""
        axes = self.names(z, at)
        if any(name not in axes for name in over.split()):
            raise ValueError(f"the gate is over {over!r}, but the site has the axes {' '.join(filter(None, axes))!r}.")
        gate, names = by_position(gate, over, at, z.shape[axes.index("t")] if "t" in axes else None)
        gate = gate.permute([names.index(name) for name in axes if name in names])
        sizes = iter(gate.shape)
        shape = [next(sizes) if name in names else 1 for name in axes]
        for name, size, own in zip(axes, shape, z.shape, strict=True):
            if size not in (1, own):
                raise ValueError(f"the gate has {size} values along {name!r}, but the site has {own}.")
        return gate.reshape(shape)


def by_position(gate: Tensor, over: str, at: At, tokens: int | None = None) -> tuple[Tensor, list[str]]:
    """Turn a gate over absolute positions into one over the tokens of this pass; unnamed positions stay open (1).

    tokens: how many tokens the site has, where it keeps only the pass's last ones (as logits do in generation).
    """
    names = over.split()
    if gate.ndim != len(names):
        raise ValueError(f"a gate over {over!r} needs {len(names)} axes; found the shape {tuple(gate.shape)}.")
    t = names.index("t") if "t" in names else None
    if t is None or (at.whole(gate.shape[t]) and tokens in (None, gate.shape[t])) or not at.has_positions:
        return gate, names
    gate = torch.cat([gate, torch.ones_like(gate.narrow(t, 0, 1))], dim=t)
    positions = at.positions if tokens is None else at.positions[..., -tokens:]
    positions = positions.clamp(max=gate.shape[t] - 1)
    if positions.ndim == 1:
        return gate.index_select(t, positions), names
    others = [name for name in names if name not in "bt"]
    gate = gate.permute([names.index(name) for name in ["b", "t", *others] if name in names])
    rows = torch.arange(len(positions), device=gate.device)[:, None]
    return gate[rows, positions] if "b" in names else gate[positions], ["b", "t", *others]


@dataclass(frozen=True)
class Experts(View):
    """Routing weights of a mixture of experts: [b, t, expert], zero for the experts that a token does not visit.

    The experts' module takes (hidden [b t, d], chosen experts [b t, k], their weights [b t, k]); the cut spreads the
    weights over all experts and gathers them again.
    """

    pattern: str = "b t u -> b t u"
    n: int = 0

    def split(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        chosen = at.module_args[1].view(x.shape)
        return x.new_zeros(*x.shape[:-1], self.n).scatter(-1, chosen, x), chosen

    def join(self, z: Tensor, rest: Any) -> Tensor:
        return z.gather(-1, rest)


@dataclass(frozen=True)
class Site:
    """One tensor of a network.

    name: Cutaway's name, such as `blocks.3.mlp.neurons`, or `path:in`, `path:out`, `path:weight`.
    path: the module's path in the network ("" is the network itself).
    io: `in`, `out`, `pattern` (attention weights after softmax) or the name of a parameter.
    pick: which element of the module's output or input is meant, where it has several.
    flat: the module sees the tensor as [b t, ...]; everybody else sees it as [b, t, ...].
    """

    name: str
    path: str
    io: str = "out"
    cut: Cut = field(default_factory=View)
    pick: int | str = 0
    editable: bool = True
    flat: bool = False

    @property
    def n(self) -> int | None:
        """The number of units, where it is known before a pass."""
        return self.cut.n

    @property
    def is_weight(self) -> bool:
        return self.io not in ("in", "out", "pattern")

    @property
    def holds_maps(self) -> bool:
        """Whether its units are the channels of maps [b, u, h, w], and not the entries of vectors along the last axis."""
        return isinstance(self.cut, View) and "h w" in self.cut.pattern

    @property
    def block(self) -> int | None:
        """The block's number, for sites inside a block."""
        parts = self.name.split(".")
        return int(parts[1]) if parts[0] == "blocks" and len(parts) > 1 and parts[1].isdigit() else None

    def __str__(self) -> str:
        return self.name
