"""What the app shows: the stores, profiles and units tables of some run folders, found by their files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..scores.trust import Trust, load_trusts
from ..store import FeatureStore, stores
from ..store.layout import read_manifest


@dataclass(frozen=True)
class Shelf:
    """One dictionary of the library: its store, the folder of its run (none for a store on its own), and its key there.

    slug: its name in addresses. model: what `cw.open` is given when text is tried; empty where that is not known.
    """

    slug: str
    key: str
    store: FeatureStore
    run: Path | None
    model: str

    @property
    def title(self) -> str:
        return self.slug.replace("~", " · ")

    def history(self) -> list[dict[str, float]]:
        """How the dictionary's training went, if its run kept that."""
        return (read_json(self.run / "history.json") or {}).get(self.key, []) if self.run else []

    @cached_property
    def projection(self) -> dict[str, Any]:
        """The map of its features; see `map.project`."""
        from .map import project
        return project(self.store)


@dataclass(frozen=True)
class Table:
    """Scores of a network's units that `cutaway score` left.

    about: what each score says about itself; frame: in pandas; trust: how far scores agree with the exact effect, as far as
    `trust.json` beside the table says.
    """

    path: Path
    kind: str
    network: str
    about: dict[str, dict[str, Any]]
    frame: Any
    trust: dict[str, Trust]


class Library:
    """Some folders as one library. model: opened for all of them in place of what their configurations name.

    shelves: the dictionaries that have a finished store, by slug. Raises FileNotFoundError where there is nothing to show.
    """

    def __init__(self, folders: Sequence[str | Path], model: str = ""):
        self.folders, self.shelves = [Path(folder) for folder in folders], dict[str, Shelf]()
        for folder in self.folders:
            if not folder.is_dir():
                raise FileNotFoundError(f"there is no folder {folder}; give the folder that `cutaway learn` wrote.")
        places = [(folder, key, path) for folder in self.folders for key, path in _stores(folder).items()]
        keys = [key for _, key, _ in places]
        for folder, key, path in places:
            run = folder if path != folder else None
            slug = _slug(key if keys.count(key) == 1 else f"{folder.name}~{key}")
            while slug in self.shelves:
                slug += "+"
            opened = FeatureStore(path)
            self.shelves[slug] = Shelf(slug, key, opened, run, model or _model(run, opened))
        if not self.shelves and not any(map(_anything, self.folders)):
            raise FileNotFoundError(f"there is nothing to show in {', '.join(map(str, self.folders))}; `cutaway store RUN` "
                                    "makes the store of a run, and `cutaway score` a table of units.")

    @property
    def title(self) -> str:
        """The networks that it is about, or else the folders."""
        networks = dict.fromkeys(shelf.store.manifest["network"]["name"] for shelf in self.shelves.values())
        return ", ".join(Path(name).name for name in networks) or ", ".join(f.resolve().name for f in self.folders)

    def profiles(self) -> dict[str, dict[str, Any]]:
        """The profiles that `cutaway evaluate --profile` kept, by run and dictionary."""
        found = {folder: read_json(folder / "profile.json") or {} for folder in self.folders}
        return {key if len(found) == 1 else f"{folder.name} · {key}": made
                for folder, kept in found.items() for key, made in kept.items() if isinstance(made, dict) and "lines" in made}

    def figures(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The figures that `cutaway evaluate` kept, by run and dictionary."""
        found = {folder: read_json(folder / "figures.json") or {} for folder in self.folders}
        return {f"{folder.name} · {key}": made for folder, kept in found.items() for key, made in kept.items()
                if isinstance(made, dict) and made and all(isinstance(f, dict) and "value" in f for f in made.values())}

    def tables(self) -> list[Table]:
        """The tables of units, of these folders and of the folders in them."""
        return [_table(path) for folder in self.folders for path in _tables(folder)]

    def close(self) -> None:
        for shelf in self.shelves.values():
            shelf.store.close()


def _stores(folder: Path) -> dict[str, Path]:
    """The stores of a run's folder, or the folder itself where it is a store."""
    if (folder / "manifest.json").exists():
        return {read_manifest(folder)["dictionary"]["key"]: folder}
    return stores(folder)


def _slug(text: str) -> str:
    """A name that is one part of an address and of a file's path, whatever the text."""
    return re.sub(r"[^A-Za-z0-9._+~-]", "+", text).lstrip(".") or "dictionary"


def _model(run: Path | None, opened: FeatureStore) -> str:
    """What to open when text is tried: what the run's configuration says, or the bundled model by its name."""
    arguments = (read_json(run / "config.json") or {}).get("arguments", {}) if run else {}
    name = arguments.get("model") or opened.manifest["network"]["name"]
    return name if name == "pico" or Path(name).exists() else ""     # nothing is fetched unless the user says so


def _anything(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("profile.json", "figures.json", "learning.json")) or bool(_tables(folder))


def _tables(folder: Path) -> list[Path]:
    return sorted([*folder.glob("units.parquet"), *folder.glob("*/units.parquet")])


def _table(path: Path) -> Table:
    """A table of units, read without its network."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    try:
        read = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a whole parquet file: {str(error).splitlines()[0]}") from error
    facts = json.loads((read.schema.metadata or {}).get(b"cutaway", b"null"))
    if not isinstance(facts, dict) or not {"kind", "network", "about"} <= facts.keys():
        raise ValueError(f"{path} is not a units table that Cutaway wrote.")
    frame = read.to_pandas()
    frame["block"] = frame["block"].astype("float").fillna(np.nan) if "block" in frame else np.nan
    # A table that was written anew without a check leaves the trust of another one behind.
    trust = {name: found for name, found in load_trusts(path.with_name("trust.json")).items()
             if (found.kind, found.of) == (facts["kind"], len(frame))}
    return Table(path, facts["kind"], facts["network"], facts["about"], frame, trust)


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is none. A damaged one is said to be."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); make it again.") from error
