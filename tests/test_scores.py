"""Scores: that each is what its definition says, computed here in another, plain way."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from families import example, module, network
from test_edits import traces
from test_units import dictionary
from torch import Tensor, nn

import cutaway
from cutaway import Edit, Network, Units, row_loss, units
from cutaway.metrics import token_targets
from cutaway.network import zero
from cutaway.network.edit import Reference
from cutaway.scores import Trust, exact, trust_table, trusts
from cutaway.scores.ranks import agreement, repeatability, spearman, stratified

TEXT = ["gpt2", "llama", "bert"]
ALL = [*TEXT, "opt", "vit", "mlp"]


@cache
def double(name: str) -> Network:
    """A network in float64, where derivatives can be compared with differences."""
    return cutaway.open(module(name).double())


@cache
def data(name: str, rows: int = 6) -> Any:
    x = example(name, rows=rows, tokens=8)
    if name == "bert":
        return cutaway.arrays({"input_ids": x}, torch.where(x % 3 == 0, x, -100).index_fill(1, torch.tensor(0), 7))
    if name in ("vit", "mlp", "cnn"):
        of = cutaway.arrays(x, torch.arange(rows) % 4)
        return replace(of, x=of.x.double())
    return cutaway.arrays({"input_ids": x}, name="random")


def table(name: str, kind: str) -> Units:
    if name == "mlp":
        return units(double(name), "neurons", sites=["1:out", "3:out"], data=data(name))
    return units(double(name), kind)


def loss(net: Network, batch: Any) -> Tensor:
    """The loss of each row in the network's own precision: `row_loss` without its float32."""
    logits, (targets, counts) = net.logits(batch), token_targets(batch, net.kind)
    logits = logits[:, :-1] if net.kind == "causal" else logits
    each = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten().clamp(min=0), reduction="none")
    each = each.view(targets.shape) * counts
    return each.sum(-1) / counts.sum(-1) if each.ndim == 2 else each


def mean_loss(net: Network, of: Any) -> float:
    with torch.no_grad():
        return float(loss(net, of.rows(slice(None))).mean())


def effect(net: Network, of: Any, edits: Any) -> float:
    """What edits do to the mean loss."""
    before = mean_loss(net, of)
    with net.edited(edits):
        return mean_loss(net, of) - before


def one_closed(units: Units, row: int, by: float = 1.0, ref: Reference = zero) -> Edit:
    """The edit that closes one unit of a table by a share."""
    unit = units.frame.iloc[row]
    gate = torch.ones(units.sizes[unit["site"]], dtype=torch.float64)
    gate[unit["unit"]] = 1 - by
    return Edit(unit["site"], ref, gate, "u")


def slopes(units: Units, of: Any) -> np.ndarray:
    """-d loss / d gate of each unit by a central difference; Llama's norm computes in float32, which limits it to 1e-4."""
    step = 2e-3 if units.net is double("llama") else 1e-5
    up, down = ([effect(units.net, of, one_closed(units, row, by)) for row in range(len(units))] for by in (step, -step))
    return (np.array(up) - np.array(down)) / (2 * step)


# --- exact ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["heads", "neurons"])
@pytest.mark.parametrize("name", ALL)
def test_exact_is_the_measured_effect_of_closing_one_unit(name: str, kind: str) -> None:
    whole = table(name, kind)
    part = whole.pick([0, 1, 5, len(whole) - 1])
    found = part.score("exact", data(name), metric=loss).column("exact")
    wanted = [effect(part.net, data(name), one_closed(part, row)) for row in range(4)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)
    assert np.abs(found).max() > 1e-4


