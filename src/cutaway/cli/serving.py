"""The commands that show what was found: as a local web app, and as a static site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from .screen import say


def serve(run: Annotated[tuple[Path, ...], tyro.conf.Positional], /, host: str = "127.0.0.1", port: int = 7860, token: str = "",
          model: str = "", browser: bool = True, results: Path = Path("proofs/results")) -> None:
    """Show the features of a run in the browser, from its store: nothing leaves this machine, and no network is needed.

    Args:
        run: Folders that `cutaway learn`, `cutaway store` and `cutaway score` wrote; two with stores can be compared.
        host: Where to listen; anything but this machine needs a token.
        port: That port or the next free one; 0 for any.
        token: What readers must bring: the address that is printed ends in it.
        model: What to open when text is tried; left out, what the run's configuration says.
        browser: Open the page.
        results: Where `cutaway prove` keeps its results.
    """
    from ..app import serve as run_server
    run_server(_given(run), host=host, port=port, token=token, model=model, browser=browser, results=results)


def export(run: Annotated[Path, tyro.conf.Positional], out: Annotated[Path, tyro.conf.Positional], /, features: str = "",
           also: tuple[Path, ...] = (), results: Path = Path("proofs/results")) -> None:
    """Write the pages of a run as a static site, which opens from a folder and needs no server.

    Args:
        run: The folder that `cutaway learn` or `cutaway store` wrote.
        out: Folder of the site.
        features: Which features have a page, such as 0:500 or 12,17,203; left out, labelled ones and those that fire most.
        also: More folders, as for `cutaway serve`.
        results: Where `cutaway prove` keeps its results.
    """
    from ..app import export as write_site
    say(f"The site begins at {write_site([run, *also], out, latents(features), results=results, progress=True)}")


def latents(text: str) -> list[int] | None:
    """Numbers of features from `0:500`, `12,17` or both; none where nothing is said."""
    if not text.strip():
        return None
    found = list[int]()
    for part in text.split(","):
        first, colon, last = part.strip().partition(":")
        if not first.isdecimal() or (colon and not last.isdecimal()):
            raise ValueError(f"features are numbers such as 0:500 or 12,17,203; found {part.strip()!r}.")
        found += range(int(first), int(last)) if colon else [int(first)]
    if not found:
        raise ValueError(f"{text!r} names no feature; give some, such as 0:500.")
    return found


def _given(run: tuple[Path, ...]) -> tuple[Path, ...]:
    if not run:
        raise ValueError("there is nothing to show; give the folder that `cutaway learn` wrote.")
    return run
