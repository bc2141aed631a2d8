"""Questions for masked language models: some tokens are hidden, and the network is asked for them."""

from __future__ import annotations

import numpy as np

SHARE = 0.15
NOT_ASKED = -100


def hide(ids: np.ndarray, keep: np.ndarray, rows: np.ndarray, mask: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels [b, t]: in each row 15% of the kept tokens, at least one, are replaced by the mask token.

    ids: [b, t]; keep: bool [b, t]; rows: [b], the numbers that together with `seed` choose a row's hidden tokens,
    whatever batch the row is in. Labels are the hidden tokens, and -100 elsewhere. All chosen tokens are hidden, not
    80% of them as in training (Devlin et al. 2018, arXiv:1810.04805), so that all questions are alike.
    """
    hidden = np.zeros_like(keep)
    for i, row in enumerate(rows):
        places = np.flatnonzero(keep[i])
        n = max(1, round(SHARE * len(places)))
        hidden[i, np.random.default_rng([seed, int(row)]).permutation(places)[:n]] = True
    return np.where(hidden, mask, ids), np.where(hidden, ids, NOT_ASKED)