@pytest.mark.parametrize("kind", ["layers", "heads", "rows"])
@pytest.mark.parametrize("name", ["llama", "bert", "vit"])
def test_many_gates_at_a_time_are_one_at_a_time(name: str, kind: str) -> None:
    part = table(name, kind)
    part = part.pick(np.linspace(0, len(part) - 1, min(len(part), 9)).astype(int))
    alone = exact(part, data(name), at_once=1, metric=loss)
    for options in ({"at_once": 7}, {"batch_size": 4}, {"batch_size": 60}):
        np.testing.assert_allclose(exact(part, data(name), metric=loss, **options).values, alone.values, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "vit", "opt"])
def test_skipping_a_layer_puts_its_input_in_its_place(name: str) -> None:
    layers = table(name, "layers")
    found = layers.score("exact", data(name), metric=loss)
    wanted = [effect(layers.net, data(name), Edit(f"blocks.{i}", lambda z, at: at.module_input)) for i in range(len(layers))]
    np.testing.assert_allclose(found.column("exact"), wanted, rtol=1e-6)
    assert found.about["exact"]["reference"] == "skip"


@pytest.mark.parametrize(("name", "path"), [
    ("llama", "model.layers.1.mlp.up_proj"), ("gpt2", "transformer.h.1.attn.c_attn"), ("opt", "model.decoder.layers.1.fc1"),
    ("bert", "bert.encoder.layer.0.intermediate.dense"), ("cnn", "conv1")])
