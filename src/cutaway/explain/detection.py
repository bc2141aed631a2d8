"""Detection: can somebody who knows only the name tell the texts in which the feature fires from others?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..catalogue import method
from .guess import Guess
from .judges import Judge
from .outcome import Outcome, separated
from .windows import Examples


@method("detection", family="explain", title="Detection score of a name", paper="arXiv 2410.13928, section 3")
def detection(guesses: Sequence[Guess], examples: Examples, judge: Judge, seed: int = 0) -> list[Outcome]:
    """Ask of whole windows whether the feature named fires in them: balanced accuracy.

    guesses: the name, and names of other features that are asked about on the same windows. seed: of the windows' order.
    Negatives are windows in which the feature verifiedly never fires, half of them with a token at which it fires elsewhere;
    the paper takes random windows, or those of similar features, as negatives.
    """
    windows = [examples.all[i] for i in np.random.default_rng(seed).permutation(len(examples.all))]
    truth = [window.active for window in windows]
    return [separated(judge.contains(guess, windows), truth, windows) for guess in guesses]
