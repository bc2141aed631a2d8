"""The command that scores a network's own parts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..files import write
from . import folder, inputs
from .screen import console, say, show

if TYPE_CHECKING:
    from ..network import Network
    from ..scores import Verdict
    from ..units import Units

MATRIX = 6  # scores whose agreement with each other is printed; the picture shows all


def score(model: Annotated[str, tyro.conf.Positional] = "pico", /, kind: tuple[str, ...] = (),
          by: tuple[str, ...] = ("fisher",), sites: tuple[str, ...] = (), data: str = "stdlib", tokens: str = "16k",
          metric: Literal["", "loss", "moved"] = "", which_to_trust: bool = False, sample: int = 64, top: int = 10,
          run: Path | None = None, out: Path = Path("runs/score"), seed: int = 0, device: str = "cpu",
          pickle: bool = False) -> None:
    """Score the parts of a network, and say how far each score can be trusted.

    Args:
        model: A model's folder, hub id, or "pico".
        kind: Some of layers, sublayers, heads, neurons, experts, channels, rows or features; left out, heads, and with
            which-to-trust those of the first four that the network has.
        by: Scores of the family score; `cutaway catalogue score` lists them.
        sites: Only at these sites, such as blocks.3.mlp.neurons; with rows, such as "blocks.*.mlp.down_proj:weight".
        data: Text files, or stdlib; for a network that reads images, a folder of them.
        tokens: On how many tokens; of your own data a random half is scored on and the other checked on.
        metric: By which closing a unit is judged: loss, or moved, how far the output is from that of the network as it is;
            left out, loss for networks that have one.
        which_to_trust: Score by everything that is defined for the kind, print the table of estimators and say which to use.
        sample: On how many units a score is compared with the exact effect.
        top: How many units to print.
        run: For features, the folder that `cutaway learn` wrote.
        out: Folder for report.html, the tables, their plots, the trust of each score and the configuration.
        seed: Of the sample of units.
        device: Where the network runs, such as cpu or cuda.
        pickle: Also read weights that are saved as a pickle.
    """
    from ..metrics import moved, row_loss
    from ..report import render_scores, scores_page
    from ..scores import which_to_trust as estimators
    from ..train import load
    kinds = [kind] if isinstance(kind, str) else list(kind)  # folders of earlier versions name one kind
    if sample < 2 or top < 1:
        raise ValueError(f"--sample is at least two units and --top at least one; found {sample} and {top}.")
    net = inputs.network(model, device, pickle)
    source = inputs.data(data, net)
    dictionaries = list(load(run, net).dictionaries.values()) if run else None
    seen, check = _two(inputs.first(source, tokens), data, net, tokens, seed)
    judge = metric or ("loss" if net.kind in ("causal", "masked", "image") else "moved")
    common: dict[str, Any] = dict(n=sample, seed=seed, sites=sites or None, dictionary=dictionaries, progress=True,
                                  metric={"loss": row_loss, "moved": moved}[judge])
    if which_to_trust:
        verdicts = estimators(net, seen, check, kinds or None, **common)
    else:
        verdicts = [_asked(net, name, by, seen, check, **common) for name in kinds or ["heads"]]
    folder.begin(out, "score", {
        "model": model, "kind": kind, "by": by, "sites": sites, "data": data, "tokens": tokens,
        "metric": metric, "which_to_trust": which_to_trust, "sample": sample, "top": top, "run": run, "out": out, "seed": seed,
        "device": device, "pickle": pickle})
    measured = [verdict for verdict in verdicts if not verdict.why]
    for verdict in measured:
        _show(verdict, top)
        _write(verdict, out, alone=len(verdicts) == 1)
    if which_to_trust:
        say("\n" + "\n".join(verdict.words for verdict in verdicts))
    page = scores_page(measured, seen, seed, top, {name: version(name) for name in folder.PACKAGES})
    write(out / "report.html", lambda part: part.write_text(render_scores(page), encoding="utf-8"))
    say(f"\nThe page is {out / 'report.html'}; tables, plots and the trust of each score are beside it.")


def _two(seen: Any, data: str, net: Network, tokens: str, seed: int) -> tuple[Any, Any]:
    """What is scored on, and other text to check on: a score agrees better with the exact effect on the text it has seen."""
    if data == "stdlib":
        return seen, inputs.first(inputs.data(data, net, "validation"), tokens)
    return seen.split(0.5, seed) if seen.n_rows > 1 else (seen, seen)


def _asked(net: Network, kind: str, by: Sequence[str], seen: Any, check: Any, *, n: int, seed: int, sites: Any,
           dictionary: Any, progress: bool, metric: Any) -> Verdict:
    """The scores that were asked for by name, checked."""
    from ..catalogue import find
    from ..scores.which import judged
    from ..units import units
    takes = {option for name in by for option in find(name, "score").signature.parameters}
    own = {"metric": metric} if "metric" in takes else {}
    table = units(net, kind, sites=sites, dictionary=dictionary, data=seen).score(list(by), seen, progress=progress, **own)
    return judged(table, check, n=n, seed=seed, progress=progress, metric=metric)


def _show(verdict: Verdict, top: int) -> None:
    from ..report import words
    from ..report.scores import listed
    screen, name = console(), verdict.shown
    first = next(iter(verdict.trusts.values()))
    screen.print(f"\n{verdict.units.title()}", style="bold", markup=False)
    for drawn in _drawn(verdict.units, name):
        screen.print(drawn)
    columns, rows = listed(verdict, top)
    show(columns, rows, f"The {len(rows)} that matter most by {name}")
    judged = [(t.score, words.number(t.agreement), f"{words.number(t.low)} to {words.number(t.high)}", f"{t.shared} of {t.top}",
               t.in_short) if t.defined else (t.score, *[words.DASH] * 3, "undefined")
              for t in verdict.trusts.values()]
    sample = f"all {first.n}" if first.n == first.of else f"{first.n} of {first.of:,}"
    show(
        ["score", "rank correlation", "95% interval", "of the top", "agrees"], judged,
        f"Agreement with the exact effect over {sample} {verdict.kind}: {first.metric} on "
        f"{'the same data' if first.same_data else 'other data'}, {first.data} ({first.rows:,} rows, {first.tokens:,} tokens), "
        f"closed to {first.reference}; the exact effect repeats {words.number(first.repeats)} on so much data", left=(0, 4))
    best = [name for name, trust in verdict.trusts.items() if trust.defined][:MATRIX]
    if len(best) > 2:
        agreement = verdict.units.agreement(best)
        show(["", *best], [[one, *map(words.number, agreement.loc[one])] for one in best],
             f"Rank correlation of the first {len(best)} with each other, over all {verdict.kind}")
    for trust in verdict.trusts.values():
        if not trust.defined:
            say(f"{trust.words()}: {trust.why}.")
    for left_out, why in verdict.left_out.items():
        say(f"{left_out} was left out: {why}")


def _drawn(table: Units, name: str) -> list[Any]:
    """A picture of a score for the terminal: a map of blocks by units, or a profile over blocks."""
    from ..report import contents, terminal
    from ..report.scores import block_map
    grid = block_map(table, name)
    if grid:
        return [terminal.heat(contents.ScoreMap(name, grid))]
    if table.kind.axis == "":
        return [f"{name} over {table.kind.name}  {terminal.sparkline(table.column(name).tolist())}"]
    return []


def _write(verdict: Verdict, out: Path, alone: bool) -> None:
    """The table, its trust, and plots: of the best score, of it against the exact effect, and of how far scores agree."""
    from ..scores.trust import save_trusts
    place, table, best = out if alone else out / verdict.kind, verdict.units, verdict.shown
    table.save(place / "units.parquet")
    save_trusts(place / "trust.json", verdict.trusts)
    table.plot(best, place / "units.png")
    if best != "exact":
        verdict.sample.plot((best, "exact"), place / "exact.png")
    if len(table.scores) > 2:
        table.plot(table.scores, place / "agreement.png")
