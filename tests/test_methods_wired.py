"""Dictionaries that learn from more than one tensor of a token: transcoders, crosscoders, and those beside a gradient."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_llama
from test_methods import WIDTHS, finished, fvu_of, parts_of, recipe_of, rows, trained
from test_train import after, assert_same, fail, run, weights, world
from torch import Tensor
from torch.testing import assert_close

import cutaway as cw
from cutaway.dictionaries.across import Across
from cutaway.dictionaries.crosscoder import Joint
from cutaway.dictionaries.gradient_sae import GradientTopK, chosen
from cutaway.dictionaries.parts import TopK as TopKPart
from cutaway.dictionaries.shared_code import SharedCode
from cutaway.dictionaries.wiring import GRADIENT, Wiring
from cutaway.metrics import token_loss
from cutaway.observe import activations
from cutaway.proofs import gradient_sae as gradient_proof
from cutaway.train.gradients import loss_gradients, with_gradients
from cutaway.train.learner import Learner
from cutaway.train.sources import FromHarvest

PLANS: dict[str, dict[str, Any]] = {
    "transcoder": {"blocks.*.mlp": cw.Transcoder(32, 4)}, "skip": {"blocks.1.mlp": cw.SkipTranscoder(32, 4)},
    "named both": {"blocks.0 -> blocks.1": cw.Transcoder(32, 4)}, "crosscoder": {"blocks.*": cw.Crosscoder(32, 4)},
    "crosscoder-l1": {"blocks.0,blocks.1.mlp": cw.CrosscoderL1(32, l0=4.0)},
    "cross-layer": {"blocks.*.mlp": cw.CrossLayerTranscoder(32, 4)}, "gradient": {"blocks.0": cw.GradientSAE(32, 4)},
    "together": {"blocks.0": [cw.TopK(32, 4), cw.GradientSAE(32, 4)], "blocks.0.mlp": cw.Transcoder(32, 4)}}
SEVERAL = ["transcoder", "skip-transcoder", "crosscoder", "crosscoder-l1", "cross-layer-transcoder"]


# --- from a network -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("plan", PLANS)
def test_training_goes_on_exactly_and_is_read_again(plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(recipes=PLANS[plan], tokens=2048)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", after(25, fail))
        with pytest.raises(RuntimeError, match="out of luck"):
            run(tmp_path, PLANS[plan], tokens=2048)
    again = run(tmp_path, PLANS[plan], tokens=2048)
    assert_same(weights(again), weights(whole))
    assert_same(weights(cw.load(tmp_path, world()[0])), weights(whole))
    assert all(steps[-1]["fvu"] < 1.5 * steps[0]["fvu"] for steps in whole.history.values())


def test_one_pass_gives_what_each_alone_would() -> None:
    together = weights(run(recipes=PLANS["together"], tokens=1024))
    assert list(together) == ["blocks.0/0-topk", "blocks.0/1-gradient-sae", "blocks.0.mlp"]
    alone = {"blocks.0/0-topk": weights(run(recipes={"blocks.0": cw.TopK(32, 4)}, tokens=1024))["blocks.0"],
             "blocks.0.mlp": weights(run(recipes={"blocks.0.mlp": cw.Transcoder(32, 4)}, tokens=1024))["blocks.0.mlp"]}
    assert_same({key: together[key] for key in alone}, alone)


def test_what_each_reads_and_writes() -> None:
    found = {name: run(recipes=plan, tokens=256).dictionaries for name, plan in PLANS.items()}
    said = {key: (d.reads, d.writes) for some in found.values() for key, d in some.items()}
    ins, outs = ("model.layers.0.mlp:in", "model.layers.1.mlp:in"), ("blocks.0.mlp", "blocks.1.mlp")
    assert said["blocks.0.mlp"] == (ins[:1], outs[:1]) and said["blocks.1"] == (("blocks.0",), ("blocks.1",))
    assert said["blocks.all"] == (("blocks.0", "blocks.1"),) * 2 and said["blocks.all.mlp"] == (ins, outs)
    assert said["blocks.0,blocks.1.mlp"] == (("blocks.0", "blocks.1.mlp"),) * 2
    assert found["gradient"]["blocks.0"].sparsify == TopKPart(4), "what is used knows no gradients"
    assert found["transcoder"]["blocks.1.mlp"].facts.path == "model.layers.1.mlp"


@pytest.mark.parametrize("plan", ["transcoder", "skip", "crosscoder", "cross-layer", "gradient"])
def test_evaluation_measures_what_is_written(plan: str) -> None:
    net, data = world()
    key, made = next(iter(run(recipes=PLANS[plan]).dictionaries.items()))
    figures = cw.evaluate(net, made, data, tokens=2_000)
    record = [net.record(batch, [*made.reads, *made.writes]) for batch in data.take(2_000).batches(4)]
    keep = torch.cat([batch.keep.flatten() for batch in data.take(2_000).batches(4)])

    def at(site: str) -> Tensor:
        return torch.cat([found[site].flatten(0, 1) for found in record])[keep]
    codes, reconstructed = made.passed([at(site) for site in made.reads])
    each = [float((a - at(site)).double().pow(2).sum() / (at(site) - at(site).mean(0)).double().pow(2).sum())
            for a, site in zip(reconstructed, made.writes, strict=True)]
    assert figures["fvu"].value == pytest.approx(sum(each) / len(each), rel=1e-4), key
    assert figures["l0"].value == pytest.approx(float(codes.l0.double().mean()))
    if len(each) > 1:
        assert [figures[f"fvu at {site}"].value for site in made.writes] == pytest.approx(each, rel=1e-4)
    assert figures["loss_zero"].value != figures["loss_spliced"].value != figures["loss"].value
    features = cw.watch(net, made, data, tokens=2_000)
    assert features.counts.sum() == int((codes.values != 0).sum())


def test_a_harvest_gives_several_tensors_of_the_same_tokens(tmp_path: Path) -> None:
    net, data = world()
    sites = ["model.layers.0.mlp:in", "blocks.0.mlp", "blocks.0", "blocks.1"]
    stored = cw.harvest(net, data, sites, tmp_path / "cache", dtype="float32", progress=False)
    plan = {"blocks.0.mlp": cw.Transcoder(32, 4), "blocks.*": cw.Crosscoder(32, 4)}
    source = FromHarvest(stored, ["&".join(sites[:2])], 64, 0)
    turn, = next(source.turns()).values()
    x, y = turn[0].split(16, 1)
    seen = [torch.cat([found.kept(site) for found in activations(net, data, sites[:2])]) for site in sites[:2]]
    nearest = torch.cdist(x, seen[0]).argmin(1)
    assert_close(seen[0][nearest], x)
    assert_close(seen[1][nearest], y)
    from_disk, passed = run(data=stored, recipes=plan), run(recipes=plan)
    for key, steps in passed.history.items():
        late = [sum(step["fvu"] for step in some[-10:]) for some in (steps, from_disk.history[key])]
        assert late[0] == pytest.approx(late[1], rel=0.25)
    with pytest.raises(ValueError, match="holds activations without gradients"):
        run(data=stored, recipes=PLANS["gradient"])


@pytest.mark.parametrize(("plan", "words"), [
    ({"blocks.0": cw.Crosscoder(32, 4)}, "a crosscoder is of several sites; blocks.0 names blocks.0 alone"),
    ({"blocks.0.mlp": cw.CrossLayerTranscoder(32, 4)}, "of several layers; blocks.0.mlp names one"),
    ({"blocks.* -> blocks.1": cw.Transcoder(32, 4)}, "names 2 and 1"),
    ({"model.layers.0.mlp:in": cw.Transcoder(32, 4)}, "is not the output of a module"),
    ({"model.layers.*.mlp.down_proj -> blocks.*.attn.pattern": cw.Transcoder(32, 4)}, "holds pattern, not activations")])
def test_plans_that_make_no_sense(plan: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(recipes=plan, tokens=256)


# --- what is exported ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("id", SEVERAL)
def test_the_finished_dictionary_computes_what_was_trained(id: str) -> None:
    learner = trained(recipe_of(id), 30)
    made, tokens = finished(learner), rows(learner.recipe, 77, 256)
    assert learner.row.widths == WIDTHS[type(learner.recipe.wiring)]
    with torch.no_grad():
        d = learner.dictionary
        ours = d.decode(d.encode(learner.row.read(learner._scaled(tokens))))
    scales = [learner.scales[i] for i in learner.row.writes]
    trained_ = [part * scale for part, scale in zip(ours.split(learner.row.of(learner.row.writes), 1), scales, strict=True)]
    for a, b in zip(made.passed(parts_of(learner, tokens)[0])[1], trained_, strict=True):
        assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.std()))


@pytest.mark.parametrize("wiring", [Across(), Across(skip=True), Joint()], ids=["across", "skip", "joint"])
@pytest.mark.parametrize("id", ["batch-topk", "matryoshka", "relu-l1", "gated", "jumprelu"])
def test_any_recipe_takes_another_place(id: str, wiring: Wiring) -> None:
    """What it learns there is exported to what it becomes elsewhere, and computes what it did."""
    recipe = replace(recipe_of(id), wiring=wiring, lr=5e-3)
    learner = trained(recipe, 100)
    made, tokens = finished(learner), rows(recipe, 77, 512)
    x, y = parts_of(learner, tokens)
    assert type(made.sparsify).__name__ in ("Jump", "ReLU") and made.writes != ("",)
    found = fvu_of(made.passed(x)[1], y)
    assert found < 0.9 and found == pytest.approx(learner.history[-1]["fvu"], abs=0.15)


@pytest.mark.parametrize("wiring", [Across(), Across(skip=True), Joint()], ids=["across", "skip", "joint"])
def test_thresholds_begin_where_the_wanted_number_fires_wherever_a_dictionary_lies(wiring: Wiring) -> None:
    recipe = replace(cw.JumpReLU(512, l0=4.0), wiring=wiring)
    tokens = rows(recipe, 77, 1024)
    learner = Learner(recipe, tokens, 10, 64, 0, widths=WIDTHS[type(wiring)])
    first = learner.dictionary.encode(learner.row.read(learner._scaled(tokens)))
    assert float(first.l0.float().mean()) == pytest.approx(4.0, rel=0.2)


def test_a_crosscoders_choice_weighs_latents_by_what_they_write() -> None:
    d = SharedCode(12, 16, recipe_of("crosscoder", width=16, k=3).sparsify, widths=(8, 4))
    with torch.no_grad():
        for p in d.parameters():
            p.normal_(generator=torch.Generator().manual_seed(len(p)))
    x = torch.randn(20, 12)
    z, norms = (x - d.b_dec) @ d.W_enc.T + d.b_enc, d.W_dec[:, :8].norm(dim=1) + d.W_dec[:, 8:].norm(dim=1)
    best = (z * norms).topk(3).indices
    assert_close(d.encode(x).dense(16), torch.zeros(20, 16).scatter(1, best, z.gather(1, best).relu()))
    assert_close(d.shares()[:, 0] * norms, d.W_dec[:, :8].norm(dim=1))
    assert_close(d.sparsify.inference(d)(x), d(x), rtol=1e-4, atol=1e-4)


def test_a_skip_connection_takes_what_is_linear() -> None:
    """Where the output is linear in the input, few latents are enough with a skip connection, and not without."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 12, generator=generator) + 3
    y = x @ torch.randn(12, 8, generator=generator) + 5
    found = {}
    for recipe in (cw.SkipTranscoder(16, 2), cw.Transcoder(16, 2)):
        learner = Learner(recipe, torch.cat([x, y], 1)[:4096], 300, 64, 0, widths=(12, 8))
        for rows_ in torch.cat([x, y], 1)[:19_200].split(64):
            learner.step(rows_)
        made = finished(learner)
        found[recipe.name] = float((made(x) - y).pow(2).sum() / (y - y.mean(0)).pow(2).sum())
    assert found["skip-transcoder"] < 0.05 < found["transcoder"], found


