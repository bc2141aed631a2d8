"""A static site from the pages' own templates: relative links, no request, readable from a folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..files import write
from . import pages
from .links import Written
from .rendering import ASSETS, render
from .shelves import Library
from .web import as_text

MANY = 500      # features of a dictionary that are written when none are named


def export(folders: Sequence[str | Path] | Library, out: str | Path, features: Sequence[int] | None = None, *,
           results: str | Path = "proofs/results", progress: bool = False) -> Path:
    """Write the pages of run folders as files, and return the front page's path.

    features: which have a page; left out, those with a label or a name, then those that fire most, 500 of each dictionary in
    all.
    Raises FileExistsError for a folder that holds something else, and IndexError for a feature that no dictionary has.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / "index.html").exists():
        raise FileExistsError(f"{out} holds other files; give a folder that is empty, new or an earlier site.")
    library = folders if isinstance(folders, Library) else Library(folders)
    chosen = {slug: _chosen(shelf, features) for slug, shelf in library.shelves.items()}

    def put(path: str, text: str) -> None:
        write(out / path, lambda part: part.write_text(text, encoding="utf-8"))

    def page(path: str, template: str, data: dict[str, Any]) -> None:
        link = Written(path.count("/"), chosen, lambda name: name != "search")
        put(path, render(template, library, link, opens=lambda shelf: sorted(chosen[shelf.slug]), **data))

    for name in ASSETS.keys() - {"htmx.min.js"}:      # nothing is asked of a server
        put(f"assets/{name}", ASSETS[name].read_text(encoding="utf-8"))
    page("compare.html", "compare.html", pages.compared(library, {}))
    page("evaluations.html", "evaluations.html", pages.evaluations(library))
    page("units.html", "units.html", pages.units(library))
    page("catalogue.html", "catalogue.html", pages.catalogue({}, Path(results)))
    for slug, shelf in library.shelves.items():
        rows = pages.features(shelf, {}, limit=shelf.store.width)
        rows["rows"] = [row for row in rows["rows"] if row["latent"] in chosen[slug]]
        rows |= {"total": len(rows["rows"]), "pages": 1}
        page(f"d/{slug}/features.html", "features.html", rows)
        page(f"d/{slug}/map.html", "map.html", {"shelf": shelf, "points": pages.points(shelf)})
        order = sorted(chosen[slug])
        for i, latent in enumerate(tqdm(order, desc=slug, unit="page", leave=False, disable=None if progress else True)):
            data = pages.feature(shelf, latent, {}, n=20)
            # Its neighbours are those of the site, or else the way along would end at the first that has no page.
            data["found"] |= {"previous": order[i - 1] if i else None, "next": order[i + 1] if i + 1 < len(order) else None}
            page(f"d/{slug}/f/{latent}.html", "feature.html", {**data, "open": False})
            put(f"d/{slug}/f/{latent}.json", as_text(data["found"]))
    page("index.html", "overview.html", pages.overview(library))     # last, for it says that the site is whole
    return out / "index.html"


def _chosen(shelf: Any, features: Sequence[int] | None) -> Collection[int]:
    if features is not None:
        return {shelf.store.known(latent) for latent in features}
    labelled = [*shelf.store.notes.labels(), *shelf.store.names.newest()]
    begin = [feature.index for feature in shelf.store.interesting(12)]
    most = [int(i) for i in (-shelf.store.counts).argsort(kind="stable")]
    return set([*dict.fromkeys([*labelled, *begin, *most])][:MANY])
