"""`cutaway export` and `cutaway serve` as a user runs them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from app_cases import Page, a_run

import cutaway as cw
from cutaway.app import Library, export
from cutaway.app.serving import listen, serve
from cutaway.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("runs") / "learn")


@pytest.fixture(scope="module")
def site(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    results = Path(__file__).parents[1] / "proofs" / "results"
    main(["export", str(run), str(out), "--features", "0:6,9", "--results", str(results)])
    return out


def test_every_link_of_the_site_is_a_file(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert len(list((site / "d" / "blocks.0" / "f").glob("*.html"))) == 7 and len(pages) == 2 * (7 + 2) + 5
    for page in pages:
        found = Page(page.read_text(encoding="utf-8"))
        assert not found.dangers(), page
        for to in found.targets():
            if to.startswith("#") or "data-base" in to:
                continue
            assert not to.startswith("/") and (page.parent / to.split("#")[0]).exists() or to == "f/0.html", (page, to)


def test_the_site_has_the_words_of_the_store(site: Path, run: Path):
    with cw.FeatureStore(cw.stores(run)["blocks.0"]) as store:
        page = store.page(3)
        words = Page((site / "d/blocks.0/f/3.html").read_text(encoding="utf-8")).words
        assert f"{page['feature']['n']:,} tokens" in words
        assert json.loads((site / "d/blocks.0/f/3.json").read_text(encoding="utf-8"))["feature"] == page["feature"]
    assert "hx-" not in (site / "d/blocks.0/f/3.html").read_text(encoding="utf-8")


def test_the_way_along_the_features_has_no_gap(site: Path):
    def ways(latent: int) -> dict[str, str]:
        page = Page((site / f"d/blocks.0/f/{latent}.html").read_text(encoding="utf-8"))
        return {given["rel"]: given["href"] for tag, given in page.elements if tag == "a" and given.get("rel")}
    assert ways(0) == {"next": "../../../d/blocks.0/f/1.html"}
    assert ways(5)["next"].endswith("/9.html") and ways(9) == {"prev": "../../../d/blocks.0/f/5.html"}
    assert "7 features, 1 to 7, of the dictionary’s 64" in Page((site / "d/blocks.0/features.html").read_text("utf-8")).words


def test_other_folders_and_features_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        export([run], tmp_path)
    with pytest.raises(IndexError, match="features 0 to 63"):
        export([run], tmp_path / "new", [64])
    assert not (tmp_path / "new").exists()
    for words in (["--features", "a:b"], ["--features", "5:5"]):
        with pytest.raises(SystemExit) as stop:
            main(["export", str(run), str(tmp_path / "new"), *words])
        assert isinstance(stop.value.code, str) and "\n" not in stop.value.code


@pytest.mark.parametrize(("given", "words"), [
    ({"host": "0.0.0.0"}, "needs --token"), ({"token": "short"}, "16 characters"), ({"port": 70_000}, "0 to 65535")])
def test_the_server_is_not_opened_to_others_by_accident(given: dict, words: str, run: Path):
    with pytest.raises(ValueError, match=words):
        serve([run], browser=False, **given)


def test_a_taken_port_gives_the_next():
    first = listen("127.0.0.1", 0)
    first.listen()
    port = first.getsockname()[1]
    with listen("127.0.0.1", port) as second:
        assert port < second.getsockname()[1] <= port + 20
    first.close()


def test_folders_with_nothing_to_show(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        Library([tmp_path / "gone"])
    with pytest.raises(FileNotFoundError, match="nothing to show"):
        Library([tmp_path])


def test_serve_starts_answers_and_ends(run: Path):
    process = subprocess.Popen([sys.executable, "-c", "from cutaway.cli import main; main()", "serve", str(run), "--port", "0",
                                "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        address = re.match(r"http://127\.0\.0\.1:\d+/", line)
        assert address, line + (process.stderr.read() if process.stderr and process.poll() is not None else "")
        for _ in range(100):
            try:
                health = json.load(urllib.request.urlopen(address[0] + "api/v1/health", timeout=20))
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        assert health == {"status": "ok", "schema": 1, "dictionaries": ["blocks.0", "blocks.1"]}
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) in (0, -signal.SIGINT, 1)
        process.communicate()