# --- in the network -----------------------------------------------------------------------------------------------------

def test_a_cross_layer_transcoder_is_spliced_from_what_the_same_pass_reads() -> None:
    net, data = world()
    made, batch = run(recipes=PLANS["cross-layer"]).dictionary, data.rows([0, 1])
    before = net.logits(batch)
    with net.edited(made.splice(net)):
        seen = net.record(batch, [*made.reads, *made.writes])
        changed = net.logits(batch)
    wanted, tokens = made.passed([seen[site] for site in made.reads])[1], batch.inputs["input_ids"]
    keep = ~torch.isin(tokens, torch.tensor(data.special_ids))
    for site, y in zip(made.writes, wanted, strict=True):
        assert_close(seen[site][keep], y[keep], rtol=1e-4, atol=1e-5)
    assert not torch.equal(changed, before) and torch.equal(net.logits(batch), before)


def test_a_crosscoder_is_spliced_from_the_network_as_it_is() -> None:
    net, data = world()
    made, batch = run(recipes=PLANS["crosscoder"]).dictionary, data.rows([0, 1])
    plain = net.record(batch, made.reads)
    with net.edited(made.splice(net)):
        seen = net.record(batch, made.reads)
    keep = ~torch.isin(batch.inputs["input_ids"], torch.tensor(data.special_ids))
    for site, y in zip(made.reads, made.passed([plain[site] for site in made.reads])[1], strict=True):
        assert_close(seen[site][keep], y[keep], rtol=1e-4, atol=1e-5)
        assert_close(seen[site][~keep], plain[site][~keep]) if site == "blocks.0" else None
    with pytest.raises(ValueError, match="without a cache"), net.edited(made.splice(net)):
        net.generate("def f(", max_new_tokens=3)
    for words, act in (("has no one site", lambda: made.placed(net)), ("no one direction", lambda: cw.watch(
            net, made, data, tokens=500)[0].direction)):
        with pytest.raises(ValueError, match=words):
            act()


