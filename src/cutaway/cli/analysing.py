"""The command that runs one of the published analyses of a whole network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from . import folder, inputs
from .screen import console, say, show

if TYPE_CHECKING:
    from ..analyses import Finding


def analyse(model: Annotated[str, tyro.conf.Positional] = "pico", method: Annotated[str, tyro.conf.Positional] = "", /,
            data: str = "stdlib:test", tokens: str = "", context: int | None = None, set: tuple[str, ...] = (), parts: int = 4,
            out: Path = Path("runs/analyse"), seed: int = 0, device: str = "cpu", pickle: bool = False) -> None:
    """Run a published analysis of a whole network: what its blocks add, what can go, where attention rests, and more.

    Args:
        model: A model's folder, hub id, or "pico".
        method: One of depth-use, essential-sparsity, iscs, lac-voids, layer-transfer, massive-dynamics, neuron-path and
            sink-decorrelation; left out, they are listed with their options.
        data: Text files, or the standard library's stdlib:test; for networks of images a folder, one subfolder for each class.
        tokens: On how much of it, such as 4k or all; left out, as much as the analysis usually takes.
        context: Tokens in a row of text, such as 128; left out, as many as the analysis usually takes.
        set: The analysis' options, as NAME=VALUE, such as cuts=2.
        parts: Disjoint parts of the data, over which intervals are taken.
        out: Folder for figures.json, figures.png and the configuration.
        seed: Of everything that is drawn.
        device: Where the network runs, such as cpu or cuda.
        pickle: Also read weights that are saved as a pickle.
    """
    from ..analyses import analyse as run
    from ..analyses import analysis, read_options
    if not method:
        _list()
        return
    chosen, options = analysis(method), read_options(method, set)
    net = inputs.network(model, device, pickle)
    source = inputs.data(data, net, "test", context or chosen.context)
    found = run(net, inputs.first(source, tokens or chosen.tokens), method, parts=parts, seed=seed, progress=True, **options)
    folder.begin(out, "analyse", {
        "model": model, "method": method, "data": data, "tokens": tokens, "context": context, "set": set,
        "parts": parts, "out": out, "seed": seed, "device": device, "pickle": pickle})
    folder.figures(out, found.json())
    found.plot(out / "figures.png")
    _show(found)
    say(f"\nAll figures are in {out / 'figures.json'}, and a picture of them in {out / 'figures.png'}.")


def _list() -> None:
    """Every analysis: what it asks, its paper and its options."""
    from ..analyses import ANALYSES
    from ..catalogue import methods
    known = methods("analysis")
    rows = [(name, f"{one.summary} ({known[name].paper})", " ".join(
        option if p.default in ("", None, ()) else f"{option}={_typed(p.default)}" for option, p in one.options.items()))
        for name, one in ANALYSES.items()]
    show(["analysis", "what it gives", "options for --set"], rows, left=(0, 1, 2))
    say("Run one with `cutaway analyse MODEL NAME`.")


def _typed(value: object) -> str:
    """A default as it would be typed."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _show(found: Finding) -> None:
    """The table, and the words that it comes to."""
    console().print(f"\n{found.method} of {found.note}", style="bold", markup=False)
    show(found.table.columns, found.table.rows, found.table.title)
    for sentence in found.sentences:
        say(f"- {sentence}")
