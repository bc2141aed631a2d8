"""The command line: `cutaway COMMAND`."""

from __future__ import annotations

import errno
import os
import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one command; bad input ends with one sentence and a status that is not zero."""
    import tyro

    from . import (
        analysing,
        attributing,
        benching,
        catalogue,
        checking,
        circuits,
        converting,
        editing,
        explaining,
        harvesting,
        learning,
        parts,
        running,
        serving,
        storing,
    )
    app = tyro.extras.SubcommandApp()
    for command in (running.demo, running.sites, learning.learn, harvesting.harvest, learning.evaluate, learning.features,
                    explaining.explain, storing.store, serving.serve, serving.export, parts.score, analysing.analyse,
                    attributing.attribute, checking.faithfulness, circuits.circuit, editing.edit, converting.convert,
                    catalogue.catalogue, catalogue.prove, benching.bench, running.rerun):
        app.command(command)
    try:
        app.cli(prog="cutaway", args=arguments, description="Find what matters inside a neural network, and act on it.")
    except KeyboardInterrupt as stop:
        sys.exit(f"cutaway: {stop}" if str(stop) else "cutaway: stopped.")
    except (ValueError, OSError, IndexError, ImportError) as error:
        sys.exit(f"cutaway: {_said(error)}")


def _said(error: Exception) -> str:
    """An error in one line; what the system says of a file, with the file's name."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.strerror == os.strerror(errno.ENOSPC):
        return "there is no space left on the disk; free some and run this again: what was finished before is still there."
    said = error.args[-1] if isinstance(error, OSError) and error.args else error
    return " ".join(str(said).split())
