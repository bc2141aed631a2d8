"""Names and judgements by a language model behind a real HTTP server: answers are kept, read strictly, and budgeted."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_explain import text, world

import cutaway as cw
from cutaway.explain import Endpoint, Guess, explain, prompts
from cutaway.explain.detection import detection
from cutaway.explain.endpoint import Spent
from cutaway.explain.judges import ByModel
from cutaway.explain.outcome import scored
from cutaway.explain.windows import examples, strongest

Reply = tuple[int, Any, dict[str, str]]


class Server(ThreadingHTTPServer):
    """Answers by a function from the request to a status, a body and headers; keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Callable[[dict[str, Any]], Reply] = lambda request: chat(reader(request))
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that did not wait."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), request))
        status, body, headers = self.server.answer(request)
        if status == 0:  # hang up without a word
            self.connection.close()
            return
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def chat(content: str, tokens: int = 10) -> Reply:
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}}], "usage": {"total_tokens": tokens}}, {}


def reader(request: dict[str, Any]) -> str:
    """A language model that knows one thing: a feature is about the word that is marked most, or described in quotes."""
    system, user = (message["content"] for message in request["messages"])
    if system == prompts.NAME:
        marked = re.findall(r"«\s*([^»]*)»", user)
        return f'They share a word.\nNAME: the word "{max(set(marked), key=marked.count).strip()}"'
    word = re.search(r'Description: .*"(.*)"', user).group(1).strip()  # type: ignore[union-attr]
    if system == prompts.SIMULATE:
        tokens = json.loads(user[user.index(": [") + 2:])
        return json.dumps([10 * (token.strip() == word) for token in tokens])
    texts = re.split(r"\n\nText \d+:\n", user)[1:]
    wanted = f"« {word}»" if system == prompts.MARKED else f" {word}"
    return f"Here you are: {json.dumps([int(wanted in text) for text in texts])}"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(5)


def endpoint(server: Server, **options: Any) -> Endpoint:
    return Endpoint(server.url, "tiny", **{"wait": 0.01, "timeout": 5.0, **options})


# --- names and judgements -----------------------------------------------------------------------------------------------


def test_a_model_names_and_judges_from_end_to_end(server: Server, tmp_path: Path):
    asked = endpoint(server, keep=tmp_path / "answers.jsonl")
    options: dict[str, Any] = dict(by="llm-explainer", judge="model", scorers=("detection", "fuzzing", "simulation"), n=20,
                                   length=12, floors=1)
    first, other = explain(world(), [0, 3], endpoint=asked, **options)
    assert first.text == 'the word "stone"' and first.judge == "tiny" and first.tells
    assert all(score.value.value > 0.8 and score.floor.value < 0.65 for score in first.scores)
    assert first.scores[0].others == 1 and asked.unread == 0 and "floor" in str(other)
    kept = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(kept) == asked.sent == len(server.seen) and kept[0]["request"]["messages"][0]["content"] == prompts.NAME
    assert kept[0]["answer"].startswith("They share") and kept[0]["usage"]["total_tokens"] == 10

    again = endpoint(server, keep=tmp_path / "answers.jsonl")
    names = explain(world(), [0, 3], endpoint=again, **options)
    assert names == [first, other] and again.sent == 0, "what was answered is not asked again"


def test_a_model_may_judge_the_names_of_rules(server: Server):
    [name] = explain(world(), [0], judge="model", endpoint=endpoint(server), scorers=("detection",), n=20, length=12, floors=1)
    assert name.by == "rule-induction" and name.judge == "tiny" and name.scores[0].value.value > 0.8


def test_a_wrong_name_scores_at_its_floor(server: Server):
    shown = examples(world()[0], text(), 20)
    guesses = [Guess(f'the word "{word}"', "test") for word in ("cloud", "table", "lamp")]
    score = scored("detection", detection(guesses, shown, ByModel(endpoint(server))))
    assert not score.tells and abs(score.above.value) < 0.2


def test_the_judge_does_not_see_which_windows_are_active_from_their_order(server: Server):
    shown = examples(world()[0], text(), 20)
    detection([Guess('"stone"', "test")], shown, ByModel(endpoint(server)))
    answers = [json.loads(re.search(r"\[.*\]", reader(request)).group()) for _, _, request in server.seen]
    assert sum(0 < sum(part) < len(part) for part in answers) > len(answers) / 2


