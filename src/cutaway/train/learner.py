"""One dictionary while it is trained."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from typing import Any

import torch
from torch import Tensor

from ..dictionaries import Dictionary, Facts, Recipe
from ..dictionaries.parts import AuxK, Pass
from ..timing import part
from .adam import Adam

WARMUP, DECAY = 0.05, 0.2   # shares of the steps in which the learning rate rises, and falls to zero
DEAD_SHARE = 0.02           # a latent is dead when silent for this share of the training's tokens
GAIN, MOST_EXCESS = 0.1, 0.5  # how L0 is steered: a proportional-integral controller in the logarithm of the penalty
HISTORY = 200               # at most so many steps are recorded, however long the training


def share_of_rate(progress: float) -> float:
    """The learning rate's share: up over the first 5% of training, down to zero over the last 20%."""
    return min(1.0, max(progress, 1e-3) / WARMUP, (1 - progress) / DECAY)


class Learner:
    """Trains one dictionary of one recipe, in units in which the activations have variance 1 in the mean dimension."""

    def __init__(self, recipe: Recipe, sample: Tensor, steps: int, batch: int, seed: int, fast: bool = False):
        generator = torch.Generator().manual_seed(seed)
        self.recipe, self.steps, self.step_count = recipe, steps, 0
        self.scale = float(sample.var(0).mean() ** 0.5)
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"the activations to learn from have the spread {self.scale}; they are constant or hold NaN.")
        self.losses = tuple(
            replace(term, dead_after=max(1, int(DEAD_SHARE * steps * batch)))
            if isinstance(term, AuxK) and not term.dead_after else term for term in recipe.losses)
        self.dictionary = recipe.build((sample / self.scale).float(), generator).to(sample.device)
        self.silent = torch.zeros(recipe.width, dtype=torch.int64, device=sample.device)
        self.penalty, self.excess = 1.0, 0.0
        self.optimizer = Adam(dict(self.dictionary.named_parameters()), ("W_dec",) if recipe.unit_norm else (),
                              ("W_enc",) if fast and not recipe.tied else ())
        self.history: list[dict[str, float]] = []

    @property
    def done(self) -> bool:
        return self.step_count >= self.steps

    def step(self, x: Tensor) -> dict[str, float]:
        """One step on a batch of activations x [n, d] in the site's own units."""
        if not torch.isfinite(x.sum()):
            raise ValueError("the activations to learn from hold NaN or infinity; nothing was learned from this batch.")
        progress, d = self.step_count / self.steps, self.dictionary
        x = x.float() / self.scale
        with self.optimizer.collecting():
            with part("encode"):
                codes = d.encode(x, progress)
            with part("decode"):
                reconstruction = d.decode(codes)
            with part("loss"):
                now = Pass(d, x, codes, reconstruction, self.silent, float(d.d), progress, self.penalty * exp(self.excess))
                terms = [term(now) for term in self.losses]
            with part("backward"):
                torch.stack(terms).sum().backward()
        with part("optimizer"):
            self.optimizer.step(self.recipe.rate * share_of_rate(progress))
        with torch.no_grad():
            fired = codes.counts(d.width) > 0
            self.silent = torch.where(fired, 0, self.silent + len(x))
            l0 = float(codes.l0.float().mean())
            if self.recipe.l0:
                self.excess = min(max(log(max(l0, 0.1) / self.recipe.l0), -MOST_EXCESS), MOST_EXCESS)
                self.penalty *= exp(GAIN * self.excess)
        self.step_count += 1
        dead_after = next((term.dead_after for term in self.losses if isinstance(term, AuxK)), 20 * len(x))
        facts = {"fvu": float(terms[0].detach()), "l0": l0, "dead": float((self.silent >= dead_after).float().mean())}
        if self.step_count % -(-self.steps // HISTORY) == 0 or self.done:
            self.history.append({"step": self.step_count, "tokens": self.step_count * len(x), **facts})
        return facts

    def export(self, facts: Facts) -> Dictionary:
        """The dictionary in the site's own units: the scale is folded into its biases."""
        source, recipe = self.dictionary, self.recipe.json()
        result = Dictionary(source.d, source.width, source.sparsify, replace(facts, recipe=recipe), source.tied)
        result.load_state_dict(source.state_dict())
        with torch.no_grad():
            result.b_dec.mul_(self.scale)
            result.b_enc.mul_(self.scale)
        return result.requires_grad_(False).cpu()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training depends on: tensors, and what fits in JSON."""
        tensors: dict[str, Tensor] = {f"dictionary.{name}": value for name, value in self.dictionary.named_parameters()}
        tensors.update({f"optimizer.{name}": value for name, value in self.optimizer.state().items()})
        tensors["silent"] = self.silent
        return tensors, {"step": self.step_count, "scale": self.scale, "penalty": self.penalty, "excess": self.excess,
                         "history": self.history}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, value in self.dictionary.named_parameters():
                value.copy_(tensors[f"dictionary.{name}"])
        start = "optimizer."
        self.optimizer.load_state({name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)})
        self.silent = tensors["silent"]
        self.step_count, self.scale = facts["step"], facts["scale"]
        self.penalty, self.excess, self.history = facts["penalty"], facts["excess"], facts["history"]

