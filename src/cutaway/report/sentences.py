"""The two sentences over each section of the report: what is seen, and what was found.

Each is built from the figures themselves; where a figure is missing, so is the clause that would rest on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..metrics import Figure
from .contents import Acting, Feature, Heads, Learning, Report, ScoreMap, Steering
from .values import Shown
from .words import DASH, WORDS, finite, key, number, written


def on_learning(part: Learning) -> tuple[str, str]:
    seen = (f"A dictionary writes each activation at {part.site} as a sum of a few of its {part.width:,} features; "
            "the curve shows how much variance it failed to explain as it learned, the table how good it is on text "
            "that it never saw.")
    recovered = [f"{written(f).value} (against {f.baseline or 'an unnamed baseline'})"
                 for f in finite(part.figures, "loss_recovered")]
    clauses = []
    if recovered:
        clauses.append(f"splicing the dictionary in keeps {' and '.join(recovered)} of what the site contributes")
    clauses += [f"it uses {written(f).value} features a token" for f in finite(part.figures, "l0")]
    clauses += [f"it leaves {number(100 * f.value)}% of the variance unexplained" for f in finite(part.figures, "fvu")]
    clauses += [f"{written(f).value} of its features never fire" for f in finite(part.figures, "dead")]
    return seen, _sentence(clauses)


def on_features(features: list[Feature]) -> tuple[str, str]:
    seen = ("Each feature is shown by the tokens that it favours next and by the text on which it fires: where it "
            "fires hardest, and across its whole range, since the strongest examples alone make a feature look "
            "tidier than it is.")
    rates = [f.frequency.value for f in features if isinstance(f.frequency, Figure) and f.frequency.value > 0]
    if not rates:
        return seen, ""
    rare, often = (f"one token in {1 / r:,.0f}" for r in (min(rates), max(rates)))
    return seen, f"The rarest of these {len(features)} fires on {rare}, the most frequent on {often}."


def opening(report: Report) -> str:
    """The run in one sentence, of the sections that it has."""
    said = []
    if report.learning:
        said.append(f"learned {report.learning.width:,} sparse features at {report.learning.site}")
    if report.features:
        said.append(f"read {len(report.features)} of them in the text on which they fire")
    if report.heads:
        count = len(ranked(report.heads.map(report.heads.exact)))
        said.append(f"measured how much each of its {count} attention heads matters")
    if report.acting:
        said.append("closed some of them to see whether that holds")
    if report.steering:
        said.append("pushed one feature to see what the network then writes")
    if not said:
        return ""
    return f"Cutaway opened a network, {', '.join(said[:-1])}{', and ' if said[1:] else ''}{said[-1]}."


def points(cheap: ScoreMap, exact: ScoreMap) -> tuple[list[float], list[float], list[str]]:
    """Both scores of every head, with its name, for a scatter."""
    cells = [(i, j) for i, row in enumerate(exact.values) for j in range(len(row))]
    return ([cheap.values[i][j] for i, j in cells], [exact.values[i][j] for i, j in cells],
            [f"block {i}, head {j}" for i, j in cells])


def rows(part: Acting, name: str) -> list[tuple[str, float, float, float]]:
    """The figure `loss` or `kl` of each ablation as (name, value, low, high)."""
    found = [(a.name, getattr(a, name)) for a in part.ablations]
    return [(said, f.value, f.low, f.high) if isinstance(f, Figure) else (said, math.nan, math.nan, math.nan)
            for said, f in found]


def baseline(part: Acting) -> str:
    """What the KL divergences are measured against, as the figures say."""
    named = {a.kl.baseline for a in part.ablations if isinstance(a.kl, Figure) and a.kl.baseline}
    return " and ".join(sorted(named)) or DASH


def ranked(part: ScoreMap) -> list[tuple[float, str]]:
    """The measured heads of a map with their names, the highest first."""
    return sorted(((v, f"block {i}, head {j}") for i, row in enumerate(part.values) for j, v in enumerate(row)
                   if math.isfinite(v)), reverse=True)


def trust(part: Heads) -> str:
    """How far the cheap score may be believed, judged by the whole interval and not by the value alone."""
    found = next((e.agreement for e in part.estimators if e.name == part.cheap), None)
    if not isinstance(found, Figure) or not math.isfinite(found.value):
        return ""
    low = found.low if math.isfinite(found.low) else -math.inf
    verdicts = ((0.7, "it can stand in for the exact effect here"),
                (0.4, "it is a fair guide to the exact effect here"),
                (0.0, "it is better than chance, but not to be relied on for single heads"))
    verdict = next((said for least, said in verdicts if low > least), "it cannot be told from chance here")
    figure = written(found)
    return (f"The cheap score {part.cheap} puts the heads in the order of the exact effect with rank correlation "
            f"{figure.value} (95% interval {figure.interval}, {figure.n}): {verdict}.")


def on_heads(part: Heads) -> tuple[str, str]:
    seen = ("Each cell is one attention head, and its colour says how much the loss would rise without it; the exact "
            "effect is slow to measure, so cheaper scores are shown with how well they agree with it.")
    best = ""
    for effect, head in ranked(part.map(part.exact))[:1]:
        best = f"The head that matters most is {head}: closing it {_change(effect, part.map(part.exact).unit)}."
    return seen, f"{best} {trust(part)}".strip()


def _change(difference: float, unit: str) -> str:
    return f"{'raises' if difference >= 0 else 'lowers'} the loss by {number(abs(difference))} {unit}".rstrip()


def on_acting(part: Acting) -> tuple[str, str]:
    seen = (f"If the score {part.score} is right, closing the heads that it puts first must hurt the network more than "
            "closing those that it puts last, with random heads in between.")
    losses = [(a, a.loss) for a in part.ablations if isinstance(a.loss, Figure) and math.isfinite(a.loss.value)]
    plain = part.untouched
    clauses = [f"closing {a.name} {_change(loss.value - plain.value, plain.unit)}" for a, loss in losses]
    kinds = {a.kind: loss for a, loss in losses}
    if {"best", "worst"} <= kinds.keys():
        clauses.append(_verdict(kinds["best"], kinds["worst"]))
    return seen, _sentence(clauses)


def _verdict(best: Figure, worst: Figure) -> str:
    if best.low > worst.high:
        return "the score tells them apart"
    return "the score has them the wrong way round" if best.high < worst.low else (
        "the intervals overlap, so the score is not confirmed")


def on_steering(part: Steering) -> tuple[str, str]:
    seen = (f"The network goes on from the same prompts twice: as it is, and with feature {part.feature} added at "
            f"{part.site}, at {number(part.strength)} {part.unit}.")
    changed = sum(s.before != s.after for s in part.samples)
    clauses = [f"the text changes after {changed} of {len(part.samples)} prompts"] * bool(part.samples)
    for rise in finite(part.figures, "loss_rise"):
        clauses.append(f"on neutral text the steering {_change(rise.value, rise.unit)}")
    plain, steered = finite(part.figures, "loss_untouched"), finite(part.figures, "loss_steered")
    for before, after in zip(plain, steered, strict=False):
        clauses.append(f"on neutral text the steering {_change(after.value - before.value, after.unit)}")
    clauses += [f"the KL divergence from the untouched network is {written(f)}" for f in finite(part.figures, "kl")]
    return seen, _sentence(clauses)


def _sentence(clauses: list[str]) -> str:
    said = "; ".join(clauses)
    return said[:1].upper() + said[1:] + "." * bool(said)


# section of the report -> its heading and its sentences
SECTIONS: dict[str, tuple[str, Callable]] = {
    "learning": ("The dictionary", on_learning), "features": ("{} of its features", on_features),
    "heads": ("Which heads matter", on_heads), "acting": ("Acting on it", on_acting),
    "steering": ("Steering", on_steering),
}


def sections(report: Report) -> list[tuple[str, str, str, str]]:
    """(name, heading, what is seen, what was found) of each section that the report has, in order."""
    count = "A dozen" if len(report.features) == 12 else str(len(report.features))
    return [(name, heading.format(count), *say(getattr(report, name)))
            for name, (heading, say) in SECTIONS.items() if getattr(report, name)]


def definitions(report: Report) -> list[tuple[str, str]]:
    """Title and definition of each figure that is in the report."""
    shown: list[Shown] = [f.frequency for f in report.features]
    shown += report.learning.figures if report.learning else []
    shown += [e.agreement for e in report.heads.estimators] if report.heads else []
    shown += [f for a in report.acting.ablations for f in (a.loss, a.kl)] if report.acting else []
    shown += report.steering.figures if report.steering else []
    used = {key(f.name) for f in shown}
    return [(name, says) for known, (name, _, says) in WORDS.items() if known in used]
