"""A store's tables and the answers to queries, as data frames of pandas or polars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .feature_store import FeatureStore

LIBRARIES = ("pandas", "polars")
POSTINGS, NAMES = "postings", "names"


def frame(store: FeatureStore, table: str, library: str, parameters: Any) -> Any:
    """See `FeatureStore.frame`."""
    if library not in LIBRARIES:
        raise ValueError(f"frames are of {' or '.join(LIBRARIES)}; found {library!r}.")
    make = _polars() if library == "polars" else _pandas()
    if table == NAMES:
        return make.DataFrame([{"latent": latent, **name} for latent, name in sorted(store.names.newest().items())])
    if table in store.files.tables:
        return make.read_parquet(store.folder / f"{table}.parquet")
    if table == POSTINGS:
        table = f"SELECT * FROM {POSTINGS}"
    if not isinstance(table, str) or len(table.split()) < 2:
        raise ValueError(f"this store has the tables {', '.join((*store.files.tables, POSTINGS, NAMES))}, and answers queries "
                         f"such as SELECT * FROM postings WHERE latent = 3; found {table!r}.")
    with store.files.answer(table, parameters) as cursor:
        found = cursor.df()
    return make.from_pandas(found) if library == "polars" else found


def _pandas() -> Any:
    import pandas
    return pandas


def _polars() -> Any:
    try:
        import polars
    except ImportError:
        raise ImportError("polars is not installed; `pip install polars`, or ask for pandas.") from None
    return polars
