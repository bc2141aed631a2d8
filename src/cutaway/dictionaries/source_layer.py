"""One layer of a cross-layer transcoder as a dictionary of its own: read at one site, written at several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, ClassVar, NoReturn

from torch import Tensor

from ..data import below
from ..network import Edit, Network, Site
from .codes import Codes
from .dictionary import Facts
from .transcoder import Transcoder
from .wiring import tensors_of


class SourceLayer(Transcoder, kind="source-layer"):
    """The latents that one layer of a `CrossLayer` reads, and their rows into that layer's target and all later ones.

    W_enc: [width, d]; W_dec: [width, targets * d_out], the targets side by side; target: their names, with & between. limits:
    of each target, as `target_norm`. There is no reconstruction: what is written at a target is the sum over layers.
    """

    says: ClassVar[dict[str, str]] = {
        "layout": "W_enc is [width, d], W_dec [width, targets * d_out], the targets side by side",
        "b_dec": "none: what is added at a target belongs to all layers", "input_scale": "none: folded into the weights"}

    def __init__(self, d: int, width: int, sparsify: Any = None, facts: Facts = Facts(), tied: bool = False,  # noqa: B008
                 d_out: int | None = None, target: str = "", limits: Sequence[float] = ()):
        super().__init__(d, width, sparsify, facts, tied, d_out, target=target)
        self.limits = tuple(limits)

    @property
    def settings(self) -> dict[str, Any]:
        return {"d_out": self.d_out, "target": self.target, "limits": self.limits}

    @property
    def writes(self) -> tuple[str, ...]:
        return tensors_of(self.target)

    @property
    def guards(self) -> tuple[int, ...]:
        return tuple(j for j, limit in enumerate(self.limits) if limit < inf)

    def rows_into(self, j: int) -> Tensor:
        return self.W_dec.chunk(len(self.writes), 1)[j]

    def speaks_for(self, x: Sequence[Tensor], y: Mapping[int, Tensor], tokens: Tensor | None = None) -> Tensor:
        keep = self.keeps(x[0], tokens)
        for j, one in y.items():
            keep = keep & below(one, self.limits[j] if self.limits else inf)
        return keep

    def decode(self, codes: Codes) -> Tensor:
        self._alone()

    def passed(self, x: Sequence[Tensor]) -> tuple[Codes, list[Tensor]]:
        self._alone()

    def written(self, net: Network) -> Site:
        self._alone()

    def instead(self, net: Network, values: Sequence[Tensor | float]) -> list[Edit]:
        self._alone()

    def splice(self, net: Network) -> list[Edit]:
        self._alone()

    def _alone(self) -> NoReturn:
        raise ValueError(f"what is written at {self.writes[0]} and later is the sum over the layers of a cross-layer "
                         f"transcoder, so the latents that read {self.site} reconstruct nothing alone; use the whole of it.")
