"""Names that were found for features, each with its scores and floors: what `cutaway explain` leaves in a store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .database import HEIGHT, Database, now, whole

if TYPE_CHECKING:
    from ..explain import Name
    from .feature_store import FeatureStore

SINCE, HEIGHTS = 2, 3     # the schemas of the file since which it has names, and what each comes to on its own
# With max(), SQLite gives the other columns of the row that has it. All of them are in an index of the newest schema, since
# the facts make rows so long that reading them takes many times as long.
NEWEST = ("SELECT latent, max(id), text, explainer, brief, tells, at, {} AS height FROM names WHERE text != ''{} "
          "GROUP BY latent ORDER BY max(id) DESC LIMIT ?")


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
        found = name.json()
        facts, height = json.dumps({**found, "model": model}, ensure_ascii=False), json.dumps(_height(found))
        with self.file.write() as file:
            file.execute("DELETE FROM names WHERE latent = ? AND explainer = ?", (name.feature, name.by))
            file.execute("INSERT INTO names (latent, explainer, text, brief, tells, at, facts, height) "
                         "VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (name.feature, name.by, whole(name.text), whole(name.brief),
                                                             name.tells, at or now(), whole(facts), height))
            file.execute("DELETE FROM words WHERE kind = 'name' AND latent = ?", (name.feature,))
            file.execute("INSERT INTO words SELECT text, latent, 'name', 0 FROM names WHERE latent = ? AND text != ''",
                         (name.feature,))

    def of(self, latent: int) -> list[dict[str, Any]]:
        """JSON: what each explainer found for a feature, names first, then the newest first; `why` says why there is none.

        Names have `scorer`, `value`, `floor`, `above` and `clears` as in `newest`.
        """
        query = "SELECT facts, at FROM names WHERE latent = ? ORDER BY text = '', id DESC"
        found = [{**json.loads(row["facts"]), "at": row["at"]} for row in self.file.read(query, int(latent), since=SINCE)]
        return [name | _height(name) for name in found]

    def newest(self, latents: Iterable[int] | None = None, most: int = -1) -> dict[int, dict[str, Any]]:
        """JSON: the newest name of all features that have one, of some features, or of the `most` that were named last; each
        with the score that it may not be shown without:
        {latent: {text, by, at, brief, tells, scorer, value, floor, above, clears}}.

        scorer, value, floor, above, clears: of the score that `brief` says with its intervals, its floor, the difference, and
        whether it is above floor and chance; `tells`: whether any of the name's scores is.
        """
        chosen, given = "", list[Any]()
        if latents is not None:
            chosen, given = " AND latent IN (SELECT value FROM json_each(?))", [json.dumps([int(i) for i in latents])]
        rows = self.file.read(NEWEST.format("height", chosen), *given, most, since=HEIGHTS)
        if not rows:      # none, or a file from before there were heights
            rows = self.file.read(NEWEST.format(HEIGHT, chosen), *given, most, since=SINCE)
        return {row["latent"]: {"text": row["text"], "by": row["explainer"], "at": row["at"], "brief": row["brief"],
                                "tells": bool(row["tells"]), **_kept(row["height"])} for row in rows}


def _height(name: dict[str, Any]) -> dict[str, Any]:
    """The first score of a name that is defined, in few figures; none for what has no name."""
    for score in name["scores"]:
        if score["value"] and name["text"]:
            return {"scorer": score["scorer"], **{part: score[part]["value"] for part in ("value", "floor", "above")},
                    "clears": bool(score["tells"])}
    return {}


def _kept(height: str) -> dict[str, Any]:
    """The same as the file has it, where true may be 1."""
    found = json.loads(height)
    return {**found, "clears": bool(found["clears"])}


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
