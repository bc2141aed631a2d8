"""Whether an attribution says what a network answers to: measures that close the inputs that it names.

All ask the network through one function, `value(rows [m], gates [m, units]) -> [m]`: the target's value of some rows of a
batch with each unit of the input as it is (gate 1) or at its reference (gate 0). importance: [rows, units]; counts: bool
[rows, units], the units that may be closed. Each measure gives one number a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Value = Callable[[Tensor, Tensor], Tensor]
STEPS = 16                                              # of insertion and deletion
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)         # of hard sufficiency and comprehensiveness
TINY = 1e-12


def ranks(importance: Tensor, counts: Tensor) -> Tensor:
    """Each unit's place in the order of falling importance, from 0: int64 [rows, units]; what does not count comes last.

    Ties are broken by one order of the units that was drawn at random, so that no place in the input is favoured.
    """
    drawn = torch.randperm(importance.shape[1], generator=torch.Generator().manual_seed(importance.shape[1]))
    order = drawn[importance.masked_fill(~counts, -torch.inf)[:, drawn].argsort(dim=1, descending=True, stable=True)]
    return torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))


def top(importance: Tensor, counts: Tensor, share: float) -> Tensor:
    """The top share of each row's units, at least one where the share is not zero: bool [rows, units]."""
    n = counts.sum(1, keepdim=True)
    wanted = (n * share).round().clamp(min=1 if share > 0 else 0)
    return (ranks(importance, counts) < wanted) & counts


def closed(chosen: Tensor) -> Tensor:
    """Gates that close some units."""
    return (~chosen).float()


def only(chosen: Tensor, counts: Tensor) -> Tensor:
    """Gates that close all units that count but some."""
    return (chosen | ~counts).float()


def asked(value: Value, gates: Tensor) -> Tensor:
    """The values of each row under several gates [rows, k, units]: [rows, k]."""
    rows = torch.arange(len(gates)).repeat_interleave(gates.shape[1])
    return value(rows, gates.flatten(0, 1)).reshape(gates.shape[:2])


def deletion(value: Value, importance: Tensor, counts: Tensor, steps: int = STEPS) -> Tensor:
    """The value while more and more of the most important units are closed: [rows, steps + 1] (Petsiuk et al. 2018)."""
    gates = torch.stack([closed(top(importance, counts, i / steps)) for i in range(steps + 1)], dim=1)
    return asked(value, gates)


def insertion(value: Value, importance: Tensor, counts: Tensor, steps: int = STEPS) -> Tensor:
    """The value while more and more of the most important units are opened: [rows, steps + 1] (Petsiuk et al. 2018)."""
    gates = torch.stack([only(top(importance, counts, i / steps), counts) for i in range(steps + 1)], dim=1)
    return asked(value, gates)


def area(curve: Tensor) -> Tensor:
    """The area under curves [rows, steps + 1] by the trapezoid rule over shares from 0 to 1: [rows]."""
    return (curve.sum(1) - (curve[:, 0] + curve[:, -1]) / 2) / (curve.shape[1] - 1)


def ends(value: Value, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The value with all units open, and with all closed that count: [rows] each."""
    both = asked(value, torch.stack([torch.ones(counts.shape), closed(counts)], dim=1))
    return both[:, 0], both[:, 1]


# --- sufficiency and comprehensiveness (Zhao and Aletras 2023), of probabilities --------------------------------------------

def normalised(full: Tensor, none: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised sufficiency of what is left, and normalised comprehensiveness of what is lost, from 0 to 1.

    full, none: the probability with all units and with none [rows]; some: with a part of them [rows, ...]. With
    S = 1 - max(0, full - some), these are (S - S0) / (1 - S0) and (1 - S) / (1 - S0), S0 being S of none.
    """
    full, none = (x.view(-1, *[1] * (some.ndim - 1)) for x in (full, none))
    most = (full - none).clamp(min=1e-4)
    loss = (full - some).clamp(min=0)
    return ((most - loss) / most).clamp(0, 1), (loss / most).clamp(0, 1)


def sufficiency(value: Value, importance: Tensor, counts: Tensor, shares: Sequence[float] = SHARES) -> Tensor:
    """How much of the answer the top share of units keeps by itself, averaged over shares: [rows], 1 is all of it."""
    gates = torch.stack([only(top(importance, counts, share), counts) for share in shares], dim=1)
    return normalised(*ends(value, counts), asked(value, gates))[0].mean(1)


def comprehensiveness(value: Value, importance: Tensor, counts: Tensor, shares: Sequence[float] = SHARES) -> Tensor:
    """How much of the answer goes when the top share of units is closed, averaged over shares: [rows], 1 is all of it."""
    gates = torch.stack([closed(top(importance, counts, share)) for share in shares], dim=1)
    return normalised(*ends(value, counts), asked(value, gates))[1].mean(1)


def _row_minmax(x: Tensor, counts: Tensor) -> Tensor:
    low = x.masked_fill(~counts, torch.inf).amin(1, keepdim=True)
    high = x.masked_fill(~counts, -torch.inf).amax(1, keepdim=True)
    return ((x - low) / (high - low).clamp(min=TINY)).clamp(0, 1)


# How importance becomes the chance that an element stays.
SCALINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "min-max": _row_minmax,
    "sigmoid": lambda x, counts: x.sigmoid(),
    "softmax": lambda x, counts: x.masked_fill(~counts, -torch.inf).softmax(1),
    "rank": lambda x, counts: 1 - ranks(x, counts) / (counts.sum(1, keepdim=True) - 1).clamp(min=1),
}


