"""The profile of a store's dictionary, which `cutaway evaluate --profile` leaves beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_json

if TYPE_CHECKING:
    from .feature_store import FeatureStore

FILE = "profile.json"     # by the dictionary's key, as in the run's own folder


def keep(store: FeatureStore, profile: dict[str, Any]) -> None:
    """Keep a profile, in the place of an earlier one."""
    write_json(store.folder / FILE, {store.manifest["dictionary"]["key"]: profile})


def take_in(store: FeatureStore, run: Path) -> None:
    """Keep the profile in a run's folder, where there is one of this very dictionary."""
    from ..dictionaries.quality.profile import checksum
    found = _of(run / FILE, store)
    if found is not None and found["dictionary"]["checksum"] == checksum(store.dictionary):
        keep(store, found)


def read(store: FeatureStore) -> dict[str, Any] | None:
    """See `FeatureStore.profile`."""
    return _of(store.folder / FILE, store)


def _of(path: Path, store: FeatureStore) -> dict[str, Any] | None:
    """The profile of a store's dictionary in a file, if there is one."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get(store.manifest["dictionary"]["key"])
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no profiles ({error}); run `cutaway evaluate --profile` again.") from error
