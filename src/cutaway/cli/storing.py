"""The command that writes what every feature of a run fires at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from . import folder, inputs
from .learning import _load
from .screen import say

if TYPE_CHECKING:
    from ..store import FeatureStore


def store(run: Annotated[Path, tyro.conf.Positional], /, tokens: str = "2M", site: str = "", data: str = "",
          out: Path | None = None, verify: bool = False, seed: int = 0, device: str = "cpu") -> None:
    """Write what every feature of a run fires at, for `cutaway serve` and for queries: contexts, neighbours, statistics.

    Interrupted at any moment, the same command goes on where it stopped.

    Args:
        run: The folder that `cutaway learn` wrote, such as runs/learn.
        tokens: In how many tokens to look, such as 500k or 2M, or all.
        site: Which dictionary, where the run has several; left out, all of them, one after the other. A cross-layer transcoder
            has one for each of its layers.
        data: Where to look: text, or the folder of a harvest of the dictionary's site, with which the network is not run;
            left out, what the run learned from.
        out: Folder of the store, for one dictionary; left out, store/SITE in the run's folder.
        verify: Instead, read every file of the run's stores and compare checksums; no network is loaded.
        seed: Of the contexts that are drawn at random.
        device: Where the network runs, such as cpu or cuda.
    """
    from ..dictionaries.apart import apart, chosen
    from ..store import profiles, stores
    from ..store import store as build
    from ..store.names import take_in
    if verify:
        _verify([out] if out else list(stores(run).values()), run)
        return
    loaded, arguments = _load(run, device)
    keys = list(chosen(loaded.dictionaries, site) if site else apart(loaded.dictionaries))
    if out is not None and len(keys) > 1:
        raise ValueError(f"--out is the folder of one store, and this run has dictionaries at {', '.join(keys)}; give --site.")
    text = data or arguments["data"]
    source = inputs.data(text, loaded.net)
    for key in keys:
        with build(loaded, source, tokens=None if tokens == "all" else tokens, key=key, out=out, seed=seed) as made:
            folder.begin(made.folder, "store", {"run": run, "tokens": tokens, "site": key, "data": text, "seed": seed,
                                                "device": device})
            say(described(made))
            profiles.take_in(made, run)
            if named := take_in(made, run / "names" / f"{key.replace('/', '+')}.json"):
                say(f"{named} names that `cutaway explain` found before are in it.")
    say(f"Next: cutaway serve {run} shows it, and cutaway explain {run} looks for names.")


def described(made: FeatureStore) -> str:
    """A store in a few words."""
    facts = made.overview()
    return (f"{made.folder}: {facts['n_entries']:,} firings of {facts['width']:,} features ({facts['dead']:,} never fire) in "
            f"{facts['n_tokens']:,} tokens of {facts['data']['name']}; {facts['bytes'] / 1e6:,.0f} MB, "
            f"{facts['bytes_per_entry']:.2f} bytes a firing in the part sorted by feature")


def _verify(folders: list[Path], run: Path) -> None:
    from ..store import FeatureStore
    if not folders:
        raise FileNotFoundError(f"there is no finished store in {run / 'store'}; `cutaway store {run}` makes one.")
    broken = [sentence for folder in folders for sentence in FeatureStore(folder).verify()]
    if broken:
        raise ValueError(" ".join(broken))
    say(f"{len(folders)} {'store is' if len(folders) == 1 else 'stores are'} whole: every file has its checksum.")
