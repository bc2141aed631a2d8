"""From a run to its stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..harvest import Harvest
from .build import build
from .feature_store import FeatureStore
from .harvested import rows_of
from .layout import read_manifest

if TYPE_CHECKING:
    from ..train import Run


def store(run: Run, data: Any = None, *, tokens: int | str | None = "2M", key: str | None = None,
          out: str | Path | None = None, seed: int = 0, progress: bool = True) -> FeatureStore:
    """The store of one dictionary of a run: built, built further after an interruption, or opened if it is there.

    data: left out, the data that the run learned from; with a harvest of the dictionary's site the network is not run.
    tokens: of the data, from its start; None for all. key: which dictionary, where the run has several. out: left out,
    `store/KEY` in the run's folder. seed: of the contexts that are drawn at random. Raises ValueError where the folder holds
    the store of something else, and where the disk has too little room.
    """
    from ..counts import count_of
    if key is not None and key not in run.dictionaries:
        raise ValueError(f"this run has no dictionary {key!r}; it has {', '.join(run.dictionaries)}.")
    dictionary = run.dictionary if key is None else run.dictionaries[key]
    key = key or next(iter(run.dictionaries))
    if len(dictionary.reads) > 1:
        raise ValueError(f"a store is of a dictionary that reads one site; {key} reads {', '.join(dictionary.reads)}.")
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
    if run.folder is None or len(run.dictionaries) != 1:
        return None
    folder = place(run.folder, next(iter(run.dictionaries)))
    if not (folder / "manifest.json").exists():
        return None
    manifest, data = read_manifest(folder), None
    if hasattr(run.data, "row_tokens"):
        read = run.data.take(manifest["n_rows"] * run.data.row_tokens)
        data = read if read.fingerprint == manifest["data"]["fingerprint"] else None
    found = FeatureStore(folder, run.net, data)
    found.check(dictionary=run.dictionary)
    return found


def place(run: Path, key: str) -> Path:
    """Where the store of a dictionary is kept in the folder of its run."""
    return run / "store" / key.replace("/", "+")


def stores(run: str | Path) -> dict[str, Path]:
    """The finished stores in the folder of a run, by the dictionary's key."""
    found = {}
    for path in sorted((Path(run) / "store").glob("*/manifest.json")):
        found[read_manifest(path.parent)["dictionary"]["key"]] = path.parent
    return found
