"""The command that scores a network's own parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from . import folder, inputs

if TYPE_CHECKING:
    from ..network import Network
    from ..scores import Verdict
    from ..units import Units

MATRIX = 6  # scores whose agreement with each other is printed; the picture shows all


def score(model: Annotated[str, tyro.conf.Positional] = "pico", /, kind: tuple[str, ...] = (),
          by: tuple[str, ...] = ("fisher",), sites: tuple[str, ...] = (), data: str = "stdlib", tokens: str = "16k",
          which_to_trust: bool = False, sample: int = 64, top: int = 10, run: Path | None = None,
          out: Path = Path("runs/score"), seed: int = 0, device: str = "cpu", pickle: bool = False) -> None:
    """Score the parts of a network, and say how far each score can be trusted.

    Args:
        model: A model's folder, hub id, or "pico".
        kind: Some of layers, sublayers, heads, neurons, experts, channels, rows or features; left out, heads, and with
            which-to-trust those of the first four that the network has.
        by: Scores of the family score; `cutaway catalogue score` lists them.
        sites: Only at these sites, such as blocks.3.mlp.neurons; with rows, such as "blocks.*.mlp.down_proj:weight".
        data: Text files, or stdlib.
        tokens: On how many tokens.
        which_to_trust: Score by everything that is defined for the kind, print the table of estimators and say which to use.
        sample: On how many units a score is compared with the exact effect.
        top: How many units to print.
        run: For features, the folder that `cutaway learn` wrote.
        out: Folder for the tables, their plots, the trust of each score and the configuration.
        seed: Of the sample of units.
        device: Where the network runs.
        pickle: Also read weights that are saved as a pickle.
    """
    from ..scores import which_to_trust as estimators
    from ..train import load
    kinds = [kind] if isinstance(kind, str) else list(kind)  # folders of earlier versions name one kind
    net = inputs.network(model, device, pickle)
    source = inputs.data(data, net)
    folder.begin(out, "score", {
        "model": model, "kind": kind, "by": by, "sites": sites, "data": data, "tokens": tokens,
        "which_to_trust": which_to_trust, "sample": sample, "top": top, "run": run, "out": out, "seed": seed,
        "device": device, "pickle": pickle})
    dictionaries = list(load(run, net).dictionaries.values()) if run else None
    seen = inputs.first(source, tokens)
    check = inputs.first(inputs.data(data, net, "validation") if data == "stdlib" else source, tokens)
    common: dict[str, Any] = dict(n=sample, seed=seed, sites=sites or None, dictionary=dictionaries, progress=True)
    if which_to_trust:
        verdicts = estimators(net, seen, check, kinds or None, **common)
    else:
        verdicts = [_asked(net, name, by, seen, check, **common) for name in kinds or ["heads"]]
    for verdict in verdicts:
        _show(verdict, top)
        _write(verdict, out, alone=len(verdicts) == 1)
    if which_to_trust:
        print("\n" + "\n".join(verdict.words for verdict in verdicts))
    print(f"\nTables, plots and the trust of each score are in {out}.")


def _asked(net: Network, kind: str, by: Sequence[str], seen: Any, check: Any, *, n: int, seed: int, sites: Any,
           dictionary: Any, progress: bool) -> Verdict:
    """The scores that were asked for by name, checked."""
    from ..scores.which import judged
    from ..units import units
    table = units(net, kind, sites=sites, dictionary=dictionary).score(list(by), seen, progress=progress)
    return judged(table, check, n=n, seed=seed, progress=progress)


def _shown(verdict: Verdict) -> str:
    """The score that units are ordered by and drawn with: the best that is defined, or else the first."""
    return next((name for name, trust in verdict.trusts.items() if trust.defined), next(iter(verdict.trusts)))


def _show(verdict: Verdict, top: int) -> None:
    from rich.console import Console

    from ..report import terminal, words
    console, name = Console(highlight=False), _shown(verdict)
    first = next(iter(verdict.trusts.values()))
    console.print(f"\n{verdict.units.title()}", style="bold", markup=False)
    for drawn in _drawn(verdict.units, name):
        console.print(drawn)
    shown = verdict.units.top(name, top).frame
    named = verdict.units.kind.axis == "u" and bool(shown["block"].notna().all())
    others = [other for other in verdict.trusts if other != name]
    columns = [*(("block", "unit") if named else ("site", "unit")), name, *others[:4]]
    rows = [[words.number(value) if isinstance(value, float) else str(value) for value in row]
            for row in shown[columns].itertuples(index=False)]
    console.print(terminal.table(columns, rows, f"The {len(shown)} that matter most by {name}"))
    judged = [(t.score, words.number(t.agreement), f"{words.number(t.low)} to {words.number(t.high)}", f"{t.shared} of {t.top}",
               t.in_short) if t.defined else (t.score, *[words.DASH] * 3, "undefined")
              for t in verdict.trusts.values()]
    sample = f"all {first.n}" if first.n == first.of else f"{first.n} of {first.of:,}"
    console.print(terminal.table(
        ["score", "rank correlation", "95% interval", "of the top", "agrees"], judged,
        f"Agreement with the exact effect over {sample} {verdict.kind}: {first.metric} on "
        f"{'the same data' if first.same_data else 'other data'}, {first.data} ({first.rows:,} rows, {first.tokens:,} tokens), "
        f"closed to {first.reference}; the exact effect repeats {words.number(first.repeats)} on so much data", left=(0, 4)))
    best = [name for name, trust in verdict.trusts.items() if trust.defined][:MATRIX]
    if len(best) > 2:
        agreement = verdict.units.agreement(best)
        console.print(terminal.table(["", *best], [[one, *map(words.number, agreement.loc[one])] for one in best],
                                     f"Rank correlation of the first {len(best)} with each other, over all {verdict.kind}"))
    for trust in verdict.trusts.values():
        if not trust.defined:
            console.print(f"{trust.words()}: {trust.why}.", markup=False)


def _drawn(table: Units, name: str) -> list[Any]:
    """A picture of a score for the terminal: a map of blocks by units, or a profile over blocks."""
    from ..report import contents, terminal
    sites = list(table.sites)
    if table.kind.name in ("heads", "experts") and len({table.sizes[site] for site in sites}) == 1:
        values = table.frame.pivot(index="site", columns="unit", values=name).loc[sites]
        return [terminal.heat(contents.ScoreMap(name, values.to_numpy().tolist()))]
    if table.kind.axis == "":
        return [f"{name} over {table.kind.name}  {terminal.sparkline(table.column(name).tolist())}"]
    return []


def _write(verdict: Verdict, out: Path, alone: bool) -> None:
    """The table, its trust, and plots: of the best score, of it against the exact effect, and of how far scores agree."""
    from ..scores.trust import save_trusts
    place, table, best = out if alone else out / verdict.kind, verdict.units, _shown(verdict)
    table.save(place / "units.parquet")
    save_trusts(place / "trust.json", verdict.trusts)
    table.plot(best, place / "units.png")
    if best != "exact":
        verdict.sample.plot((best, "exact"), place / "exact.png")
    if len(table.scores) > 2:
        table.plot(table.scores, place / "agreement.png")
