"""Fuzzing: can somebody who knows only the name tell rightly marked tokens from wrongly marked ones?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..catalogue import method
from .guess import Guess
from .judges import Judge
from .outcome import Outcome, separated
from .windows import Examples


@method("fuzzing", family="explain", title="Fuzzing score of a name", paper="arXiv 2410.13928, section 3")
def fuzzing(guesses: Sequence[Guess], examples: Examples, judge: Judge, seed: int = 0) -> list[Outcome]:
    """Ask of windows with marked tokens whether the marked ones are those at which the feature named fires: balanced accuracy.

    guesses: the name, and names of other features that are asked about on the same windows. seed: of wrong marks and order.
    Right marks stand at activations above 0.3 of the window's largest. As many windows have wrong marks: half of these are
    windows in which the feature fires, with other tokens marked, the others are windows in which it is silent. There are as
    many wrong marks in a window as right ones on average, rounded up.
    """
    random = np.random.default_rng(seed)
    active = [examples.active[i] for i in random.permutation(len(examples.active))]
    right, wrong = active[: -(-len(active) * 2 // 3)], active[-(-len(active) * 2 // 3):]
    silent = [examples.silent[i] for i in random.permutation(len(examples.silent))][: max(len(right) - len(wrong), 1)]
    size = int(np.ceil(np.mean([window.marks.sum() for window in examples.active])))
    items = [(window, window.marks, True) for window in right]
    for window in [*wrong, *silent]:
        free = np.flatnonzero(window.activations == 0)
        marks = np.zeros(len(window.ids), bool)
        marks[random.permutation(free)[:size]] = True
        if marks.any():
            items.append((window, marks, False))
    items = [items[i] for i in random.permutation(len(items))]
    windows, shown, truth = [w for w, _, _ in items], [m for _, m, _ in items], [t for _, _, t in items]
    return [separated(judge.marked(guess, windows, shown), truth, windows) for guess in guesses]
