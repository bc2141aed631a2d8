"""From a run to its stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dictionaries.apart import apart, chosen
from ..harvest import Harvest
from .build import build
from .feature_store import FeatureStore
from .harvested import rows_of
from .layout import read_manifest

if TYPE_CHECKING:
    from ..dictionaries import Dictionary
    from ..train import Run


def store(run: Run, data: Any = None, *, tokens: int | str | None = "2M", key: str | None = None,
          out: str | Path | None = None, seed: int = 0, progress: bool = True) -> FeatureStore:
    """The store of one dictionary of a run: built, built further after an interruption, or opened if it is there.

    data: left out, the data that the run learned from; with a harvest of the dictionary's site the network is not run.
    tokens: of the data, from its start; None for all. key: which dictionary, where the run has several; a
    cross-layer transcoder has one for each of its layers, by KEY/TARGET. out: left out,
    `store/KEY` in the run's folder. seed: of the contexts that are drawn at random. Raises ValueError where the folder holds
    the store of something else, and where the disk has too little room.
    """
    from ..counts import count_of
    if not hasattr(run, "dictionaries"):
        raise ValueError(f"a store is made of a run, as cw.learn and cw.load give it; found a {type(run).__name__}.")
    found = apart(run.dictionaries) if key is None else chosen(run.dictionaries, key)
    if len(found) > 1:
        raise ValueError(f"a store is of one dictionary; give key= as one of {', '.join(found)}.")
    (key, dictionary), = found.items()
    data = data if data is not None else run.data
    if data is None:
        raise ValueError("this run was loaded without data; give data= to say where its features are looked for.")
    harvested = isinstance(data, Harvest)
    if harvested:
        data.check(run.net)
    elif not hasattr(data, "rows"):
        raise ValueError(f"a store is made from text, images, arrays or a harvest; found a {type(data).__name__}.")
    if out is None and run.folder is None:
        raise ValueError("this run has no folder; give out= to say where its store is kept.")
    folder = Path(out) if out is not None else place(run.folder or Path(), key)
    whole = rows_of(data) if harvested else data
    read = whole if tokens is None else whole.take(count_of(tokens))
    try:
        build(folder, run.net, dictionary, read, key, seed, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; run the same command again to go on in {folder}") from None
    return FeatureStore(folder, run.net, None if harvested else read)


def opened(run: Run) -> FeatureStore | None:
    """The finished store of the run's only dictionary in the run's own folder, if there is one.

    Raises ValueError where it was made from another network or dictionary, such as one that was learned there before.
    """
    found = apart(run.dictionaries)
    if run.folder is None or len(found) != 1:
        return None
    (key, dictionary), = found.items()
    folder = place(run.folder, key)
    if not (folder / "manifest.json").exists():
        return None
    manifest, data = read_manifest(folder), None
    if hasattr(run.data, "row_tokens"):
        read = run.data.take(manifest["n_rows"] * run.data.row_tokens)
        data = read if read.fingerprint == manifest["data"]["fingerprint"] else None
    store = FeatureStore(folder, run.net, data)
    store.check(dictionary=dictionary)
    return store


def place(run: Path, key: str) -> Path:
    """Where the store of a dictionary is kept in the folder of its run."""
    return run / "store" / key.replace("/", "+")


def stores(run: str | Path) -> dict[str, Path]:
    """The finished stores in the folder of a run, by the dictionary's key; of two of one dictionary that in its own place."""
    found: dict[str, Path] = {}
    for path in sorted((Path(run) / "store").glob("*/manifest.json")):
        key = read_manifest(path.parent)["dictionary"]["key"]
        if key not in found or path.parent == place(Path(run), key):
            found[key] = path.parent
    return found


@contextmanager
def store_of(run: Path, key: str, dictionary: Dictionary) -> Iterator[FeatureStore | None]:
    """The finished store of a dictionary of a run, if there is one; that of another dictionary is refused."""
    folder = stores(run).get(key)
    if folder is None:
        yield None
        return
    with FeatureStore(folder) as found:
        found.check(dictionary=dictionary)
        yield found
