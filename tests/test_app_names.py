"""Names on the pages: wherever one stands, its score and floor stand beside it; the table sorts and filters by them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_cases import HOSTILE, WIDTH, Page, a_run
from starlette.testclient import TestClient
from test_store_names import a_name

from cutaway.app import Library, application, export
from cutaway.app.pages import points

BASE = "http://127.0.0.1:7860"
SCORE = "0.81, floor 0.52"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """Both dictionaries with a name for every feature but three; of those that are left one has a label."""
    made = Library([a_run(tmp_path_factory.mktemp("runs") / "learn")])
    for shelf in made.shelves.values():
        for latent in range(WIDTH - 3):
            shelf.store.names.keep(a_name(latent, f"zebra {latent}"))
        shelf.store.notes.set_label(WIDTH - 1, "mine")
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(library: Library) -> TestClient:
    return TestClient(application(library), base_url=BASE, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def busiest(library: Library) -> int:
    return int(library.shelves["blocks.0"].store.counts[:WIDTH - 3].argmax())


def bare(words: str) -> list[str]:
    """Names that stand without their score right behind them."""
    return [found[0] for found in re.finditer(r"zebra \d+(.{0,40})", words, re.DOTALL)
            if SCORE not in " ".join(found[1].split())]


PAGES = {"/": 6, "/d/blocks.0/": 40, "/d/blocks.0/f/{}": 12, "/compare?a=blocks.0&b=blocks.1": 20, "/d/blocks.0/row/1": 8,
         "/d/blocks.0/search?q=zebra": 40, "/d/blocks.0/search?q=self&by=text": 5}


@pytest.mark.parametrize("page", PAGES)
def test_a_name_never_stands_without_its_score_and_floor(page: str, client: TestClient, busiest: int):
    answer = client.get(page.format(busiest))
    words = Page(answer.text).words
    assert answer.status_code == 200 and not bare(words)
    assert len(re.findall(r"zebra \d+", words)) >= PAGES[page]


def test_related_features_are_called_by_their_names(client: TestClient, library: Library, busiest: int):
    near = library.shelves["blocks.0"].store.neighbours(busiest)
    assert all(row["name"]["text"] == f"zebra {row['latent']}" for kind in ("cosine", "coactive") for row in near[kind]
               if row["latent"] < WIDTH - 3)
    aside = client.get(f"/d/blocks.0/f/{busiest}").text.split("Writes in a like direction")[1]
    first = near["cosine"][0]["latent"]
    assert f"zebra {first}" in Page(aside).words or first >= WIDTH - 3


def test_the_strongest_features_of_a_text_are_called_by_their_names(client: TestClient, busiest: int):
    tried = client.post(f"/d/blocks.0/f/{busiest}/try", data={"text": "def f(self):"}, headers={"origin": BASE})
    words = Page(tried.text).words
    assert "zebra" in words and not bare(words)


def test_the_table_is_chosen_and_sorted_by_names(library: Library, client: TestClient):
    names = library.shelves["blocks.1"].store.names
    for latent, value in ((7, 0.95), (8, 0.60), (9, 0.53)):
        names.keep(a_name(latent, "zebra", value=value))

    def latents(query: str) -> list[int]:
        rows: list[dict[str, Any]] = []
        for page in (1, 2):
            rows += client.get(f"/api/v1/d/blocks.1/features?{query}&page={page}").json()["rows"]
        return [row["latent"] for row in rows]

    unnamed = [WIDTH - 3, WIDTH - 2]
    down, up = latents("sort=above"), latents("sort=above&down=0")
    assert down[0] == 7 and down[WIDTH - 5: WIDTH - 3] == [8, 9] and up[:2] == [9, 8]
    assert sorted(down[-3:]) == sorted(up[-3:]) == [*unnamed, WIDTH - 1], "those without a name come last either way"
    assert sorted(latents("named=no")) == unnamed and len(latents("named=yes")) == WIDTH - 2
    assert WIDTH - 1 in latents("named=yes") and WIDTH - 1 not in latents("named=clear"), "a label has no score"
    assert 9 not in latents("named=clear") and 7 in latents("named=clear")
    assert latents("named=clear&q=7&sort=above")[0] == 7
    page = Page(client.get("/d/blocks.1/?named=yes&sort=above&down=0").text)
    assert "0.53, floor 0.52, doubtful" in page.words
    assert any("named=yes" in to and "page=2" in to for to in page.targets())
    for latent in (7, 8, 9):
        names.keep(a_name(latent, f"zebra {latent}"))


def test_the_map_knows_names_with_their_scores(library: Library, client: TestClient):
    shelf = library.shelves["blocks.0"]
    found = points(shelf)["called"]
    assert found[3] == ["zebra 3", SCORE] and found[WIDTH - 1] == ["mine", ""] and WIDTH - 2 not in found
    shelf.store.names.keep(a_name(3, HOSTILE))
    answer = client.get("/d/blocks.0/map")
    assert answer.status_code == 200 and not Page(answer.text).dangers() and "<script>alert" not in answer.text
    assert "\u202e" not in str(client.get("/api/v1/d/blocks.0/map").json()["called"]["3"])
    shelf.store.names.keep(a_name(3, "zebra 3"))


def test_a_site_of_files_has_the_names_too(library: Library, tmp_path: Path):
    export(library, tmp_path / "site", [1, 2, 3])
    words = Page((tmp_path / "site/d/blocks.0/features.html").read_text(encoding="utf-8")).words
    assert "zebra 3" in words and not bare(words)
    assert SCORE in (tmp_path / "site/d/blocks.0/map.html").read_text(encoding="utf-8")