def test_two_networks_side_by_side() -> None:
    first, data = world()
    other = copy.deepcopy(first.module)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    second = cw.open(other, first.tokenizer)
    both = cw.side_by_side(first, second)
    batch = data.rows([0, 1])
    seen = both.record(batch, "*.blocks.1")
    for i, net in enumerate((first, second)):
        assert torch.equal(seen[f"{i}.blocks.1"], net.record(batch, "blocks.1")["blocks.1"])
    made = cw.learn(both, data, {"*.blocks.1": cw.Crosscoder(32, 4)}, 2048, batch=64, progress=False).dictionary
    assert made.reads == ("0.blocks.1", "1.blocks.1") and made.shares().shape == (32, 2)
    figures = cw.evaluate(both, made, data, tokens=1000)
    assert {"fvu", "fvu at 0.blocks.1", "fvu at 1.blocks.1"} <= set(figures) and "loss" not in figures
    with pytest.raises(ValueError, match="from two on; found 1"):
        cw.side_by_side(first)
    with pytest.raises(ValueError, match="different tokenizers"):
        cw.side_by_side(first, cw.open(other, None))


# --- the gradient -------------------------------------------------------------------------------------------------------

def test_gradients_are_those_of_the_summed_loss() -> None:
    net, data = tiny_llama(), world()[1]
    batch = data.rows([0, 1])
    found = loss_gradients(net, batch, ["blocks.0", "blocks.1"])
    step, at = 1e-2, (0, 5, 3)

    def loss(move: float) -> float:
        bump = torch.zeros_like(found["blocks.0"])
        bump[at] = move
        with torch.no_grad(), net.watched({"blocks.0": lambda x, _: x + bump}):
            return float(token_loss(net.logits(batch), batch, "causal")[0].double().sum())
    slope = (loss(step) - loss(-step)) / (2 * step)
    assert float(found[f"{GRADIENT}blocks.0"][at]) == pytest.approx(slope, rel=0.02, abs=1e-4)
    alone = loss_gradients(net, batch, ["blocks.1"])
    assert_close(found[f"{GRADIENT}blocks.1"], alone[f"{GRADIENT}blocks.1"])
    assert torch.equal(found["blocks.0"], net.record(batch, "blocks.0")["blocks.0"])
    other = loss_gradients(net, batch, ["blocks.1"], ids=batch.inputs["input_ids"].flip(0))
    assert not torch.allclose(other[f"{GRADIENT}blocks.1"], alone[f"{GRADIENT}blocks.1"])
    streamed = list(with_gradients(net, data, ["blocks.1", f"{GRADIENT}blocks.1"], 2))
    assert streamed[-1].next_row == data.n_rows
    assert_close(streamed[0].tensors[f"{GRADIENT}blocks.1"], alone[f"{GRADIENT}blocks.1"])


