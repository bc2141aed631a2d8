"""Names in a store: never without their score and floor, one of each explainer, found by words, safe from interruptions."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from app_cases import HOSTILE, Page, a_run

import cutaway as cw
from cutaway.explain import Name, Score
from cutaway.files import write_json
from cutaway.metrics import Figure
from cutaway.store import FeatureStore, Names, Notes
from cutaway.store.database import SCHEMAS, Database
from cutaway.store.names import take_in


def a_score(value: float = 0.81, floor: float = 0.52, spread: float = 0.05, scorer: str = "detection") -> Score:
    def figure(middle: float) -> Figure:
        return Figure(scorer, middle, middle - spread, middle + spread, 100, "windows", "balanced accuracy")
    return Score(scorer, figure(value), figure(floor), figure(value - floor), others=3, asked=100)


def a_name(feature: int, text: str = "ends of lines", by: str = "rule-induction", why: str = "", **figures: Any) -> Name:
    scores = () if why else (a_score(**figures),)
    return Name(feature, "" if why else text, by, scores, "the name's own rule", "some text", 0.1, why)


@pytest.fixture
def names(tmp_path: Path) -> Names:
    return Names(Database(tmp_path / "notes.sqlite"), 64)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("runs") / "learn")


def test_what_is_kept_comes_back_as_it_was(names: Names) -> None:
    name = a_name(3)
    names.keep(name, at="2026-01-02T03:04:05Z")
    [found] = names.of(3)
    assert Name.from_json(found) == name and found["at"] == "2026-01-02T03:04:05Z" and found["tells"]
    assert names.newest() == names.newest([3, 4]) == {3: {
        "text": "ends of lines", "by": "rule-induction", "at": "2026-01-02T03:04:05Z", "tells": True,
        "brief": "detection 0.81 [0.76, 0.86], floor 0.52 [0.47, 0.57]",
        "scorer": "detection", "value": 0.81, "floor": 0.52, "above": 0.81 - 0.52, "clears": True}}
    assert names.newest([4]) == {} and names.of(4) == []
    undefined = Score("fuzzing", why="too few")
    odd = Name(5, "x", "me", (undefined, a_score(0.5, 0.5, float("nan"))), density=float("nan"))
    names.keep(odd)
    assert json.dumps(names.of(5), allow_nan=False) and "not above" in names.newest()[5]["brief"]
    assert names.newest()[5]["scorer"] == "detection", "the score that is shown is the first that is defined"
    assert str(Name.from_json(names.of(5)[0])) == str(odd)
    names.keep(Name(6, "y", "me", (a_score(0.53), a_score(0.9, scorer="fuzzing"))))
    assert names.newest()[6]["tells"] and not names.newest()[6]["clears"], "the score that is shown speaks for itself alone"


def test_a_name_without_a_score_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="never given without one"):
        Name(1, "words", "me", (Score("detection", why="too few windows"),))
    with pytest.raises(ValueError, match="no name that `cutaway explain` wrote"):
        Name.from_json({"feature": 1, "text": "words"})


def test_each_explainer_has_one_name_and_the_newest_is_shown(names: Names) -> None:
    names.keep(a_name(3, "first"))
    names.keep(a_name(3, "of a model", "llm-explainer"), model="tiny")
    names.keep(a_name(3, "second"))
    assert [(row["text"], row["model"]) for row in names.of(3)] == [("second", ""), ("of a model", "tiny")]
    assert names.newest()[3]["text"] == "second"
    names.keep(a_name(3, why="it fires at 2 tokens"))
    assert [row["text"] for row in names.of(3)] == ["of a model", ""] and names.newest()[3]["text"] == "of a model"
    with pytest.raises(IndexError, match="features 0 to 63; found 64"):
        names.keep(a_name(64))


def test_a_file_of_the_schema_before_gets_names_at_the_first_write(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    with sqlite3.connect(path) as file:
        file.executescript(SCHEMAS[0] + "PRAGMA user_version = 1;")
        file.execute("INSERT INTO labels (latent, text, author, at) VALUES (3, 'mine', 'me', '2025')")
    names, notes = Names(Database(path), 64), Notes(path, 64)
    assert names.of(3) == [] and names.newest() == {} and notes.labels() == {3: "mine"}
    names.keep(a_name(3))
    assert notes.labels() == {3: "mine"} and names.newest()[3]["text"] == "ends of lines"


def test_names_of_the_schema_before_have_their_scores_before_and_after_the_next_write(tmp_path: Path) -> None:
    path, name = tmp_path / "notes.sqlite", Name(3, "old", "me", (Score("fuzzing", why="too few"), a_score()))
    with sqlite3.connect(path) as file:
        file.executescript(SCHEMAS[0] + SCHEMAS[1] + "PRAGMA user_version = 2;")
        file.execute("INSERT INTO names (latent, explainer, text, brief, tells, at, facts) "
                     "VALUES (3, 'me', 'old', ?, 1, '2025', ?)", (name.brief, json.dumps(name.json())))
    names = Names(Database(path), 64)
    before = names.newest()
    assert before[3]["scorer"] == "detection" and before[3]["clears"] and before[3]["value"] == pytest.approx(0.81)
    names.keep(a_name(4))
    assert names.newest([3]) == before and names.newest([4])[4]["value"] == 0.81 and names.of(3)[0]["above"] == 0.81 - 0.52


def test_what_is_not_finished_is_undone(names: Names) -> None:
    names.keep(a_name(3, "whole"))
    with pytest.raises(RuntimeError), names.file.write() as file:
        file.execute("DELETE FROM names")
        raise RuntimeError
    assert names.newest()[3]["text"] == "whole"


def test_a_feature_of_a_store_says_its_name_with_its_score(run: Path) -> None:
    with FeatureStore(cw.stores(run)["blocks.0"]) as store:
        latent = int(store.counts.argmax())
        assert store[latent].name is None and "named" not in repr(store[latent])
        store.names.keep(a_name(latent, "zebra crossings"))
        assert "zebra crossings" in repr(store[latent]) and "floor 0.52" in repr(store[latent])
        assert "floor 0.52" in str(store[latent].name) and "100 windows" in str(store[latent].name)
        words = Page(store[latent]._repr_html_()).words
        assert "zebra crossings" in words and "floor 0.52" in words
        rows = store.features(search="zebra")["rows"]
        assert [row["latent"] for row in rows] == [latent] and "floor 0.52" in rows[0]["name"]["brief"]
        assert store.page(latent)["names"][0]["scores"][0]["floor"]["value"] == 0.52
        assert store.notes.search("zebra") == [], "a search of notes gives no name, for it would stand without its score"
        token = store.by_direction(store.dictionary.W_dec[latent].detach(), 1)
        assert token[0]["latent"] == latent and token[0]["name"]["text"] == "zebra crossings"
        store.names.keep(a_name(latent, HOSTILE))
        assert store.names.of(latent)[0]["text"] == HOSTILE
        assert not [d for d in Page(store[latent]._repr_html_()).dangers() if not d.endswith("style")]


def test_names_of_a_file_are_taken_in_once_and_only_by_their_dictionary(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    with FeatureStore(cw.stores(run)["blocks.1"]) as store:
        assert take_in(store, path) == 0
        kept = {"dictionary": store.manifest["dictionary"]["fingerprint"], "at": "2026-01-02T03:04:05Z", "endpoint": None,
                "names": [a_name(1).json(), a_name(2, why="it never fires").json()]}
        write_json(path, kept)
        assert take_in(store, path) == 2 and take_in(store, path) == 0
        assert store.names.newest()[1]["text"] == "ends of lines" and store.names.of(2)[0]["why"] == "it never fires"
        store.names.keep(a_name(1, "newer"), at="2026-06-01T00:00:00Z")
        assert take_in(store, path) == 0 and store.names.newest()[1]["text"] == "newer"
        write_json(path, {**kept, "dictionary": "another", "at": "2027-01-01T00:00:00Z"})
        assert take_in(store, path) == 0
        path.write_text("{half")
        with pytest.raises(ValueError, match="is no JSON .* run `cutaway explain` again"):
            take_in(store, path)
