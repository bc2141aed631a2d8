"""What every method of the catalogue keeps to, over all kinds of network; a new method is checked by being there.

Scores: one finite number a unit, the same again and in any batches, that goes with its unit when units change places.
Dictionaries: their features are a site, with a gate that keeps the site's laws, and a file that brings them back.
Edits: change something, and leave nothing behind. All: clear words about bad input.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from families import D_MODEL, example, module, network
from test_edits import output, traces
from torch import Tensor, nn
from torch.testing import assert_close

import cutaway
from cutaway import Edit, Network
from cutaway.catalogue import find, methods
from cutaway.dictionaries import Recipe
from cutaway.dictionaries.dictionary import Dictionary

EDITS = list(methods("edit"))
DICTIONARIES = [id for id, m in methods("dictionary").items() if m.signature.return_annotation in (Recipe, "Recipe")]
FAMILIES = ["gpt2", "llama", "bert", "vit", "cnn", "mlp"]


def scores_of(kind: str) -> list[str]:
    """The scores that are defined for a kind of unit of a network of blocks."""
    units = cutaway.units(network("llama"), kind)
    return [score for score, m in methods("score").items() if not (m.refuses and m.refuses(units))]


SCORES = scores_of("neurons")
READING = [score for score in SCORES if "tokens" in find(score, "score").signature.parameters]  # and not parameters alone
ELSEWHERE = [(score, kind) for kind in ("heads", "layers", "sublayers") for score in scores_of(kind) if score not in SCORES]


@cache
def data(name: str, rows: int = 6) -> Any:
    """Random rows with labels, where the network's loss needs them."""
    x = example(name, rows=rows, tokens=8)
    if name in ("gpt2", "llama"):
        return cutaway.arrays({"input_ids": x}, name="random")
    if name == "bert":
        return cutaway.arrays({"input_ids": x}, torch.where(x % 3 == 0, x, -100).index_fill(1, torch.tensor(0), 7))
    return cutaway.arrays(x, torch.arange(rows) % 4)


