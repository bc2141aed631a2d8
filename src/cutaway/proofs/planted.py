"""What proofs on activations with known features share: training on a world, judging by it, and rows of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from ..dictionaries import Dictionary, Facts, Recipe
from ..dictionaries.truth import World, judge
from ..train.learner import Learner
from .proof import Comparison, compare, say

BATCH, SAMPLE = 256, 8192
VALIDATION = 2_000_003      # the seed of the activations on which settings are chosen; `judge` has its own
SLOW, FAST = RATES = 8e-3, 2e-2     # the learning rates that are tried on validation activations
Rows = dict[str, list[dict[str, float]]]


@lru_cache(maxsize=2)
def drawn(world: World, n: int, seed: int) -> Tensor:
    """n activations of a world [n, d]: the same for every arm of a seed."""
    return torch.cat([part.x for part in world.samples(n, 4096, seed)])


def learner_on(recipe: Recipe, world: World, seed: int, steps: int, batch: int = BATCH) -> Learner:
    """Train a recipe on one pass of a world's activations; the seed is that of its start and of its activations."""
    x = drawn(world, steps * batch, seed)
    learner = Learner(recipe, x[:SAMPLE], steps, batch, seed)
    for part in x.split(batch):
        learner.step(part)
    return learner


def finished(learner: Learner, facts: Facts = Facts()) -> Dictionary:  # noqa: B008
    """A learner's finished dictionary."""
    made = learner.export(facts)
    assert made is not None
    return made


def trained(recipe: Recipe, world: World, seed: int, steps: int, batch: int = BATCH) -> Dictionary:
    """The finished dictionary of a recipe on a world."""
    return finished(learner_on(recipe, world, seed, steps, batch))


def tuned(recipe: Recipe, world: World, steps: int, batch: int = BATCH, seed: int = 0) -> Recipe:
    """The recipe at the learning rate of RATES that gives the lowest FVU on validation activations."""
    def error(rate: float) -> float:
        found = judge(trained(replace(recipe, lr=rate), world, seed, steps, batch), world, 4096, VALIDATION)["fvu"]
        say(f"{recipe.name}, lr {rate:.2g}: FVU {found:.4f} on validation activations")
        return found
    return replace(recipe, lr=min(RATES, key=error))


def judged(recipes: Mapping[str, Recipe], world: World, seed: int, steps: int,
           batch: int = BATCH) -> dict[str, dict[str, float]]:
    """The figures of each recipe's dictionary on a world."""
    found = {name: judge(trained(recipe, world, seed, steps, batch), world) for name, recipe in recipes.items()}
    for name, row in found.items():
        say(f"seed {seed}, {name}: FVU {row['fvu']:.4f}, L0 {row['l0']:.2f}, dead {row['dead']:.1%}, "
            f"recovered {row['recovered']:.1%}, absorption {row['absorption']:.3f}")
    return found


def by_name(found: Sequence[Mapping[str, dict[str, float]]]) -> Rows:
    """Rows of each name over seeds, from one mapping for each seed."""
    return {name: [row[name] for row in found] for name in found[0]}


def against(rows: Rows, ours: str, theirs: str, figure: str, better: str = "lower") -> Comparison:
    """The paired comparison of one figure of two arms."""
    return compare(ours, theirs, figure, [row[figure] for row in rows[ours]], [row[figure] for row in rows[theirs]], better)


def unequal(rows: Rows, ours: str, theirs: str, figure: str = "l0") -> float:
    """The largest difference of a figure between two arms over seeds, as a share of the second's."""
    return max(abs(a[figure] / b[figure] - 1) for a, b in zip(rows[ours], rows[theirs], strict=True))