@pytest.mark.parametrize("beta", [0.0, 2.0, float("inf")])
def test_the_choice_with_a_gradient_is_the_formula(beta: float) -> None:
    learner = trained(cw.GradientSAE(64, 5, beta=beta), 5)
    d, generator = learner.dictionary.requires_grad_(False), torch.Generator().manual_seed(1)
    x, g = (torch.randn(40, 32, generator=generator) for _ in range(2))
    g[7] = 0
    z = ((x - d.b_dec) @ d.W_enc.T + d.b_enc).relu()
    effect = (g / g.norm(dim=1, keepdim=True).clamp(min=1e-30)) @ d.W_dec.T
    score = z * (effect.abs() if beta == float("inf") else 1 + beta * 32**0.5 * effect.abs())
    score[7] = z[7]
    best = score.topk(5).indices
    assert_close(chosen(d, x, g, 5, beta).dense(64), torch.zeros(40, 64).scatter(1, best, z.gather(1, best)))
    assert torch.equal(d.encode(x).dense(64), TopKPart(5)(x, d).dense(64)), "without a gradient it is TopK"
    assert learner.recipe.sparsify == GradientTopK(5, None, beta)


def test_a_network_without_a_loss_has_no_gradients() -> None:
    net = cw.open(torch.nn.Sequential(torch.nn.Linear(3, 4)))
    with pytest.raises(ValueError, match="has no loss"):
        cw.learn(net, cw.arrays(torch.randn(64, 3)), {"0:out": cw.GradientSAE(8, 2)}, 64, batch=8, progress=False)
    with pytest.raises(ValueError, match="beta is at least 0; found -1"):
        cw.GradientSAE(8, 2, beta=-1)