def cross_entropy(net: Network, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(net.logits(batch), batch.labels, reduction="none")


def options(score: str, name: str) -> dict[str, Any]:
    """A network that is only a module has no loss of its own, so scores of a metric are given one."""
    takes = find(score, "score").signature.parameters
    return {"metric": cross_entropy} if name in ("cnn", "mlp") and "metric" in takes else {}


def table(net: Network, name: str, score: str = "exact") -> cutaway.Units:
    """The neurons of a network, or what a network without known neurons has in their place; a norm has no weights of theirs."""
    if name == "cnn":
        return cutaway.units(net, "channels", sites=["conv1:out" if find(score, "score").refuses else "bn1:out"])
    return cutaway.units(net, "neurons", sites=["2:in"] if name == "mlp" else None)


# Where a neuron's numbers are kept: weights by module path and axis, inside each block for networks that have blocks.
NEURONS = {
    "gpt2": [("transformer.h.{}.mlp.c_fc", "weight", 1), ("transformer.h.{}.mlp.c_fc", "bias", 0),
             ("transformer.h.{}.mlp.c_proj", "weight", 0)],
    "llama": [("model.layers.{}.mlp.gate_proj", "weight", 0), ("model.layers.{}.mlp.up_proj", "weight", 0),
              ("model.layers.{}.mlp.down_proj", "weight", 1)],
    "bert": [("bert.encoder.layer.{}.intermediate.dense", "weight", 0),
             ("bert.encoder.layer.{}.intermediate.dense", "bias", 0),
             ("bert.encoder.layer.{}.output.dense", "weight", 1)],
    "vit": [("vit.layers.{}.mlp.fc1", "weight", 0), ("vit.layers.{}.mlp.fc1", "bias", 0),
            ("vit.layers.{}.mlp.fc2", "weight", 1)],
    "cnn": [("conv1", "weight", 0), ("conv1", "bias", 0), *[("bn1", part, 0) for part in (
        "weight", "bias", "running_mean", "running_var")], ("conv2", "weight", 1)],
    "mlp": [("0", "weight", 0), ("0", "bias", 0), ("2", "weight", 1)],
}


def relabelled(name: str, order: Tensor) -> Network:
    """The same function with its neurons in another order."""
    net = cutaway.open(module(name))
    with torch.no_grad():
        for block in range(max(1, net.n_blocks)):
            for path, part, axis in NEURONS[name]:
                values = getattr(net.module.get_submodule(path.format(block)), part)
                values.copy_(values.index_select(axis, order))
    return net


# --- scores -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("score", SCORES)
def test_a_score_is_one_finite_number_a_unit_and_leaves_the_network_alone(score: str, name: str) -> None:
    net, of = network(name), data(name)
    before, weights = traces(net), copy.deepcopy(net.module.state_dict())
    units = table(net, name, score)
    scored = units.score(score, of, **options(score, name))
    values = scored.column(score)
    assert values.shape == (len(units),) and np.isfinite(values).all() and score not in units.frame
    assert len(np.unique(values)) > 1 or score == "frequency"  # neurons that are never exactly off
    if score in READING:
        assert scored.about[score]["data"] == of.name and scored.about[score]["rows"] == of.n_rows
        again = units.score(score, of, batch_size=2, **options(score, name)).column(score)
        np.testing.assert_allclose(again, values, rtol=1e-4, atol=1e-6, err_msg="in other batches")
    assert traces(net) == before and all(torch.equal(v, weights[k]) for k, v in net.module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.module.parameters())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("score", SCORES)
def test_a_score_goes_with_its_unit_when_units_change_places(score: str, name: str) -> None:
    net, of = network(name), data(name)
    units = table(net, name, score)
    size = max(units.sizes.values())
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    other = relabelled(name, order)
    assert_close(output(other, of.rows([0, 1])), output(net, of.rows([0, 1])), rtol=1e-4, atol=1e-5)
    values = units.score(score, of, **options(score, name)).column(score).reshape(-1, size)
    moved = table(other, name, score).score(score, of, **options(score, name)).column(score).reshape(-1, size)
    np.testing.assert_allclose(moved, values[:, order.numpy()], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_part_of_a_table_is_scored_as_in_the_whole(score: str) -> None:
    units, of = table(network("llama"), "llama"), data("llama")
    part = np.array([3, 50, 51, 140])
    whole = units.score(score, of).column(score)
    np.testing.assert_allclose(units.pick(part).score(score, of).column(score), whole[part], rtol=1e-4, atol=1e-6)


class Broken(Exception):
    pass


@pytest.mark.parametrize("score", SCORES)
def test_nothing_of_a_score_stays_after_an_error(score: str) -> None:
    net = network("llama")
    before = traces(net)

    def breaks(*_: Any) -> Any:
        raise Broken

    takes = find(score, "score").signature.parameters
    for given in ({"ref": breaks} if "ref" in takes else {}, {"metric": breaks} if "metric" in takes else {}):
        if given:
            with pytest.raises(Broken):
                table(net, "llama").score(score, data("llama"), **given)
            assert traces(net) == before


@pytest.mark.parametrize("score", READING)
def test_a_score_of_a_network_with_nan_says_so(score: str) -> None:
    net = cutaway.open(module("llama"))
    with torch.no_grad():
        net.module.get_submodule("model.layers.1.mlp.up_proj").weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN|not a number"):
        table(net, "llama").score(score, data("llama"))


@pytest.mark.parametrize("score", READING)
def test_a_score_of_no_data_says_so(score: str) -> None:
    of = data("llama")
    none = replace(of, index=of.index[:0])
    with pytest.raises(ValueError, match="no rows|nothing"):
        table(network("llama"), "llama").score(score, none)


@pytest.mark.parametrize("score", SCORES)
def test_a_score_refuses_what_it_does_not_know(score: str) -> None:
    units, of = table(network("llama"), "llama"), data("llama")
    with pytest.raises(ValueError, match="no option 'colour'"):
        units.score(score, of, colour="red")
    takes_ref = "ref" in find(score, "score").signature.parameters
    with pytest.raises(ValueError, match="a reference is" if takes_ref else "no option 'ref'"):
        units.score(score, of, ref="median")
    with pytest.raises(ValueError, match=f"no score called '{score}x'; the nearest are .*{score}"):
        units.score(f"{score}x", of)


@pytest.mark.parametrize("score", [score for score in SCORES if "metric" in find(score, "score").signature.parameters])
def test_a_metric_of_the_wrong_shape_is_named(score: str) -> None:
    def one_number(net: Network, batch: Any) -> Tensor:
        return net.logits(batch).mean()

    with pytest.raises(ValueError, match="one_number must give one number for each"):
        table(network("llama"), "llama").score(score, data("llama"), metric=one_number)


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit"])
@pytest.mark.parametrize(("score", "kind"), ELSEWHERE)
def test_a_score_of_other_kinds_of_unit_keeps_to_the_same(score: str, kind: str, name: str) -> None:
    net, of = network(name), data(name)
    units, before, weights = cutaway.units(net, kind), traces(net), copy.deepcopy(net.module.state_dict())
    values = units.score(score, of).column(score)
    assert values.shape == (len(units),) and np.isfinite(values).all()
    assert len(np.unique(values)) > 1 or score == "attention_rank"  # full on so short a text
    part = np.array([1, len(units) - 1])
    np.testing.assert_allclose(units.pick(part).score(score, of).column(score), values[part], rtol=1e-4, atol=1e-6)
    if "tokens" in find(score, "score").signature.parameters:
        again = units.score(score, of, batch_size=2).column(score)
        np.testing.assert_allclose(again, values, rtol=1e-4, atol=1e-6, err_msg="in other batches")
        with pytest.raises(ValueError, match="no rows|nothing"):
            units.score(score, replace(of, index=of.index[:0]))
    assert traces(net) == before and all(torch.equal(v, weights[k]) for k, v in net.module.state_dict().items())


@pytest.mark.parametrize(("score", "kind"), ELSEWHERE)
def test_a_score_of_other_kinds_says_what_is_wrong(score: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"{score} has no meaning here: .* For neurons there are .*fisher"):
        table(network("llama"), "llama").score(score, data("llama"))
    net = cutaway.open(module("llama"))
    with torch.no_grad():
        net.module.get_submodule("model.layers.1.self_attn.o_proj").weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN|not a number"):
        cutaway.units(net, kind).score(score, data("llama"))


# --- dictionaries -----------------------------------------------------------------------------------------------------

SITES = {"gpt2": "blocks.1", "llama": "blocks.1.mlp", "bert": "blocks.0", "vit": "blocks.1", "mlp": "2:in"}


def dictionary(recipe: str, name: str, width: int = 64) -> Dictionary:
    """A dictionary as it is at the start of training, at a site of a network."""
    net = network(name)
    site = net.site(SITES[name])
    x = net.record(data(name).rows(slice(None)), site)[site.name].flatten(0, -2)
    built = find(recipe, "dictionary").object(width=width)
    made = built.build(x, torch.Generator().manual_seed(0)).requires_grad_(False)
    made.facts = replace(made.facts, site=site.name)
    return made


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("recipe", DICTIONARIES)
def test_features_are_a_site_that_keeps_the_laws_of_the_gate(recipe: str, name: str) -> None:
    net, of, made = network(name), data(name).rows([0, 1]), dictionary(recipe, name)
    site, before, plain = made.features(net), traces(net), output(net, of)
    assert site.n == made.width == 64
    x = net.record(of, made.site)[made.site]
    codes = made.encode(x)
    assert codes.values.shape == codes.indices.shape and codes.values.shape[:-1] == x.shape[:-1]
    assert made.decode(codes).shape == x.shape and int(codes.indices.max()) < made.width

    with net.edited(Edit(site, gate=torch.ones(made.width), over="u")):
        assert torch.equal(output(net, of), plain)
    with net.edited(Edit(site, cutaway.network.same)):
        assert torch.equal(output(net, of), plain)
    one = int(codes.indices.flatten()[codes.values.abs().argmax()])
    gate = torch.ones(made.width).index_fill(0, torch.tensor(one), 0.0)
    with net.edited(Edit(site, gate=gate, over="u")):
        without = net.record(of, made.site)[made.site]
    assert_close(without, x - (codes.values * (codes.indices == one)).sum(-1, keepdim=True) * made.W_dec[one],
                 rtol=1e-4, atol=1e-5)
    with net.edited(made.splice(net)):
        assert_close(net.record(of, made.site)[made.site], made(x))
    assert traces(net) == before


@pytest.mark.parametrize("recipe", DICTIONARIES)
def test_a_saved_dictionary_is_the_same_dictionary(recipe: str, tmp_path: Path) -> None:
    made = dictionary(recipe, "llama")
    read = Dictionary.load(made.save(tmp_path / "dictionary.safetensors"))
    x = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read(x), made(x)) and read.facts == made.facts


@pytest.mark.parametrize("recipe", DICTIONARIES)
def test_a_wrong_width_is_named(recipe: str) -> None:
    with pytest.raises(ValueError, match=f"width {D_MODEL}; found {D_MODEL + 1}"):
        dictionary(recipe, "llama").encode(torch.ones(3, D_MODEL + 1))


# --- edits ------------------------------------------------------------------------------------------------------------

def _feature(name: str) -> Any:
    made = dictionary("topk", name)
    return SimpleNamespace(dictionary=made, index=7, direction=made.W_dec[7])


# How each edit is made; a new one needs a line here.
MAKE: dict[str, Callable[[Network, str], Edit]] = {
    "zero-ablate": lambda net, name: cutaway.zero_ablate(net, SITES[name], [3, 4]),
    "mean-ablate": lambda net, name: cutaway.mean_ablate(net, SITES[name], data(name)),
    "resample-ablate": lambda net, name: cutaway.resample_ablate(net, SITES[name], data(name).rows([2, 3])),
    "steer": lambda net, name: cutaway.steer(_feature(name), 3.0),
    "clamp": lambda net, name: cutaway.clamp(_feature(name), 3.0),
}


def test_every_edit_is_in_the_matrix() -> None:
    assert sorted(MAKE) == sorted(EDITS)


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("kind", MAKE)
def test_an_edit_changes_something_and_leaves_nothing_behind(kind: str, name: str) -> None:
    net, of = network(name), data(name).rows([0, 1])
    before, plain = traces(net), output(net, of)
    edit = MAKE[kind](net, name)
    assert traces(net) == before
    with net.edited(replace(edit, gate=1.0, over="")):
        assert torch.equal(output(net, of), plain)
    with net.edited(edit):
        assert not torch.allclose(output(net, of), plain)
    with pytest.raises(Broken), net.edited(edit):
        output(net, of)
        raise Broken
    assert traces(net) == before and torch.equal(output(net, of), plain)


@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind != "resample-ablate"])  # for texts of equal length
def test_an_edit_is_the_same_with_and_without_a_cache(kind: str) -> None:
    net, prompt = network("llama"), "w5 w9 w33"
    with net.edited(MAKE[kind](net, "llama")):
        assert net.generate(prompt, 10) == net.generate(prompt, 10, cache=False)
