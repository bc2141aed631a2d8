"""The only file of a store that is ever written again: SQLite, changed in whole transactions, by several processes at once."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of a name's facts, the first score that is defined, in few figures: what the name may not be shown without.
HEIGHT = """(
    SELECT json_object('scorer', json_extract(value, '$.scorer'), 'value', json_extract(value, '$.value.value'),
                       'floor', json_extract(value, '$.floor.value'), 'above', json_extract(value, '$.above.value'),
                       'clears', json_extract(value, '$.tells'))
    FROM json_each(facts, '$.scores') WHERE json_extract(value, '$.value') IS NOT NULL LIMIT 1)"""

# What each schema adds to the one before; a file is brought up to date at its first write.
SCHEMAS = ("""
CREATE TABLE labels (id INTEGER PRIMARY KEY, latent INTEGER NOT NULL, text TEXT NOT NULL, author TEXT NOT NULL,
                     at TEXT NOT NULL, facts TEXT);
CREATE INDEX labels_of ON labels (latent, id);
CREATE TABLE notes (id INTEGER PRIMARY KEY, latent INTEGER NOT NULL, text TEXT NOT NULL, author TEXT NOT NULL,
                    at TEXT NOT NULL);
CREATE INDEX notes_of ON notes (latent, id);
CREATE TABLE tags (latent INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (latent, name)) WITHOUT ROWID;
CREATE INDEX tagged ON tags (name, latent);
CREATE VIRTUAL TABLE words USING fts5 (text, latent UNINDEXED, kind UNINDEXED, own UNINDEXED, tokenize = "unicode61");
""", """
CREATE TABLE names (id INTEGER PRIMARY KEY, latent INTEGER NOT NULL, explainer TEXT NOT NULL, text TEXT NOT NULL,
                    brief TEXT NOT NULL, tells INTEGER NOT NULL, at TEXT NOT NULL, facts TEXT NOT NULL,
                    UNIQUE (latent, explainer));
""", f"""
ALTER TABLE names ADD COLUMN height TEXT;
UPDATE names SET height = {HEIGHT};
CREATE INDEX named ON names (latent, id, text, explainer, brief, tells, at, height) WHERE text != '';
""")
SCHEMA = len(SCHEMAS)


class Database:
    """A file of tables; it is made at the first write, and one that is not there is empty.

    Raises ValueError for a file of a newer schema, and OSError for one that cannot be read or written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._own = threading.local()   # of each thread, its open file for reading: opening one costs more than a read

    def read(self, query: str, *values: object, since: int = 1) -> list[sqlite3.Row]:
        """The rows of a query; none while the file has not the schema since which its tables exist."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return []
        with self._explained():
            place = status.st_dev, status.st_ino
            if getattr(self._own, "place", None) != place:   # the first read, or another file is there now
                self._own.file, self._own.place = self._opened(), place
            file: sqlite3.Connection = self._own.file
            return file.execute(query, values).fetchall() if self._schema(file) >= since else []

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is done at its end, or nothing where an error ends it."""
        with self._explained(), self._connected() as file:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("BEGIN IMMEDIATE")
            schema = self._schema(file)
            for number, tables in enumerate(SCHEMAS[schema:], start=schema + 1):
                for statement in filter(str.strip, tables.split(";")):
                    file.execute(statement)
                file.execute(f"PRAGMA user_version = {number}")
            yield file
            file.execute("COMMIT")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        file = self._opened()
        try:
            self._schema(file)
            yield file
        finally:
            file.close()    # what was not committed is undone

    def _opened(self) -> sqlite3.Connection:
        # Where the folder cannot be written to, SQLite could not make its index, and nobody else changes the file either.
        fixed = "" if os.access(self.path.parent, os.W_OK) else "?mode=ro&immutable=1"
        file = sqlite3.connect(self.path.absolute().as_uri() + fixed, timeout=10, isolation_level=None, uri=True)
        file.row_factory = sqlite3.Row
        return file

    def _schema(self, file: sqlite3.Connection) -> int:
        """Of the file; 0 while it has no tables."""
        schema = int(file.execute("PRAGMA user_version").fetchone()[0])
        if schema > SCHEMA:
            raise ValueError(f"{self.path} has schema {schema}; this version of Cutaway reads up to {SCHEMA}. Update Cutaway.")
        return schema

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"the notes in {self.path} cannot be read or written ({error}).") from error


def now() -> str:
    """The time in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def whole(text: str) -> str:
    """A text in which what no file can hold, such as half of a character, is a question mark."""
    return text.encode("utf-8", "replace").decode()
