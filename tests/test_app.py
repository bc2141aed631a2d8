"""The pages of the app: what they show, what they refuse, and that nothing but notes is written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_cases import HOSTILE, WIDTH, Page, a_run, source
from starlette.testclient import TestClient
from test_store_names import a_name

import cutaway as cw
from cutaway.app import Library, application
from cutaway.app.worker import Worker
from cutaway.files import write_json
from cutaway.scores.trust import Trust, save_trusts

BASE = "http://127.0.0.1:7860"
ORIGIN = {"origin": BASE}
RESULTS = Path(__file__).parents[1] / "proofs" / "results"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("runs") / "learn")


class Closed(Worker):
    """A worker whose network cannot be opened: browsing must not need it."""

    def __init__(self) -> None:
        def opener(model: str) -> Any:
            raise AssertionError("a network was opened")
        super().__init__(opener)


@pytest.fixture(scope="module")
def library(run: Path) -> Iterator[Library]:
    made = Library([run])
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(library: Library) -> TestClient:
    return TestClient(application(library, results=RESULTS, worker=Closed()), base_url=BASE, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def live(library: Library) -> TestClient:
    """The app with its network."""
    return TestClient(application(library, results=RESULTS), base_url=BASE, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def busiest(library: Library) -> int:
    return int(library.shelves["blocks.0"].store.counts.argmax())


PAGES = ["/", "/d/blocks.0/", "/d/blocks.0/f/{}", "/d/blocks.0/f/{}?window=40", "/d/blocks.0/f/{}/contexts?kind=random&skip=5",
         "/d/blocks.0/f/{}/interval?bin=20", "/d/blocks.0/map", "/d/blocks.0/search", "/d/blocks.0/search?q=self&by=text",
         "/d/blocks.0/search?q=def", "/d/blocks.0/row/1", "/compare", "/evaluations", "/units", "/catalogue",
         "/catalogue?q=steer", "/d/blocks.1/", "/d/blocks.1/f/{}", "/d/blocks.1/row/2", "/d/blocks.1/map"]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_without_network_or_network(page: str, client: TestClient, busiest: int):
    answer = client.get(page.format(busiest))
    assert answer.status_code == 200, answer.text
    found = Page(answer.text)
    assert not found.dangers()
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    for tag, given in found.elements:     # every field has a name that is read aloud
        if tag in ("input", "textarea", "select") and given.get("type") not in ("hidden", "radio"):
            labelled = given.get("aria-label") or given.get("id") or "<label" in answer.text
            assert labelled, given


def test_links_of_pages_lead_to_pages(client: TestClient, busiest: int):
    seen = {to for page in PAGES[:18] for to in Page(client.get(page.format(busiest)).text).targets() if to.startswith("/")}
    seen = {to for to in seen if not to.endswith(("/about", "/try", "/steer", "/random"))}
    assert len(seen) > 100
    wrong = [to for to in sorted(seen)[::7] if client.get(to).status_code != 200]
    assert not wrong


def test_a_feature_page_says_what_the_store_says(client: TestClient, library: Library, busiest: int):
    store = library.shelves["blocks.0"].store
    page, words = store.page(busiest), Page(client.get(f"/d/blocks.0/f/{busiest}").text).words
    assert f"{page['feature']['n']:,} tokens" in words and f"it fires at {page['feature']['count']:,}" in words
    for title in ("Where it fires hardest", "Across its whole range", "Silent, though a token", "Favours", "Fires with it"):
        assert title in words
    top = "".join(page["contexts"]["top"][0]["tokens"]).split()
    assert all(word in words for word in top)
    data = client.get(f"/api/v1/d/blocks.0/f/{busiest}").json()
    assert data["feature"] == page["feature"] and data["histogram"]["n"] == page["feature"]["count"]


def test_a_dead_feature_says_so(client: TestClient, library: Library, run: Path, tmp_path: Path):
    store = library.shelves["blocks.1"].store
    silent = np.flatnonzero(store.counts == 0)
    assert len(silent), "the hostile text should leave some features silent"
    answer = client.get(f"/d/blocks.1/f/{silent[0]}")
    assert answer.status_code == 200 and "never fires" in answer.text


def test_the_table_sorts_filters_searches_and_pages(client: TestClient, library: Library):
    store = library.shelves["blocks.0"].store

    def rows(query: str) -> list[dict[str, Any]]:
        return client.get(f"/api/v1/d/blocks.0/features?{query}").json()["rows"]

    most = [row["latent"] for row in rows("sort=max&down=1")]
    summaries = [store.summary(i) for i in range(WIDTH)]
    expected = sorted(range(WIDTH), key=lambda i: (-(summaries[i]["max"] or 0), i))
    assert most == expected[:50]
    assert [r["latent"] for r in rows("sort=max&down=1&page=2")] == expected[50:]
    assert {r["status"] for r in rows("status=dense")} <= {"dense"}
    assert all(0.01 <= r["frequency"] <= 0.2 for r in rows("low=0.01&high=0.2"))
    assert rows("q=17")[0]["latent"] == 17 or 17 in [r["latent"] for r in rows("q=17")]
    part = client.get("/d/blocks.0/?sort=mean", headers={"hx-request": "true"}).text
    assert "<table" in part and "<html" not in part


def test_contexts_come_in_parts_without_gap_or_repetition(client: TestClient, library: Library, busiest: int):
    store = library.shelves["blocks.0"].store
    first = client.get(f"/d/blocks.0/f/{busiest}/contexts?kind=quantiles&skip=0").text
    second = client.get(f"/d/blocks.0/f/{busiest}/contexts?kind=quantiles&skip=10").text
    heights = [line for text in (first, second) for line in text.split("<li>")[1:]]
    assert len(heights) == len(set(heights)) == min(20, len(store.contexts(busiest, "quantiles", 50)))


def test_an_interval_shows_firings_of_that_strength(client: TestClient, library: Library, busiest: int):
    found = library.shelves["blocks.0"].store.histogram(busiest)
    bar = int(np.argmax(found["counts"]))
    text = Page(client.get(f"/d/blocks.0/f/{busiest}/interval?bin={bar}", headers={"hx-request": "1"}).text).words
    assert f"of {found['counts'][bar]:,} firings" in text


def test_hostile_text_stays_text(client: TestClient, library: Library):
    store = library.shelves["blocks.1"].store
    latent = int(store.counts.argmax())
    store.notes.set_label(latent, HOSTILE, HOSTILE[:50])
    store.notes.add_note(latent, HOSTILE)
    store.notes.tag(latent, "<b onclick=alert(3)>", "\"><script>alert(4)</script>")
    try:
        for page in ("/", "/d/blocks.1/", f"/d/blocks.1/f/{latent}", "/d/blocks.1/map", "/d/blocks.1/row/0",
                     "/d/blocks.1/?q=%3Cscript%3Ealert(5)%3C/script%3E", "/d/blocks.1/search?by=text&q=%3Cscript%3E",
                     "/catalogue?q=%22%3E%3Cscript%3E", "/compare?a=blocks.1&b=blocks.0"):
            answer = client.get(page)
            assert answer.status_code == 200, (page, answer.text)
            assert not Page(answer.text).dangers(), page
            assert not any(bad in answer.text for bad in ("<script>alert", "\x1b", "\u202e")), page
        assert "&lt;script&gt;" in client.get(f"/d/blocks.1/f/{latent}").text
    finally:
        for note in store.notes.notes(latent):
            store.notes.remove_note(note["id"])
        store.notes.set_label(latent, "")


@pytest.mark.parametrize(("method", "headers", "status"), [
    ("GET", {"host": "evil.example"}, 421), ("GET", {"host": "127.0.0.1.evil.example:7860"}, 421), ("GET", {"host": ""}, 421),
    ("POST", {}, 403), ("POST", {"origin": "http://evil.example"}, 403), ("POST", {"origin": "null"}, 403),
    ("POST", {"origin": "http://127.0.0.1:9999"}, 403), ("PUT", ORIGIN, 405), ("DELETE", ORIGIN, 405), ("OPTIONS", ORIGIN, 405),
])
def test_other_hosts_and_origins_are_refused(method: str, headers: dict[str, str], status: int, client: TestClient):
    answer = client.request(method, "/d/blocks.0/f/1/about", headers=headers, content="what=label&text=stolen")
    assert answer.status_code == status
    assert "stolen" not in client.get("/d/blocks.0/f/1").text


def test_every_answer_carries_the_policy(client: TestClient):
    for page in ("/", "/nowhere", "/assets/app.css", "/api/v1/health"):
        headers = client.get(page).headers
        assert "default-src 'self'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    assert "hx-request" in client.get("/d/blocks.0/").headers["vary"], "a part of a page is not the page of that address"
    assert client.head("/").status_code == 200
    assert "immutable" in client.get("/assets/app.css").headers["cache-control"]


def test_a_token_opens_the_door_once_and_then_a_cookie_does(library: Library):
    token = "t" * 20
    app = application(library, hosts=frozenset({"box.local"}), token=token, worker=Closed())
    reader = TestClient(app, base_url="http://box.local:7860", raise_server_exceptions=False)
    assert reader.get("/").status_code == 401
    assert reader.get("/?token=wrong").status_code == 401
    answer = reader.get(f"/?token={token}")
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert reader.get("/evaluations").status_code == 200


def test_labels_tags_and_notes_are_kept_and_nothing_else_is_written(run: Path, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)

    def contents() -> dict[str, str]:
        return {str(path.relative_to(copy)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in copy.rglob("*") if path.is_file() and "notes.sqlite" not in path.name}

    before, library = contents(), Library([copy])
    app = TestClient(application(library, worker=Closed()), base_url=BASE, raise_server_exceptions=False)
    about = "/d/blocks.0/f/3/about"
    for form in ({"what": "label", "text": "closing brackets"}, {"what": "tag", "text": "syntax, brackets"},
                 {"what": "note", "text": "look at near-misses"}):
        assert app.post(about, data=form, headers={**ORIGIN, "hx-request": "true"}).status_code == 200
    text = app.get("/d/blocks.0/f/3").text
    assert all(word in text for word in ("closing brackets", "syntax", "look at near-misses"))
    assert app.get("/api/v1/d/blocks.0/features?q=closing").json()["rows"][0]["latent"] == 3
    plain = app.post(about, data={"what": "untag", "text": "syntax"}, headers=ORIGIN, follow_redirects=False)
    assert plain.status_code == 303 and plain.headers["location"] == "/d/blocks.0/f/3"
    assert library.shelves["blocks.0"].store.notes.tags(3) == ["brackets"]
    for form, status in (({"what": "note", "text": " "}, 400), ({"what": "remove-note", "id": "77"}, 404), ({"what": "x"}, 400),
                         ({"what": "label", "text": "x" * 20_000}, 400), ({"what": "note", "text": "x" * 70_000}, 413)):
        assert app.post(about, data=form, headers=ORIGIN).status_code == status, form
    for page in PAGES:
        app.get(page.format(3))
    assert contents() == before
    library.close()


def test_a_text_of_ones_own_and_a_push(live: TestClient, library: Library, busiest: int):
    store = library.shelves["blocks.0"].store
    tried = live.post(f"/d/blocks.0/f/{busiest}/try", data={"text": "def f(self):\n    return self.x"}, headers=ORIGIN)
    assert tried.status_code == 200, tried.text
    net = cw.open("pico")
    expected = store.through(net, "def f(self):\n    return self.x", WIDTH)
    fires = sum(any(f["latent"] == busiest for f in found) for found in expected["features"])
    assert f"at {fires} of {len(expected['tokens'])} tokens" in Page(tried.text).words

    def pushed(**form: str) -> str:
        answer = live.post(f"/d/blocks.0/f/{busiest}/steer", headers=ORIGIN,
                           data={"prompt": "def main(", "new_tokens": "8", "strength": "3", **form})
        assert answer.status_code == 200, answer.text
        return Page(answer.text).words

    from cutaway.app.acting import steered
    found = steered(store, net, busiest, "def main(", "add", 3.0, 8)
    assert found["kl"] > 0 and found["before"] in net.generate("def main(", 8)
    with net.edited(cw.steer(store[busiest], 3 * store[busiest].max)):
        assert net.generate("def main(", 8) == "def main(" + found["after"]
    assert "As it is" in pushed() and "switched off" in pushed(how="ablate") and "held at" in pushed(how="clamp")


def test_a_label_that_changed_in_the_meantime_is_not_lost(live: TestClient, library: Library):
    to, store, quietly = "/d/blocks.0/f/7/about", library.shelves["blocks.0"].store, {**ORIGIN, "hx-request": "true"}
    first, second = ({"what": "label", "text": text, "was": ""} for text in ("first", "second"))
    assert live.post(to, data={**first, "author": "Ada"}, headers=quietly).status_code == 200
    assert live.post(to, data=first, headers=quietly).status_code == 200, "what is so already is no conflict"
    refused = live.post(to, data=second, headers=quietly)
    page = Page(refused.text)
    assert refused.status_code == 409 and "'first'" in page.words and store.notes.label(7)["text"] == "first"
    fields = {given["name"]: given.get("value") for tag, given in page.elements if tag == "input" and given.get("name") == "was"
              or given.get("id") == "label"}
    assert fields == {"was": "first", "text": "second"}, "what was typed is still there, and saving again replaces"
    assert live.post(to, data={**second, "was": "first"}, headers=quietly).status_code == 200
    assert store.notes.label(7)["text"] == "second"
    assert live.post(to, data={**first, "was": "first"}, headers=ORIGIN).status_code == 409
    store.notes.set_label(7, "")


def test_a_change_that_is_refused_leaves_the_names_and_notes_in_place(live: TestClient, library: Library):
    answer = live.post("/d/blocks.0/f/7/about", data={"what": "note", "text": " "}, headers={**ORIGIN, "hx-request": "true"})
    page = Page(answer.text)
    assert answer.status_code == 400 and "needs some text" in page.words
    assert ("details", {"open": None}) in page.elements and any(given.get("id") == "label" for _, given in page.elements)


def test_pages_lead_to_the_same_page_of_the_other_dictionary(client: TestClient):
    for page in ("", "map", "search"):
        assert f"/d/blocks.1/{page}" in Page(client.get(f"/d/blocks.0/{page}").text).targets()
    assert "Find in blocks.1" in client.get("/d/blocks.1/").text, "it is said where is looked"
    for page in ("/", "/d/blocks.0/", "/d/blocks.0/f/3"):
        assert client.get(page).headers["cache-control"] == "no-store", "the way back shows the labels given since"


def test_a_feature_that_never_fires_is_not_steered_by(client: TestClient, library: Library, busiest: int):
    dead = int((library.shelves["blocks.1"].store.counts == 0).argmax())
    assert library.shelves["blocks.1"].store.counts[dead] == 0
    page = Page(client.get(f"/d/blocks.1/f/{dead}").text)
    assert "never fires" in page.words and not any(given.get("id") == "prompt" for _, given in page.elements)
    assert any(given.get("id") == "prompt" for _, given in Page(client.get(f"/d/blocks.0/f/{busiest}").text).elements)


def test_the_token_in_the_portrait_is_code_and_escaped():
    from cutaway.app.sentences import portrait
    facts = {"count": 10, "n": 100, "frequency": 0.1, "documents": 1}
    said = portrait({"feature": facts, "tokens": [{"text": " <b>'", "count": 5, "share": 0.5}]})
    assert "<code>␣&lt;b&gt;&#39;</code>" in said and "in 1 document." in said


def test_another_network_is_refused(library: Library, busiest: int):
    from helpers import tiny_llama
    app = application(library, worker=Worker(lambda model: tiny_llama()))
    answer = TestClient(app, base_url=BASE).post(f"/d/blocks.0/f/{busiest}/try", data={"text": "def"}, headers=ORIGIN)
    assert answer.status_code == 400 and "whose weights differ" in answer.text


def test_a_queue_that_is_full_says_so(library: Library, busiest: int):
    app = application(library, worker=Worker(lambda model: None, waiting=0))
    answer = TestClient(app, base_url=BASE).post(f"/d/blocks.0/f/{busiest}/try", data={"text": "def"}, headers=ORIGIN)
    assert answer.status_code == 503 and "waiting for the network" in answer.text


def test_a_dictionary_is_the_same_as_itself_and_unlike_a_random_one(library: Library):
    from cutaway.app.compare import compare
    first, second = (library.shelves[slug].store for slug in ("blocks.0", "blocks.1"))
    same, other = compare(first, first), compare(first, second)
    assert same["sides"][0]["shared"] == 1.0 and same["mutual"] == same["sides"][0]["n"]
    assert all(pair["first"]["latent"] == pair["second"]["latent"] for pair in same["pairs"])
    assert other["sides"][0]["shared"] == other["floor"]["shared"] == 0.0
    assert abs(other["sides"][0]["mean"] - other["floor"]["mean"]) < 0.03     # random rows are as close as chance


def test_the_map_is_the_principal_plane(library: Library):
    store = library.shelves["blocks.0"].store
    from cutaway.app.map import project
    found = project(store)
    rows = store.dictionary.W_dec.detach().numpy()[found["latents"]]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    singular = np.linalg.svd(unit - unit.mean(0), compute_uv=False) ** 2
    assert found["explained"] == pytest.approx((singular[:2] / singular.sum()).tolist(), abs=1e-4)
    assert min(found["x"]) == 0 and max(found["x"]) == 4095 and len(found["tokens"]) == len(found["latents"])


def test_evaluations_units_and_names_come_from_their_files(run: Path, tmp_path: Path):
    copy = tmp_path / "learn"
    shutil.copytree(run, copy)
    value = {"value": 0.9, "low": 0.88, "high": 0.92, "n": 1234, "of": "tokens", "role": "", "undefined": ""}
    controls = {"random": {**value, "value": 0.49, "role": "floor"}, "neurons": {**value, "value": 1.0, "role": "ceiling"}}
    line = {"name": "explained_variance", "metric": "reconstruction", "role": "core", "better": "higher", "unit": "",
            "figure": value, "controls": controls, "tells": True, "verdict": "tells trained from random"}
    write_json(copy / "profile.json", {"blocks.0": {
        "dictionary": {"width": WIDTH, "site": "blocks.0"}, "network": "pico", "data": "text", "tokens": 1234,
        "groups": "9 documents", "seeds": [0, 1, 2], "held_out": "nothing was trained on it", "metrics": {}, "lines": [line]}})
    net = cw.open("pico")
    table = cw.units(net, "heads").score(["activation", "fisher", "magnitude"], source(net).take(500))
    table.save(copy / "heads" / "units.parquet")
    trust = Trust("fisher", "heads", 0.61, 0.42, 0.77, 7, 10, 24, len(table), 0.9, "loss", "text", 4, 1000, "zero", False, 0)
    trusts = {name: replace(trust, score=name, agreement=found, why="" if found == found else "constant") for name, found in
              (("activation", 0.1), ("fisher", 0.61), ("magnitude", float("nan")))}
    save_trusts(copy / "heads" / "trust.json", trusts)
    library = Library([copy])
    library.shelves["blocks.0"].store.names.keep(a_name(5, "<i>brackets</i>"))
    app = TestClient(application(library, worker=Closed()), base_url=BASE)
    text = Page(app.get("/evaluations").text).words
    assert all(word in text for word in ("1,234", "random 0.49", "neurons 1", "0.88 to 0.92", "tells trained from random"))
    text = Page(app.get("/units").text).words
    best = table.top("fisher", 1).frame.iloc[0]
    assert f"{best['site']} · {best['unit']}" in text and "48 heads of pico" in text
    assert "agrees 0.61 [0.42, 0.77]" in text and "24 of 48 heads" in text and "not checked" not in text
    assert text.index("fisher agrees") < text.index("activation agrees"), "the score that agrees most comes first"
    assert "closed to None" not in text and "0 rows" not in text
    for address in ("/d/blocks.0/f/5", "/d/blocks.0/?q=brackets", "/d/blocks.0/search?q=brackets", "/"):
        page = Page(app.get(address).text)
        assert "<i>brackets</i>" in page.words and "floor 0.52" in page.words and not page.dangers(), address
    assert "floor 0.52" in app.get("/api/v1/d/blocks.0/features?q=brackets").json()["rows"][0]["name"]["brief"]
    save_trusts(copy / "heads" / "trust.json", {"fisher": replace(trust, of=7)})
    assert "not checked" in Page(app.get("/units").text).words, "the trust of another table is not shown"
    (copy / "heads" / "trust.json").write_text("[1]")
    assert "does not hold the trust" in Page(app.get("/units").text).words
    (copy / "heads" / "trust.json").unlink()
    (copy / "profile.json").write_text("{half")
    assert app.get("/evaluations").status_code == 400
    library.close()


def test_the_catalogue_has_claims_and_what_came_of_them(client: TestClient):
    kept = json.loads((RESULTS / "topk.json").read_text())
    words = Page(client.get("/catalogue?q=topk").text).words
    assert kept["claim"] in words and ("holds" if kept["holds"] else "not") in words
    assert "Activation addition" in Page(client.get("/catalogue?q=activation+addition").text).words or "steer" in client.get(
        "/catalogue?q=steer&family=edit").text
    assert "0 found" in Page(client.get("/catalogue?q=zzzz").text).words


def test_a_run_without_a_store_says_what_to_do(tmp_path: Path):
    write_json(tmp_path / "learning.json", {})
    app = TestClient(application(Library([tmp_path]), worker=Closed()), base_url=BASE)
    assert "cutaway store" in app.get("/").text
    for page in ("/compare", "/evaluations", "/units"):
        assert app.get(page).status_code == 200


def test_cards_for_notebooks(library: Library, busiest: int):
    store = library.shelves["blocks.1"].store
    latent = int(store.counts.argmax())
    for thing in (store[latent], store.contexts(latent, "top", 1)[0]):
        page = Page(thing._repr_html_())
        assert not [d for d in page.dangers() if not d.endswith("style")]
    assert f"Feature {latent}" in Page(store[latent]._repr_html_()).words
    store.notes.set_label(latent, "<b>mine</b>")
    assert "<b>mine</b>" in Page(str(store[latent]._repr_html_())).words and store[latent].label == "<b>mine</b>"
    store.notes.set_label(latent, "")
    assert store[latent].label == ""


def test_a_number_that_is_also_in_other_words_leads_to_its_feature(client: TestClient, library: Library):
    store = library.shelves["blocks.0"].store
    store.notes.set_label(9, "after 3 spaces")
    page = Page(client.get("/d/blocks.0/?q=3").text)
    assert "to feature 3" in page.words and "/d/blocks.0/f/3" in page.targets()
    assert "to feature" not in client.get("/d/blocks.0/?q=64").text + client.get("/d/blocks.0/?q=after").text
    store.notes.set_label(9, "")
