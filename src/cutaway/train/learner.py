"""One dictionary while it is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import exp, log
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..dictionaries import Dictionary, Facts, Recipe
from ..dictionaries.codes import Codes
from ..dictionaries.parts import AuxK, Pass, SquaredError
from ..dictionaries.whitening import check_whitening, unwhitened, whitening
from ..timing import part
from .adam import Adam
from .parallel.alone import Alone
from .schedule import Plateau, Schedule

DEAD_SHARE = 0.02           # a latent is dead when silent for this share of the training's tokens
GAIN, MOST_EXCESS = 0.1, 0.5  # how L0 is steered: a proportional-integral controller in the logarithm of the penalty
NUDGE = 0.3                 # of what is missing to the wanted L0: how far biases are moved toward it in a step
HISTORY = 200               # at most so many steps are recorded, however long the training


@dataclass(frozen=True)
class Settings:
    """How a dictionary is trained, whatever its recipe.

    selection: `fast` looks for the largest latents with a bfloat16 product and computes those that it finds exactly,
    `exact` looks for them in float32; `auto` is fast where the machine and the width make that worth it.
    accumulate: each batch is gone through in so many parts, whose gradients are added up before the step, to save memory.
    whiten: learn from activations that were given the same variance in all directions, so that small ones matter as much as
    large ones; FVU in the history is then of those. The finished dictionary is of the activations as they are.
    """

    selection: str = "auto"
    accumulate: int = 1
    schedule: Schedule = Schedule()
    whiten: bool = False

    def __post_init__(self) -> None:
        if self.selection not in ("auto", "fast", "exact"):
            raise ValueError(f"the selection is auto, fast or exact; found {self.selection!r}.")
        if self.accumulate < 1:
            raise ValueError(f"a batch is gone through in one part or more; found accumulate={self.accumulate}.")


class Learner:
    """Trains one dictionary of one recipe, in units in which the activations have variance 1 in the mean dimension.

    sample: [n, d] activations to begin from. widths: of the tensors that lie side by side in a token's row, where a recipe
    learns from several, each of which has its own scale.
    """

    def __init__(self, recipe: Recipe, sample: Tensor, steps: int, batch: int, seed: int, settings: Settings | None = None,
                 ranks: Alone | None = None, widths: tuple[int, ...] | None = None):
        generator = torch.Generator().manual_seed(seed)
        self.recipe, self.steps, self.step_count = recipe, steps, 0
        self.settings, self.ranks = settings or Settings(), ranks or Alone()
        self.row = recipe.wiring.row(widths or (sample.shape[-1],))
        self.scales = [float(part.var(0).mean() ** 0.5) for part in sample.split(self.row.widths, -1)]
        wrong = next((scale for scale in self.scales if not 0 < scale < float("inf")), None)
        if wrong is not None:
            raise ValueError(f"the activations to learn from have the spread {wrong}; they are constant or hold NaN.")
        losses = tuple(
            replace(term, dead_after=max(1, int(DEAD_SHARE * steps * batch)))
            if isinstance(term, AuxK) and not term.dead_after else term for term in recipe.losses)
        self.losses = self.ranks.terms(losses)
        self.whitening: Tensor | None = None
        if self.settings.whiten:
            check_whitening(recipe)
            self.whitening = whitening(self._scaled(sample).float())
        self.latents = recipe.wiring.latents(recipe, self.row)
        self.dictionary = self.ranks.build(recipe, self.row, self._scaled(sample).float().cpu(), generator).to(sample.device)
        self.silent = torch.zeros(self.dictionary.width, dtype=torch.int64, device=sample.device)
        self.penalty, self.excess = 1.0, 0.0
        fast = self.settings.selection == "fast" or (
            self.settings.selection == "auto" and kernels.fast_pays(self.dictionary.encoders()[0]))
        parameters = {name: p for name, p in self.dictionary.named_parameters() if p.requires_grad}

        def called(kind: str) -> tuple[str, ...]:
            return tuple(name for name in parameters if name.split(".")[0] == kind)

        self.optimizer = Adam(parameters, called("W_dec") if recipe.unit_norm else (),
                              called("W_enc") if fast and not recipe.tied else ())
        self.plateau = Plateau(self.settings.schedule, steps)
        self.ending: int | None = None   # the step at which a plateau was reached, and the end of training began
        self.history: list[dict[str, float]] = []

    @property
    def scale(self) -> float:
        """The spread of the first tensor of a token, by which it is divided."""
        return self.scales[0]

    def _scaled(self, rows: Tensor) -> Tensor:
        """Rows in normalised units."""
        if self.whitening is not None:
            return rows / self.scale @ self.whitening
        if len(self.scales) == 1:
            return rows / self.scale
        return torch.cat([x / scale for x, scale in zip(rows.split(self.row.widths, -1), self.scales, strict=True)], -1)

    @property
    def progress(self) -> float:
        """The share of the training that is done."""
        if self.ending is None:
            return self.step_count / self.steps
        begun = 1 - self.settings.schedule.decay
        return max(self.ending / self.steps, begun) + (self.step_count - self.ending) / self.steps

    @property
    def done(self) -> bool:
        return self.progress >= 1 - 1e-9

    def step(self, x: Tensor) -> dict[str, float]:
        """One step on a batch of activations x [n, d] in the sites' own units, side by side where there are several."""
        if not torch.isfinite(x.sum()):
            raise ValueError("the activations to learn from hold NaN or infinity; nothing was learned from this batch.")
        n, progress = self.ranks.rows(len(x)), self.progress
        parts = x.float().tensor_split(min(self.settings.accumulate, len(x)))
        fvu, fired = 0.0, torch.zeros_like(self.silent)
        for some in parts:
            share = len(some) / n
            loss, codes = self._backward(self._scaled(some), share, progress)
            fvu += share * loss
            fired += codes.counts(self.dictionary.width)
        self.ranks.exchange(self.dictionary, self.optimizer)
        with part("optimizer"):
            self.optimizer.step(self.recipe.rate * self.settings.schedule.rate(progress))
            self.dictionary.settle()
        fvu, fired = self.ranks.seen(fvu, fired)
        self.silent = torch.where(fired > 0, 0, self.silent + n)
        dead_after = next((term.dead_after for term in self.losses if isinstance(term, AuxK)), 20 * n)
        active, dead = self.ranks.over_latents(torch.stack([fired.sum(), (self.silent >= dead_after).sum()])).tolist()
        l0 = active / n
        if self.recipe.l0:
            self.excess = min(max(log(max(l0, 0.1) / self.recipe.l0), -MOST_EXCESS), MOST_EXCESS)
            self.penalty *= exp(GAIN * self.excess)
            if progress > 1 - self.settings.schedule.decay:
                self._nudge(codes, l0)
        self.step_count += 1
        if self.ending is None and self.plateau.reached(self.step_count, fvu):
            self.ending = self.step_count
        facts = {"fvu": fvu, "l0": l0, "dead": dead / self.latents}
        if self.step_count % -(-self.steps // HISTORY) == 0 or self.done:
            self.history.append({"step": self.step_count, "tokens": self.step_count * n, **facts})
        return facts

    def _nudge(self, codes: Codes, l0: float) -> None:
        """Move the encoder's biases toward the wanted L0, where weights hardly follow the penalty any more.

        If fewer and fewer latents lie further and further above where they begin to fire, by the exponential law, then a
        share of them ends when the biases fall by that share of the mean distance.
        """
        part: Any = self.dictionary.sparsify
        above = part.above(self.dictionary, codes) if hasattr(part, "above") else codes.values
        self.dictionary.b_enc.data -= NUDGE * self.excess * float(self.ranks.mean(above.sum(-1))) / max(l0, 0.1)

    def _backward(self, rows: Tensor, share: float, progress: float) -> tuple[float, Codes]:
        """Leave the gradients of a part of a batch with the optimizer; gives its FVU and codes."""
        d, x, y = self.dictionary, self.row.read(rows), self.row.written(rows)
        with self.optimizer.collecting():
            with part("encode"):
                codes = d.encode(x, progress)
            with part("decode and losses"):
                now = Pass(d, x, codes, self.silent, float(y.shape[-1]), progress, self.penalty * exp(self.excess),
                           self.ranks, y)
                terms = [term(now) for term in self.losses]
            with part("backward"):
                (share * torch.stack(terms).sum()).backward()
        codes = Codes(codes.values.detach(), codes.indices, None if codes.aside is None else codes.aside.detach())
        if hasattr(d.sparsify, "after"):
            d.sparsify.after(d, codes, progress)
        fvu = float(SquaredError()(now).detach())
        if fvu != fvu:
            raise ValueError("training diverged: the reconstruction holds NaN; take a smaller learning rate (lr).")
        return fvu, codes

    def gathered(self) -> dict[str, Tensor] | None:
        """The dictionary's tensors from all ranks, in training's units; None where the first of several ranks has them."""
        return self.ranks.whole(self.dictionary)

    def export(self, facts: Facts, tensors: dict[str, Tensor] | None = None, limits: tuple[float, ...] = ()) -> Dictionary:
        """The dictionary as it is used, in the sites' own units: scales are folded into its weights and thresholds.

        tensors: what `gathered` gave; left out, this rank's own. limits: the largest norm of each tensor of a token that is no
        attention sink.
        """
        recipe, tensors = self.recipe, tensors or dict(self.dictionary.state_dict())
        result = recipe.wiring.empty(recipe, self.row, replace(facts, recipe=recipe.json()), limits)
        with torch.no_grad():
            recipe.wiring.fill(result, tensors)
            result.fold(self.scales)
        finish = getattr(recipe.sparsify, "inference", None)
        result = result if finish is None else finish(result)
        if self.whitening is not None:
            result = unwhitened(result, self.whitening.to(result.W_dec.device))
        return result.requires_grad_(False).cpu()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training depends on: tensors, and what fits in JSON."""
        tensors: dict[str, Tensor] = {f"dictionary.{name}": value for name, value in self.dictionary.named_parameters()}
        tensors.update({f"optimizer.{name}": value for name, value in self.optimizer.state().items()})
        tensors["silent"] = self.silent
        if self.whitening is not None:
            tensors["whitening"] = self.whitening
        plateau = {name: value for name, value in asdict(self.plateau).items() if name != "schedule"}
        return tensors, {"step": self.step_count, "scale": self.scale, "scales": self.scales, "penalty": self.penalty,
                         "excess": self.excess, "ending": self.ending, "plateau": plateau, "history": self.history}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go on from a state, in place, so that every part of the optimizer keeps its hold on the parameters."""
        with torch.no_grad():
            for name, value in self.dictionary.named_parameters():
                value.copy_(tensors[f"dictionary.{name}"])
        start = "optimizer."
        self.optimizer.load_state({name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)})
        self.silent = tensors["silent"].to(self.silent.device)
        if self.whitening is not None:
            self.whitening = tensors["whitening"].to(self.whitening.device)
        self.step_count, self.ending = facts["step"], facts["ending"]
        self.scales = list(facts.get("scales", [facts["scale"]]))
        self.plateau = Plateau(self.settings.schedule, **facts["plateau"])
        self.penalty, self.excess, self.history = facts["penalty"], facts["excess"], facts["history"]
