"""What blocks and sublayers do to the residual stream, from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..network import At, Site
from ..network.edit import Touch
from .places import skip
from .reading import Limits, Part
from .running import only
from .sweep import Shared

if TYPE_CHECKING:
    from ..units import Units

of_blocks = only("layers", "sublayers")
CLOSE = 1e-3  # how far a block may be from its input plus its sublayers and still be called their sum


class Stream:
    """The stream before a block or a sublayer, and what is added to it, at each kept token.

    A score is called with both, [tokens, d], and gives one number a token; a unit's is their mean. A sublayer's stream is
    the block's input for attention and the block's output without the MLP for the MLP, in blocks that add the two up.
    """

    backward = False
    reference = None

    def __init__(self, units: Units, data: Any, limits: Limits, scores: Sequence[Shared]):
        self.units, self.scores = units, scores
        self.leaves: list[Tensor] = []
        self.sums, self.n = np.zeros((len(scores), len(units.frame))), np.zeros(len(units.frame))
        self.seen: dict[str, Tensor] = {}

    def watching(self, part: Part) -> dict[Site, Touch]:
        self.seen.clear()
        net, rows = self.units.net, {name: index for name, (index, _) in part.members.items()}
        if self.units.kind.name == "layers":
            return {self.units.sites[name]: self._block(name, part, {name: rows[name]}) for name in rows}
        blocks: dict[str, dict[str, np.ndarray]] = {}
        for name, index in rows.items():
            blocks.setdefault(_block_name(self.units.sites[name]), {})[name] = index
        touches = {net.site(block): self._block(block, part, of) for block, of in blocks.items()}
        return {**{net.site(f"{block}.{sub}"): self._keep(f"{block}.{sub}") for block in blocks for sub in ("attn", "mlp")
                   if f"{block}.{sub}" in net.named}, **touches}

    def _keep(self, name: str) -> Touch:
        def touch(x: Tensor, at: At) -> None:
            self.seen[name] = x.detach()
        return touch

    def _block(self, block: str, part: Part, members: dict[str, np.ndarray]) -> Touch:
        @torch.no_grad()
        def touch(x: Tensor, at: At) -> None:
            if not bool(torch.isfinite(x).all()):
                raise ValueError(f"{block} holds NaN or infinity; look for it in the network's weights or inputs.")
            before, added = skip(x, at), x - skip(x, at)
            parts = {block: (before, added)}
            if self.units.kind.name != "layers":
                parts = self._sublayers(block, before, added)
            for name, index in members.items():
                self._count(index, *parts[name], part.batch.keep)
        return touch

    def _sublayers(self, block: str, before: Tensor, added: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        own = {name: self.seen[f"{block}.{name}"] for name in ("attn", "mlp") if f"{block}.{name}" in self.seen}
        rest = added - sum(own.values())
        if not bool(rest.norm() <= CLOSE * added.norm()):
            raise ValueError(f"{block} is not its input plus what attention and MLP give, as in networks with a norm after "
                             "each addition, so there is no stream before a sublayer; score the kind 'layers'.")
        streams = {"attn": before, "mlp": before + added - own["mlp"] if "mlp" in own else before}
        return {f"{block}.{name}": (streams[name], x) for name, x in own.items()}

    def _count(self, index: np.ndarray, before: Tensor, added: Tensor, keep: Tensor | None) -> None:
        if keep is not None and keep.shape == before.shape[: keep.ndim]:
            before, added = before[keep.to(before.device)], added[keep.to(added.device)]
        before, added = (x.flatten(1) if x.ndim == 4 else x.reshape(-1, x.shape[-1]) for x in (before, added))
        wide = torch.promote_types(before.dtype, torch.float32)  # cosines of half precision are mostly 1
        for sums, score in zip(self.sums, self.scores, strict=True):
            sums[index] += float(score.each(before.to(wide), added.to(wide)).double().sum())
        self.n[index] += len(before)

    def passed(self, part: Part) -> None:
        pass

    def columns(self) -> list[np.ndarray]:
        return list(self.sums / np.maximum(self.n, 1))


def _block_name(site: Site) -> str:
    return site.name.rpartition(".")[0]
