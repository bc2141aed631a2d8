"""The files of a store, opened for reading: memory maps, and DuckDB over the Parquet files."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .layout import REMEDY, read_manifest
from .text import Vocabulary

TABLES = ("summary", "contexts", "peaks", "neighbours", "logits", "logit_histograms", "vocabulary")
# Without a folder for what does not fit into memory, a query never fills a disk.
SETTINGS: dict[str, Any] = {"threads": 2, "memory_limit": "2GB", "temp_directory": "", "autoinstall_known_extensions": False,
                            "autoload_known_extensions": False}
POSTINGS = """
CREATE VIEW postings AS SELECT p.latent, p.position, s."offset" + s.scale * p.level AS activation
FROM read_parquet({}) p JOIN summary s USING (latent)
"""


@dataclass(frozen=True)
class Table:
    """A table that is sorted by latent.

    columns: [rows] or [rows, n] for lists; begins: [width + 1] where each latent begins in them; words: for columns of words,
    what their whole numbers stand for.
    """

    columns: dict[str, np.ndarray]
    begins: np.ndarray
    words: dict[str, np.ndarray]

    @staticmethod
    def read(path: Path, width: int) -> Table:
        from pyarrow import parquet, types
        found = parquet.read_table(path)
        columns, words = dict[str, np.ndarray](), dict[str, np.ndarray]()
        for name in found.column_names:
            column = found[name].combine_chunks()
            if types.is_list(column.type):
                columns[name] = column.flatten().to_numpy().reshape(len(column), -1)
            elif types.is_string(column.type):
                coded = column.dictionary_encode()
                words[name] = np.array(coded.dictionary.to_pylist(), object)
                columns[name] = coded.indices.to_numpy().astype(np.uint8)
            else:
                columns[name] = column.to_numpy()
        return Table(columns, np.searchsorted(columns["latent"], np.arange(width + 1)), words)

    def column(self, name: str) -> np.ndarray:
        """A whole column, with its words."""
        return self.words[name][self.columns[name]] if name in self.words else self.columns[name]

    def of(self, latent: int) -> dict[str, np.ndarray]:
        """The rows of one latent, as columns."""
        own = slice(int(self.begins[latent]), int(self.begins[latent + 1]))
        found = {name: column[own] for name, column in self.columns.items()}
        return found | {name: words[found[name]] for name, words in self.words.items()}

    def rows(self, latent: int) -> list[dict[str, Any]]:
        """The rows of one latent, as JSON."""
        found = {name: listed(column) for name, column in self.of(latent).items()}
        return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]


class Files:
    """One finished store's files. Safe for many threads: each has a DuckDB cursor of its own."""

    def __init__(self, folder: str | Path):
        self.folder, self.manifest = Path(folder).absolute(), read_manifest(folder)
        self.tables = [name for name in TABLES if (self.folder / f"{name}.parquet").exists()]
        self._firsts = [shard["first"] for shard in self.manifest["shards"]]
        self._threads, self._loading = threading.local(), threading.RLock()
        self._tables: dict[str, Table] = {}

    @cached_property
    def _database(self) -> Any:
        import duckdb
        database = duckdb.connect(config=SETTINGS)
        database.execute("SET parquet_metadata_cache = true")
        with self._explained():
            for name in self.tables:
                database.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{_quoted(self.folder / name)}.parquet')")
            shards = ", ".join(f"'{_quoted(self.folder / shard['file'])}'" for shard in self.manifest["shards"])
            database.execute(POSTINGS.format(f"[{shards}]"))
        # Whatever a query says, it reads this folder and nothing else.
        database.execute(f"SET allowed_directories = ['{_quoted(self.folder)}']")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        return database

    @property
    def cursor(self) -> Any:
        """This thread's cursor."""
        if not hasattr(self._threads, "cursor"):
            with self._loading:
                self._threads.cursor = self._database.cursor()
        return self._threads.cursor

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what is wrong with a file that cannot be read."""
        import duckdb
        import pyarrow
        try:
            yield
        except (duckdb.OperationalError, duckdb.InternalError, duckdb.InvalidInputException, duckdb.OutOfRangeException,
                pyarrow.ArrowException) as error:
            said = str(error).splitlines()[0]
            raise ValueError(f"a file of the store in {self.folder} cannot be read ({said}); {REMEDY}.") from error

    def columns(self, query: str, parameters: Sequence[Any] = ()) -> dict[str, np.ndarray]:
        """The columns of a query as arrays."""
        with self._explained():
            return self.cursor.execute(query, list(parameters)).fetchnumpy()

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a query as dictionaries that are JSON; what is not a finite number is None."""
        with self.answer(query, parameters) as cursor:
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, map(plain, row), strict=True)) for row in cursor.fetchall()]

    @contextmanager
    def answer(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        """DuckDB's cursor over the answer to a query that somebody wrote."""
        import duckdb
        with self._explained():
            try:
                cursor = self.cursor.execute(query, dict(parameters) if isinstance(parameters, Mapping) else list(parameters))
                if cursor is None:
                    raise ValueError("a query is text such as SELECT * FROM summary; found none.")
                yield cursor
            except (duckdb.ProgrammingError, duckdb.PermissionException, duckdb.NotSupportedError, duckdb.DataError,
                    duckdb.OutOfMemoryException, TypeError) as error:
                raise ValueError(f"the query cannot be answered: {str(error).splitlines()[0].rstrip('.')}.") from error

    def table(self, name: str) -> Table:
        """A table in memory, for finding the rows of one latent in no time."""
        with self._loading:
            if name not in self._tables:
                with self._explained():
                    self._tables[name] = Table.read(self.folder / f"{name}.parquet", self.manifest["dictionary"]["width"])
        return self._tables[name]

    def postings(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions, ascending, and levels of one latent's firings."""
        name = self.manifest["shards"][bisect_right(self._firsts, latent) - 1]["file"]
        found = self.columns("SELECT position, level FROM read_parquet(?) WHERE latent = ?", [str(self.folder / name), latent])
        return np.asarray(found["position"]), np.asarray(found["level"])

    @cached_property
    def starts(self) -> np.ndarray:
        return self._mapped("token_starts")

    @cached_property
    def latents(self) -> np.ndarray:
        return self._mapped("token_latents")

    @cached_property
    def levels(self) -> np.ndarray:
        return self._mapped("token_levels")

    @cached_property
    def documents(self) -> np.ndarray:
        return self._mapped("documents")

    @cached_property
    def kept(self) -> np.ndarray:
        return self._mapped("kept")

    @cached_property
    def tokens(self) -> np.ndarray:
        if not self.manifest["has_text"]:
            raise ValueError(f"the store in {self.folder} was made from data without text.")
        return self._mapped("tokens")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Raises ValueError where the data has no text."""
        if not self.has_words:
            raise ValueError(f"the store in {self.folder} was made from data without text.")
        found = self.columns("SELECT bytes, special FROM vocabulary ORDER BY token")
        special = frozenset(np.flatnonzero(found["special"]).tolist())
        return Vocabulary([bytes(piece) for piece in found["bytes"]], special)

    @property
    def has_words(self) -> bool:
        """Whether there are tokens whose text is known."""
        return "vocabulary" in self.tables

    def firings_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places in `latents` and `levels` of all firings at some positions, and how many each position has."""
        begins = self.starts[positions].astype(np.int64)
        sizes = self.starts[positions + 1].astype(np.int64) - begins
        return np.repeat(begins - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum()), sizes

    @cached_property
    def scales(self) -> tuple[np.ndarray, np.ndarray]:
        """Offset and scale of each latent: float32 [width]."""
        columns = self.table("summary").columns
        return columns["offset"].astype(np.float32), columns["scale"].astype(np.float32)

    @cached_property
    def counts(self) -> np.ndarray:
        """At how many tokens each latent fires: int64 [width]."""
        return self.table("summary").columns["count"]

    def _mapped(self, name: str) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            return np.asarray(np.load(path, mmap_mode="r"))     # a plain array over the map, which is faster to index
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}); {REMEDY}.") from error

    def close(self) -> None:
        if "_database" in vars(self):
            self._database.close()


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def listed(column: np.ndarray) -> list[Any]:
    """An array as JSON has it."""
    values = column.tolist()
    return values if column.dtype.kind != "f" or np.isfinite(column).all() else [plain(value) for value in values]


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return [plain(item) for item in value] if isinstance(value, list | tuple | np.ndarray) else value
