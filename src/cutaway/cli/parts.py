"""The command that scores a network's own parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from ..catalogue import methods
from . import folder, inputs


def score(model: Annotated[str, tyro.conf.Positional] = "pico", /, kind: str = "heads", by: tuple[str, ...] = ("fisher",),
          sites: tuple[str, ...] = (), data: str = "stdlib", tokens: str = "16k", which_to_trust: bool = False,
          sample: int = 64, top: int = 10, run: Path | None = None, out: Path = Path("runs/score"), seed: int = 0,
          device: str = "cpu", pickle: bool = False) -> None:
    """Score the parts of a network, and say how far each score can be trusted.

    Args:
        model: A model's folder, hub id, or "pico".
        kind: layers, sublayers, heads, neurons, experts, channels, rows or features.
        by: Scores of the family score; `cutaway catalogue score` lists them.
        sites: Only at these sites, such as blocks.3.mlp.neurons; with rows, such as "blocks.*.mlp.down_proj:weight".
        data: Text files, or stdlib.
        tokens: On how many tokens.
        which_to_trust: Score by everything in the catalogue and print the table of estimators.
        sample: On how many units a score is compared with the exact effect.
        top: How many units to print.
        run: For features, the folder that `cutaway learn` wrote.
        out: Folder for the table (units.parquet), the plot and the configuration.
        seed: Of the sample of units.
        device: Where the network runs.
        pickle: Also read weights that are saved as a pickle.
    """
    from ..scores import trusts
    from ..train import load
    from ..units import units
    net = inputs.network(model, device, pickle)
    names = [name for name in methods("score") if name != "exact"] if which_to_trust else list(by)
    if which_to_trust and kind not in ("neurons", "features", "channels"):
        names = [name for name in names if name != "frequency"]
    source = inputs.data(data, net)
    folder.begin(out, "score", {
        "model": model, "kind": kind, "by": by, "sites": sites, "data": data, "tokens": tokens,
        "which_to_trust": which_to_trust, "sample": sample, "top": top, "run": run, "out": out, "seed": seed,
        "device": device, "pickle": pickle})
    dictionaries = list(load(run, net).dictionaries.values()) if run else None
    table = units(net, kind, sites=sites or None, dictionary=dictionaries)
    table = table.score(names, inputs.first(source, tokens), progress=True)
    check = inputs.data(data, net, "validation") if data == "stdlib" else source
    found = trusts(table, names, inputs.first(check, tokens), n=sample, seed=seed, progress=True)
    best = max(found.values(), key=lambda trust: trust.agreement if trust.defined else -2)
    shown = table.top(best.score if best.defined else names[0], top).frame
    print(f"{table.title()}\n\nThe {len(shown)} that matter most by {best.score if best.defined else names[0]}:")
    print(shown.to_string(index=False, float_format="{:.4g}".format))
    print()
    for trust in sorted(found.values(), key=lambda trust: -trust.agreement if trust.defined else 2):
        print(f"- {trust}")
    if which_to_trust:
        advice = f"use {best.score}" if best.defined and best.low > 0 else "none of them can be trusted here; measure exactly"
        print(f"\nFor {kind} of {net.name} on this data: {advice}.")
    table.save(out / "units.parquet")
    table.plot(best.score if best.defined else names[0], out / "units.png")
    print(f"\nThe table is in {out / 'units.parquet'}, its plot in {out / 'units.png'}.")
