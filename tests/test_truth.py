"""Worlds with known features: their processes at known answers, and the judge against planted dictionaries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from cutaway.dictionaries import Dictionary, Facts, parts
from cutaway.dictionaries.truth import WORLDS, World, judge, judged, matched, stability
from cutaway.dictionaries.truth import synth as synth_module
from cutaway.dictionaries.truth.world import Firing, compensated
from cutaway.dictionaries.truth.worlds import (
    bidirectional,
    hierarchical,
    independent,
    manifolds,
    no_parents,
    power_law,
    superposed,
)


def number(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def planted(world: World, rows: Tensor, k: int | None = None) -> Dictionary:
    """A dictionary with these rows that fires for whatever their products say, or for the k largest."""
    made = Dictionary(world.d, len(rows), parts.ReLU() if k is None else parts.TopK(k), Facts())
    with torch.no_grad():
        made.W_dec.copy_(rows)
        made.W_enc.copy_(rows)
        made.b_dec.copy_(world.bias)
    return made.requires_grad_(False)


def orthogonal_world(m: int = 16, rate: float = 0.2, parents: Tensor | None = None) -> World:
    parents = no_parents(m) if parents is None else parents
    firing = Firing(torch.full((m,), rate), torch.full((m,), 2.0), torch.full((m,), 0.1), parents)
    return World("axes", torch.eye(m)[:, None], firing, torch.zeros(m), parents)


@pytest.mark.parametrize("name", [name for name in WORLDS if name not in ("toy-network", "synth-small")])
def test_a_world_is_the_sum_of_its_features(name):
    world = WORLDS[name](seed=3)
    made = world.sample(2000, 5)
    assert made.x.shape == (2000, world.d) and made.strength.shape == (2000, world.m)
    frames = world.frames
    assert_close(frames @ frames.transpose(1, 2), torch.eye(frames.shape[1]).expand(world.m, -1, -1), atol=1e-5, rtol=0)
    again = world.sample(2000, 5)
    assert torch.equal(made.x, again.x) and not torch.equal(made.x, world.sample(2000, 6).x)
    alone = made.strength.gt(0).sum(1) == 1
    if alone.any():    # a feature that is there alone is in its frame, at its strength
        x, at = made.x[alone] - world.bias, made.strength[alone].argmax(1)
        inside = torch.einsum("nd,nrd->nr", x, frames[at])
        assert_close(inside.norm(dim=1), x.norm(dim=1), atol=1e-4, rtol=1e-4)
        assert_close(inside.norm(dim=1), made.strength[alone].amax(1), atol=1e-4, rtol=1e-4)


def test_rates_are_kept():
    strength = superposed(4).sample(20_000, 0).strength
    rate = strength.gt(0).float().mean(0)
    assert float(rate.sum()) == pytest.approx(5.0, rel=0.02)
    assert float((rate - 5 / 256).abs().max()) < 0.006


def test_rates_by_rank_are_a_power_law():
    rate = power_law(exponent=1.0).sample(200_000, 0).strength.gt(0).float().mean(0)
    assert float(rate[0]) == pytest.approx(0.5, abs=0.01)          # more than half of the time would be 5 / H(256) = 0.82
    rank = torch.arange(1, 257)
    assert_close((rate * rank)[3:16], torch.full((13,), float(rate[3] * 4)), rtol=0.06, atol=0)
    assert float(rate[200:].mean() * 228) == pytest.approx(float(rate[3] * 4), rel=0.06)


def test_correlated_features_fire_together():
    fires = WORLDS["correlated"]().sample(40_000, 0).strength.gt(0).float()
    together = torch.corrcoef(fires[:, [0, 16, 32, 1, 2]].T)
    assert together[0, 1] > 0.15 and together[0, 2] > 0.15
    assert together[0, 3].abs() < 0.03 and together[0, 4].abs() < 0.03


def test_children_need_their_parent_and_exclude_each_other():
    world = hierarchical()
    there = world.sample(20_000, 0).strength > 0
    child = world.parents >= 0
    assert not (there[:, child] & ~there[:, world.parents[child]]).any()
    brood = there[:, world.parents == 3]
    assert brood.sum(1).max() == 1
    assert float(brood.any(1)[there[:, 3]].float().mean()) == pytest.approx(0.5, abs=0.03)


def test_compensation_gives_back_the_rates():
    parents = torch.tensor([-1, -1, 0, 0, 0, 1, 1, 2, 2])
    rate = torch.tensor([0.4, 0.3, 0.05, 0.06, 0.04, 0.03, 0.05, 0.01, 0.01])
    firing = Firing(compensated(rate, parents), torch.full((9,), 3.0), torch.full((9,), 0.1), parents)
    found = firing(200_000, torch.Generator().manual_seed(0)).gt(0).float().mean(0)
    assert_close(found, rate, rtol=0.12, atol=0)   # siblings are compensated for only on average, as in the public process


def test_poles_and_circles():
    world, made = bidirectional(), bidirectional().sample(5000, 0)
    along = (made.x @ world.frames[0, 0])[made.strength[:, 0] > 1.2]
    assert (along > 0.5).any() and (along < -0.5).any()
    world = manifolds()
    made = world.sample(20_000, 0)
    alone = (made.strength[:, 0] > 0) & (made.strength.gt(0).sum(1) == 1)
    angle = torch.atan2(*(made.x[alone] @ world.frames[0].T).T)
    assert torch.histc(angle, 4, -torch.pi, torch.pi).min() > 0.15 * alone.sum()


def test_the_toy_network_is_about_the_sum_of_its_features(monkeypatch):
    from cutaway.dictionaries.truth import toy
    w = number(12, 20) / 3
    monkeypatch.setattr(toy, "trained", lambda seed: (w, 0.0))
    world = toy.toy_network()
    strength = torch.zeros(world.m, world.m)
    strength.fill_diagonal_(0.7)
    assert world.write is not None
    assert_close(world.write(strength), 0.7 * world.frames[:, 0], atol=1e-5, rtol=1e-5)
    fires = world.sample(40_000, 0).strength > 0
    both = fires[:, 0] & fires[:, 1]   # the two signs of the first input
    assert fires[:, 0].any() and fires[:, 1].any() and not both.any()


def test_the_toy_network_learns(monkeypatch):
    from cutaway.dictionaries.truth import toy
    monkeypatch.setattr(toy, "STEPS", 150)
    w, left = toy.trained.__wrapped__(0, 8, 12)
    assert w.shape == (12, 8) and left < 0.9


def test_synth_process_at_small_size(monkeypatch):
    monkeypatch.setattr(synth_module, "STEPS", 20)
    world = synth_module.synth(200, 24, roots=4, depth=2, seed=0)
    assert world.parents[4] == 0 and world.parents[8] == 1 and world.parents[20] == 4 and world.parents[84] == -1
    assert (world.parents >= 0).sum() == 4 * 4 + 4 * 16
    rate = synth_module.zipf(200)
    assert float(rate[0]) == pytest.approx(0.4) and float(rate[-1]) == pytest.approx(5e-4)
    assert float(world.bias.norm()) == pytest.approx(0.5)
    made = world.sample(4000, 0)
    mean = world.strengths.mean
    child, parent = made.strength[:, 4], made.strength[:, 0]
    assert mean[0] == 5 and float(mean[-1]) == pytest.approx(4) and not (child.gt(0) & parent.eq(0)).any()
    # A child is stronger where its parent is.
    on = child > 0
    assert torch.corrcoef(torch.stack([child[on], parent[on]]))[0, 1] > 0.1


def test_the_public_process_is_at_its_published_constants(monkeypatch):
    made = []
    monkeypatch.setattr(synth_module, "synth", lambda *args, **named: made.append((args, named)))
    synth_module.synth_sae_bench()
    assert made == [((16_384, 768), {"roots": 128, "depth": 3, "seed": 42, "name": "synth-sae-bench"})]
    constants = synth_module
    assert (constants.STEPS, constants.RATE, constants.MOST, constants.LEAST, constants.EXPONENT) == (100, 3e-4, 0.4, 5e-4, 0.5)
    assert (constants.STRONG, constants.WEAK, constants.SPREAD) == (5.0, 4.0, 0.5)
    assert (constants.RANK, constants.LOADING, constants.BIAS, constants.BRANCHES) == (25, 0.1, 0.5, 4)


def test_orthogonalisation_descends():
    rows = F.normalize(number(60, 12), dim=1)
    def overlap(rows: Tensor) -> float:
        return float((rows @ rows.T).fill_diagonal_(0).pow(2).sum())
    made = synth_module.orthogonal(rows, 50)
    assert overlap(made) < overlap(rows)
    assert_close(made.norm(dim=1), torch.ones(60))
    # The gradient that is written out is the one of the loss.
    e = rows.double().requires_grad_()
    dots = e @ e.T
    own = dots.diagonal()
    loss = dots.pow(2).sum() - own.pow(2).sum() + 60 * (own - 1).pow(2).sum()
    loss.backward()
    weight = (rows @ rows.T)
    weight.diagonal().copy_(60 * (weight.diagonal() - 1))
    assert_close(4 * weight @ rows, e.grad.float(), atol=1e-3, rtol=1e-3)


def test_the_truth_itself_is_perfect():
    world = orthogonal_world()
    found = judge(planted(world, world.frames[:, 0]), world, 4000)
    assert found["cosine"] == found["recovered"] == found["precision"] == found["recall"] == found["f1"] == 1
    assert found["unique"] == found["splitting"] == 1 and found["dead"] == 0 and found["fvu"] < 1e-9
    assert found["l0"] == pytest.approx(16 * 0.2, rel=0.05)
    order = torch.randperm(16)
    assert judge(planted(world, world.frames[order, 0]), world, 4000)["f1"] == 1


def test_half_of_the_truth_and_random_rows():
    world = orthogonal_world()
    found = judge(planted(world, world.frames[:8, 0]), world, 4000)
    assert found["recovered"] == 0.5 and found["cosine"] == 1
    assert 0.3 < found["fvu"] < 0.7
    found = judge(planted(world, F.normalize(number(16, 16), dim=1)), world, 4000)
    assert found["cosine"] < 0.9 and found["recovered"] < 0.2 and found["f1"] < 0.7


def test_the_figures_of_a_case_written_by_hand():
    """Four latents along three of four features, one of which is the child of another; who fires where is written down."""
    parents = torch.tensor([-1, 0, -1, -1])
    world = orthogonal_world(4, parents=parents)
    decoder = world.frames[:, 0][[0, 1, 2, 2]]
    alone = ([1, 0, 0, 0], [1, 0, 0, 0])             # (which latents fire, which features are there)
    told, silent = ([1, 1, 0, 0], [1, 1, 0, 0]), ([0, 1, 0, 0], [1, 1, 0, 0])
    right, missed, wrong = ([0, 0, 1, 0], [0, 0, 1, 0]), ([0, 0, 0, 0], [0, 0, 1, 0]), ([0, 0, 1, 0], [0, 0, 0, 0])
    tokens = [alone] * 20 + [told] * 5 + [silent] * 15 + [right] * 5 + [missed] * 5 + [wrong] * 10
    fires, there = (torch.tensor(part, dtype=torch.bool) for part in zip(*tokens, strict=True))
    found = judged(world, decoder, [(fires[:33], there[:33]), (fires[33:], there[33:])])
    assert found.nearest.tolist() == [0, 1, 2, 2] and found.first.tolist() == [True, True, True, False]
    assert found.alive.tolist() == [True, True, True, False]
    assert (found.both / found.fired)[:3].tolist() == pytest.approx([1, 1, 1 / 3])            # precision
    assert (found.both / found.there).tolist() == pytest.approx([25 / 40, 1, 1 / 2, 0])       # recall
    assert found.f1.tolist() == pytest.approx([2 * 25 / (25 + 40), 1, 2 * 5 / (15 + 10), 0])
    assert found.lost.tolist() == pytest.approx([15 / 20])                                    # absorption, of the one parent
    assert judged(world, decoder, [(fires[1:], there[1:])]).lost.numel() == 0                 # asked about only 19 times


def test_splitting_counts_latents_of_one_feature():
    world = orthogonal_world()
    rows = torch.cat([world.frames[:, 0], world.frames[:4, 0] + 0.1 * number(4, 16)])
    found = judge(planted(world, F.normalize(rows, dim=1)), world, 2000)
    assert found["splitting"] == pytest.approx(20 / 16) and found["unique"] == pytest.approx(16 / 20)


def test_absorption_is_a_parent_that_is_silent_with_its_child():
    parents = no_parents(16)
    parents[4:8] = 0
    world = orthogonal_world(parents=parents, rate=0.3)
    rows = world.frames[:, 0].clone()
    assert judge(planted(world, rows), world, 8000)["absorption"] == 0
    made = planted(world, rows)
    made.W_enc[0] -= 2 * rows[4:8].sum(0)       # the parent's latent is held back by each child
    found = judge(made, world, 8000)
    assert found["absorption"] > 0.9 and found["recall"] < 1 and found["precision"] == 1


def test_a_manifold_is_found_by_any_direction_in_it():
    world = manifolds(m=4)
    plane = world.frames[0]
    rows = F.normalize(torch.stack([plane[0], plane[1], plane[0] + plane[1], number(64)]), dim=1)
    cosines = world.cosines(rows)
    assert_close(cosines[:3, 0], torch.ones(3), atol=1e-5, rtol=0)
    assert cosines[3, 0] < 0.5


def test_matching_and_stability():
    cosines = torch.tensor([[0.9, 0.8], [0.85, 0.1]])   # the greedy choice, 0.9 first, would leave 0.1
    pairs = matched(cosines)
    assert sorted(pairs.cosines.tolist()) == pytest.approx([0.8, 0.85])
    rows = number(12, 6)
    assert stability(rows, rows[torch.randperm(12)]) == pytest.approx(1, abs=1e-6)
    assert stability(rows, -rows, signed=True) == pytest.approx(1, abs=1e-6) and stability(rows, -rows) < 0.9
    assert stability(rows, torch.randn(12, 6)) < 0.9


def test_an_independent_world_has_one_feature_a_dimension():
    assert independent().m == independent().d