def soft(value: Value, drawn: Value, importance: Tensor, counts: Tensor, *, scaling: str = "min-max",
         draws: int = 10) -> tuple[Tensor, Tensor]:
    """Soft normalised sufficiency and comprehensiveness: [rows] each, averaged over draws (Zhao and Aletras 2023).

    Each element of an input's embedding stays with a chance of its unit's importance, scaled from 0 to 1, for sufficiency,
    and of one less that for comprehensiveness. The authors' released class has the two the other way round; this follows
    the paper. drawn: `(rows [m], chances [m, units]) -> [m]`, the value with elements drawn so.
    """
    if scaling not in SCALINGS:
        raise ValueError(f"there is no scaling {scaling!r}; there are {', '.join(SCALINGS)}.")
    chance = SCALINGS[scaling](importance, counts).clamp(0, 1)[:, None].expand(-1, draws, -1)
    full, none = ends(value, counts)
    kept, lost = normalised(full, none, asked(drawn, chance))[0], normalised(full, none, asked(drawn, 1 - chance))[1]
    return kept.mean(1), lost.mean(1)


# --- infidelity (Yeh et al. 2019) ------------------------------------------------------------------------------------------

def infidelity(value: Value, importance: Tensor, counts: Tensor, *, draws: int = 32,
               seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """How far sums of importance are from what closing those units changes: infidelity, at its best scale, and correlation.

    The mean over draws of (sum of importance of the closed units - fall of the value)^2, each unit being closed with a
    chance of one half: [rows]. The second [rows] is the least of it over a factor on the row's importance, as a share of the
    mean square of the fall, so that methods that differ in scale can be compared. Where all sets of units cost much the same,
    both are about that cost alone; the third [rows], Pearson's correlation of sums and falls over draws, is not (Bhatt,
    Weller and Moura 2020; 0 where either is constant).
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = (torch.rand(len(importance), draws, importance.shape[1], generator=generator) < 0.5) & counts[:, None]
    fall = ends(value, counts)[0][:, None] - asked(value, closed(chosen))
    said = torch.einsum("rdu,ru->rd", chosen.float(), importance.to(fall))
    factor = (said * fall).mean(1) / (said**2).mean(1).clamp(min=TINY)
    scaled = ((factor[:, None] * said - fall) ** 2).mean(1) / (fall**2).mean(1).clamp(min=TINY)
    x, y = (v - v.mean(1, keepdim=True) for v in (said, fall))
    together = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)).clamp(min=TINY)
    return ((said - fall) ** 2).mean(1), scaled, together


# --- agreement with the exact effect of single units -----------------------------------------------------------------------

def effects(value: Value, counts: Tensor, most: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What the value loses when one unit alone is closed, for at most `most` units a row, drawn at random.

    The places of the units, int64 [rows, k], with -1 where a row has fewer, and their effects [rows, k].
    """
    drawn = torch.rand(counts.shape, generator=torch.Generator().manual_seed(seed)).masked_fill(~counts, 2)
    k = min(most, int(counts.sum(1).max()))
    places = drawn.argsort(1)[:, :k].sort(1).values
    real = counts.gather(1, places)
    gates = torch.ones(len(counts), k, counts.shape[1]).scatter_(2, places[..., None], 0)
    gates = torch.where(real[..., None], gates, 1)
    return torch.where(real, places, -1), ends(value, counts)[0][:, None] - asked(value, gates)


def agreement(importance: Tensor, units: Tensor, effect: Tensor) -> Tensor:
    """Spearman's rank correlation of importance with the effects of single units: [rows], 0 where either is constant.

    units, effect: as `effects` gives them.
    """
    from scipy.stats import rankdata
    found = []
    for row, own, lost in zip(importance, units, effect, strict=True):
        x, y = (torch.from_numpy(rankdata(v)) for v in (row[own[own >= 0]].double().numpy(), lost[own >= 0].double().numpy()))
        x, y = x - x.mean(), y - y.mean()
        found.append((x * y).sum() / (x.norm() * y.norm()).clamp(min=TINY))
    return torch.stack(found).float()


# --- sensitivity (Yeh et al. 2019) -----------------------------------------------------------------------------------------

def sensitivity(importance: Tensor, nearby: Sequence[Tensor]) -> Tensor:
    """The largest change of an attribution under small changes of the input, over its own size: [rows].

    nearby: the attributions [rows, units] of inputs that were changed a little.
    """
    size = importance.norm(dim=1).clamp(min=TINY)
    return torch.stack([(other - importance).norm(dim=1) / size for other in nearby]).amax(0)
