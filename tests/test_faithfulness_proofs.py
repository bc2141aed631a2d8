"""The parts that the proofs about attributions are made of, and what they conclude."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cutaway.attribute.roar import EDGES, INTENSITY, RANDOM, Roar
from cutaway.attribute.robust_explain import FIGURES, Explained
from cutaway.proofs import concept_betting, layer_masking, mmel, roar, robust_explain
from cutaway.proofs.digit_scenes import scenes, split


@pytest.fixture(scope="module")
def parts():
    return split(0)


def bumps(value: float, size: float = 0.001) -> list[float]:
    return [value - size, value, value + 2 * size]


# --- canvases -----------------------------------------------------------------------------------------------------------


def test_splits_are_apart_and_canvases_say_where_things_are(parts):
    sizes = [len(y) for _, y in (parts.train, parts.validation, parts.test)]
    assert sizes == [1100, 200, 497] and torch.equal(split(0).test[1], parts.test[1])
    assert not torch.equal(split(1).test[1], parts.test[1])
    made = scenes(*parts.test, 40, 0)
    assert made.x.shape == (40, 1, 16, 16) and (made.other == -1).all() and not (made.place & made.other_place).any()
    assert (made.place.flatten(1).sum(1) == 64).all() and (made.x[:, 0][~(made.place | made.other_place)] == 0).all()
    digits = made.x[:, 0][made.place].view(40, 64)
    for thing, y in zip(digits, made.y, strict=True):
        assert (parts.test[0][parts.test[1] == y].flatten(1) == thing).all(1).any()
    pairs = scenes(*parts.test, 40, 0, pairs=True)
    assert (pairs.y != pairs.other).all() and len(pairs.take(5).y) == 5


# --- roar ---------------------------------------------------------------------------------------------------------------


def accuracies(of: dict[str, float], masks: float) -> list[Roar]:
    ways = [RANDOM, *roar.METHODS, EDGES, INTENSITY]
    made = []
    for seed, bump in enumerate((-0.01, 0.0, 0.012)):
        accuracy = np.array([[[of.get(way, 0.7) + (0 if way == RANDOM else bump)]] * len(roar.SHARES) for way in ways])
        made.append(Roar(ways, roar.SHARES, (seed,), accuracy, np.full(accuracy.shape, masks), accuracy, np.array([0.97]),
                         {"train": 1, "test": 1}))
    return made


@pytest.mark.parametrize(("of", "holds"), [
    ({"saliency": 0.9, "integrated-gradients": 0.9, "vargrad": 0.5, "smoothgrad-squared": 0.5}, True),
    ({"saliency": 0.9, "integrated-gradients": 0.9, "vargrad": 0.9, "smoothgrad-squared": 0.5}, False),
    ({"saliency": 0.5, "integrated-gradients": 0.9, "vargrad": 0.5, "smoothgrad-squared": 0.5}, False)])
def test_what_the_roar_proof_concludes(of, holds):
    found = roar.concluded(accuracies(of, 0.3))
    assert found.holds is holds and json.dumps(found.json(), allow_nan=False)


# --- robust-explain -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "other_gain", "holds"), [(0.2, 0.0, True), (-0.2, 0.0, False), (0.2, 0.3, False)])
def test_what_the_robust_explain_proof_concludes(gain, other_gain, holds):
    made = []
    for bump in (-0.01, 0.0, 0.012):
        values = {}
        for way in (*robust_explain.GRADIENTS, *robust_explain.OTHERS, "random"):
            rise = gain if way in robust_explain.GRADIENTS else other_gain
            for net in (robust_explain.USUAL, robust_explain.ROBUST):
                level = 0.4 + (rise + bump if net == robust_explain.ROBUST else 0)
                values.update({(net, way, figure): np.full(5, level) for figure in FIGURES})
        made.append((Explained(None, values, {}, {}, 5, 0), {"as usual": 0.9}))  # type: ignore[arg-type]
    found = robust_explain.concluded(made)
    assert found.holds is holds and json.dumps(found.json(), allow_nan=False)


# --- layer masking ------------------------------------------------------------------------------------------------------


def test_ways_of_removing_and_blocks(parts):
    x = parts.test[0][:6]
    keep = layer_masking.blocks(6, 8, 0.5, np.random.default_rng(0))
    assert keep.shape == (6, 8, 8) and keep.mean((1, 2)).tolist() == [0.5] * 6
    ways = layer_masking.ways(parts.train[0])
    gone = keep[:, None] == 0
    assert (ways["grey"](x, keep)[gone] == 0.5).all() and (ways["black"](x, keep)[gone] == 0).all()
    for name in ("black", "grey", "mean of each pixel"):
        assert torch.equal(ways[name](x, keep)[~gone], x[~gone])


@pytest.mark.parametrize(("ours", "holds"), [(0.1, True), (0.6, False)])
def test_what_the_layer_masking_proof_concludes(ours, holds):
    def figures(level: float) -> dict[str, float]:
        better = dict.fromkeys(("pointing", "accuracy", "entropy of classes", "mass"), 1 - level)
        return better | dict.fromkeys(("shape leak", "commonest class"), level)
    others = ("black", "grey", "mean of each pixel")
    found = [{layer_masking.OURS: figures(ours + bump), **{name: figures(0.5) for name in others}} for bump in bumps(0.0)]
    assert layer_masking.concluded(found).holds is holds


# --- mmel ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "holds"), [(0.6, True), (0.3, False)])
def test_what_the_mmel_proof_concludes(ours, holds):
    ways = (mmel.OURS, mmel.LAST, "last layer, several scales", "layer 0, one scale", "layer 1, one scale")
    found = [({way: dict.fromkeys(("mass", "pointing", "localisation"), (ours if way == mmel.OURS else 0.45) + bump * i)
               for i, way in enumerate(ways)}, {"canvases explained": 9}) for bump in bumps(0.0)]
    assert mmel.concluded(found).holds is holds


# --- concept betting ----------------------------------------------------------------------------------------------------


def test_the_known_law_of_concepts_is_the_world_s():
    """A concept that is drawn given the others stands to them as the real one does."""
    random = np.random.default_rng(0)
    y, z = concept_betting.world((20_000,), random)
    assert y.mean() == pytest.approx(0, abs=0.03) and z.shape == (20_000, 6)
    covariance = np.cov(z.T)
    for j in range(6):
        drawn = z.copy()
        drawn[:, j] = concept_betting.exact(np.delete(z, j, 1), j, random)
        assert np.abs(np.cov(drawn.T) - covariance).max() < 0.06, concept_betting.NAMES[j]


def rows(rank: float, nulls: float, early: float) -> dict:
    times = {name: early if name in concept_betting.STRENGTHS else 1.0 for name in concept_betting.NAMES}
    test = {"rank": rank, "nulls rejected": nulls, "false discoveries": nulls, "copies rejected": nulls, "time": times,
            "rejected": dict.fromkeys(concept_betting.NAMES, nulls), "discovered": 1.0}
    return {"c-skit": test, "c-skit, fitted sampler": test, "skit": {**test, "copies rejected": 1.0},
            "correlation": {"rank": 0.3}}


@pytest.mark.parametrize(("rank", "nulls", "early", "holds"), [
    (0.95, 0.01, 0.3, True), (0.1, 0.01, 0.3, False), (0.95, 0.2, 0.3, False), (0.95, 0.01, 1.0, False)])
def test_what_the_concept_betting_proof_concludes(rank, nulls, early, holds):
    found = concept_betting.concluded([rows(rank + bump, nulls + bump, early) for bump in bumps(0.0)])
    assert found.holds is holds and json.dumps(found.json(), allow_nan=False)
