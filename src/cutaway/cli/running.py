"""Commands that run things whole: the demo, a network's sites, a run once more."""

from __future__ import annotations

import inspect
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import Annotated, Any

import tyro

from . import folder, inputs
from .commands import MODULES
from .commands import command as find
from .screen import say, show


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
        device: Where the network is loaded, such as cpu or cuda.
        pickle: Also read weights that are saved as a pickle.
    """
    net = inputs.network(model, device, pickle)
    say(net)
    rows = [(site.name, site.path or "(the network)", site.io, str(site.n or "")) for site in net.named.values()]
    show(["site", "module", "tensor", "units"], rows, left=(0, 1, 2))
    if not rows:
        say("This network is of no known family; name sites by module path, such as fc1:in, fc1:out or fc1:weight:")
        say("\n".join(f"  {path}" for path, _ in net.module.named_modules() if path))


def rerun(run: Annotated[Path, tyro.conf.Positional], /, out: Path | None = None) -> None:
    """Run a command again from the configuration in its folder.

    Args:
        run: The folder of an earlier run.
        out: Where to write this time; left out, the folder's own name with -again.
    """
    config = folder.read(run)
    if config["command"] not in MODULES:
        raise ValueError(f"{run} is the folder of {config['command']!r}, which cannot be run again from it.")
    command, arguments = find(config["command"]), dict(config["arguments"])
    run = run if run.name else run.resolve()     # the folder in which one stands
    out = out or run.with_name(f"{run.name}-again")
    if out.resolve() == run.resolve():
        raise ValueError(f"{run} would be written over; give another folder.")
    began = Path(config.get("folder") or ".")     # where relative names of models, data and runs begin
    arguments["dst" if "dst" in arguments else "out"] = out if began == Path.cwd() else out.absolute()
    known = inspect.signature(command).parameters
    strange = [name for name in arguments if name not in known]
    if strange:
        raise ValueError(f"{run} was written by another version of Cutaway: {config['command']} has no option {strange[0]!r} "
                         "now; type the command anew.")
    given = {name: _given(value, str(known[name].annotation)) for name, value in arguments.items()}
    positional = [given.pop(name) for name, p in known.items() if p.kind is p.POSITIONAL_ONLY and name in given]
    with chdir(began) if began.is_dir() else nullcontext():
        command(*positional, **given)


def _given(value: Any, annotation: str) -> Any:
    """A value from a configuration as its command takes it."""
    if isinstance(value, list):
        return tuple(_given(part, annotation) for part in value)
    return Path(value) if isinstance(value, str) and "Path" in annotation else value
