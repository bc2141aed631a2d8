"""How the learning rate moves over a training, and when a training that no longer improves ends."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

SHAPES = {"linear": lambda share: share, "cosine": lambda share: 0.5 - 0.5 * cos(pi * share), "constant": lambda share: 1.0}


@dataclass(frozen=True)
class Schedule:
    """The learning rate rises over the first `warmup` of the steps and falls to zero over the last `decay`.

    warmup, decay: shares of the steps. shape: of the fall: linear, cosine, or constant for none. patience: left out, all
    steps are made; otherwise the fall begins at once when the FVU, averaged over windows of 1% of the steps, has not become
    `least` smaller (as a share of itself) for this share of the steps, and training ends when the fall has ended.
    """

    warmup: float = 0.05
    decay: float = 0.2
    shape: str = "linear"
    patience: float | None = None
    least: float = 0.005

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"the learning rate falls in one of the shapes {', '.join(SHAPES)}; found {self.shape!r}.")
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share of the steps from 0 to 1; found {getattr(self, name)}.")
        if self.patience is not None and not 0 < self.patience <= 1:
            raise ValueError(f"patience is a share of the steps from 0 to 1; found {self.patience}.")

    def rate(self, progress: float) -> float:
        """The learning rate's share of its greatest, at a progress from 0 to 1."""
        rise = min(1.0, max(progress, 1e-3) / self.warmup) if self.warmup else 1.0
        fall = SHAPES[self.shape](min(1.0, (1 - progress) / self.decay)) if self.decay else 1.0
        return min(rise, fall)


@dataclass
class Plateau:
    """Watches the FVU of a training of `steps` steps for the moment from which it no longer improves."""

    schedule: Schedule
    steps: int
    best: float = float("inf")
    best_step: int = 0
    total: float = 0.0
    count: int = 0

    def reached(self, step: int, fvu: float) -> bool:
        """Whether training should begin to end, at a step with this FVU."""
        if self.schedule.patience is None:
            return False
        self.total, self.count = self.total + fvu, self.count + 1
        if self.count >= max(1, self.steps // 100):
            mean, self.total, self.count = self.total / self.count, 0.0, 0
            if mean < self.best * (1 - self.schedule.least):
                self.best, self.best_step = mean, step
        return step - self.best_step > self.schedule.patience * self.steps
