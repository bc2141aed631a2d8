"""The command line: `cutaway COMMAND`."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one command; bad input ends with one sentence and a status that is not zero."""
    import tyro

    from . import (
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
                    explaining.explain, storing.store, serving.serve, serving.export, parts.score, attributing.attribute,
                    checking.faithfulness, circuits.circuit, editing.edit, converting.convert, catalogue.catalogue,
                    catalogue.prove, benching.bench, running.rerun):
        app.command(command)
    try:
        app.cli(prog="cutaway", args=arguments, description="Find what matters inside a neural network, and act on it.")
    except KeyboardInterrupt as stop:
        sys.exit(f"cutaway: {stop}" if str(stop) else "cutaway: stopped.")
    except (ValueError, OSError, IndexError, ImportError) as error:
        sys.exit(f"cutaway: {error.args[-1] if isinstance(error, OSError) and error.args else error}")
