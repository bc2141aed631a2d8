"""Names that were found for features, each with its scores and floors: what `cutaway explain` leaves in a store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .database import Database, now, whole

if TYPE_CHECKING:
    from ..explain import Name
    from .feature_store import FeatureStore

SINCE = 2     # the schema of the file that has names
NEWEST = ("SELECT latent, text, explainer, brief, tells FROM names WHERE id IN (SELECT max(id) FROM names "
          "WHERE text != ''{} GROUP BY latent) ORDER BY id DESC LIMIT ?")


class Names:
    """The names of the latents of one store: of each latent the last that each explainer found.

    As JSON, a name is what `Name.json` gives, its scores with their floors and intervals, and besides `at` (UTC), and
    `model`, the language model that was asked, if any.
    """

    def __init__(self, file: Database, width: int):
        self.file, self.width = file, width

    def keep(self, name: Name, model: str = "", at: str = "") -> None:
        """Keep a name in the place of the one that the same explainer found before. at: when; now, when left out."""
        if not 0 <= name.feature < self.width:
            raise IndexError(f"this dictionary has the features 0 to {self.width - 1}; found {name.feature}.")
        facts = json.dumps({**name.json(), "model": model}, ensure_ascii=False)
        with self.file.write() as file:
            file.execute("DELETE FROM names WHERE latent = ? AND explainer = ?", (name.feature, name.by))
            file.execute("INSERT INTO names (latent, explainer, text, brief, tells, at, facts) VALUES (?, ?, ?, ?, ?, ?, ?)",
                         (name.feature, name.by, whole(name.text), whole(name.brief), name.tells, at or now(), whole(facts)))
            file.execute("DELETE FROM words WHERE kind = 'name' AND latent = ?", (name.feature,))
            file.execute("INSERT INTO words SELECT text, latent, 'name', 0 FROM names WHERE latent = ? AND text != ''",
                         (name.feature,))

    def of(self, latent: int) -> list[dict[str, Any]]:
        """JSON: what each explainer found for a feature, names first, then the newest first; `why` says why there is none."""
        query = "SELECT facts, at FROM names WHERE latent = ? ORDER BY text = '', id DESC"
        return [{**json.loads(row["facts"]), "at": row["at"]} for row in self.file.read(query, int(latent), since=SINCE)]

    def newest(self, latents: Iterable[int] | None = None, most: int = -1) -> dict[int, dict[str, Any]]:
        """JSON: the newest name of all features that have one, of some features, or of the `most` that were named last; each
        with the score that it may not be shown without: {latent: {text, by, brief, tells}}."""
        chosen, given = "", list[Any]()
        if latents is not None:
            chosen, given = " AND latent IN (SELECT value FROM json_each(?))", [json.dumps([int(i) for i in latents])]
        rows = self.file.read(NEWEST.format(chosen), *given, most, since=SINCE)
        return {row["latent"]: {"text": row["text"], "by": row["explainer"], "brief": row["brief"], "tells": bool(row["tells"])}
                for row in rows}


def take_in(store: FeatureStore, path: Path) -> int:
    """Keep the names of a file that `cutaway explain` wrote for this store's dictionary; how many are newer than its own.

    A file that is not there, or was written for another dictionary, holds none.
    """
    from ..explain import Name
    if not path.exists():
        return 0
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); run `cutaway explain` again.") from error
    if found.get("dictionary") != store.manifest["dictionary"]["fingerprint"]:
        return 0
    model, at = (found.get("endpoint") or {}).get("model", ""), found.get("at", "")
    known = {(name["feature"], row["by"]): row["at"] for name in found["names"] for row in store.names.of(name["feature"])}
    new = [name for name in map(Name.from_json, found["names"]) if at > known.get((name.feature, name.by), "")]
    for name in new:
        store.names.keep(name, model, at)
    return len(new)
