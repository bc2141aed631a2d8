"""Stability: how much of a dictionary is found again from another seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..apart import places
from ..dictionary import Dictionary
from ..truth import matched
from .bench import Bench
from .contract import Metric, Results, Undefined, mean_of

MATCHED = 0.7             # latents whose partner has this cosine are found again (arXiv 2501.16615)
WIDE = 2048               # beyond this width a latent's nearest takes the place of its partner
NAMES = ("stability_cosine", "stability_shared")


def stability(dictionary: Dictionary, bench: Bench) -> Results:
    """Cosine of each latent's decoder row with its partner's in the dictionaries of other seeds, and how many agree."""
    if not bench.others:
        return dict.fromkeys(NAMES, Undefined("no dictionary of the same recipe from another seed was given (others=)"))
    wrong = next((other for other in bench.others if (other.d, other.W_dec.shape[1], places(other)) != (
        dictionary.d, dictionary.W_dec.shape[1], places(dictionary))), None)
    if wrong is not None:
        raise ValueError(f"dictionaries are compared at one site; found {places(dictionary)} of width {dictionary.d} and "
                         f"{places(wrong)} of width {wrong.d}.")
    alive = bench.codes(dictionary).counts(dictionary.width).numpy() > 0
    # Each site that is written in the units of the one that is looked at.
    units = dictionary.units()
    each = [partners(dictionary.W_dec / units, other.W_dec / units) for other in bench.others]
    cosines, shared = np.mean(each, 0), np.mean([found > MATCHED for found in each], 0)
    way = "nearest" if max(dictionary.width, *(other.width for other in bench.others)) > WIDE else "one to one"
    of = f"latents that fire, {way}, {len(bench.others)} other seeds"
    return {"stability_cosine": mean_of(np.where(alive, cosines, np.nan), "higher", of),
            "stability_shared": mean_of(np.where(alive, shared, np.nan), "higher", of)}


def partners(a: Tensor, b: Tensor) -> np.ndarray:
    """The cosine [len(a)] of each row of a with its partner in b, one to one so that the sum is largest (Hungarian).

    Beyond `WIDE` rows, where that takes minutes, with the nearest row. Rows of a that are left without a partner have 0.
    """
    a, b = F.normalize(a.detach().float(), dim=1), F.normalize(b.detach().float(), dim=1)
    if max(len(a), len(b)) > WIDE:
        return torch.cat([(part @ b.T).amax(1) for part in a.split(1024)]).numpy()
    pairs, found = matched(a @ b.T), np.zeros(len(a))
    found[pairs.latents] = pairs.cosines
    return found


STABILITY = Metric(
    "stability", 1, "diagnostic",
    f"decoder rows are paired with those of dictionaries from other seeds; mean cosine, and the share above {MATCHED}",
    "the share of latents shared by two seeds (arXiv 2501.16615), there with encoder rows too", {"random": "floor"}, stability)
