"""Notes: labels with their history, notes, tags, search; any text is safe; several writers at once."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from cutaway.store import Notes

HOSTILE = ['"; DROP TABLE labels; --', "<script>alert(1)</script>", "'\" OR 1=1", "NEAR(a b)", "a* AND b:", "\x00nul\x00", "(",
           "^", "日本語 😀", "\ud800 half", "-", "text:"]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes.sqlite", 100)


def test_the_last_label_holds_and_earlier_ones_are_kept(notes: Notes) -> None:
    assert notes.label(3) is None and notes.labels() == {} and not notes.path.exists()
    notes.set_label(3, "first", "ann")
    notes.set_label(3, "second", facts={"detection": 0.81, "floor": 0.5})
    found = notes.label(3)
    assert found is not None and (found["text"], found["facts"]) == ("second", {"detection": 0.81, "floor": 0.5})
    assert [row["text"] for row in notes.history(3)] == ["second", "first"] and notes.history(3)[1]["author"] == "ann"
    assert notes.labels() == notes.labels([3, 4]) == {3: "second"} and notes.labels([4]) == {}
    notes.set_label(3, "")
    assert notes.label(3) is None and notes.labels() == notes.labels([3]) == {} and len(notes.history(3)) == 3
    assert notes.search("second") == []


def test_notes_and_tags(notes: Notes) -> None:
    first = notes.add_note(5, "fires in docstrings", "bo")
    second = notes.add_note(5, "and in comments")
    assert [note["text"] for note in notes.notes(5)] == ["fires in docstrings", "and in comments"]
    notes.remove_note(first)
    assert [note["id"] for note in notes.notes(5)] == [second]
    with pytest.raises(IndexError, match=f"no note {first}"):
        notes.remove_note(first)
    notes.tag(5, "odd", "code")
    notes.tag(6, "odd")
    notes.tag(6, "odd")
    assert notes.tags(5) == ["code", "odd"] and notes.tagged("odd") == [5, 6] and notes.all_tags() == {"code": 1, "odd": 2}
    notes.untag(5, "odd", "never there")
    assert notes.tagged("odd") == [6] and [row["latent"] for row in notes.search("odd")] == [6]
    assert notes.everything(5) == {"label": None, "notes": notes.notes(5), "tags": ["code"]}


def test_search_finds_words_by_their_beginnings(notes: Notes) -> None:
    notes.set_label(1, "names of exceptions")
    notes.add_note(2, "an exception to the rule")
    notes.tag(3, "exceptional")
    assert {(row["latent"], row["kind"]) for row in notes.search("excep")} == {(1, "label"), (2, "note"), (3, "tag")}
    assert [row["latent"] for row in notes.search("exception rule")] == [2]
    assert notes.found("excep") == {1, 2, 3} and notes.found(" ") == set()
    assert len(notes.search("excep", 2)) == 2 and notes.search("  ") == []


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_kept_and_searched_as_it_is(text: str, notes: Notes) -> None:
    notes.set_label(1, text)
    notes.add_note(1, text)
    notes.tag(1, text)
    notes.search(text)
    notes.tagged(text)
    found = notes.label(1)
    assert found is not None and found["text"] == text.encode("utf-8", "replace").decode()
    assert len(notes.tags(1)) == len(notes.notes(1)) == 1
    notes.set_label(2, "still here")
    assert notes.labels()[2] == "still here"


def test_bad_input_is_one_sentence(notes: Notes, tmp_path: Path) -> None:
    for act, kind, says in [
        (lambda: notes.set_label(100, "a"), IndexError, "features 0 to 99; found 100"),
        (lambda: notes.notes(-1), IndexError, "features 0 to 99"), (lambda: notes.tag(-1, "a"), IndexError, "found -1"),
        (lambda: notes.set_label(1, "a" * 10_001), ValueError, "at most 10,000 characters; found 10,001"),
        (lambda: notes.add_note(1, " \n"), ValueError, "needs some text"),
        (lambda: notes.tag(1, " "), ValueError, "needs a name")]:
        with pytest.raises(kind, match=says):
            act()
    assert notes.labels() == {} and notes.all_tags() == {}
    notes.path.write_bytes(b"this is no database" * 100)
    with pytest.raises(OSError, match="cannot be read or written"):
        notes.labels()
    newer = Notes(tmp_path / "newer.sqlite", 100)
    with sqlite3.connect(newer.path) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="has schema 99; this version of Cutaway reads up to 3"):
        newer.set_label(1, "a")


def test_what_is_not_finished_is_undone(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    notes.set_label(1, "whole")
    with pytest.raises(RuntimeError), notes.file.write() as file:
        file.execute("DELETE FROM labels")
        raise RuntimeError
    assert notes.labels() == {1: "whole"}


def test_several_writers_lose_nothing(notes: Notes) -> None:
    def write(author: int) -> None:
        own = Notes(notes.path, 100)
        for latent in range(20):
            own.add_note(latent, f"note {latent}", str(author))
            own.set_label(latent, f"label of {author}")

    threads = [threading.Thread(target=write, args=(author,)) for author in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(notes.notes(latent)) == 4 and len(notes.history(latent)) == 4 for latent in range(20))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot be read or written"):
        Notes(tmp_path / "notes.sqlite", 10).set_label(1, "a")


def test_notes_in_a_folder_that_cannot_be_written_to_are_read(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    notes.set_label(3, "kept")
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    before = sorted(notes.path.parent.iterdir())
    found = Notes(notes.path, 100)
    assert found.labels() == {3: "kept"} and sorted(notes.path.parent.iterdir()) == before
    with pytest.raises(OSError, match="cannot be read or written"):
        found.set_label(3, "new")
