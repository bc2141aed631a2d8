"""Which concepts an output depends on, by sequential tests that bet against independence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogue import method
from ..metrics.betting import crossing, discoveries, wealth
from .independence import ROWS, TESTS, Sampler, fitted, near_row, width_near_row, x_skit

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Concepts:
    """What tests said about each concept, the most important first.

    frame: one row a concept: `rejected`, the share of repeats whose test at level alpha said that the output depends on it;
    `time`, the mean share of the steps until then, 1 where it never did; `discovered`, the share of repeats in which it was
    among the discoveries over all concepts with a false-discovery rate of at most alpha. about: test, alpha, n, seed.
    """

    frame: pd.DataFrame
    about: dict[str, Any]

    def __str__(self) -> str:
        a = self.about
        return (f"{self.frame.to_string(index=False, float_format='{:.2f}'.format)}\n{a['test']}, level {a['alpha']}, "
                f"{a['steps']} steps, {a['repeats']} orders of {a['rows']} rows, seed {a['seed']}")


@method("concept-betting", family="attribute", title="I bet you did not mean that: testing semantic importance via betting",
        paper="arXiv 2405.19146", roster="312")
def concept_betting(y: Any, concepts: Any, names: Sequence[str] | None = None, *, test: str = "c-skit",
                    sampler: Sampler | None = None, alpha: float = 0.05, steps: int = 200, repeats: int = 20,
                    seed: int = 0) -> Concepts:
    """Test which concepts an output depends on, with error control at any stopping time.

    y: [n], an output for each row; concepts: [n, k], how much of each concept a row holds, such as a dictionary's latents
    or similarities to texts; names: [k]. test: `skit` asks whether y is independent of a concept, `c-skit` whether it is,
    given all other concepts. steps: payoffs before a test gives up (2 rows each for skit, 1 for c-skit).
    repeats: tests on rows in another order. alpha: the level of each test, and of the false-discovery rate over concepts.
    sampler: for c-skit, `(others [n, k - 1], j, random) -> [n]`, draws of concept j given the others. Left out, it is
    fitted on half of the rows (`fitted`), and the level holds as far as the fit does.

    Differs from the authors' code: kernel widths are those of earlier points only and are taken anew each time that the
    points have grown by half; the fitted sampler takes the mean out by least squares first.
    """
    if test not in TESTS:
        raise ValueError(f"there is no test {test!r}; there are {', '.join(TESTS)}, and concept_betting_at for one row.")
    y, z = np.asarray(y, float), np.asarray(concepts, float)
    names = [f"concept {j}" for j in range(z.shape[-1])] if names is None else list(names)
    _check(y, z, names, test, alpha)
    random = np.random.default_rng(seed)
    order = random.permutation(len(y))
    half = len(y) // 2 if test == "c-skit" and sampler is None else 0
    sampler = fitted(z[order[:half]]) if half else sampler
    free, each = order[half:], ROWS[test]
    if len(free) < each * (steps + 1):
        raise ValueError(f"{steps} steps of {test} need {each * (steps + 1)} rows beside those that the sampler is fitted "
                         f"on; found {len(free)}. Give more rows, or steps={max(1, len(free) // each - 1)}.")
    chosen = np.stack([random.permutation(free)[: each * (steps + 1)] for _ in range(repeats)])
    grown = np.stack([wealth(TESTS[test](y[chosen], z[chosen], j, sampler, random)) for j in range(len(names))])
    return _concluded(grown, names, alpha, {"test": test, "rows": len(y), "seed": seed})


def concept_betting_at(y: Any, concepts: Any, row: int, names: Sequence[str] | None = None, *, beside: int = 1,
                       alpha: float = 0.05, steps: int = 200, repeats: int = 20, seed: int = 0) -> Concepts:
    """Test which concepts of one row move the output: whether it has another law once a concept is held as it is in the row.

    y: [n], the network's output for each row; concepts: [n, k]; beside: how many other concepts, drawn anew in each repeat,
    are held in both laws. A row with concepts held is a real one whose held concepts are near, so that effects are smeared
    by as much as rows are apart. names, alpha, steps, repeats, seed: as in `concept_betting`.
    """
    y, z = np.asarray(y, float), np.asarray(concepts, float)
    names = [f"concept {j}" for j in range(z.shape[-1])] if names is None else list(names)
    _check(y, z, names, "x-skit", alpha)
    if not 0 <= row < len(y) or not 0 <= beside < len(names):
        raise ValueError(f"row is 0 to {len(y) - 1} and at most {len(names) - 1} other concepts are held; found {row} and "
                         f"{beside}.")
    random = np.random.default_rng(seed)

    def drawn(j: int) -> tuple[np.ndarray, np.ndarray]:
        """Outputs with concept j held beside others, and with only the others held, both within the same distance."""
        held = random.permutation(np.delete(np.arange(len(names)), j))[:beside].tolist()
        width = width_near_row(z, row, [*held, j])
        both, alone = (random.choice(y, steps + 1, p=near_row(z, row, some, width)) for some in ([*held, j], held))
        return both, alone

    grown = []
    for j in range(len(names)):
        pairs = [drawn(j) for _ in range(repeats)]
        grown.append(x_skit(np.stack([both for both, _ in pairs]), np.stack([alone for _, alone in pairs])))
    return _concluded(np.stack(grown), names, alpha, {"test": f"x-skit at row {row}", "rows": len(y), "seed": seed})


def _concluded(grown: np.ndarray, names: Sequence[str], alpha: float, about: dict[str, Any]) -> Concepts:
    """The table from the wealth of all tests [concepts, repeats, steps]."""
    import pandas as pd
    _, repeats, steps = grown.shape
    times = np.stack([crossing(w, 1 / alpha) for w in grown])
    found = np.stack([discoveries(grown[:, r], alpha) for r in range(repeats)], axis=1)
    frame = pd.DataFrame({"concept": names, "rejected": np.isfinite(times).mean(1),
                          "time": np.minimum(times / steps, 1).mean(1), "discovered": np.isfinite(found).mean(1)})
    return Concepts(frame.sort_values(["time", "rejected"], ascending=[True, False], ignore_index=True),
                    {"method": "concept-betting", "alpha": alpha, "steps": steps, "repeats": repeats, **about})


def _check(y: np.ndarray, z: np.ndarray, names: Sequence[str], test: str, alpha: float) -> None:
    if y.ndim != 1 or z.ndim != 2 or len(y) != len(z) or len(names) != z.shape[1]:
        raise ValueError(f"outputs are [n], concepts [n, k] and their names [k]; found {list(y.shape)}, {list(z.shape)} and "
                         f"{len(names)} names.")
    if not (np.isfinite(y).all() and np.isfinite(z).all()):
        raise ValueError("the outputs or the concepts hold NaN or infinity; leave those rows out.")
    if not 0 < alpha < 1:
        raise ValueError(f"the level alpha lies between 0 and 1; found {alpha}.")
    flat = [name for name, values in [("the output", y), *zip(names, z.T, strict=True)] if np.ptp(values) == 0]
    if flat:
        raise ValueError(f"{flat[0]} is the same for all rows, so nothing can depend on it; leave it out.")
    if test == "c-skit" and z.shape[1] < 2:
        raise ValueError("c-skit tests a concept given the others, and there is only one; use test='skit'.")