def test_the_prompt_shows_marks_activations_and_raised_tokens():
    windows = strongest(world()[0], text(), 6)
    said = prompts.naming(windows, [" stone", " road"])
    assert said.count("Text ") == 6 and "« stone»" in said and '" stone" 10' in said and '" stone", " road"' in said


# --- answers that cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "read"), [
    ("[1, 0, 1]", [1, 0, 1]), ("I think\n```json\n[1,0,1]\n```", [1, 0, 1]), ("[9] then [0, 0, 0]", [0, 0, 0]),
    ("[1, 0]", None), ("[1, 0, 2]", None), ("[1, 0, true]", None), ("[1, 0, 0.5]", None), ("yes, no, yes", None),
    ("[1, 0, ", None), ("", None), ('["1", "0", "1"]', None)])
def test_lists_are_read_strictly(answer, read):
    assert prompts.read_list(answer, 3, 1) == read


@pytest.mark.parametrize(("answer", "name"), [
    ("NAME: the word x", "the word x"), ("thinking\n**NAME:** the word x\n", "the word x"), ("NAME: a\nNAME: b", "b"),
    ("the word x", None), ("NAME:", None), ("NAME:   \nmore", None), ("My NAME: x", None)])
def test_names_are_read_strictly(answer, name):
    assert prompts.read_name(answer) == name


def test_answers_that_cannot_be_read_are_counted_and_kept(server: Server, tmp_path: Path):
    calls = iter(range(1000))
    server.answer = lambda request: chat("I would rather not." if next(calls) % 4 == 3 else reader(request))
    asked = endpoint(server, keep=tmp_path / "answers.jsonl")
    shown = examples(world()[0], text(), 20)
    [own, other] = detection([Guess('"stone"', "x"), Guess('"lamp"', "x")], shown, ByModel(asked))
    score = scored("detection", [own, other])
    assert score.unparsed == own.unparsed == 10 and score.asked == 40 and own.n == 30 and asked.unread == 4
    assert own.value > 0.8 and "10 of 40 answers unreadable" in str(score), "the others are scored as they are"
    noted = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sum(entry.get("unreadable") == "I would rather not." for entry in noted) == 4


def test_a_model_that_never_answers_gives_no_score_and_no_name(server: Server):
    server.answer = lambda request: chat("no")
    asked = endpoint(server)
    [name] = explain(world(), [0], judge="model", endpoint=asked, scorers=("detection",), n=20, length=12, floors=1)
    assert name.text == "" and "could not be read" in name.why and not name.tells
    [name] = explain(world(), [0], by="llm-explainer", judge="model", endpoint=asked, n=20, length=12)
    assert "no line that begins with NAME:" in name.why and asked.unread == 9


# --- budget, retries, refusals ------------------------------------------------------------------------------------------


def test_a_budget_is_kept_and_the_rest_says_so(server: Server, tmp_path: Path):
    options = dict(by="llm-explainer", judge="model", scorers=("detection",), n=20, length=12, floors=1)
    asked = endpoint(server, requests=20, keep=tmp_path / "answers.jsonl")
    names = explain(world(), [0, 2, 3], endpoint=asked, **options)
    assert asked.sent == len(server.seen) == 20 and names[0].tells
    assert all("budget of 20 requests" in name.why for name in names[1:])
    more = endpoint(server, keep=tmp_path / "answers.jsonl")
    names = explain(world(), [0, 2, 3], endpoint=more, **options)
    assert all(name.text for name in names) and more.sent == more.asked - 20, "what was bought before is used again"


def test_a_budget_of_tokens(server: Server):
    server.answer = lambda request: chat("NAME: x", tokens=600)
    asked = endpoint(server, tokens=1000)
    asked.ask("a", "b")
    asked.ask("a", "c")
    with pytest.raises(Spent, match="1,200 used"):
        asked.ask("a", "d")
    assert asked.json() == {"url": asked.url, "model": "tiny", "asked": 3, "sent": 2, "tokens": 1200, "unreadable": 0}


