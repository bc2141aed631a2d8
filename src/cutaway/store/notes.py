"""What people write about features: labels, notes and tags."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .database import Database, now, whole
from .layout import number

LONGEST = 10_000     # characters in a text
LATEST = ("SELECT latent, text, author, at, facts FROM labels WHERE id IN (SELECT max(id) FROM labels GROUP BY latent) "
          "AND text != ''")


class Notes:
    """Labels, notes and tags of the latents of one store; safe for several threads and processes at once.

    The file is made at the first write; a store without one is simply without notes.
    """

    def __init__(self, path: str | Path, width: int):
        self.file, self.width = Database(path), width

    @property
    def path(self) -> Path:
        return self.file.path

    # --- labels: the last one holds, earlier ones are kept ------------------------------------------------------------

    def label(self, latent: int) -> dict[str, Any] | None:
        """The label that holds: text, author, at (UTC), facts such as a score with its floor and interval; or None."""
        found = self.file.read(f"{LATEST} AND latent = ?", self._known(latent))
        return _label(found[0]) if found else None

    def labels(self, latents: Iterable[int] | None = None) -> dict[int, str]:
        """The labels of all latents that have one, or of some."""
        if latents is None:
            return {row["latent"]: row["text"] for row in self.file.read(LATEST)}
        chosen = json.dumps([int(i) for i in latents])
        return {row["latent"]: row["text"] for row in self.file.read(
            "SELECT latent, text FROM labels WHERE id IN (SELECT max(id) FROM labels WHERE latent IN "
            "(SELECT value FROM json_each(?)) GROUP BY latent) AND text != ''", chosen)}

    def set_label(self, latent: int, text: str, author: str = "", facts: dict[str, Any] | None = None) -> None:
        """Give a latent a label; an empty text takes it away. facts: what stands behind it, as JSON."""
        latent, text, author = self._known(latent), _text(text), _text(author)
        with self.file.write() as file:
            file.execute("INSERT INTO labels (latent, text, author, at, facts) VALUES (?, ?, ?, ?, ?)",
                         (latent, text, author, now(), None if facts is None else json.dumps(facts)))
            file.execute("DELETE FROM words WHERE kind = 'label' AND latent = ?", (latent,))
            if text:
                file.execute("INSERT INTO words VALUES (?, ?, 'label', 0)", (text, latent))

    def history(self, latent: int) -> list[dict[str, Any]]:
        """All labels that a latent ever had, the newest first; one with an empty text took the label away."""
        query = "SELECT * FROM labels WHERE latent = ? ORDER BY id DESC"
        return [_label(row) for row in self.file.read(query, self._known(latent))]

    # --- notes --------------------------------------------------------------------------------------------------------

    def notes(self, latent: int) -> list[dict[str, Any]]:
        """The notes on a latent, oldest first: id, text, author, at."""
        query = "SELECT id, text, author, at FROM notes WHERE latent = ? ORDER BY id"
        return [dict(row) for row in self.file.read(query, self._known(latent))]

    def add_note(self, latent: int, text: str, author: str = "") -> int:
        """Add a note and return its id."""
        latent, text, author = self._known(latent), _text(text), _text(author)
        if not text.strip():
            raise ValueError("a note needs some text; found none.")
        with self.file.write() as file:
            own = file.execute("INSERT INTO notes (latent, text, author, at) VALUES (?, ?, ?, ?)",
                               (latent, text, author, now())).lastrowid
            file.execute("INSERT INTO words VALUES (?, ?, 'note', ?)", (text, latent, own))
        return int(own or 0)

    def remove_note(self, id: int) -> None:
        """Remove a note."""
        with self.file.write() as file:
            if not file.execute("DELETE FROM notes WHERE id = ?", (id,)).rowcount:
                raise IndexError(f"there is no note {id}.")
            file.execute("DELETE FROM words WHERE kind = 'note' AND own = ?", (id,))

    # --- tags: a list of latents is a tag -----------------------------------------------------------------------------

    def tags(self, latent: int) -> list[str]:
        """The tags of a latent, in the order of the alphabet."""
        query = "SELECT name FROM tags WHERE latent = ? ORDER BY name"
        return [row["name"] for row in self.file.read(query, self._known(latent))]

    def tag(self, latent: int, *names: str) -> None:
        """Give a latent tags."""
        latent, names = self._known(latent), tuple(_text(name).strip() for name in names)
        if not all(names):
            raise ValueError("a tag needs a name; found none.")
        with self.file.write() as file:
            for name in names:
                if file.execute("INSERT OR IGNORE INTO tags VALUES (?, ?)", (latent, name)).rowcount:
                    file.execute("INSERT INTO words VALUES (?, ?, 'tag', 0)", (name, latent))

    def untag(self, latent: int, *names: str) -> None:
        """Take tags away from a latent."""
        latent, names = self._known(latent), tuple(_text(name).strip() for name in names)
        with self.file.write() as file:
            for name in names:
                file.execute("DELETE FROM tags WHERE latent = ? AND name = ?", (latent, name))
                file.execute("DELETE FROM words WHERE kind = 'tag' AND latent = ? AND text = ?", (latent, name))

    def tagged(self, name: str) -> list[int]:
        """The latents with a tag."""
        query = "SELECT latent FROM tags WHERE name = ? ORDER BY latent"
        return [row["latent"] for row in self.file.read(query, _text(name).strip())]

    def all_tags(self) -> dict[str, int]:
        """Every tag, and how many latents have it."""
        query = "SELECT name, count(*) AS n FROM tags GROUP BY name ORDER BY name"
        return {row["name"]: row["n"] for row in self.file.read(query)}

    # --- together -----------------------------------------------------------------------------------------------------

    def everything(self, latent: int) -> dict[str, Any]:
        """label, notes and tags of a latent."""
        return {"label": self.label(latent), "notes": self.notes(latent), "tags": self.tags(latent)}

    def search(self, text: str, n: int = 50) -> list[dict[str, Any]]:
        """Labels, notes and tags in which all of these words occur, as whole words or their beginnings, the best first."""
        if not (query := _query(text)):
            return []
        return [dict(row) for row in self.file.read(
            "SELECT latent, kind, text FROM words WHERE words MATCH ? AND kind != 'name' ORDER BY rank, latent LIMIT ?",
            query, n)]

    def found(self, text: str) -> set[int]:
        """All latents with a label, note, tag or name in which these words occur."""
        query = _query(text)
        found = self.file.read("SELECT json_group_array(latent) FROM words WHERE words MATCH ?", query) if query else []
        return set(json.loads(found[0][0])) if found else set()

    def _known(self, latent: int) -> int:
        return number(latent, self.width, "this dictionary has the features")


def _label(row: sqlite3.Row) -> dict[str, Any]:
    return {"text": row["text"], "author": row["author"], "at": row["at"],
            "facts": None if row["facts"] is None else json.loads(row["facts"])}


def _query(text: str) -> str:
    """A search in FTS5's language: each word as it stands, or as the beginning of one."""
    words = [word.replace('"', '""') for word in whole(text).replace("\0", " ").split()]
    return " ".join(f'"{word}"*' for word in words[:50])


def _text(text: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"what is written about a feature is text; found {text!r}.")
    if len(text) > LONGEST:
        raise ValueError(f"a text has at most {LONGEST:,} characters; found {len(text):,}.")
    return whole(text)
