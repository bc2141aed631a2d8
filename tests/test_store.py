"""The store: what it says is what the network and the dictionary do; it survives interruptions; bad input gets one sentence."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PLAIN, tiny_llama, tiny_vit

import cutaway as cw
from cutaway.dictionaries import Dictionary, Facts
from cutaway.dictionaries.parts import LargestLinear, ReLU, TopK
from cutaway.store import FeatureStore, build, coded, record, store, stores
from cutaway.store.layout import KINDS, SCHEMA
from cutaway.store.record import stable_order
from cutaway.store.sort import shards
from cutaway.store.text import Vocabulary
from cutaway.train import Run

WIDTH, K, TOKENS = 48, 4, 6_000


def dictionary(width: int = WIDTH, sparsify: Any = None, seed: int = 0, **facts: Any) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)
    made = Dictionary(16, width, sparsify or TopK(K), Facts(site="blocks.0", **facts))
    for weight in (made.W_enc, made.W_dec):
        weight.data = torch.randn(width, 16, generator=generator)
    made.W_enc.data[7:8], made.b_enc.data[7:8] = 0.0, -100.0      # a latent that never fires
    return made.requires_grad_(False)


def a_run(folder: Path | None = None, made: Dictionary | None = None, key: str = "blocks.0") -> Run:
    net = tiny_llama()
    return Run(net, cw.corpus([PLAIN[i: i + 1500] for i in range(0, 9000, 1500)], net), {key: made or dictionary()}, {key: []},
               {}, folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    run = a_run()
    return store(run, tokens=TOKENS, out=tmp_path_factory.mktemp("store") / "it", progress=False)


@pytest.fixture(scope="module")
def truth(built: FeatureStore) -> np.ndarray:
    """Activations [rows, length, width], from the network and the dictionary themselves."""
    net, data, made = built.net, built.data, built.dictionary
    dense = []
    for batch in data.batches(16):
        x = net.record(batch, "blocks.0")["blocks.0"]
        codes = made.encode(x).dense(WIDTH)
        dense.append(torch.where((batch.keep & made.keeps(x))[..., None], codes, 0).numpy())
    return np.concatenate(dense)


# --- what it says -----------------------------------------------------------------------------------------------------

def test_postings_are_the_firings(built: FeatureStore, truth: np.ndarray) -> None:
    for latent in range(WIDTH):
        activations, rows, positions = built.postings(latent)
        own = truth[:, :, latent]
        expected = own.nonzero()
        assert np.array_equal(rows, expected[0]) and np.array_equal(positions, expected[1])
        assert np.abs(activations - own[expected]).max(initial=0) <= 0.501 * built.summary(latent)["scale"]
        assert built.counts[latent] == len(rows) == built.summary(latent)["count"]
    assert len(built.postings(7).rows) == 0 and built.summary(7)["status"] == "dead"


def test_the_other_direction_says_the_same(built: FeatureStore, truth: np.ndarray) -> None:
    scale = built.files.scales[1]
    for row, position in [(0, 0), (0, 1), (3, 17), (len(truth) - 1, 31)]:
        found = {each["latent"]: each["activation"] for each in built.at(row, position)}
        own = truth[row, position]
        assert set(found) == set(own.nonzero()[0].tolist())
        assert all(abs(value - own[latent]) <= 0.501 * scale[latent] for latent, value in found.items())
        assert list(found.values()) == sorted(found.values(), reverse=True)
    whole = built.row(3)
    for top, own in zip(whole["top"], truth[3], strict=True):
        assert (top is None) == (not own.any())
        assert top is None or own[top[0]] >= own.max() - scale.max()
    assert whole["tokens"] == built.data.pieces(3) == built.text_of(3)


def test_special_tokens_and_sinks_are_left_out(tmp_path: Path) -> None:
    limit = float(np.median(_norms()))
    made = dictionary(max_norm=limit, skip_tokens=(5, 6))
    found = store(a_run(made=made), tokens=2_000, out=tmp_path / "s", progress=False)
    net, data, kept = found.net, found.data, found.files.kept.reshape(-1, 32)
    for row in range(5):
        batch = data.rows([row])
        x = net.record(batch, "blocks.0")["blocks.0"][0]
        ids = batch.inputs["input_ids"][0]
        expected = (x.norm(dim=-1) <= limit) & (ids != 5) & (ids != 6) & batch.keep[0]
        assert np.array_equal(kept[row], expected.numpy())
        assert all((len(found.at(row, t)) > 0) <= bool(keep) for t, keep in enumerate(expected))
    assert found.n_tokens == kept.sum() < kept.size / 1.8


def _norms() -> np.ndarray:
    run = a_run()
    return run.net.record(run.data.rows(slice(0, 4)), "blocks.0")["blocks.0"].norm(dim=-1).numpy().ravel()


def test_statistics_are_those_of_the_firings(built: FeatureStore, truth: np.ndarray) -> None:
    documents = built.files.documents.reshape(truth.shape[:2])
    energy = (truth.astype(np.float64) ** 2).sum((0, 1)) * (built.dictionary.W_dec.norm(dim=1).numpy().astype(float) ** 2)
    for latent in (0, 5, 11, 30):
        own, said = truth[:, :, latent], built.summary(latent)
        fires = own[own != 0].astype(np.float64)
        assert said["n"] == built.n_tokens and said["frequency"] == pytest.approx(len(fires) / built.n_tokens)
        assert [said[name] for name in ("mean", "std", "max", "least")] == pytest.approx(
            [fires.mean(), fires.std(), fires.max(), fires.min()], rel=1e-5)
        assert said["documents"] == len(np.unique(documents[own != 0]))
        assert said["energy"] == pytest.approx(energy[latent] / energy.sum(), rel=1e-4)
        counts, edges = np.histogram(fires, 50, (0, fires.max()))
        assert built.histogram(latent)["counts"] == counts.tolist() and sum(counts) == built.histogram(latent)["n"]
        assert np.allclose(built.histogram(latent)["edges"], edges)
        assert sum(built.positions(latent)["counts"]) == len(fires)


def test_documents_are_those_of_the_data(built: FeatureStore) -> None:
    for row in (0, 7, 40):
        assert built.document_of(row, 1) == built.data.documents[row]
    assert built.n_documents == 6
    tokens = sum(built.document(number)["tokens"] for number in range(6))
    assert tokens == built.n_tokens
    shares = {each["latent"]: each["count"] for each in built.document(2, WIDTH)["features"]}
    assert shares and max(shares.values()) <= built.document(2)["tokens"]


# --- contexts ---------------------------------------------------------------------------------------------------------

def test_top_contexts_are_the_strongest_of_each_row(built: FeatureStore, truth: np.ndarray) -> None:
    heights = np.sort(truth[:, :, 3].max(1))[::-1]
    found = built.contexts(3, "top", 12)
    assert [context.activation for context in found] == pytest.approx(heights[:12].tolist(), abs=1e-5)
    assert len({context.row for context in found}) == 12 and found[0].quantile == 1.0
    for context in found:
        assert context.tokens == built.data.pieces(context.row, context.start, context.start + len(context.tokens))
        assert context.start + context.peak == context.position
        own = truth[context.row, context.start: context.start + len(context.tokens), 3]
        assert np.allclose(context.activations, own, atol=built.summary(3)["scale"])


def test_quantiles_cover_all_strengths(built: FeatureStore) -> None:
    found = built.contexts(3, "quantiles", 50)
    strengths = [context.quantile for context in found]
    assert sorted({min(9, int(q * 10 - 1e-9)) for q in strengths}) == list(range(10))
    assert strengths == sorted(strengths, reverse=True)
    every = np.sort(built.postings(3).activations)
    for context in found:
        share = np.searchsorted(every, context.activation + built.summary(3)["scale"], side="right") / len(every)
        assert share >= context.quantile - 1e-6
    assert len(built.contexts(3, "quantiles", 10)) == 10


def test_near_misses_have_its_tokens_and_not_its_firing(built: FeatureStore, truth: np.ndarray) -> None:
    for latent in (3, 9, 20):
        peaks, near = {row["token"] for row in built.tokens(latent)}, built.contexts(latent, "near-miss", 25)
        assert near
        for context in near:
            assert truth[context.row, context.position, latent] == 0 and context.activation == 0
            assert int(built.data.tokens(context.row)[context.position]) in peaks
        for row in built.tokens(latent)[:1]:      # all that there are, also where it is hardly ever silent
            ids = [int(built.data.tokens(context.row)[context.position]) for context in near]
            share = row["count"] / sum(each["count"] for each in built.tokens(latent)[:5])
            assert ids.count(row["token"]) == min(row["total"] - row["count"], int(np.ceil(25 * share)))
            assert built.files.kept[context.row * 32 + context.position]


def test_intervals_and_distinct_contexts(built: FeatureStore) -> None:
    low, high, top = np.quantile(built.postings(3).activations, [0.3, 0.6, 1.0]).tolist()
    found = built.interval(3, low, high, n=9, seed=4)
    assert len(found) == 9 and all(low <= context.activation <= high for context in found)
    assert found == built.interval(3, low, high, n=9, seed=4) != built.interval(3, low, high, n=9, seed=5)
    assert built.interval(3, 2 * top, 3 * top) == []
    ends = [tuple(c.tokens[max(0, c.peak - 2): c.peak + 1]) for c in built.contexts(3, "top", 50, before=5, distinct=True)]
    assert len(ends) == len(set(ends)) > 0


def test_tokens_at_which_it_fires(built: FeatureStore, truth: np.ndarray) -> None:
    ids = np.stack([built.data.tokens(row) for row in range(len(truth))])
    kept = built.files.kept.reshape(ids.shape)
    for row in built.tokens(5)[:4]:
        here = (ids == row["token"]) & kept
        assert row["total"] == here.sum() and row["count"] == (truth[:, :, 5] != 0)[here].sum()
        assert row["share"] == pytest.approx(row["count"] / row["total"])
    token = built.tokens(5)[0]["token"]
    found = {each["latent"]: each for each in built.by_token(token, WIDTH)["features"]}
    assert found[5]["count"] == built.tokens(5)[0]["count"]
    assert found[5]["lift"] == pytest.approx(found[5]["share"] / built.summary(5)["frequency"])


# --- relations and search ---------------------------------------------------------------------------------------------

def test_neighbours_and_coactivation(built: FeatureStore, truth: np.ndarray) -> None:
    fires = (truth != 0).reshape(-1, WIDTH)
    unit = torch.nn.functional.normalize(built.dictionary.W_dec, dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    found = built.neighbours(5)
    assert [each["latent"] for each in found["cosine"]] == cosines[5].topk(12).indices.tolist()
    assert found["n"] == built.n_tokens
    both = (fires[:, [5]] & fires).sum(0)
    jaccard = both / (fires[:, [5]] | fires).sum(0)
    jaccard[5], jaccard[both < 5] = -1, -1
    assert [each["jaccard"] for each in found["coactive"]] == pytest.approx(np.sort(jaccard)[::-1][:len(found["coactive"])])
    first = found["coactive"][0]
    pair = built.coactivation(5, first["latent"])
    assert pair["both"] == first["count"] and pair["lift"] == pytest.approx(first["lift"], rel=1e-5)
    assert built.coactivation(5, 7)["lift"] is None


def test_effects_on_logits_are_those_of_the_feature(built: FeatureStore) -> None:
    feature = cw.watch(built.net, built.dictionary, built.data, 1_000)[12]
    raised, lowered = feature.logits(5)
    found = built.logits(12)
    assert found is not None and found["n"] == len(built.net.tokenizer)
    for side, expected in (("raised", raised), ("lowered", lowered)):
        assert [row["value"] for row in found[side][:5]] == pytest.approx([value for _, value in expected], rel=1e-4)
    assert sum(found["histogram"]["counts"]) == found["n"]


def test_search_by_text_finds_every_place(built: FeatureStore) -> None:
    wanted = "return self"
    whole = "".join(built.data.text(row) for row in range(built.data.n_rows))
    found = built.by_text(wanted)
    assert found["matches"] == whole.count(wanted) > 10 and found["complete"]
    place = found["places"][0]
    assert wanted[0] in "".join(built.text_of(place["row"], place["position"], place["position"] + 1))
    assert built.by_text("日本")["matches"] == whole.count("日本") > 0
    assert built.by_text("nowhere to be found")["features"] == []
    best = found["features"][0]
    assert best["lift"] > 1 and 0 < best["share"] <= 1


def test_a_character_at_the_edge_of_a_stretch_reads_as_in_its_row(built: FeatureStore) -> None:
    cut = 0
    for place in built.by_text("日本")["places"][:4]:
        row, whole = place["row"], built.text_of(place["row"])
        for position in range(32):
            found = built.passage(row, position, 3, before=1, after=1)
            assert found.tokens == whole[found.start: found.start + len(found.tokens)]
            assert built.text_of(row, position, position + 2) == whole[position: position + 2]
            cut += whole[position] == ""
    assert cut > 5


def test_the_end_of_one_document_and_the_begin_of_the_next_are_no_text(built: FeatureStore) -> None:
    before, after = PLAIN[1470:1500], PLAIN[1500:1530]
    assert built.by_text(before)["matches"] == built.by_text(after)["matches"] == 1
    found = built.by_text(before + after)
    assert found == {"text": before + after, "matches": 0, "complete": True, "features": [], "places": []}


def test_search_by_direction_and_through_the_network(built: FeatureStore) -> None:
    assert built.by_direction(built[21].direction)[0] == {
        "latent": 21, "cosine": pytest.approx(1.0), "label": None, "name": None}
    text = "def f(self):"
    found = built.through(built.net, text, n=3)
    codes = built.dictionary.encode(built.net.record(text, "blocks.0")["blocks.0"][0])
    assert "".join(found["tokens"]) == text
    for at, values, indices in zip(found["features"], codes.values, codes.indices, strict=True):
        assert at[0]["latent"] == int(indices[values.argmax()]) and at[0]["activation"] == pytest.approx(float(values.max()))
    special = built.net.tokenizer.all_special_tokens[0]
    assert "".join(built.through(built.net, f"def{special}f")["tokens"]) == f"def{special}f"


def test_a_feature_has_the_face_of_run_features(built: FeatureStore, truth: np.ndarray) -> None:
    stored, watched = built[12], cw.watch(built.net, built.dictionary, built.data, None)[12]
    assert (stored.count, stored.index, stored.max) == (watched.count, watched.index, pytest.approx(watched.max))
    assert stored.frequency == watched.frequency and torch.equal(stored.direction, watched.direction)
    for kind in ("top", "quantiles", "random"):
        for one, other in zip(stored.contexts(5, kind), watched.contexts(5, kind), strict=True):
            assert (kind != "top") or (str(one), one.row, one.position) == (str(other), other.row, other.position)
    with built.net.edited(cw.steer(stored, 3.0)):
        steered = built.net.logits(built.data.rows([0]))
    with built.net.edited(cw.steer(watched, 3.0)):
        assert torch.equal(steered, built.net.logits(built.data.rows([0])))


def test_pages_are_json_and_need_no_network(built: FeatureStore) -> None:
    alone = FeatureStore(built.folder)
    for latent in (0, 7, WIDTH - 1):
        page = json.loads(json.dumps(alone.page(latent), allow_nan=False))
        assert list(page["contexts"]) == list(KINDS) and page["feature"]["latent"] == latent
    assert alone.page(0)["previous"] is None and alone.page(WIDTH - 1)["next"] is None
    json.dumps(alone.overview(), allow_nan=False)
    assert alone.overview()["dead"] == int((built.counts == 0).sum()) >= 1
    assert alone.overview()["l0"] <= K
    with pytest.raises(ValueError, match="without its network"):
        alone.net  # noqa: B018


def test_the_table_sorts_filters_and_searches(tmp_path: Path, built: FeatureStore) -> None:
    found = FeatureStore(shutil.copytree(built.folder, tmp_path / "copy"))
    rows = found.features(sort="max", limit=WIDTH)["rows"]
    assert [row["max"] for row in rows] == sorted((row["max"] for row in rows), reverse=True)
    second = found.features(sort="max", offset=10, limit=5)
    assert second["total"] == WIDTH and second["rows"] == rows[10:15]
    some = found.features(where={"status": "dead"})["rows"]
    assert {row["latent"] for row in some} == set(np.flatnonzero(found.counts == 0).tolist())
    between = found.features(where={"frequency": (0.05, 0.1)}, limit=WIDTH)["rows"]
    assert between and all(0.05 <= row["frequency"] <= 0.1 for row in between)
    found.notes.set_label(31, "the end of a line")
    assert [row["latent"] for row in found.features(search="line end")["rows"]] == [31]
    assert "labelled 'the end of a line'" in repr(found[31]) and "the end of a line" in found[31]._repr_html_()
    assert found[30].label == "" and "labelled" not in repr(found[30])
    assert 12 in {row["latent"] for row in found.features(search="12", limit=WIDTH)["rows"]}
    assert found.features(offset=10**6) == {"total": WIDTH, "rows": []}
    with pytest.raises(ValueError, match="no column 'max; DROP'"):
        found.features(sort="max; DROP")


def test_frames_of_pandas_and_polars(built: FeatureStore) -> None:
    frame = built.frame()
    assert len(frame) == WIDTH and frame["count"].sum() == built.manifest["n_entries"]
    polars = pytest.importorskip("polars")
    assert isinstance(built.frame("neighbours", "polars"), polars.DataFrame)
    with pytest.raises(ValueError, match="tables summary"):
        built.frame("nothing")
    with pytest.raises(ValueError, match="cannot be answered"):
        built.frame("SELECT nothing FROM summary")
    for library in ("pandas", "polars"):
        assert len(built.frame("postings", library)) == built.manifest["n_entries"]
        own = built.frame("SELECT * FROM postings WHERE latent = ? ORDER BY position", library, [3])
        rows, places = built.postings(3)[1:]
        assert (own["position"].to_numpy() == rows * built.manifest["row_length"] + places).all() and len(own) == len(rows)
        assert np.allclose(own["activation"].to_numpy(), built.postings(3).activations)
    assert len(built.frame("names")) == len(built.names.newest())
    count = built.sql("SELECT count(*) AS n, max(activation) AS top FROM postings WHERE latent = ?", [3])[0]
    assert count["n"] == built.counts[3] and count["top"] == pytest.approx(built.summary(3)["max"], rel=1e-5)


def test_a_query_reads_the_store_alone(built: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for query in (f"SELECT * FROM read_csv('{tmp_path}/secret.csv')", f"COPY summary TO '{tmp_path}/out.csv'",
                  "SET enable_external_access = true", f"ATTACH '{tmp_path}/a.db'"):
        with pytest.raises(ValueError, match="cannot be answered"):
            built.sql(query)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.csv"]
    assert built.sql("SELECT count(*) AS n FROM postings WHERE latent = $which", {"which": 3}) == [{"n": built.counts[3]}]


@pytest.mark.parametrize(("query", "given", "says"), [
    ("SELECT nothing FROM summary", (), "Binder Error"), ("SELECT CAST('a' AS INT)", (), "Could not convert"),
    ("SELECT * FROM summary WHERE latent = ?", 3, "not iterable"), ("", (), "found none"), (5, (), "string representing"),
    ("SELECT max(l) FROM (SELECT list(range) AS l FROM range(600000000))", (), "Out of Memory")])
def test_a_query_that_cannot_be_answered_is_one_sentence(query: Any, given: Any, says: str, built: FeatureStore, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"quer.*{says}"):
        FeatureStore(built.folder).sql(query, given)
    assert list(tmp_path.iterdir()) == []     # nothing is put beside what the user has there


# --- the parts --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [10, 2**16, 2**16 + 5, 3 * 10**6])
def test_the_order_of_ids_is_stable_and_sorted(n: int) -> None:
    keys = np.random.default_rng(0).integers(0, n, 5_000)
    assert np.array_equal(stable_order(keys, n), np.argsort(keys, kind="stable"))


def test_shards_cover_all_latents_and_keep_to_their_size() -> None:
    counts = np.random.default_rng(0).integers(0, 50, 300)
    counts[[7, 100]] = 1_000
    found = shards(counts, 200)
    assert [a for a, _ in found] == [0, *(b for _, b in found[:-1])] and found[-1][1] == 300
    assert all(counts[a:b].sum() <= 200 or b == a + 1 for a, b in found)


def test_more_latents_than_16_bits_can_count(tmp_path: Path) -> None:
    made, n = dictionary(2**16 + 300), 2**16 + 300
    found = store(a_run(made=made), tokens=200, out=tmp_path / "s", progress=False)
    assert found.files.latents.dtype == np.uint32
    batch = found.data.rows([1])
    codes = made.encode(found.net.record(batch, "blocks.0")["blocks.0"])
    for position in range(1, 32):
        own = codes.indices[0, position][codes.values[0, position] > 0]
        assert {each["latent"] for each in found.at(1, position)} == set(own.tolist())
    latent = int(np.flatnonzero(found.counts)[-1])
    assert latent >= 2**16 and len(found.postings(latent).rows) == found.counts[latent] and n == found.width


def test_text_of_broken_and_hostile_tokens() -> None:
    words = Vocabulary([b"<s>", "é".encode()[:1], "é".encode()[1:], b"<b>&\"", b"\x1b[31m", b"plain", b"\xff"], frozenset([0]))
    assert words.pieces([0, 5, 1, 2, 3, 4]) == ["", "plain", "", "é", '<b>&"', "\x1b[31m"]
    assert words.pieces([2, 5, 1]) == ["⟨a9⟩", "plain", "⟨c3⟩"] and words.pieces([6, 1, 5]) == ["⟨ff⟩", "", "⟨c3⟩plain"]
    assert words.name(0) == "<s>" and words.name(1) == "⟨c3⟩" and words.name(99) == "" and words.pieces([]) == []
    json.dumps(words.names).encode()
    first, last = words.find("né", np.array([5, 5, 1, 2, 5]), 10)
    assert (first.tolist(), last.tolist()) == ([1], [3])
    assert [place.tolist() for place in words.find("inpl", np.array([0, 5, 5, 5]), 1)] == [[1], [2]]


# --- other dictionaries and data --------------------------------------------------------------------------------------

@pytest.mark.parametrize("sparsify", [ReLU(), LargestLinear(60)], ids=["any number", "negative"])
def test_codes_of_any_sign_and_number(sparsify: Any, tmp_path: Path) -> None:
    made = dictionary(80, sparsify)
    found = store(a_run(made=made), tokens=1_000, out=tmp_path / "s", progress=False)
    batch = found.data.rows([2])
    codes = made.encode(found.net.record(batch, "blocks.0")["blocks.0"])
    expected = torch.where(batch.keep[..., None], codes.dense(80), 0)[0].numpy()
    scale = found.files.scales[1]
    for position in range(32):
        said = {each["latent"]: each["activation"] for each in found.at(2, position)}
        assert set(said) == set(expected[position].nonzero()[0].tolist())
        assert all(abs(value - expected[position, i]) <= 0.51 * scale[i] for i, value in said.items())
    json.dumps(found.page(3), allow_nan=False)


def test_padding_does_not_count(tmp_path: Path) -> None:
    text = a_run().data
    ids = np.stack([text.tokens(row) for row in range(20)])
    mask = (np.arange(32) < np.arange(10, 30)[:, None]).astype(np.int64)
    run = Run(tiny_llama(), cw.arrays({"input_ids": np.where(mask, ids, 9), "attention_mask": mask}),
              {"blocks.0": dictionary()}, {}, {})
    found = store(run, tokens=None, out=tmp_path / "s", progress=False)
    assert np.array_equal(found.files.kept.reshape(20, 32), mask.astype(bool)) and found.n_tokens == mask.sum()
    assert found.at(3, 13 - 1) and not found.at(3, 13) and max(found.files.latents) < WIDTH


def test_without_a_store_the_features_are_the_same(tmp_path: Path) -> None:
    ids = np.stack([a_run().data.tokens(row) for row in range(30)])
    made = dictionary(skip_tokens=tuple(np.bincount(ids.ravel()).argsort()[-2:].tolist()))
    run, data = a_run(made=made), cw.arrays({"input_ids": ids})
    found, watched = store(run, data, tokens=None, out=tmp_path / "s", progress=False), cw.watch(run.net, made, data, None)
    assert (found.counts == watched.counts).all() and found.n_tokens == watched.n_tokens < found.files.kept.size


def test_a_network_without_positions_has_a_store_and_features(tmp_path: Path) -> None:
    net = cw.open(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)))
    made = Dictionary(16, 12, TopK(2), Facts(site="1:out"))
    made.W_enc.data, made.W_dec.data = torch.randn(12, 16), torch.randn(12, 16)
    run = Run(net, cw.arrays(torch.randn(50, 8)), {"1:out": made.requires_grad_(False)}, {}, {})
    found, watched = store(run, tokens=None, out=tmp_path / "s", progress=False), cw.watch(net, made, run.data, None)
    assert found.n_tokens == 50 and (found.counts == watched.counts).all()
    latent = int(found.counts.argmax())
    one = found.contexts(latent, "top", 1)[0]
    assert str(one) == f"row {one.row}, position 0" in one._repr_html_() and one.row in watched.firings(latent)[1]
    assert str(one) in found[latent]._repr_html_()


def test_images_have_a_store_without_text(tmp_path: Path) -> None:
    net = tiny_vit()
    data = cw.arrays(torch.randn(40, 3, 8, 8), torch.zeros(40, dtype=torch.int64))
    made = Dictionary(16, 12, TopK(2), Facts(site="blocks.1"))
    made.W_enc.data, made.W_dec.data = torch.randn(12, 16), torch.randn(12, 16)
    run = Run(net, data, {"blocks.1": made.requires_grad_(False)}, {}, {})
    found = store(run, tokens=None, out=tmp_path / "s", progress=False)
    assert not found.has_text and found.n_tokens == 40 * 5 and found.page(0)["logits"] is None
    context = found.contexts(int(found.counts.argmax()), "top", 1)[0]
    assert context.activation > 0 and set(context.tokens) == {""} and context.document == context.row
    with pytest.raises(ValueError, match="without text"):
        found.by_text("a")


def test_a_dictionary_that_never_fires_has_a_store(tmp_path: Path) -> None:
    made = dictionary(1)
    made.W_enc.data[:], made.b_enc.data[:] = 0.0, -1.0
    found = store(a_run(made=made), tokens=100, out=tmp_path / "s", progress=False)
    page = json.loads(json.dumps(found.page(0), allow_nan=False))
    assert page["feature"]["status"] == "dead" and not any(page["contexts"].values()) and page["neighbours"]["cosine"] == []
    assert found.at(0, 3) == [] and found.row(0)["top"] == [None] * 32 and found.verify() == []
    assert len(found.postings(0).rows) == 0 and found.by_text("def")["features"] == [] and found.document(0)["features"] == []
    assert found.coactivation(0, 0)["jaccard"] is None and json.dumps(found.overview(), allow_nan=False)


# --- interruptions ----------------------------------------------------------------------------------------------------

SLOW = """
    import sys, time
    sys.path.insert(0, {tests!r})
    import test_store
    from cutaway.store.journal import Journal
    add = Journal.add
    def slowly(self, step, **facts):
        print(step, flush=True)
        time.sleep(0.02)
        add(self, step, **facts)
        time.sleep(0.02)
    Journal.add = slowly
    test_store.in_small_pieces()
    test_store.store(test_store.a_run(), tokens=test_store.TOKENS, out={out!r}, progress=False)
