"""The proofs on known truth: their data at known answers, and the verdicts that figures lead to."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cutaway.dictionaries.codebook import CodebookFeatures
from cutaway.proofs import bilinear_ae, codebook, mp_sae, snmf

# --- matching pursuit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.8])
def test_the_tree_has_its_correlations_and_rates(correlation):
    world = mp_sae.tree(correlation, 1)
    rows = world.frames[:, 0]
    roots, siblings = rows[:11] @ rows[:11].T, rows[11:14] @ rows[11:14].T
    other = ~torch.eye(11, dtype=torch.bool)
    assert float(roots[other].mean()) == pytest.approx(correlation, abs=0.02)
    assert float(siblings[~torch.eye(3, dtype=torch.bool)].mean()) == pytest.approx(correlation, abs=0.02)
    on = world.sample(20_000, 0).strength > 0
    assert on[:, :11].sum(1).eq(1).all() and on[:, 11:].sum(1).max() == 1
    assert float(on.sum(1).float().mean()) == pytest.approx(1.36, abs=0.02)
    assert not (on[:, 11:14].any(1) & ~on[:, 0]).any()


# --- bilinear autoencoders ----------------------------------------------------------------------------------------------


def test_recovery_of_planes():
    world = bilinear_ae.world(0)
    true = world.frames.transpose(1, 2) @ world.frames
    found = bilinear_ae.recovery(true[torch.randperm(len(true))], world)
    assert found == pytest.approx(1, abs=1e-4)
    a, b = world.frames[:, 0], world.frames[:, 1]
    twisted = torch.einsum("md,me->mde", a, b)          # of the products of one circle: rank two, eigenvalues of both signs
    assert bilinear_ae.recovery(twisted + twisted.transpose(1, 2), world) == pytest.approx(1, abs=1e-4)
    assert bilinear_ae.recovery(bilinear_ae.rank_one(a), world) == pytest.approx(0.5, abs=1e-4)


def bilinear_rows(plane: float, order: float) -> list[dict[str, float]]:
    base = {"plane, TopK": 0.5, "plane, TopK grouped": 0.8, "plane, latents without a mix": 0.9, "recovered": plane,
            "error, ordered": 0.1, "error, plain": 0.4, "error, plain, sorted": 0.2, "order, without": 0.1}
    return [{**base, "plane": plane + 0.001 * i, "order": order} for i in range(3)]


def test_the_bilinear_verdict():
    assert bilinear_ae.concluded(bilinear_rows(0.95, -0.9), 0.1).holds is True
    assert bilinear_ae.concluded(bilinear_rows(0.6, -0.9), 0.1).holds is False
    lost = bilinear_ae.concluded(bilinear_rows(0.95, -0.2), 0.1)
    assert lost.holds is False and lost.notes[0].startswith("Likely why")


# --- codebooks ----------------------------------------------------------------------------------------------------------


def test_walks_follow_the_machine():
    known = codebook.machine(0)
    states = known.walk(50, torch.Generator().manual_seed(1))
    assert all((known.edges[a] == b).any() for row in states.tolist() for a, b in zip(row, row[1:], strict=False))
    assert torch.allclose(known.next_digit.sum(1), torch.ones(codebook.STATES))
    ids = codebook.written(states)
    assert ids.shape == (50, 1 + 2 * codebook.VISITS) and (ids[:, 0] == codebook.BEGIN).all()
    assert torch.equal(ids[:, 1::2] * 10 + ids[:, 2::2], states)


def test_f1_of_the_best_column():
    state = torch.arange(codebook.STATES).repeat(5)
    fires = F.one_hot(state, codebook.STATES).bool()[:, torch.randperm(codebook.STATES)]
    f1, column = codebook.best_f1(fires, state)
    assert (f1 == 1).all() and len(column.unique()) == codebook.STATES
    assert (codebook._own_f1(fires[:, column], state) == 1).all()
    assert (codebook._own_f1(torch.ones_like(fires), state) < 0.1).all()


def test_codebooks_learn_with_the_network(monkeypatch):
    known, net = codebook.machine(0), codebook.network(0)
    books = CodebookFeatures(net, codes=20)
    books.settle(net, {"input_ids": next(known.batches(1, 0))})
    before = {name: p.clone() for name, p in [*books.named_parameters(), *net.module.named_parameters()]}
    codebook.train(known, net, books, 1e-3, 3, 1)
    after = dict([*books.named_parameters(), *net.module.named_parameters()])
    moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
    assert any(name.startswith("books.") for name in moved) and any("mlp" in name for name in moved - set(books.state_dict()))
    monkeypatch.setattr(codebook, "EVALUATED", 8)
    monkeypatch.setattr(codebook, "FORCED", 8)
    ids, state = codebook.codes_of(net, books, known, 5)
    assert len(ids) == codebook.BLOCKS * (codebook.HEADS + 1) and all(len(found) == len(state) for found in ids.values())
    site = list(ids)[-1]
    code = codebook.best_f1(F.one_hot(ids[site], 20), state)[1]
    distances = codebook.forced(net, books, known, site, code, 3)
    assert all(0 <= distance <= 1 for distance in distances)
    assert 0 <= codebook.valid(net, books, known, 2) <= 1 and 0 <= codebook.neurons_f1(net, known, 5) <= 1


def codebook_rows(distance: float) -> list[dict[str, float]]:
    base = {"valid, no codebooks": 0.99, "f1, neurons": 0.6, "f1, own neurons": 0.6, "distinct": 0.9, "site": 0,
            "distance, another's code": 0.6}
    return [{**base, "valid": 0.97, "f1": 0.8 + 0.01 * i, "distance": distance + 0.01 * i} for i in range(3)]


def test_the_codebook_verdict():
    assert codebook.concluded(codebook_rows(0.3)).holds is True
    assert codebook.concluded(codebook_rows(0.7)).holds is False


# --- factors ------------------------------------------------------------------------------------------------------------


def test_contrast_is_the_latent_that_rises_most():
    codes = torch.rand(200, 5, generator=torch.Generator().manual_seed(0))
    there = torch.arange(200) % 4 == 0
    codes[there, 3] *= 6
    assert snmf.contrast(codes, there) == 3


def snmf_rows(ours: float) -> list[dict[str, dict[str, float]]]:
    planted = {"snmf": 0.9, "topk": 0.95, "pca": 0.5, "nmf": 0.5, "snmf keeping 5%": 0.7, "snmf keeping all": 0.4}
    steer = {"sae": 1.0, "difference": 1.2, "random": 0.1, "concepts": 8}
    return [{"steer": {**steer, "snmf": ours + 0.01 * i}, "planted": planted} for i in range(3)]


def test_the_factors_verdict():
    assert snmf.concluded(snmf_rows(2.0), "pico").holds is True
    lost = snmf.concluded(snmf_rows(0.5), "pico")
    assert lost.holds is False and "difference 1.20" in lost.notes[0]