def test_a_row_of_a_weight_is_scored_as_its_edit_acts(name: str, path: str) -> None:
    net, of = double(name), data(name)
    part = units(net, "rows", sites=f"{path}:weight").pick([0, 5]).score(["exact", "gradient", "path"], of, metric=loss)
    wanted = [effect(net, of, one_closed(part, row)) for row in range(2)]
    np.testing.assert_allclose(part.column("exact"), wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(part.column("gradient"), slopes(part, of), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="a row of a weight is closed by"):
        part.score("abs", of, ref="mean")


# --- gradients --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["heads", "neurons", "channels"])
@pytest.mark.parametrize("name", ALL)
def test_the_gradient_is_the_slope_of_the_gate(name: str, kind: str) -> None:
    whole = table(name, kind)
    part = whole.pick([0, 3, len(whole) - 1])
    found = part.score("gradient", data(name), metric=loss).column("gradient")
    np.testing.assert_allclose(found, slopes(part, data(name)), rtol=1e-4, atol=1e-4 if name == "llama" else 1e-7)


@pytest.mark.parametrize("ref", ["zero", "mean"])
@pytest.mark.parametrize("name", TEXT)
def test_token_gates_give_all_three_and_sum_to_the_unit_gate(name: str, ref: str) -> None:
    net, of, site = double(name), data(name), "blocks.1.attn.heads"
    batch = of.rows(slice(None))
    scored = units(net, "heads", sites=site).score(["gradient", "abs", "fisher"], of, metric=loss, ref=ref, batch_size=4)
    shape = (6, 8, 4)
    closed = zero
    if ref == "mean":
        mean = net.record(batch, site)[site].unflatten(-1, (4, -1)).mean((0, 1))
        closed = lambda z, at: mean  # noqa: E731

    def slope(shape: tuple[int, ...], over: str) -> Tensor:
        gate = torch.ones(shape, dtype=torch.float64, requires_grad=True)
        with net.edited(Edit(site, closed, gate, over)):
            return -torch.autograd.grad(loss(net, batch).sum(), gate)[0]

    each = slope(shape, "b t u")
    np.testing.assert_allclose(scored.column("gradient"), slope((4,), "u") / 6, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(scored.column("gradient"), each.sum((0, 1)) / 6, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(scored.column("abs"), each.abs().sum((0, 1)) / 6, rtol=1e-5)
    np.testing.assert_allclose(scored.column("fisher"), each.square().sum((0, 1)) / 6, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["layers", "heads", "neurons"])
def test_fisher_and_abs_are_never_negative_and_bound_the_gradient(name: str, kind: str) -> None:
    scored = table(name, kind).score(["gradient", "abs", "fisher"], data(name))
    gradient, absolute, fisher = (scored.column(score) for score in ("gradient", "abs", "fisher"))
    assert (fisher >= 0).all() and fisher.max() > 0 and (absolute >= np.abs(gradient) * (1 - 1e-6)).all()


def test_scores_that_can_share_a_pass_do() -> None:
    calls = []

    def counting(net: Network, batch: Any) -> Tensor:
        calls.append(len(batch.rows))
        return row_loss(net, batch)

    scored = units(double("llama"), "heads").score(["gradient", "fisher", "abs", "activation"], data("llama"), metric=counting)
    assert calls == [6] and scored.scores == ["gradient", "fisher", "abs", "activation"]
    assert scored.about["fisher"]["metric"] == "counting" and scored.about["activation"]["metric"] is None


def test_features_are_scored_through_their_sparse_codes() -> None:
    net, of, made = network("llama"), data("llama"), dictionary()
    scored = units(net, "features", dictionary=made).score(
        ["gradient", "abs", "fisher", "exact", "path", "activation", "activation_max", "frequency"], of)
    batch, site = of.rows(slice(None)), made.features(net)
    gate = torch.ones(6, 8, 40, requires_grad=True)
    with net.edited(Edit(site, zero, gate, "b t u")):
        each = -torch.autograd.grad(row_loss(net, batch).sum(), gate)[0]
    np.testing.assert_allclose(scored.column("gradient"), each.sum((0, 1)).numpy() / 6, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(scored.column("abs"), each.abs().sum((0, 1)).numpy() / 6, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(scored.column("fisher"), each.square().sum((0, 1)).numpy() / 6, rtol=1e-3, atol=1e-7)
    dense = made.encode(net.record(batch, "blocks.1")["blocks.1"]).dense(40).abs().flatten(0, 1)
    np.testing.assert_allclose(scored.column("activation"), dense.mean(0).numpy(), rtol=1e-4)
    np.testing.assert_allclose(scored.column("activation_max"), dense.amax(0).numpy(), rtol=1e-4)
    np.testing.assert_allclose(scored.column("frequency"), (dense > 0).float().mean(0).numpy(), rtol=1e-4)
    closed = torch.ones(40).index_fill(0, torch.tensor(7), 0.0)
    assert scored.column("exact")[7] == pytest.approx(effect(net, of, Edit(site, zero, closed, "u")), abs=1e-5)
    with pytest.raises(ValueError, match="the mean of a feature cannot stand in"):
        scored.score("abs", of, column="other", ref="mean")


# --- path -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["heads", "neurons"])
@pytest.mark.parametrize("name", ["llama", "bert", "mlp"])
def test_a_path_sums_to_the_effect_of_closing_the_whole_site(name: str, kind: str) -> None:
    scored = table(name, kind).score("path", data(name), metric=loss, steps=60)
    for site in scored.sites:
        wanted, found = effect(scored.net, data(name), Edit(site)), scored.column("path")[scored.frame["site"] == site]
        assert found.sum() == pytest.approx(wanted, abs=2e-3 * np.abs(found).sum())


def test_the_path_of_a_layer_is_the_effect_of_skipping_it_and_its_slope_is_not() -> None:
    scored = table("llama", "layers").score(["path", "exact"], data("llama"), metric=loss, steps=100)
    np.testing.assert_allclose(scored.column("path"), scored.column("exact"), rtol=5e-3)
    few = table("llama", "layers").score("path", data("llama"), steps=1).column("path")
    assert not np.allclose(few, scored.column("exact"), rtol=5e-2)
    with pytest.raises(ValueError, match="at least one step; found steps=0"):
        table("llama", "layers").score("path", data("llama"), steps=0)


# --- activations ------------------------------------------------------------------------------------------------------

def test_activations_are_taken_over_kept_tokens() -> None:
    from helpers import PLAIN, tiny_llama
    net = tiny_llama()
    of = cutaway.corpus([PLAIN], net).take(31 * 5)
    scored = units(net, "heads").score(["activation", "activation_max"], of, batch_size=2)
    batch = of.rows(slice(None))
    heads = net.record(batch, "blocks.1.attn.heads")["blocks.1.attn.heads"].unflatten(-1, (2, -1)).norm(dim=-1)
    np.testing.assert_allclose(scored.column("activation")[2:], heads[batch.keep].mean(0), rtol=1e-5)
    np.testing.assert_allclose(scored.column("activation_max")[2:], heads[batch.keep].amax(0), rtol=1e-5)
    assert not bool(batch.keep.all()) and scored.about["activation"]["tokens"] == int(batch.keep.sum())
    added = units(net, "layers").score("activation", of).column("activation")
    sites = net.record(batch, ["blocks.0", "blocks.1"])
    assert added[1] == pytest.approx(float((sites["blocks.1"] - sites["blocks.0"])[batch.keep].norm(dim=-1).mean()), rel=1e-5)


def test_frequency_tells_how_often_a_neuron_is_on() -> None:
    of = cutaway.arrays(example("cnn", rows=4), torch.tensor([0, 1, 2, 3]))
    net = network("opt")  # its neurons are rectified
    scored = units(net, "neurons").score("frequency", data("opt"))
    z = net.record(data("opt").rows(slice(None)), "blocks.2.mlp.neurons")["blocks.2.mlp.neurons"].reshape(48, -1)
    np.testing.assert_allclose(scored.column("frequency")[-z.shape[-1]:], (z != 0).float().mean(0), rtol=1e-6)
    assert 0 < scored.column("frequency").mean() < 1 and of.n_rows == 4


# --- tokens and references --------------------------------------------------------------------------------------------

def test_tokens_are_scored_in_the_row_that_they_stand_in() -> None:
    net, of = double("llama"), data("llama")
    names = ["exact", "gradient", "abs", "path", "activation"]
    tokens = units(net, "tokens", data=of, rows=[4, 1]).score(names, of, metric=loss, ref="zero")
    for at in (2, 13):
        row, position = tokens.frame["row"][at], tokens.frame["unit"][at]
        gate = torch.ones(8, dtype=torch.float64)
        gate[position] = 0
        one = replace(of, index=of.index[[row]])
        assert tokens.column("exact")[at] == pytest.approx(effect(net, one, Edit("embed", zero, gate, "t")), abs=1e-9)
        embedded = net.record(one.rows([0]), "embed")["embed"][0, position]
        assert tokens.column("activation")[at] == pytest.approx(float(embedded.norm()), rel=1e-6)
    np.testing.assert_allclose(np.abs(tokens.column("gradient")), tokens.column("abs"))
    with pytest.raises(ValueError, match="stand in other data"):
        tokens.score("fisher", replace(of, index=of.index[:3]))
    with pytest.raises(ValueError, match="leave tokens= and seed= out"):
        tokens.score("fisher", of, tokens=8)
    mean = units(net, "tokens", data=of).score("exact", of)
    assert mean.about["exact"]["reference"] == "mean" and len(units(double("vit"), "tokens", data=data("vit"))) == 5


@pytest.mark.parametrize("kind", ["layers", "heads", "neurons"])
def test_a_mean_as_reference_is_the_mean_of_the_same_data(kind: str) -> None:
    part = table("gpt2", kind).pick([0, 2]).score("exact", data("gpt2"), metric=loss, ref="mean")
    site = next(iter(part.sites.values()))
    x = part.net.record(data("gpt2").rows(slice(None)), site)[site.name]
    mean = (x.unflatten(-1, (4, -1)) if kind == "heads" else x).mean((0, 1))
    closed = Edit(site, lambda z, at: mean) if kind == "layers" else one_closed(part, 0, 1.0, lambda z, at: mean)
    assert part.column("exact")[0] == pytest.approx(effect(part.net, data("gpt2"), closed), rel=1e-5)


def test_a_reference_may_be_a_function() -> None:
    def half(z: Tensor, at: Any) -> Tensor:
        return z / 2

    part = table("llama", "heads").pick([1, 6]).score("exact", data("llama"), metric=loss, ref=half)
    assert part.column("exact")[1] == pytest.approx(effect(part.net, data("llama"), one_closed(part, 1, 0.5)), rel=1e-6)
    assert part.about["exact"]["reference"] == "half"
    with pytest.raises(ValueError, match="scored with the reference half; give ref="):
        part.trust("exact", data("llama"), metric=loss)


def test_scores_state_what_they_rest_on_and_read_no_more_than_asked() -> None:
    of = data("llama")
    scored = units(double("llama"), "heads").score("fisher", of, tokens=3, seed=5, batch_size=2)
    about = scored.about["fisher"]
    assert about == {"method": "fisher", "metric": "row_loss", "data": "random", "fingerprint": of.fingerprint, "rows": 3,
                     "tokens": 24, "reference": "zero", "seed": 5, "network": "LlamaForCausalLM", "options": {}}
    order = np.random.default_rng(5).permutation(6)[:3]
    same = units(double("llama"), "heads").score("fisher", replace(of, index=of.index[order]))
    np.testing.assert_allclose(scored.column("fisher"), same.column("fisher"), rtol=1e-6)


def test_heads_that_change_places_take_their_scores_along() -> None:
    order = torch.tensor([2, 0, 3, 1])
    moved = copy.deepcopy(double("gpt2").module)
    with torch.no_grad():
        for block in moved.transformer.h:
            weight, bias, out = block.attn.c_attn.weight, block.attn.c_attn.bias, block.attn.c_proj.weight
            weight.copy_(weight.view(32, 3, 4, 8)[:, :, order].reshape(32, 96))
            bias.copy_(bias.view(3, 4, 8)[:, order].reshape(96))
            out.copy_(out.view(4, 8, 32)[order].reshape(32, 32))
    names = ["exact", "gradient", "abs", "fisher", "path", "activation", "activation_max"]
    both = (double("gpt2"), cutaway.open(moved))
    before, after = (units(net, "heads").score(names, data("gpt2"), metric=loss) for net in both)
    for name in names:
        old, new = (scored.column(name).reshape(-1, 4) for scored in (before, after))
        np.testing.assert_allclose(new, old[:, order.numpy()], rtol=1e-6)


def test_progress_counts_every_row_of_every_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm.auto
    ended = []

    class Bar(tqdm.auto.tqdm):  # type: ignore[type-arg]
        def close(self) -> None:
            ended.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(tqdm.auto, "tqdm", lambda **options: Bar(**{**options, "disable": False}))
    heads = units(double("llama"), "heads")
    heads.score(["fisher", "activation", "exact", "path"], data("llama"), steps=2, batch_size=4, progress=True)
    units(double("llama"), "tokens", data=data("llama"), rows=[1, 2]).score("exact", data("llama"), ref="zero")
    assert all(n == total for n, total in ended) and {(6, 6), (72, 72), (36, 36), (16, 16)} <= set(ended)


# --- what goes wrong --------------------------------------------------------------------------------------------------

def test_a_metric_without_a_gradient_says_so() -> None:
    def accuracy(net: Network, batch: Any) -> Tensor:
        with torch.no_grad():
            return (net.logits(batch).argmax(-1) == 3).double().mean(-1)

    heads, before = units(double("llama"), "heads"), traces(double("llama"))
    for name in ("fisher", "path"):
        with pytest.raises(ValueError, match="the metric accuracy has no gradient"):
            heads.score(name, data("llama"), metric=accuracy)
    assert traces(double("llama")) == before
    assert np.isfinite(heads.pick([0]).score("exact", data("llama"), metric=accuracy).column("exact")).all()
    with torch.no_grad():
        assert heads.score("fisher", data("llama")).column("fisher").max() > 0


def test_a_site_that_the_pass_does_not_reach_is_named() -> None:
    net = cutaway.open(torch.nn.ModuleDict({"used": torch.nn.Linear(3, 4), "spare": torch.nn.Linear(3, 4)}))
    net.module.forward = lambda x: net.module["used"](x)  # type: ignore[method-assign]
    of = cutaway.arrays(torch.randn(4, 3), torch.tensor([0, 1, 2, 3]))
    for name in ("fisher", "activation"):
        with pytest.raises(ValueError, match="did not reach spare:out"):
            units(net, "neurons", sites=["used:out", "spare:out"]).score(name, of)


def test_a_block_that_changes_the_shape_cannot_be_skipped() -> None:
    of = cutaway.arrays(example("resnet"), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="can be skipped only where its input has the shape of its output"):
        units(network("resnet"), "layers").score("exact", of)
    assert units(network("resnet"), "layers").score(["exact", "gradient"], of, ref="mean").column("exact").any()


# --- trust ------------------------------------------------------------------------------------------------------------

def made(values: Any, kind: str = "neurons") -> Units:
    """A table with a made-up score that says nothing of the network."""
    table = units(double("llama"), kind)
    about = {"method": "made", "metric": "row_loss", "data": "other", "fingerprint": "0", "rows": 1, "tokens": 1,
             "reference": "zero", "seed": None, "network": "", "options": {}}
    return replace(table, frame=table.frame.assign(made=values), about={"made": about})


def test_trust_is_the_rank_correlation_with_the_exact_effect() -> None:
    from scipy.stats import spearmanr
    heads, of = units(double("llama"), "heads").score(["fisher", "gradient"], data("llama")), data("llama", rows=9)
    effects = exact(heads, of).values
    for name in ("fisher", "gradient"):
        trust = heads.trust(name, of)
        assert trust.agreement == pytest.approx(spearmanr(heads.column(name), effects).statistic)
        assert trust.low <= trust.agreement <= trust.high and (trust.n, trust.of, trust.top) == (12, 12, 6)
        best = [set(np.argsort(-values)[:6]) for values in (heads.column(name), effects)]
        assert trust.shared == len(best[0] & best[1]) and not trust.same_data and trust.rows == 9
    assert "over all 12 heads" in str(trust) and "row_loss on other data, random (9 rows, 72 tokens)" in str(trust)
    perfect = heads.score("exact", data("llama")).trust("exact", data("llama"))
    assert (perfect.agreement, perfect.low, perfect.high, perfect.shared) == (1, 1, 1, 6) and perfect.same_data


def test_trust_samples_units_evenly_over_the_score() -> None:
    trust = made(np.arange(144.0)).trust("made", data("llama"), n=12, seed=3)
    assert (trust.n, trust.of, trust.seed) == (12, 144, 3) and "over 12 of 144 neurons" in str(trust)
    rows = stratified([np.arange(144.0)[::-1]], 144, 12, seed=3)
    assert [row // 12 for row in rows] == [*range(12)]
    assert stratified([np.arange(5.0)], 5, 12, seed=0).tolist() == [*range(5)]
    again = made(np.arange(144.0)).trust("made", data("llama"), n=12, seed=3)
    assert again == trust and made(np.arange(144.0)).trust("made", data("llama"), n=12, seed=4) != trust


def test_an_exact_column_of_the_same_data_is_not_measured_again() -> None:
    heads, calls = units(double("llama"), "heads").score(["fisher", "exact"], data("llama")), []

    def counting(net: Network, batch: Any) -> Tensor:
        calls.append(1)
        return row_loss(net, batch)

    counting.__name__ = "row_loss"
    known = trusts(heads, ["fisher"], data("llama"), metric=counting)["fisher"]
    assert calls == []
    fresh = trusts(heads, ["fisher"], data("llama"), metric=counting, ref="mean")["fisher"]
    # Once as it is, twice to see that passes may begin at the later blocks, and twelve heads two at a time.
    assert len(calls) == 9 and fresh.reference == "mean" and known.reference == "zero"
    alone = heads.pick(np.arange(12))
    alone = replace(alone, about={"fisher": alone.about["fisher"]})
    assert alone.trust("fisher", data("llama")).agreement == pytest.approx(known.agreement)


@pytest.mark.parametrize(("values", "why"), [
    (np.ones(144), "the score is the same for all units"), (np.full(144, np.nan), "not a number for some units")])
def test_trust_of_a_constant_or_missing_score_is_undefined(values: np.ndarray, why: str) -> None:
    trust = made(values).trust("made", data("llama"), n=8)
    assert not trust.defined and why in str(trust) and np.isnan([trust.agreement, trust.low, trust.high]).all()


def test_trust_of_too_few_units_or_of_an_effect_that_is_nothing_is_undefined() -> None:
    few = made(np.arange(144.0)).pick([0, 1, 2, 3]).trust("made", data("llama"))
    assert not few.defined and "there are 4 units, and it takes at least 5" in str(few)

    def nothing(net: Network, batch: Any) -> Tensor:
        return torch.zeros(len(batch.rows))

    flat = made(np.arange(144.0)).trust("made", data("llama"), n=6, metric=nothing)
    assert "the exact effect is the same for all units" in str(flat) and flat.metric == "nothing"


def test_the_table_of_estimators_puts_the_best_first_and_the_undefined_last() -> None:
    names = ["gradient", "fisher", "frequency"]
    heads = units(double("llama"), "heads").score(names, data("llama"))
    found = trust_table(heads, names, data("llama", rows=9))
    assert found["score"].tolist()[-1] == "frequency" and found["agreement"][0] >= found["agreement"][1]
    assert found["why"][2] and "undefined" in found["words"][2] and set(found["n"]) == {12}


def test_scores_of_different_make_are_not_compared_with_one_effect() -> None:
    heads = units(double("llama"), "heads").score("fisher", data("llama")).score("abs", data("llama"), ref="mean")
    with pytest.raises(ValueError, match="differ in their reference \\(mean, zero\\)"):
        trusts(heads, ["fisher", "abs"], data("llama"))
    assert heads.trust("abs", data("llama")).reference == "mean"


def test_rank_agreement_and_its_interval() -> None:
    from scipy.stats import spearmanr
    random = np.random.default_rng(0)
    x = random.integers(0, 9, 60).astype(float)  # with ties
    y = x + random.normal(size=60) * 4
    value, low, high = agreement(x, y)
    assert value == pytest.approx(spearmanr(x, y).statistic) and low < value < high and np.isnan(spearman(x, np.ones(60)))
    covered = []
    for seed in range(60):  # the interval holds the true correlation of a normal pair about as often as it says
        z = np.random.default_rng(seed).normal(size=(2, 50))
        _, low, high = agreement(z[0], z[0] + z[1], seed, n=200)
        covered.append(low <= 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2) <= high)
    assert np.mean(covered) > 0.85


def test_repeatability_is_that_of_twice_the_data() -> None:
    random = np.random.default_rng(0)
    truth, noise = random.normal(size=4000), random.normal(size=(3, 4000))
    halves = truth + noise[:2] * np.sqrt(2)
    again = [float(spearman(truth + noise[2], truth + random.normal(size=4000)))]
    assert repeatability(halves) == pytest.approx(again[0], abs=0.04)
    assert np.isnan(repeatability(halves[:, :4])) and repeatability(np.stack([truth, -truth])) < 0
    one_row = exact(units(double("llama"), "heads"), replace(data("llama"), index=np.array([0])))
    assert np.isnan(one_row.about["repeats"]) and isinstance(made(np.arange(144.0)).trust("made", data("llama"), n=5), Trust)