@pytest.mark.parametrize("failure", [
    (503, "busy", {}), (429, "slow down", {"Retry-After": "0.02"}), (0, "", {}), (200, "not json", {}),
    (200, {"choices": []}, {}), (200, {"error": {"message": "loading"}}, {}), (200, ["odd"], {}),
    (200, {"choices": [{"message": {"content": 3}}]}, {})],
    ids=["503", "429", "hung up", "no JSON", "no choice", "an error", "a list", "no text"])
def test_what_fails_for_the_moment_is_tried_again(server: Server, failure: Reply):
    calls = iter(range(100))
    server.answer = lambda request: failure if next(calls) < 2 else chat("fine")
    asked = endpoint(server)
    assert asked.ask("a", "b") == "fine" and asked.sent == 3
    server.answer = lambda request: failure
    with pytest.raises(ValueError, match=r"no answer in 3 tries"):
        endpoint(server, retries=2).ask("a", "b")


def test_an_answer_that_takes_too_long_is_asked_for_again(server: Server):
    calls = iter(range(100))
    server.answer = lambda request: (time.sleep(0.5 if next(calls) == 0 else 0), chat("fine"))[1]
    asked = endpoint(server, timeout=0.2)
    assert asked.ask("a", "b") == "fine" and asked.sent == 2 == len(server.seen)


def test_a_refusal_is_one_sentence_and_not_tried_again(server: Server):
    server.answer = lambda request: (401, {"error": "bad key"}, {})
    asked = endpoint(server)
    with pytest.raises(ValueError, match=r"refused the request with status 401: .*bad key") as refused:
        asked.ask("a", "b")
    assert asked.sent == 1 and "\n" not in str(refused.value)


@pytest.mark.parametrize("choice", [
    {"message": {"content": None, "refusal": "no"}, "finish_reason": "content_filter"},
    {"message": {"content": "", "reasoning_content": "NAME: a first thought"}, "finish_reason": "length"},
    {"message": {"content": "<think>NAME: a first thought, and [1, 0, 1, 0, 1]"}, "finish_reason": "length"}],
    ids=["filtered", "reasoning apart", "reasoning inside"])
def test_an_answer_that_was_held_back_or_cut_off_is_paid_once_kept_whole_and_unreadable(server: Server, tmp_path: Path, choice):
    server.answer = lambda request: (200, {"choices": [choice], "usage": {"total_tokens": 70}}, {})
    asked = endpoint(server, keep=tmp_path / "answers.jsonl")
    [name] = explain(world(), [0], by="llm-explainer", judge="model", endpoint=asked, n=20, length=12)
    assert not name.text and asked.sent == asked.unread == 1 and asked.used == 70
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])["choice"] == choice


def test_reasoning_before_an_answer_is_not_the_answer():
    assert prompts.read_name("<think>\nNAME: one\n</think>\nNAME: two") == "two"
    assert prompts.read_name("NAME: one</think>NAME: two") == "two", "some templates open it in the prompt"
    assert prompts.read_name("<think>\nNAME: one") is None and prompts.read_list("<think>[1, 0]</think>[0, 1]", 2, 1) == [0, 1]


def test_a_model_that_refuses_a_parameter_is_asked_without_it(server: Server):
    def picky(request: dict[str, Any]) -> Reply:
        for name, hint in (("max_tokens", "Use 'max_completion_tokens' instead."), ("temperature", "")):
            if name in request:
                return 400, {"error": {"message": f"Unsupported parameter: '{name}' is not supported. {hint}"}}, {}
        return chat("fine")
    server.answer, asked = picky, endpoint(server, retries=0)
    assert asked.ask("a", "b") == asked.ask("a", "c") == "fine" and asked.sent == 4, "and what it refuses is learned once"
    assert server.seen[-1][2]["max_completion_tokens"] == 400 and "temperature" not in server.seen[-1][2]
    server.answer = lambda request: (400, {"error": "'max_tokens' is too large"}, {})
    with pytest.raises(ValueError, match="too large"):
        endpoint(server).ask("a", "b")
    assert len(server.seen) <= 6, "a parameter is changed once"