def test_where_each_is_learned_when_nobody_says() -> None:
    usual = {recipe.name: recipe.wiring.usual(6) for recipe in (
        cw.TopK(8, 2), cw.Transcoder(8, 2), cw.Crosscoder(8, 2), cw.CrossLayerTranscoder(8, 2), cw.GradientSAE(8, 2))}
    assert usual == {"topk": "blocks.2", "transcoder": "blocks.2.mlp", "crosscoder": "blocks.*",
                     "cross-layer-transcoder": "blocks.*.mlp", "gradient-sae": "blocks.2"}
    net = world()[0]
    for recipe in (cw.TopK(8, 2), cw.Transcoder(8, 2), cw.Crosscoder(8, 2), cw.CrossLayerTranscoder(8, 2)):
        assert recipe.wiring.places(net, recipe.wiring.usual(net.n_blocks))


# --- the proof of the gradient SAE ----------------------------------------------------------------------------------------

def test_the_arms_of_the_gradient_proof_on_a_tiny_network() -> None:
    """What is chosen without the gradient knows nothing of it; and a perfect reconstruction costs nothing."""
    net, data = world()
    d = run(recipes={"blocks.1": cw.TopK(32, 16)}).dictionary
    perfect = {"perfect": lambda x, gradients: x, "mean": lambda x, gradients: x.mean(0).expand_as(x)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient_proof, "SITE", "blocks.1")
        patch.setattr(gradient_proof, "K", 4)
        found = gradient_proof.rises(net, data.take(500), d, perfect, 0)
        arms = gradient_proof.arms({gradient_proof.OURS: d, gradient_proof.THEIRS: d}, 1.0)
    assert found["perfect"] == pytest.approx(0, abs=1e-6) and abs(found["mean"]) > 1e-4
    x, (right, wrong) = torch.randn(9, 16), torch.randn(2, 9, 16)
    plain = arms[gradient_proof.OURS]
    assert torch.equal(plain(x, {"right": right, "wrong": wrong}), plain(x, {"right": wrong, "wrong": right}))
    aware = arms[gradient_proof.OURS + gradient_proof.AWARE]
    assert torch.equal(aware(x, {"right": right, "wrong": wrong}), aware(x, {"right": right, "wrong": right}))


@pytest.mark.parametrize(("ours", "l0", "holds"), [(0.3, 4.0, True), (0.5, 4.0, False), (0.4, 4.0, None), (0.3, 5.0, False)])
def test_what_the_gradient_proof_concludes(ours: float, l0: float, holds: bool | None) -> None:
    names = (gradient_proof.OURS, gradient_proof.THEIRS)
    rows_ = [{name + kind: (ours if name == names[0] else 0.4) + e * (1 if name == names[0] else -1) for name in names
              for kind in ("", gradient_proof.AWARE, gradient_proof.WRONG)} for e in (0.0, 0.001, -0.001)]
    about = [{names[0]: {"fvu": 0.2 + e, "l0": l0, "dead": e}, names[1]: {"fvu": 0.2, "l0": 4.0, "dead": 0.0}}
             for e in (0.0, 0.01, 0.02)]
    proven = gradient_proof.concluded(rows_, about, 1.0, {1.0: 0.4})
    assert proven.holds is holds and json.dumps(proven.json(), allow_nan=False)
    assert bool(holds) != any("Likely why" in note for note in proven.notes)