"""


def in_small_pieces(patch: Callable[..., None] = setattr) -> None:
    """Make a build take many steps."""
    patch(coded, "CHUNK", 1024)
    patch(build, "SHARD", 2000)


def building(out: Path) -> subprocess.Popen:
    code = textwrap.dedent(SLOW.format(tests=str(Path(__file__).parent), out=str(out)))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def contents(folder: Path) -> dict[str, str]:
    return {name: facts["blake2b"] for name, facts in json.loads((folder / "manifest.json").read_text())["files"].items()}


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed, straight, steps, done = tmp_path / "killed", tmp_path / "straight", list[str](), list[str]()
    with monkeypatch.context() as patch:
        in_small_pieces(patch.setattr)
        patch.setattr(build.shutil, "rmtree", lambda *_, **__: None)    # the journal stays
        store(a_run(), tokens=TOKENS, out=straight, progress=False)
    steps = [json.loads(line)["step"] for line in (straight / "build" / "journal.jsonl").read_text().splitlines()]
    assert len(steps) > 12
    for wanted in (3, len(steps) - 3):    # among the chunks, and among what is sorted
        process = building(killed)
        assert process.stdout is not None
        begun = [next(process.stdout).strip()]
        with pytest.raises(BlockingIOError, match="another process is building"):
            store(a_run(), tokens=TOKENS, out=killed, progress=False)
        while len(done) + len(begun) < wanted:
            begun.append(next(process.stdout).strip())
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, begun
        with pytest.raises(FileNotFoundError, match="not finished"):
            FeatureStore(killed)
        assert begun[0] == steps[len(done)]    # nothing that was finished is done again
        done = [json.loads(line)["step"] for line in (killed / "build" / "journal.jsonl").read_text().splitlines()]
        assert done == steps[:len(done)] and len(done) >= wanted - 1
    in_small_pieces(monkeypatch.setattr)
    found = store(a_run(), tokens=TOKENS, out=killed, progress=False)
    assert contents(killed) == contents(straight) and found.verify() == []
    assert not (killed / "build").exists()


def test_half_a_file_of_a_killed_process_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(build, "_merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store(a_run(), tokens=1_000, out=out, progress=False)
    for name in (".summary.parquet.1.part", "latents/.000.parquet.1.part"):
        (out / name).write_bytes(b"half of it")
    store(a_run(), tokens=1_000, out=out, progress=False)
    assert not list(out.rglob(".*"))


def test_what_a_killed_process_left_beyond_its_journal_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(build, "corpus", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt, match="run the same command again"):
            store(a_run(), tokens=1_000, out=out, progress=False)
    for name in ("places.bin", "activations.bin"):
        with open(out / "build" / name, "ab") as file:
            file.write(b"half of a ch")
    with open(out / "build" / "journal.jsonl", "a") as file:
        file.write('{"step": "chunk 1", "ro')
    found = store(a_run(), tokens=1_000, out=out, progress=False)
    assert contents(out) == contents(store(a_run(), tokens=1_000, out=tmp_path / "other", progress=False).folder)
    assert found.verify() == []


def test_a_finished_store_is_opened_and_not_built_again(tmp_path: Path) -> None:
    first = store(a_run(tmp_path), tokens=1_000, progress=False)
    before = (first.folder / "manifest.json").stat().st_mtime_ns
    again = store(a_run(tmp_path), tokens=1_000, progress=False)
    assert (again.folder / "manifest.json").stat().st_mtime_ns == before
    assert stores(tmp_path) == {"blocks.0": tmp_path / "store" / "blocks.0"}
    features = a_run(tmp_path).features
    assert isinstance(features, FeatureStore) and features.data.n_rows == features.manifest["n_rows"]


# --- bad input --------------------------------------------------------------------------------------------------------

def test_another_network_dictionary_or_data_is_refused(built: FeatureStore, tmp_path: Path) -> None:
    copy = shutil.copytree(built.folder, tmp_path / "copy")
    with pytest.raises(ValueError, match="store of another dictionary; give another folder"):
        store(a_run(made=dictionary(seed=1)), tokens=TOKENS, out=copy)
    with pytest.raises(ValueError, match="store of other data"):
        store(a_run(), tokens=1_000, out=copy)
    other = tiny_llama()
    with torch.no_grad():
        next(other.module.parameters())[0, 0] += 1
    with pytest.raises(ValueError, match="whose weights differ"):
        built.through(other, "def")
    with pytest.raises(ValueError, match="whose weights differ"):
        FeatureStore(copy, other)
    with pytest.raises(ValueError, match="another dictionary"):
        built.check(dictionary=dictionary(seed=1))
    built.check(tiny_llama(), dictionary())


def test_an_unfinished_build_of_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(build, "corpus", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store(a_run(), tokens=1_000, out=tmp_path / "s", progress=False)
    with pytest.raises(ValueError, match="store of other data"):
        store(a_run(), tokens=2_000, out=tmp_path / "s", progress=False)
    os.truncate(tmp_path / "s" / "build" / "places.bin", 10)
    with pytest.raises(ValueError, match="cannot go on; remove"):
        store(a_run(), tokens=1_000, out=tmp_path / "s", progress=False)


def damaged(path: Path) -> Iterator[tuple[str, str]]:
    """Ways to damage a store, one after the other, and what is said about each."""
    manifest, shard = path / "manifest.json", path / "latents" / "000.parquet"
    whole = manifest.read_text()
    os.truncate(shard, shard.stat().st_size // 2)
    yield "half of a shard", r"000.parquet should hold [\d,]+ bytes and holds [\d,]+; build it again"
    shard.unlink()
    yield "no shard", "000.parquet is missing"
    manifest.write_text(whole[: len(whole) // 2])
    yield "half of a manifest", "no manifest of a store, or was damaged"
    manifest.write_text("[]")
    yield "another file", "no manifest of a store"
    manifest.write_text(json.dumps({**json.loads(whole), "schema": SCHEMA + 1}))
    yield "a newer schema", f"has schema {SCHEMA + 1}; this version of Cutaway reads up to {SCHEMA}. Update"


def test_damaged_stores_are_refused_with_a_sentence(built: FeatureStore, tmp_path: Path) -> None:
    copy = shutil.copytree(built.folder, tmp_path / "copy")
    for what, says in damaged(copy):
        with pytest.raises(ValueError, match=says):
            FeatureStore(copy)
            pytest.fail(what)
    with pytest.raises(FileNotFoundError, match="there is no store"):
        FeatureStore(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["latents/000.parquet", "token_latents.npy", "summary.parquet", "dictionary.safetensors"])
def test_a_flipped_bit_is_found(name: str, built: FeatureStore, tmp_path: Path) -> None:
    copy = shutil.copytree(built.folder, tmp_path / "copy")
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 16
    (copy / name).write_bytes(raw)
    found = FeatureStore(copy).verify()
    assert len(found) == 1 and name in found[0] and "checksum" in found[0]


def test_garbage_in_a_shard_is_one_sentence(built: FeatureStore, tmp_path: Path) -> None:
    copy = shutil.copytree(built.folder, tmp_path / "copy")
    for name in ("latents/000.parquet", "summary.parquet"):
        (copy / name).write_bytes(b"x" * (copy / name).stat().st_size)
    with pytest.raises(ValueError, match="cannot be read .* build it again"):
        FeatureStore(copy).files.postings(3)
    with pytest.raises(ValueError, match="cannot be read .* build it again"):
        FeatureStore(copy).page(3)


@pytest.mark.parametrize("latent", [-1, WIDTH, 10**12, "3", 2.0, True, None])
def test_features_out_of_range_are_refused(latent: Any, built: FeatureStore) -> None:
    for ask in (built.page, built.summary, built.postings, built.contexts, built.logits, built.neighbours, built.tokens,
                built.histogram, built.positions, built.__getitem__):
        with pytest.raises(IndexError, match=f"features 0 to {WIDTH - 1}; found"):
            ask(latent)


def test_other_bad_input_is_one_sentence(built: FeatureStore, tmp_path: Path) -> None:
    for ask, kind, says in [
        (lambda: built.at(10**6, 0), IndexError, "rows 0 to"), (lambda: built.at(0, 32), IndexError, "positions 0 to 31"),
        (lambda: built.at(0.5, 0), IndexError, "rows 0 to .*; found 0.5"),
        (lambda: built.text_of(-1), IndexError, "rows 0 to"), (lambda: built.contexts(3, n="all"), ValueError, "found 'all'"),
        (lambda: built[3].contexts("top"), ValueError, "how many contexts"),
        (lambda: built.by_token(None), IndexError, "found None"), (lambda: built.by_text(5), ValueError, "found 5"),
        (lambda: built.by_direction("up"), ValueError, "array of numbers; found a str"),
        (lambda: built.features(where={"frequency": "often"}), ValueError, "bounds .low, high.; found 'often'"),
        (lambda: built.features(where={"frequency": (0, 1, 2)}), ValueError, "found .0, 1, 2."),
        (lambda: built.features(where={"status": ("dead", "rare")}), ValueError, "a word"),
        (lambda: built.interval(3, "weak", 1), ValueError, "found 'weak' and 1"),
        (lambda: built.notes.set_label(1.7, "x"), IndexError, "found 1.7"),
        (lambda: built.notes.set_label(1, None), ValueError, "is text; found None"),
        (lambda: built.document(99), IndexError, "none of the number 99"),
        (lambda: built.contexts(3, "best"), ValueError, "top, quantiles, random, near-miss"),
        (lambda: built.by_token("no such token"), ValueError, "spaces count"),
        (lambda: built.by_token(10**6), IndexError, "vocabulary has the tokens"),
        (lambda: built.by_text(""), ValueError, "give some text"),
        (lambda: built.by_direction(torch.zeros(16)), ValueError, "not all zero"),
        (lambda: built.by_direction(torch.ones(3)), ValueError, "have 16 numbers; found 3"),
        (lambda: store(a_run(), out=tmp_path, key="blocks.5"), ValueError, "no dictionary at blocks.5; it has blocks.0"),
        (lambda: store(a_run().dictionary), ValueError, "a store is made of a run.*found a Dictionary"),
        (lambda: store(a_run(), cw.arrays(torch.randn(9, 4, 3)), out=tmp_path / "x"), ValueError, "cannot read arrays"),
        (lambda: store(a_run()), ValueError, "give out=")]:
        with pytest.raises(kind, match=says):
            ask()


def test_too_little_room_is_said_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(OSError, match="MB more are needed .* 0.0 MB are free"):
            store(a_run(), tokens=1_000, out=tmp_path / "s", progress=False)
    assert store(a_run(), tokens=1_000, out=tmp_path / "s", progress=False).verify() == []


def test_a_folder_that_cannot_be_written_is_said_and_what_was_written_is_kept(tmp_path: Path,
                                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/store"):
        with pytest.raises(OSError, match=f"the store in .*{place} cannot be written .*give another folder"):
            store(a_run(), tokens=1_000, out=tmp_path / place, progress=False)

    def full(path: Path, array: np.ndarray) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))     # as the system says it of a file that is written to
    with monkeypatch.context() as patch:
        patch.setattr(record, "append", full)
        with pytest.raises(OSError, match="cannot be written .No space left on device.; free some room"):
            store(a_run(), tokens=1_000, out=tmp_path / "s", progress=False)

    def unread(*_: Any, **__: Any) -> Iterator[Any]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/elsewhere/picture.png")
    with monkeypatch.context() as patch:
        patch.setattr(coded, "activations", unread)
        with pytest.raises(FileNotFoundError, match="picture.png"):     # and this is not about the store
            store(a_run(), tokens=1_000, out=tmp_path / "s", progress=False)
    assert store(a_run(), tokens=1_000, out=tmp_path / "s", progress=False).verify() == []


def test_a_finished_store_is_opened_where_nobody_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store(a_run(), tokens=1_000, out=tmp_path / "s", progress=False)
    monkeypatch.setattr(build, "locked", None)     # no lock is taken, for it would be a file
    assert store(a_run(), tokens=1_000, out=tmp_path / "s", progress=False).manifest == first.manifest


def test_many_threads_read_at_once(built: FeatureStore) -> None:
    alone, wrong = FeatureStore(built.folder), []
    expected = [built.postings(i).rows.sum() for i in range(WIDTH)]

    def read(seed: int) -> None:
        for latent in np.random.default_rng(seed).permutation(WIDTH)[:15].tolist():
            if alone.postings(latent).rows.sum() != expected[latent] or alone.page(latent)["feature"]["latent"] != latent:
                wrong.append(latent)
    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
