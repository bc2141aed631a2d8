"""Adam for dictionaries: matrices are stepped row by row from collected gradients, which are never written out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from .. import kernels
from ..kernels import reference

BETAS, EPS = (0.9, 0.999), 6.25e-10   # eps as in the authors' code of arXiv 2406.04093


class Adam:
    """Adam (arXiv 1412.6980) with float32 masters, moments and, for weights that select, a bfloat16 copy beside them.

    parameters: by name; matrices [width, d] are stepped by the fused kernel, the rest by its reference. unit: names of
    matrices whose rows are kept at norm 1. fast: names of matrices that select candidates with a bfloat16 copy.
    """

    def __init__(self, parameters: Mapping[str, Tensor], unit: tuple[str, ...] = (), fast: tuple[str, ...] = ()):
        self.parameters, self.unit, self.count = dict(parameters), unit, 0
        self.m = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.rows = {name: kernels.Rows(p) for name, p in parameters.items() if p.ndim == 2}
        for name in fast:
            self.rows[name].low = kernels.backend_of(parameters[name]).low_copy(parameters[name])

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Forward and backward passes inside leave their gradients here."""
        with kernels.collecting(list(self.rows.values())):
            yield

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step from what was collected and from each parameter's `.grad`; both are empty afterwards."""
        self.count += 1
        for name, p in self.parameters.items():
            if name in self.rows:
                kernels.adam_rows(self.rows[name], self.m[name], self.v[name], rate, BETAS, EPS, self.count,
                                  name in self.unit)
            elif p.grad is not None:
                reference.adam_rows(p.view(1, -1), self.m[name].view(1, -1), self.v[name].view(1, -1), None, (),
                                    p.grad.view(1, -1), None, rate, BETAS, EPS, self.count, False)
                p.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments and the count of steps."""
        moments = {f"{kind}.{name}": value for kind in ("m", "v") for name, value in getattr(self, kind).items()}
        return {**moments, "count": torch.tensor(self.count)}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state; the parameters must have been loaded already, since their copies are made from them."""
        self.count = int(state["count"])
        for kind in ("m", "v"):
            for name, value in getattr(self, kind).items():
                value.copy_(state[f"{kind}.{name}"])
        for rows in self.rows.values():
            if rows.low is not None:
                rows.low[: len(rows.weight)] = rows.weight
