"""Stores of dictionaries that read or write several sites: they say what the network and the dictionary do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PLAIN, tiny_llama
from torch.nn import functional as F

import cutaway as cw
from cutaway.app import Library
from cutaway.app.acting import steered, tried
from cutaway.app.compare import compare
from cutaway.app.map import project
from cutaway.dictionaries import Dictionary, Direction, Facts
from cutaway.dictionaries.apart import apart
from cutaway.dictionaries.logits import last_written, logit_effects
from cutaway.dictionaries.parts import TopK
from cutaway.dictionaries.source_layer import SourceLayer
from cutaway.dictionaries.transcoder import Transcoder
from cutaway.store import FeatureStore
from cutaway.store import store as build

WIDTH, K = 24, 3
PLANS: dict[str, dict[str, Any]] = {
    "transcoder": {"blocks.1.mlp": cw.Transcoder(WIDTH, K)}, "skip": {"blocks.0.mlp": cw.SkipTranscoder(WIDTH, K)},
    "elsewhere": {"blocks.0.mlp.neurons -> blocks.1": cw.Transcoder(WIDTH, K)},
    "crosscoder": {"blocks.*": cw.Crosscoder(WIDTH, K)},
    "cross-layer": {"blocks.*.mlp": cw.CrossLayerTranscoder(WIDTH, K)}, "two networks": {"*.blocks.1": cw.Crosscoder(WIDTH, K)}}


def networks(plan: str) -> cw.Network:
    net = tiny_llama()
    if plan != "two networks":
        return net
    other = tiny_llama()
    with torch.no_grad():
        for weight in other.module.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return cw.side_by_side(net, other)


def text(net: cw.Network) -> Any:
    return cw.corpus([PLAIN[i: i + 1500] for i in range(0, 9000, 1500)], net, context=32)


@pytest.fixture(scope="module", params=PLANS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[cw.Run, FeatureStore]:
    """A run with one dictionary, the last of its plan, and its store."""
    net = networks(request.param)
    run = cw.learn(net, text(net), PLANS[request.param], tokens=4096, batch=256, out=tmp_path_factory.mktemp("run"),
                   progress=False)
    run = run.only(list(apart(run.dictionaries))[-1])
    return run, build(run, tokens=3_000, progress=False)


def truth(run: cw.Run, found: FeatureStore) -> torch.Tensor:
    """Activations [rows, length, width] from the network and the dictionary themselves."""
    dictionary, dense = run.dictionary, []
    for batch in found.data.batches(16):
        seen = run.net.record(batch, dict.fromkeys([*dictionary.reads, *dictionary.writes]))
        x, y = ([seen[name] for name in names] for names in (dictionary.reads, dictionary.writes))
        keep = dictionary.speaks_for(x, dict(enumerate(y))) & batch.keep
        dense.append(torch.where(keep[..., None], dictionary.encoded(x).dense(WIDTH), 0))
    return torch.cat(dense)


def test_postings_are_the_firings(made: tuple[cw.Run, FeatureStore]) -> None:
    run, found = made
    dense = truth(run, found).numpy()
    assert found.manifest["n_entries"] == (dense != 0).sum() > 1000
    for latent in range(WIDTH):
        activations, rows, positions = found.postings(latent)
        own = dense[:, :, latent]
        assert np.array_equal(np.stack([rows, positions]), np.stack(own.nonzero()))
        assert np.abs(activations - own[own.nonzero()]).max(initial=0) <= 0.501 * found.summary(latent)["scale"]


def test_effects_on_logits_are_of_the_last_site_that_is_written(made: tuple[cw.Run, FeatureStore]) -> None:
    run, found = made
    dictionary = run.dictionary
    j = last_written(run.net, dictionary)
    assert found.manifest["effects"]["site"] == dictionary.writes[j] == dictionary.writes[-1]
    row = dictionary.W_dec[5][-16:]
    net = run.net.parts[1] if run.net.parts else run.net
    norm, head = net.module.get_submodule("model.norm"), net.module.get_output_embeddings()
    expected = head.weight @ (row * norm.weight)
    expected = expected - expected.mean()
    assert torch.allclose(logit_effects(run.net, dictionary.writes[j], row[None])[0], expected, atol=1e-5)
    page, watched = found.logits(5), cw.watch(run.net, dictionary, found.data, 1_000)[5]
    assert page is not None and page["site"] == dictionary.writes[-1]
    assert [row["value"] for row in page["raised"][:4]] == pytest.approx(expected.topk(4).values.tolist(), rel=1e-4)
    assert [value for _, value in watched.logits(4)[0]] == pytest.approx(expected.topk(4).values.tolist(), rel=1e-4)


def test_neighbours_and_directions_are_of_the_joined_rows(made: tuple[cw.Run, FeatureStore]) -> None:
    run, found = made
    dictionary = run.dictionary
    parts = [dictionary.rows_into(j) for j in range(len(dictionary.writes))]
    scales = getattr(dictionary, "scales", (1.0,) * len(parts))
    joined = F.normalize(torch.cat([part / scale for part, scale in zip(parts, scales, strict=True)], 1), dim=1)
    assert torch.allclose(found.unit_directions, joined, atol=1e-6)
    cosines = (joined @ joined.T).fill_diagonal_(-2)
    near = [row["value"] for row in found.neighbours(3)["cosine"]]
    assert near == pytest.approx(cosines[3].topk(12).values.tolist(), abs=1e-5)
    assert found.by_direction(dictionary.W_dec[7])[0] == {"latent": 7, "cosine": pytest.approx(1.0, abs=1e-5), "label": None,
                                                         "name": None}
    if len(parts) > 1:
        best = found.by_direction(parts[0][7], at=dictionary.writes[0])[0]
        assert best["cosine"] == pytest.approx(1.0, abs=1e-5)
        with pytest.raises(ValueError, match=r"side by side \(give at= for one of them\) have"):
            found.by_direction(parts[0][7])
        with pytest.raises(ValueError, match="this dictionary writes"):
            found.by_direction(parts[0][7], at="blocks.9")


def test_shares_say_which_site_a_latent_belongs_to(made: tuple[cw.Run, FeatureStore]) -> None:
    run, found = made
    writes = run.dictionary.writes
    said = found.page(4)["shares"]
    if len(writes) == 1:
        assert said == []
        return
    assert [each["site"] for each in said] == list(writes) and sum(each["share"] for each in said) == pytest.approx(1)
    if hasattr(run.dictionary, "shares"):
        assert [each["share"] for each in said] == pytest.approx(run.dictionary.shares()[4].tolist(), abs=1e-5)
    column = f"share at {writes[0]}"
    rows = found.features(sort=column, limit=WIDTH)["rows"]
    assert [row[column] for row in rows] == sorted((row[column] for row in rows), reverse=True)
    assert found.features(where={column: (2.0, None)})["total"] == 0


def test_pages_the_map_and_a_text_of_ones_own(made: tuple[cw.Run, FeatureStore]) -> None:
    run, found = made
    latent = int(found.counts.argmax())
    page = json.loads(json.dumps(found.page(latent), allow_nan=False))
    assert page["logits"] and page["no_logits"] == "" and page["contexts"]["top"]
    assert (page["feature"]["cosine"] is None) == (run.dictionary.reads != run.dictionary.writes)
    assert len(project(found)["x"]) == (found.counts > 0).sum()
    assert compare(found, found)["sides"][0]["shared"] == 1
    words = "def f(self, x):\n    return self"
    seen = run.net.record(run.net.tokens(words), dict.fromkeys([*run.dictionary.reads, *run.dictionary.writes]))
    codes = run.dictionary.encoded([seen[name] for name in run.dictionary.reads])
    own = tried(found, run.net, latent, words)
    counts = run.dictionary.speaks_for([seen[name] for name in run.dictionary.reads], {})[0]
    assert [a if k else 0 for a, k in zip(own["activations"], counts, strict=True)] == pytest.approx(
        [float(v) if k else 0 for v, k in zip(codes.of(latent)[0], counts, strict=True)], abs=1e-5)


def test_the_feature_of_the_run_is_that_of_the_store(made: tuple[cw.Run, FeatureStore]) -> None:
    run, found = made
    features = cw.load(run.folder, run.net, run.data).only(next(iter(run.dictionaries))).features
    assert isinstance(features, FeatureStore) and features.folder == found.folder
    assert features[3].count == found.summary(3)["count"] and "->" in repr(features[3]) or len(run.dictionary.reads) > 1
    watched = cw.watch(run.net, run.dictionary, found.data, None)
    assert np.array_equal(watched.counts, found.counts) and watched.n_tokens == found.n_tokens


def test_what_cannot_be_pushed_says_so(made: tuple[cw.Run, FeatureStore]) -> None:
    run, found = made
    if run.net.parts:
        return
    latent = int(found.counts.argmax())
    with pytest.raises(ValueError, match="cannot be held at a value at one site"):
        steered(found, run.net, latent, "def f", how="clamp", new_tokens=2)
    if len(run.dictionary.writes) > 1:
        with pytest.raises(ValueError, match="so it has no one direction"):
            steered(found, run.net, latent, "def f", new_tokens=2)
    else:
        assert steered(found, run.net, latent, "def f", strength=5, new_tokens=2)["kl"] > 0


def test_a_transcoder_is_steered_by_the_norms_of_what_it_writes() -> None:
    """What it reads has other norms: they must not decide which of its outputs are attention sinks."""
    net = tiny_llama()
    for limits, moves in (((1e-9, float("inf")), True), ((float("inf"), 1e-9), False)):
        made = Transcoder(16, WIDTH, TopK(K), Facts(site="model.layers.1.mlp:in", max_norm=limits[0]), target="blocks.1.mlp",
                          target_norm=limits[1])
        made.W_dec.data = torch.randn(WIDTH, 16, generator=torch.Generator().manual_seed(0))
        ids = torch.arange(5, 15)[None]
        before = net.logits(ids)
        with net.edited(cw.steer(Direction(made, 3), 5.0)):
            assert torch.equal(net.logits(ids), before) != moves


def test_the_app_shows_where_it_lies(made: tuple[cw.Run, FeatureStore]) -> None:
    run, found = made
    library = Library([run.folder])
    shelf = next(shelf for shelf in library.shelves.values() if shelf.store.folder == found.folder)
    site = shelf.store.overview()["dictionary"]["site"]
    assert all(name in site for name in (*run.dictionary.reads, *run.dictionary.writes)) and "&" not in site
    library.close()


# --- cross-layer transcoders ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def upward(tmp_path_factory: pytest.TempPathFactory) -> cw.Run:
    net = tiny_llama()
    return cw.learn(net, text(net), PLANS["cross-layer"], tokens=2048, batch=256, out=tmp_path_factory.mktemp("upward"),
                    progress=False)


def test_layers_together_are_the_whole(upward: cw.Run, tmp_path: Path) -> None:
    whole, layers = upward.dictionary, apart(upward.dictionaries)
    assert list(layers) == ["blocks.all.mlp/blocks.0.mlp", "blocks.all.mlp/blocks.1.mlp"]
    x = [torch.randn(50, 16, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    codes, written = whole.passed(x)
    for i, layer in enumerate(layers.values()):
        own = layer.encode(x[i]).dense(WIDTH)
        assert torch.equal(own, codes.dense(2 * WIDTH)[:, i * WIDTH: (i + 1) * WIDTH])
    sums = [bias.expand(50, -1).clone() for bias in whole.b_dec]
    for i, layer in enumerate(layers.values()):
        for j, part in enumerate(layer.directions(layer.encode(x[i])).chunk(len(layer.writes), 1)):
            sums[i + j] += part
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(sums, written, strict=True))
    one = next(iter(layers.values()))
    again = Dictionary.load(one.save(tmp_path / "one.safetensors"))
    assert isinstance(again, SourceLayer) and again.writes == ("blocks.0.mlp", "blocks.1.mlp") and again.limits == one.limits
    assert torch.equal(again.W_dec, one.W_dec)
    small, large = 1e-6 * x[1], 1e6 * x[1]
    assert again.speaks_for([0 * x[0]], {0: small, 1: small}).all(), "no sink anywhere"
    assert not again.speaks_for([0 * x[0]], {0: small, 1: large}).any(), "a sink where a later layer is written"
    with pytest.raises(ValueError, match="the sum over the layers of a cross-layer transcoder"):
        again(x[0])


def test_a_run_of_several_says_which_there_are(upward: cw.Run) -> None:
    with pytest.raises(ValueError, match=r"choose one, as in run.only\('blocks.all.mlp/blocks.0.mlp'\).features"):
        upward.features  # noqa: B018
    with pytest.raises(ValueError, match="a store is of one dictionary; give key= as one of blocks.all.mlp/blocks.0.mlp, "):
        build(upward, tokens=500, progress=False)
    with pytest.raises(ValueError, match="this run has no dictionary at blocks.7; it has blocks.all.mlp/blocks.0.mlp"):
        upward.only("blocks.7")
    with pytest.raises(ValueError, match="blocks.all.mlp is several dictionaries"):
        upward.only("blocks.all.mlp")
    assert upward.only("blocks.all.mlp/blocks.1.mlp").dictionary.writes == ("blocks.1.mlp",)


# --- from a harvest, and without words ------------------------------------------------------------------------------------

@pytest.mark.parametrize("plan", ["transcoder", "crosscoder"])
def test_a_harvest_of_all_sites_gives_the_same_store(plan: str, tmp_path: Path) -> None:
    net = tiny_llama()
    run = cw.learn(net, text(net), PLANS[plan], tokens=1024, batch=256, out=tmp_path / "run", progress=False)
    dictionary = run.dictionary
    sites = list(dict.fromkeys([*dictionary.reads, *dictionary.writes]))
    cached = cw.harvest(net, run.data, sites, tmp_path / "h", dtype="float32", progress=False)
    ours = build(run, cached, tokens=None, out=tmp_path / "ours", progress=False)
    theirs = build(run, tokens=None, out=tmp_path / "theirs", progress=False)
    assert np.array_equal(ours.counts, theirs.counts) and ours.n_tokens == theirs.n_tokens
    less = cw.harvest(net, run.data, sites[:1], tmp_path / "less", dtype="float32", progress=False)
    with pytest.raises(ValueError, match=f"found the site '{sites[1]}'"):
        build(run, less, tokens=None, out=tmp_path / "never", progress=False)


def test_without_an_unembedding_the_page_says_why(tmp_path: Path) -> None:
    import transformers as hf
    whole = tiny_llama()
    net = cw.open(hf.LlamaModel(whole.module.config), whole.tokenizer)
    run = cw.learn(net, text(net), {"blocks.*": cw.Crosscoder(WIDTH, K)}, tokens=1024, batch=256, progress=False)
    found = build(run, tokens=1_000, out=tmp_path / "s", progress=False)
    latent = int(found.counts.argmax())
    assert found.page(latent)["logits"] is None and "has no unembedding" in found.page(latent)["no_logits"]
    with pytest.raises(ValueError, match="no effects on logits: .* has no unembedding"):
        found[latent].logits()
