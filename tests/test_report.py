"""The report: that it says what was measured, and that nothing in the text it shows can act on the reader's machine."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cutaway.metrics import Figure
from cutaway.report import (
    Ablation,
    Acting,
    Agreement,
    Context,
    Estimator,
    Feature,
    Heads,
    Histogram,
    Learning,
    Missing,
    Report,
    Run,
    Sample,
    ScoreMap,
    Series,
    Steering,
    charts,
    render,
    sentences,
    spell,
    summary,
    tokens,
    words,
)

NAN = math.nan
HOSTILE = "</pre></script><img src=https://evil.test/x onerror=alert(1)>\"'{{7*7}}\x1b[31m\u202e"


def fig(name: str, value: float, half: float = 0.02, n: int = 1234, of: str = "tokens", **facts) -> Figure:
    return Figure(name, value, value - half, value + half, n, of, **facts)


def feature(id: int, contexts: int = 3, text: str = " self", length: int = 5) -> Feature:
    activations = [0.0, 1.0, 2.5, *[0.5] * (length - 3)]
    found = [Context([text] * length, activations, f"{text}, token {i}", "60–80%") for i in range(contexts)]
    return Feature(id, fig("frequency", 0.01, 0.001, 5000 + id), 2.5, Histogram.of([0.5, 1.0, 2.5], 5),
                   [(text, 1.5)], [(text, -0.5)], found, found, "no two share a peak", text)


def report(text: str = " self") -> Report:
    nats = {"unit": "nats a token"}
    kl = {**nats, "baseline": "the network as it is"}
    return Report(
        Run("Inside a network", f"tiny {text}", f"data {text}", "TopK", f"cutaway demo {text}", 7, 4096, 75.0, "today",
            {"torch": "2.13"}, {"cpu": text}),
        Learning("blocks.1", 64, [Series("learning", [1, 2, 3], [0.9, NAN, 0.2])], [
            fig("fvu", 0.2, n=2222), fig("loss_recovered_zero", 0.971, 0.004, n=3333, baseline="zero ablation"),
            fig("loss_recovered_mean", 0.52, 0.03, n=3334, baseline="mean ablation"), fig("kl", 0.31, n=4444, **kl),
            Missing("accuracy", f"no labels {text}"), Figure("perplexity", NAN, NAN, NAN, 5, "rows"),
            Figure("cosine", 0.75, NAN, NAN, 1, "rows")], Histogram.of([0, 0, 0.1, 0.2, 0.001], 5, "log")),
        [feature(1, text=text), feature(2, text=text)],
        Heads("exact", "fisher", [ScoreMap("exact", [[0.5, 0.1], [-0.1, NAN]], "nats a token"),
                                  ScoreMap("fisher", [[3.0, 1.0], [0.5, 0.2]], "nats²")],
              [Estimator("fisher", fig("agreement", 0.86, 0.05, 48, "heads"), "1 forward, 1 backward", 2.0),
               Estimator("gradient", Missing("agreement", "all scores are equal"), "1 forward", 1.0)],
              Agreement(["exact", text], [[1.0, -0.62], [-0.62, NAN]])),
        Acting("fisher", fig("loss", 2.0, n=6666, **nats), [
            Ablation(kind, f"the {kind} {text}", ["0.0"], fig("loss", 2 + rise, n=7777, **nats),
                     fig("kl", rise, n=8888, **kl))
            for kind, rise in (("best", 2.5), ("random", 0.5), ("worst", 0.1))]),
        Steering(1, "blocks.1", 6.0, "times its mean", [Sample(text, "as it is", text), Sample("a", "b", "b")],
                 [fig("loss_untouched", 2.0, n=9998, **nats), fig("loss_steered", 2.08, n=9999, **nats),
                  fig("kl", 0.12, 0.01, 9997, **kl)]))


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.mark.parametrize("text", [" self", HOSTILE])
def test_the_page_runs_and_requests_nothing(text):
    page = Page(render(report(text)))
    forbidden = {"script", "img", "link", "iframe", "object", "embed", "base", "form", "image", "video", "audio"}
    assert not {tag for tag, _ in page.elements} & forbidden
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")], tag
        assert attributes.get("href", "#").startswith("#")
        assert "url(" not in (attributes.get("style") or "")
    style = page.text[:page.text.index("Inside a network", page.text.index("main"))]
    assert not re.search(r"url\(|@import|https?:", style)
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_hostile_tokens_change_neither_the_pages_elements_nor_its_text():
    plain, hostile = (Page(render(report(text))) for text in (" self", HOSTILE))
    assert [tag for tag, _ in plain.elements] == [tag for tag, _ in hostile.elements]
    assert "onerror=alert(1)" in hostile.text and "{{7*7}}" in hostile.text  # shown, as text
    assert "⟨1b⟩[31m⟨202e⟩" in hostile.text


def test_every_figure_is_shown_with_its_value_interval_n_and_baseline():
    found = report()
    text = re.sub(r"\s+", " ", Page(render(found)).text)
    shown = [*found.learning.figures, *(f.frequency for f in found.features),
             *(e.agreement for e in found.heads.estimators), found.acting.untouched,
             *(f for a in found.acting.ablations for f in (a.loss, a.kl)), *found.steering.figures]
    for figure in shown:
        if isinstance(figure, Figure) and math.isfinite(figure.value):
            written = words.written(figure)
            for part in (written.value, written.interval, f"{figure.n:,} {figure.of}", figure.baseline or ""):
                assert part in text, (figure, part)


def test_what_is_missing_is_a_dash_with_its_reason_and_never_a_number():
    page = Page(render(report()))
    reasons = [a["title"] for tag, a in page.elements if tag == "abbr"]
    assert "no labels  self" in reasons and "all scores are equal" in reasons
    assert any("not a finite number" in r for r in reasons) and any("too few rows" in r for r in reasons)
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    assert words.written(Missing("kl", "why")).value == words.written(Figure("kl", NAN, NAN, NAN, 3)).value == "–"


def test_sections_that_are_missing_are_left_out():
    found = Report(report().run, features=[feature(3, contexts=0)])
    page = Page(render(found))
    assert [a["id"] for tag, a in page.elements if tag == "section" and "id" in a] == ["features"]
    assert "1 of its features" in page.text and "this feature did not fire on the text read" in render(found)
    assert "Inside a network" in render(Report(report().run))


def test_the_sentences_follow_the_figures():
    found = report()
    said = {name: seen_found[-1] for name, *seen_found in sentences.sections(found)}
    assert "97.1% (against zero ablation) and 52% (against mean ablation)" in said["learning"]
    assert "block 0, head 0: closing it raises the loss by 0.50 nats a token" in said["heads"]
    assert "raises the loss by 2.50 nats a token" in said["acting"] and "the score tells them apart" in said["acting"]
    assert "changes after 1 of 2 prompts" in said["steering"]
    assert "raises the loss by 0.080 nats a token" in said["steering"]
    turned = replace(found.acting, ablations=[replace(a, kind={"best": "worst", "worst": "best"}.get(a.kind, a.kind))
                                              for a in found.acting.ablations])
    assert "the wrong way round" in sentences.on_acting(turned)[1]
    unmeasured = replace(found.learning, figures=[Missing("fvu", "why")])
    assert sentences.on_learning(unmeasured)[1] == ""


@pytest.mark.parametrize(("value", "half", "verdict"), [
    (0.86, 0.05, "can stand in"), (0.6, 0.1, "fair guide"), (0.4, 0.3, "not to be relied on"),
    (0.4, 0.5, "told from chance"), (-0.8, 0.1, "told from chance"), (0.9, NAN, "told from chance")])
def test_trust_is_judged_by_the_whole_interval(value, half, verdict):
    estimator = Estimator("fisher", fig("agreement", value, half, 48, "heads"), "1 forward", 1.0)
    assert verdict in sentences.trust(replace(report().heads, estimators=[estimator]))


@pytest.mark.parametrize(("figure", "value", "interval"), [
    (fig("fvu", 0.08234, 0.002), "0.082", "0.080 to 0.084"),
    (fig("loss_recovered", 0.97123, 0.003), "97.1%", "96.8 to 97.4%"),
    (fig("loss", 2.21449, 0.041, unit="nats a token"), "2.214", "2.173 to 2.255"),
    (fig("l0", 32.0, 0.0), "32", "32 to 32"), (fig("agreement", -0.31, 0.22), "−0.31", "−0.53 to −0.09"),
    (fig("something new", 1234567.0, 4321.0), "1,234,567", "1,230,246 to 1,238,888")])
def test_figures_have_the_digits_that_their_interval_supports(figure, value, interval):
    assert (words.written(figure).value, words.written(figure).interval) == (value, interval)


EDGES = {"ordinary": [1.0, 2.0, 5.0, 0.2], "constant": [3.0] * 4, "zero": [0.0] * 4, "one": [2.0], "none": [],
         "with nan": [1.0, NAN, 3.0, math.inf], "only nan": [NAN, NAN], "negative": [-1.0, -2.0, 4.0],
         "long tail": [1e-9, 1e-6, 1e-3, 1.0], "tiny": [1e-300, 2e-300], "huge": [1e12, -1e15],
         "close": [1.0, 1.0 + 1e-9]}


@pytest.mark.parametrize("values", EDGES.values(), ids=EDGES)
def test_charts_draw_any_numbers(values):
    places = [float(i) for i in range(len(values))]
    two = [Series("a", places, values), Series("b", places, values[::-1])]
    drawn = {
        "line": charts.line(two, "tokens", "loss (nats)", "said"),
        "line, log": charts.line(two[:1], "tokens", "loss (nats)", "said", y_space="log"),
        "histogram": charts.histogram(Histogram.of(values, 6), "activation", "tokens", "said"),
        "histogram, log": charts.histogram(Histogram.of(values, 6, "log"), "activation", "tokens", "said",
                                           x_space="log", y_space="linear"),
        "bars": charts.bars([(f"row {v}", v, v - 1, v + 1) for v in values], "loss (nats)", "said", origin=1.0),
        "heat": charts.heat([values, values], "head", "block", "nats", "said"),
        "scatter": charts.scatter(values, values[::-1], [str(v) for v in values], "fisher", "exact (nats)", "said"),
    }
    for name, svg in drawn.items():
        root = ElementTree.fromstring(str(svg))
        assert root.get("role") == "img" and root.get("aria-label", "").startswith("said"), name
        for element in root.iter():
            for key in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "r"):
                assert abs(float(element.get(key, 0))) < 2000, (name, element.attrib)
            assert float(element.get("width", 0)) >= 0 and float(element.get("height", 0)) >= 0, (name, element.attrib)
            assert not re.search("nan|inf", element.get("d", "") + element.get("style", "")), name


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(str(svg)).iter("text")]


def test_charts_name_their_axes_with_units_and_scale():
    two = [Series("held out", [1, 2], [0.5, 0.1]), Series("learning", [1, 2], [0.5, 0.1])]
    line = charts.line(two, "tokens", "loss (nats)", "said", y_space="log")
    assert {"tokens", "loss (nats), log scale", "held out", "learning"} <= set(texts(line))
    scatter = charts.scatter([1e-6, 1e-3, 1.0], [-0.1, 0.1, 8.0], ["a", "b", "c"], "fisher", "exact (nats)", "said")
    assert {"fisher, log scale", "exact (nats), square-root scale"} <= set(texts(scatter))


def test_a_line_breaks_where_a_value_is_missing():
    broken = Series("a", [0, 1, 2, 3, 4], [1, 2, NAN, 2, 1])
    drawn = ElementTree.fromstring(str(charts.line([broken], "x", "y", "said")))
    path = next(e.get("d", "") for e in drawn.iter("path"))
    assert path.count("M") == 2 and path.count("L") == 2


def test_a_bar_starts_at_its_origin_and_is_as_long_as_its_difference():
    rows = [("a", 3.0, NAN, NAN), ("b", 4.0, NAN, NAN)]
    drawn = ElementTree.fromstring(str(charts.bars(rows, "nats", "said", origin=2.0)))
    a, b = (e for e in drawn.iter("rect"))
    assert a.get("x") == b.get("x")
    assert float(b.get("width")) == pytest.approx(2 * float(a.get("width")), abs=0.2)


def test_a_heat_map_shows_sign_size_and_what_was_not_measured():
    drawn = ElementTree.fromstring(str(charts.heat([[4.0, -1.0], [0.0, NAN]], "head", "block", "nats", "said")))
    cells = [(e.get("class"), e.get("style"), e.find("title").text) for e in drawn.iter("rect")][:4]
    assert cells == [
        ("cell plus", "--v:100%", "block 0, head 0: 4 nats"), ("cell minus", "--v:50%", "block 0, head 1: -1 nats"),
        ("cell plus", "--v:0%", "block 1, head 0: 0 nats"),
        ("cell none", "--v:0%", "block 1, head 1: – (not measured)")]
    assert "–" in texts(charts.heat([[4.0, NAN]], "head", "block", "nats", "said"))


def test_a_matrix_says_every_correlation_and_what_has_none():
    drawn = ElementTree.fromstring(str(charts.matrix(["exact", "fisher"], [[1.0, -0.25], [-0.25, NAN]], "said")))
    cells = [(e.get("class"), e.get("style"), e.find("title").text) for e in drawn.iter("rect")]
    assert cells == [
        ("cell plus", "--v:45%", "exact and exact: 1.00"), ("cell minus", "--v:22%", "exact and fisher: -0.25"),
        ("cell minus", "--v:22%", "fisher and exact: -0.25"),
        ("cell none", "--v:0%", "fisher and fisher: – (one is the same for all)")]
    assert [e.text for e in drawn.iter("text")][-4:] == ["1.00", "−0.25", "−0.25", "–"]


def test_the_page_shows_how_far_scores_agree():
    assert "fisher and exact" not in render(report()) and " self and exact: -0.62" in render(report())
    assert "agree with each other" not in render(replace(report(), heads=replace(report().heads, agreement=None)))


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_a_histogram_counts_every_value_once(spacing):
    values = np.random.default_rng(0).gamma(1.0, 2.0, 1000).tolist() + [0.0] * 17
    found = Histogram.of(values, 12, spacing)
    assert sum(found.counts) == 1000 and found.zeros == 17 and len(found.edges) == 13


def test_activations_shade_tokens_and_the_peak_is_underlined():
    context = Context(["def", " f", "(\n"], [0.0, 1.0, 4.0])
    page = Page(str(tokens.html(context, 8.0)))
    marks = [attributes for tag, attributes in page.elements if tag == "mark"]
    assert [(m["style"], m["title"]) for m in marks] == [("--a:12%", "1"), ("--a:50%", "4")]
    assert ["class" in m for m in marks] == [False, True]
    assert page.text == "def f(⏎\n"
    assert Context(["a", "b"], [1.0, 2.0], at=0).height == 1.0
    assert Context(["a"], [0.0]).peak is None and Context(["a", "b"], [NAN, 1.0]).peak == 1
    assert "⟨⟩</mark>" in tokens.html(Context(["", "é"], [1.0, 0.0]), 1.0)
    assert "<mark" not in tokens.html(Context(["a", "b"], [NAN, -1.0]), 0.0)


def test_shared_indentation_is_left_out_and_the_rest_kept():
    code = ["    x", ":\n        ", "if", " a", ":\n", "            ", " b\n\n", "        c"]
    shown = tokens.dedent(code)
    assert "".join(shown) == "    x:\nif a:\n     b\n\nc"
    assert len(shown) == len(code)
    assert tokens.dedent(["a\n", "    "]) == ["a\n", "    "]
    assert tokens.dedent(["a\n", "  ", "b"]) == ["a\n", " ", "b"]  # no token vanishes


def test_what_is_seen_at_a_glance_spans_the_whole_range():
    spread = [Context([f"<{i}>"], [float(i)]) for i in range(9, 0, -1)]
    page = render(Report(report().run, features=[replace(feature(1, contexts=0), spread=spread)]))
    first, folded = page.split("<details>")
    assert [i for i in range(1, 10) if f"&lt;{i}&gt;" in first] == [1, 4, 6, 9]
    assert [i for i in range(1, 10) if f"&lt;{i}&gt;" in folded] == [2, 3, 5, 7, 8]


def test_what_cannot_be_seen_is_made_visible():
    assert tokens.visible("a\x1b[0m\u202e\t\n") == "a⟨1b⟩[0m⟨202e⟩\t⏎\n"
    assert tokens.short("\n        x") == "⏎␣×8x" and tokens.short(" self") == "␣self"
    assert tokens.decode("é€".encode()[:3]) == "é⟨e2⟩"


def tokenizer(model, pre=None, decoder=None) -> PreTrainedTokenizerFast:
    made = Tokenizer(model)
    made.pre_tokenizer, made.decoder = pre, decoder
    return PreTrainedTokenizerFast(tokenizer_object=made)


def test_tokens_are_spelled_as_their_bytes_were_written():
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab = alphabet | {"Ã©": 256, "Ġa": 257}
    net = tokenizer(models.BPE(vocab, [("Ã", "©"), ("Ġ", "a")]), pre_tokenizers.ByteLevel(add_prefix_space=False),
                    decoders.ByteLevel())
    text = "x a\n\té€"
    spelled = spell(net, net(text).input_ids)
    assert spelled == ["x", " a", "\n", "\t", "é", "⟨e2⟩", "⟨82⟩", "⟨ac⟩"]
    words_ = {"[UNK]": 0, "play": 1, "##ing": 2}
    net = tokenizer(models.WordPiece(words_, unk_token="[UNK]"), pre_tokenizers.Whitespace(), decoders.WordPiece())
    assert "".join(spell(net, [1, 2, 1])) == " playing play"
    net = tokenizer(models.BPE({"▁a": 0, "<0xE2>": 1, "b": 2}, []), None, decoders.Metaspace())
    assert spell(net, [0, 2, 1]) == [" a", "b", "⟨e2⟩"]


def test_the_report_is_plain_json_without_nan():
    text = json.dumps(report().json(), allow_nan=False)
    assert json.loads(text)["heads"]["maps"][0]["values"][1] == [-0.1, None]
    assert json.loads(text)["learning"]["figures"][0]["n"] == 2222


def test_a_dense_page_stays_small():
    many = [feature(i, contexts=20, length=41, text=" context") for i in range(12)]
    many = [replace(f, top=f.top[:10], spread=f.spread[:10]) for f in many]
    assert len(render(replace(report(), features=many)).encode()) < 1_500_000


def printed(found: Report, width: int = 140) -> str:
    file = io.StringIO()
    summary(found, Console(file=file, width=width, color_system=None, highlight=False))
    return file.getvalue()


def test_the_terminal_says_the_same():
    found = report()
    text = printed(found)
    for *_, said in sentences.sections(found):
        assert said.split(";")[0][:60] in text.replace("\n", " ")
    for n in ("2,222", "3,333", "4,444", "5,001", "48 heads", "6,666", "7,777", "9,999"):
        assert n in text, n
    assert "no labels" in text and "self" in text and not re.search(r"\bnan\b", text)
    assert printed(Report(found.run)) == ""


def test_hostile_tokens_cannot_command_the_terminal():
    text = printed(report(HOSTILE), width=400)
    assert "\x1b" not in text and "\u202e" not in text and "⟨1b⟩" in text


def test_an_unknown_score_is_named():
    with pytest.raises(ValueError, match=r"no score 'taylor'.*exact, fisher"):
        report().heads.map("taylor")
