"""Simulation: can somebody who knows only the name predict the feature's activation at every token?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..catalogue import method
from .guess import Guess
from .judges import Judge
from .outcome import Outcome, correlated
from .windows import Examples


@method("simulation", family="explain", title="Simulation score of a name",
        paper="Language models can explain neurons in language models, openaipublic 2023; arXiv 2410.13928")
def simulation(guesses: Sequence[Guess], examples: Examples, judge: Judge, n: int = 40, seed: int = 0) -> list[Outcome]:
    """Correlate the predicted with the true activations over all tokens of windows in which the feature fires or is silent.

    guesses: the name, and names of other features that are asked about on the same windows. n: windows, half of them
    silent. seed: of which. Tokens of all windows are joined before correlating, so that silent windows count. The paper
    takes the expected value over the simulator's probabilities; here the judge says a number.
    """
    random = np.random.default_rng(seed)
    windows = [group[i] for group in (examples.active, examples.silent) for i in random.permutation(len(group))[: n // 2]]
    true = [window.activations.astype(float) for window in windows]
    return [correlated(judge.simulate(guess, windows), true, windows) for guess in guesses]
