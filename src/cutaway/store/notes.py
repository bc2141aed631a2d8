"""What people write about features: labels, notes and tags. SQLite, the only file of a store that changes."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA, LONGEST = 1, 10_000     # of this file; characters in a text
TABLES = """
CREATE TABLE labels (id INTEGER PRIMARY KEY, latent INTEGER NOT NULL, text TEXT NOT NULL, author TEXT NOT NULL,
                     at TEXT NOT NULL, facts TEXT);
CREATE INDEX labels_of ON labels (latent, id);
CREATE TABLE notes (id INTEGER PRIMARY KEY, latent INTEGER NOT NULL, text TEXT NOT NULL, author TEXT NOT NULL,
                    at TEXT NOT NULL);
CREATE INDEX notes_of ON notes (latent, id);
CREATE TABLE tags (latent INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (latent, name)) WITHOUT ROWID;
CREATE INDEX tagged ON tags (name, latent);
CREATE VIRTUAL TABLE words USING fts5 (text, latent UNINDEXED, kind UNINDEXED, own UNINDEXED, tokenize = "unicode61");
"""
LATEST = ("SELECT latent, text, author, at, facts FROM labels WHERE id IN (SELECT max(id) FROM labels GROUP BY latent) "
          "AND text != ''")


class Notes:
    """Labels, notes and tags of the latents of one store; safe for several threads and processes at once.

    The file is made at the first write; a store without one is simply without notes.
    """

    def __init__(self, path: str | Path, width: int):
        self.path, self.width = Path(path), width

    # --- labels: the last one holds, earlier ones are kept ------------------------------------------------------------

    def label(self, latent: int) -> dict[str, Any] | None:
        """The label that holds: text, author, at (UTC), facts such as a score with its floor and interval; or None."""
        found = self._read(f"{LATEST} AND latent = ?", self._known(latent))
        return _label(found[0]) if found else None

    def labels(self, latents: Iterable[int] | None = None) -> dict[int, str]:
        """The labels of all latents that have one, or of some."""
        if latents is None:
            return {row["latent"]: row["text"] for row in self._read(LATEST)}
        chosen = json.dumps([int(i) for i in latents])
        return {row["latent"]: row["text"] for row in self._read(
            "SELECT latent, text FROM labels WHERE id IN (SELECT max(id) FROM labels WHERE latent IN "
            "(SELECT value FROM json_each(?)) GROUP BY latent) AND text != ''", chosen)}

    def set_label(self, latent: int, text: str, author: str = "", facts: dict[str, Any] | None = None) -> None:
        """Give a latent a label; an empty text takes it away. facts: what stands behind it, as JSON."""
        latent, text, author = self._known(latent), _text(text), _text(author)
        with self._write() as file:
            file.execute("INSERT INTO labels (latent, text, author, at, facts) VALUES (?, ?, ?, ?, ?)",
                         (latent, text, author, _now(), None if facts is None else json.dumps(facts)))
            file.execute("DELETE FROM words WHERE kind = 'label' AND latent = ?", (latent,))
            if text:
                file.execute("INSERT INTO words VALUES (?, ?, 'label', 0)", (text, latent))

    def history(self, latent: int) -> list[dict[str, Any]]:
        """All labels that a latent ever had, the newest first; one with an empty text took the label away."""
        query = "SELECT * FROM labels WHERE latent = ? ORDER BY id DESC"
        return [_label(row) for row in self._read(query, self._known(latent))]

    # --- notes --------------------------------------------------------------------------------------------------------

    def notes(self, latent: int) -> list[dict[str, Any]]:
        """The notes on a latent, oldest first: id, text, author, at."""
        return [dict(row) for row in self._read("SELECT id, text, author, at FROM notes WHERE latent = ? ORDER BY id",
                                                self._known(latent))]

    def add_note(self, latent: int, text: str, author: str = "") -> int:
        """Add a note and return its id."""
        latent, text, author = self._known(latent), _text(text), _text(author)
        if not text.strip():
            raise ValueError("a note needs some text; found none.")
        with self._write() as file:
            own = file.execute("INSERT INTO notes (latent, text, author, at) VALUES (?, ?, ?, ?)",
                               (latent, text, author, _now())).lastrowid
            file.execute("INSERT INTO words VALUES (?, ?, 'note', ?)", (text, latent, own))
        return int(own or 0)

    def remove_note(self, id: int) -> None:
        """Remove a note."""
        with self._write() as file:
            if not file.execute("DELETE FROM notes WHERE id = ?", (id,)).rowcount:
                raise IndexError(f"there is no note {id}.")
            file.execute("DELETE FROM words WHERE kind = 'note' AND own = ?", (id,))

    # --- tags: a list of latents is a tag -----------------------------------------------------------------------------

    def tags(self, latent: int) -> list[str]:
        """The tags of a latent, in the order of the alphabet."""
        return [row["name"] for row in self._read("SELECT name FROM tags WHERE latent = ? ORDER BY name", self._known(latent))]

    def tag(self, latent: int, *names: str) -> None:
        """Give a latent tags."""
        latent, names = self._known(latent), tuple(_text(name).strip() for name in names)
        if not all(names):
            raise ValueError("a tag needs a name; found none.")
        with self._write() as file:
            for name in names:
                if file.execute("INSERT OR IGNORE INTO tags VALUES (?, ?)", (latent, name)).rowcount:
                    file.execute("INSERT INTO words VALUES (?, ?, 'tag', 0)", (name, latent))

    def untag(self, latent: int, *names: str) -> None:
        """Take tags away from a latent."""
        latent, names = self._known(latent), tuple(_text(name).strip() for name in names)
        with self._write() as file:
            for name in names:
                file.execute("DELETE FROM tags WHERE latent = ? AND name = ?", (latent, name))
                file.execute("DELETE FROM words WHERE kind = 'tag' AND latent = ? AND text = ?", (latent, name))

    def tagged(self, name: str) -> list[int]:
        """The latents with a tag."""
        query = "SELECT latent FROM tags WHERE name = ? ORDER BY latent"
        return [row["latent"] for row in self._read(query, _text(name).strip())]

    def all_tags(self) -> dict[str, int]:
        """Every tag, and how many latents have it."""
        return {row["name"]: row["n"] for row in self._read("SELECT name, count(*) AS n FROM tags GROUP BY name ORDER BY name")}

    # --- together -----------------------------------------------------------------------------------------------------

    def everything(self, latent: int) -> dict[str, Any]:
        """label, notes and tags of a latent."""
        return {"label": self.label(latent), "notes": self.notes(latent), "tags": self.tags(latent)}

    def search(self, text: str, n: int = 50) -> list[dict[str, Any]]:
        """Labels, notes and tags in which all of these words occur, as whole words or their beginnings, the best first."""
        if not (query := _query(text)):
            return []
        return [dict(row) for row in self._read(
            "SELECT latent, kind, text FROM words WHERE words MATCH ? ORDER BY rank, latent LIMIT ?", query, n)]

    def found(self, text: str) -> set[int]:
        """All latents with a label, note or tag in which these words occur."""
        query = _query(text)
        found = self._read("SELECT json_group_array(latent) FROM words WHERE words MATCH ?", query) if query else []
        return set(json.loads(found[0][0])) if found else set()

    # --- file ---------------------------------------------------------------------------------------------------------

    def _known(self, latent: int) -> int:
        if not 0 <= int(latent) < self.width:
            raise IndexError(f"this dictionary has the features 0 to {self.width - 1}; found {latent}.")
        return int(latent)

    def _read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        if not self.path.exists():
            return []
        with self._explained(), self._connected() as file:
            return file.execute(query, values).fetchall() if _schema(file) else []

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), self._connected() as file:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("BEGIN IMMEDIATE")
            if not _schema(file):
                for statement in filter(str.strip, TABLES.split(";")):
                    file.execute(statement)
                file.execute(f"PRAGMA user_version = {SCHEMA}")
            yield file
            file.execute("COMMIT")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        file = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        try:
            file.row_factory = sqlite3.Row
            if (schema := _schema(file)) > SCHEMA:
                raise ValueError(f"{self.path} has schema {schema}; this version of Cutaway reads up to {SCHEMA}. "
                                 "Update Cutaway.")
            yield file
        finally:
            file.close()    # what was not committed is undone

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"the notes in {self.path} cannot be read or written ({error}).") from error


def _label(row: sqlite3.Row) -> dict[str, Any]:
    return {"text": row["text"], "author": row["author"], "at": row["at"],
            "facts": None if row["facts"] is None else json.loads(row["facts"])}


def _query(text: str) -> str:
    """A search in FTS5's language: each word as it stands, or as the beginning of one."""
    words = [word.replace('"', '""') for word in _whole(text).replace("\0", " ").split()]
    return " ".join(f'"{word}"*' for word in words[:50])


def _text(text: str) -> str:
    if len(text) > LONGEST:
        raise ValueError(f"a text has at most {LONGEST:,} characters; found {len(text):,}.")
    return _whole(text)


def _whole(text: str) -> str:
    """A text in which what no file can hold, such as half of a character, is a question mark."""
    return text.encode("utf-8", "replace").decode()


def _schema(file: sqlite3.Connection) -> int:
    """Of the file; 0 while it has no tables."""
    return file.execute("PRAGMA user_version").fetchone()[0]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
