"""Commands that run things whole: the demo, a network's sites, a run once more."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from . import folder, inputs


def demo(out: Path = Path("runs/demo"), model: str = "pico", quick: bool = False, seed: int = 0) -> None:
    """Run the whole loop on the bundled model and real text, and write a page about it: report.html.

    Args:
        out: Folder for the page, its figures, the dictionary and the table of heads.
        model: A causal language model's folder or hub id; pico comes with Cutaway.
        quick: Do much less of everything, to see whether it works.
        seed: Of everything that is random.
    """
    from ..demo import QUICK, Size
    from ..demo import demo as run
    folder.begin(out, "demo", {"out": out, "model": model, "quick": quick, "seed": seed})
    run(out, model, QUICK if quick else Size(), seed)


def sites(model: Annotated[str, tyro.conf.Positional] = "pico", /, device: str = "cpu", pickle: bool = False) -> None:
    """List the sites of a network: their names, the modules behind them, and how many units they have.

    Args:
        model: A model's folder, hub id, or "pico".
        device: Where the network is loaded.
        pickle: Also read weights that are saved as a pickle.
    """
    from rich.console import Console

    from ..report import terminal
    net = inputs.network(model, device, pickle)
    print(net)
    rows = [(site.name, site.path or "(the network)", site.io, str(site.n or "")) for site in net.named.values()]
    Console(highlight=False).print(terminal.table(["site", "module", "tensor", "units"], rows, left=(0, 1, 2)))
    if not rows:
        print("This network is of no known family; name sites by module path, such as fc1:in, fc1:out or fc1:weight:")
        print("\n".join(f"  {path}" for path, _ in net.module.named_modules() if path))


def rerun(run: Annotated[Path, tyro.conf.Positional], /, out: Path | None = None) -> None:
    """Run a command again from the configuration in its folder.

    Args:
        run: The folder of an earlier run.
        out: Where to write this time; left out, the folder's own name with -again.
    """
    from . import attributing, benching, checking, circuits, editing, explaining, harvesting, learning, parts, storing
    commands: dict[str, Callable[..., None]] = {
        "demo": demo, "learn": learning.learn, "harvest": harvesting.harvest, "score": parts.score, "edit": editing.edit,
        "explain": explaining.explain, "attribute": attributing.attribute, "store": storing.store, "bench": benching.bench,
        "circuit": circuits.circuit, "faithfulness": checking.faithfulness}
    config = folder.read(run)
    if config["command"] not in commands:
        raise ValueError(f"{run} is the folder of {config['command']!r}, which cannot be run again from it.")
    command, arguments = commands[config["command"]], dict(config["arguments"])
    arguments["out"] = out or run.with_name(f"{run.name}-again")
    if arguments["out"] == run:
        raise ValueError(f"{run} would be written over; give another folder.")
    positional = [p.name for p in inspect.signature(command).parameters.values() if p.kind is p.POSITIONAL_ONLY]
    given = [arguments.pop(name) for name in positional]
    run_value = arguments.get("run")
    if run_value is not None:
        arguments["run"] = Path(run_value)
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    command(*given, **arguments)