def test_a_redirect_takes_the_key_nowhere(server: Server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-123")
    server.answer = lambda request: (302, "", {"Location": f"{server.url}/elsewhere"})
    with pytest.raises(ValueError, match="refused the request with status 302"):
        endpoint(server, key_from="MY_KEY").ask("a", "b")
    assert len(server.seen) == 1


def test_a_local_model_is_reached_without_the_proxy(server: Server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    server.answer = lambda request: chat("fine")
    assert endpoint(server, retries=0).ask("a", "b") == "fine"


def test_nobody_there(server: Server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match="no answer in 2 tries"):
        endpoint(server, retries=1).ask("a", "b")


def test_the_key_is_sent_and_never_kept(server: Server, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-123")
    asked = endpoint(server, key_from="MY_KEY", keep=tmp_path / "answers.jsonl")
    server.answer = lambda request: chat("fine")
    asked.ask("a", "b")
    assert server.seen[0][0] == "/v1/chat/completions" and server.seen[0][1]["Authorization"] == "Bearer secret-123"
    assert server.seen[0][2]["temperature"] == 0 and "secret" not in (tmp_path / "answers.jsonl").read_text()
    endpoint(server).ask("a", "b")
    assert "Authorization" not in server.seen[1][1], "no key goes anywhere unless it was named"
    with pytest.raises(ValueError, match="NOT_SET, which is not set"):
        endpoint(server, key_from="NOT_SET")


@pytest.mark.parametrize(("answer", "says"), [
    (lambda key: (401, {"error": {"message": f"Incorrect API key provided: {key}"}}, {}), r"status 401: .*provided: \*\*\*"),
    (lambda key: (200, f"no JSON but {key}", {}), "no chat completion"), (lambda key: (200, {"error": key}, {}), r"\*\*\*")])
def test_a_key_that_the_endpoint_says_again_is_not_printed(server: Server, tmp_path: Path, monkeypatch, answer, says):
    monkeypatch.setenv("MY_KEY", "secret-123\n")   # as from a file that ends with a line break
    server.answer = lambda request: answer("secret-123")
    with pytest.raises(ValueError, match=says) as refused:
        endpoint(server, key_from="MY_KEY", keep=tmp_path / "answers.jsonl", retries=0).ask("a", "b")
    assert server.seen[0][1]["Authorization"] == "Bearer secret-123" and "secret" not in str(refused.value)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("MY_KEY", "secret 123")
    with pytest.raises(ValueError, match="something that no key has") as refused:
        endpoint(server, key_from="MY_KEY")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("given", "path"), [
    ("", "/v1/chat/completions"), ("/", "/v1/chat/completions"), ("/v1", "/v1/chat/completions"),
    ("/v1/chat/completions", "/v1/chat/completions"), ("/v1beta/openai/", "/v1beta/openai/chat/completions")])
def test_an_address_with_and_without_its_path(server: Server, given: str, path: str):
    Endpoint(server.url.removesuffix("/v1") + given, "tiny", retries=0).ask("NAME:", 'Description: "x"')
    assert server.seen[0][0] == path


def test_a_line_that_was_cut_off_is_asked_again(server: Server, tmp_path: Path):
    server.answer, path = lambda request: chat("fine"), tmp_path / "answers.jsonl"
    endpoint(server, keep=path).ask("a", "b")
    endpoint(server, keep=path).ask("a", "c")
    whole = path.read_text()
    path.write_text(whole[:-30])
    again = endpoint(server, keep=path)
    assert again.ask("a", "b") == "fine" and again.sent == 0
    assert again.ask("a", "c") == "fine" and again.sent == 1
    assert endpoint(server, keep=path).ask("a", "c") == "fine" and len(server.seen) == 3


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x/v1", "http://", "file:///etc/passwd"])
def test_addresses_that_are_none(url):
    with pytest.raises(ValueError, match="looks like http"):
        Endpoint(url, "tiny")


@pytest.mark.parametrize("url", ["http://me:secret@127.0.0.1/v1", "https://api.example.com/v1?api-key=secret"])
def test_an_address_that_holds_a_key_is_refused_and_not_said_again(url):
    with pytest.raises(ValueError, match="environment variable") as refused:
        Endpoint(url, "tiny")
    assert "secret" not in str(refused.value)


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    from cutaway.cli import main
    out, source = tmp_path_factory.mktemp("runs") / "learn", Path(cw.__file__).parent / "network" / "*.py"
    main(["learn", "pico", "--site", "blocks.1", "--data", str(source), "--tokens", "8k", "--set", "width=64", "k=4",
          "--out", str(out)])
    return out


def test_the_command_names_and_keeps(learned: Path, capsys, server: Server):
    from cutaway.cli import main
    main(["explain", str(learned), "--n", "15", "--floors", "1"])
    said = " ".join(capsys.readouterr().out.split())
    assert "this run has none; `cutaway store" in said
    kept = json.loads((learned / "names" / "blocks.1.json").read_text())
    assert "floor" in said and "features have a name" in said and len(kept["names"]) >= 2
    assert json.loads((learned / "names" / "config.json").read_text())["command"] == "explain"
    ids = [str(name["feature"]) for name in kept["names"][:2]]
    main(["store", str(learned), "--tokens", "2k"])
    assert f"{len(kept['names'])} names that `cutaway explain` found" in " ".join(capsys.readouterr().out.split())
    server.answer = lambda request: chat("NAME: things" if "NAME:" in request["messages"][0]["content"] else "[1, 0, 1, 0, 1]")
    asking = ["explain", str(learned), *ids, "--by", "llm-explainer", "--endpoint", server.url, "--model", "tiny", "--n", "10",
              "--floors", "1", "--scorers", "detection"]
    main([*asking, "--out", str(learned / "poor"), "--token-budget", "10", "--longest", "77"])
    assert len(server.seen) == 1 and server.seen[0][2]["max_tokens"] == 77
    assert "used 10 tokens" in " ".join(capsys.readouterr().out.split()), "and the rest was not asked"
    main([*asking, "--out", str(learned / "asked")])
    assert "tiny got" in " ".join(capsys.readouterr().out.split()) and (learned / "asked" / "answers.jsonl").exists()
    with cw.FeatureStore(cw.stores(learned)["blocks.1"]) as store:
        found = store.names.of(int(ids[0]))
        assert {name["by"] for name in found} == {"rule-induction", "llm-explainer"} and "tiny" in {n["model"] for n in found}
        shown = next(name for name in kept["names"] if name["text"])
        assert shown["brief"] in {name["brief"] for name in store.names.of(shown["feature"])}
    main(["rerun", str(learned / "asked"), "--out", str(learned / "again")])
    assert json.loads((learned / "again" / "blocks.1.json").read_text())["names"] == json.loads(
        (learned / "asked" / "blocks.1.json").read_text())["names"]


def test_names_found_before_an_interruption_are_in_the_store(learned: Path, monkeypatch: pytest.MonkeyPatch):
    from cutaway.cli import main
    from cutaway.explain import naming
    if not cw.stores(learned):
        main(["store", str(learned), "--tokens", "2k"])
    one, done = naming._name, []

    def until_the_third(*given: Any, **more: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(one(*given, **more))
        return done[-1]

    monkeypatch.setattr(naming, "_name", until_the_third)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["explain", str(learned), "--n", "12", "--floors", "1", "--out", str(learned / "broken")])
    with cw.FeatureStore(cw.stores(learned)["blocks.1"]) as store:
        for name in done:
            assert name.json().items() <= next(n for n in store.names.of(name.feature) if n["by"] == name.by).items()
    assert not list((learned / "broken").glob("blocks*"))


@pytest.mark.parametrize(("words", "says"), [
    (("--by", "magic"), "rule-induction"), (("--endpoint", "http://127.0.0.1:1/v1"), "--model"), (("9999",), "0 to 63"),
    (("--site", "blocks.5"), "blocks.1"), (("--by", "llm-explainer"), "give an endpoint"), (("--scorers", "magic"), "fuzzing")])
def test_bad_input_of_the_command_is_one_sentence(learned: Path, words, says):
    from cutaway.cli import main
    with pytest.raises(SystemExit) as stop:
        main(["explain", str(learned), *words, "--tokens", "2k"])
    assert says in str(stop.value.code) and str(stop.value.code).startswith("cutaway: ") and "\n" not in str(stop.value.code)


def test_cutaway_offers_it_at_the_top():
    assert cw.explain is explain and cw.Endpoint is Endpoint and np.isfinite(world().frequency).all()
