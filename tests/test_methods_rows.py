"""Decoder rows that are held near the data, and codes that are fitted to rows without an encoder."""

from __future__ import annotations

import pytest
import torch
from test_methods import data, finished, recipe_of, rows, trained
from torch import Tensor
from torch.testing import assert_close

import cutaway as cw
from cutaway.dictionaries import Dictionary, Facts
from cutaway.dictionaries.archetypal import Archetypal, Hull, RelaxedArchetypal, centroids
from cutaway.dictionaries.omp import OMP, pursuit
from cutaway.dictionaries.truth import stability
from cutaway.train.learner import Learner


def unit(*shape: int, seed: int = 0) -> Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=-1, keepdim=True)


# --- orthogonal matching pursuit ----------------------------------------------------------------------------------------

def test_pursuit_is_least_squares_on_the_rows_it_chooses_one_by_one() -> None:
    """Written out again for each token with `lstsq`, for rows of several lengths."""
    atoms, x = unit(24, 10) * torch.linspace(0.5, 3, 24)[:, None], unit(30, 10, seed=1).double()
    values, indices = pursuit(x, atoms.double(), 4)
    directions = torch.nn.functional.normalize(atoms.double(), dim=1)
    for token, own, value in zip(x, indices.tolist(), values, strict=True):
        chosen: list[int] = []
        left = token
        for _ in range(4):
            score = (directions @ left).abs()
            score[chosen] = -1
            chosen.append(int(score.argmax()))
            fit = torch.linalg.lstsq(atoms.double()[chosen].T, token[:, None]).solution[:, 0]
            left = token - fit @ atoms.double()[chosen]
        assert own == chosen
        assert_close(value, fit)
        assert_close(atoms.double()[chosen] @ left, torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)


def test_the_error_falls_with_every_step_and_ends_at_none() -> None:
    atoms, x = unit(24, 10), unit(30, 10, seed=1)
    errors = []
    for k in range(1, 11):
        values, indices = pursuit(x, atoms, k)
        errors.append(float((torch.einsum("nk,nkd->nd", values, atoms[indices]) - x).norm()))
    assert all(b < a for a, b in zip(errors, errors[1:], strict=False)) and errors[-1] < 1e-4


def test_rows_that_add_nothing_get_nothing() -> None:
    atoms = torch.cat([unit(2, 6), unit(2, 6)])      # each twice
    values, indices = pursuit(atoms[:1] + atoms[1:2], atoms, 4)
    assert torch.isfinite(values).all() and len(set(indices[0].tolist())) == 4
    assert_close(torch.einsum("nk,nkd->nd", values, atoms[indices]), atoms[:1] + atoms[1:2], atol=1e-5, rtol=1e-5)


def test_any_dictionary_can_be_used_with_pursuit(tmp_path) -> None:
    for id in ("topk", "relu-l1", "mp-sae", "relaxed-archetypal", "crosscoder"):
        learner = trained(recipe_of(id), 60)
        made, x = finished(learner), rows(learner.recipe, 10_000, 512)
        better = OMP(made, 8)
        error, before = (float((d(x) - x).pow(2).sum()) for d in (better, made))
        assert error < before and int(better.encode(x).l0.max()) <= 8
        assert torch.equal(Dictionary.load(better.save(tmp_path / "d.safetensors"))(x), better(x))
        assert_close(better.encode(x[:1]).dense(made.width), better.encode(x).dense(made.width)[:1], atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="reads a and writes b"):
        OMP(cw.dictionaries.transcoder.Transcoder(4, 8, facts=Facts(site="a"), target="b"), 2)
    with pytest.raises(ValueError, match="between 1 and the width 128; found 129"):
        OMP(made, 129)


# --- archetypal ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("recipe", [Archetypal(96, 8, points=64), RelaxedArchetypal(96, 8, points=64, delta=0.3)],
                         ids=lambda recipe: recipe.name)
def test_rows_are_mixtures_of_points_of_the_data(recipe: cw.dictionaries.Recipe) -> None:
    learner = trained(recipe, 100)
    hull = learner.dictionary
    assert isinstance(hull, Hull)
    start = Learner(recipe, data(0, 4096), 100, 256, 0).dictionary
    assert torch.equal(hull.points, start.points) and not torch.equal(hull.mix, start.mix)
    assert (hull.mix >= 0).all()
    assert_close(hull.mix.sum(1), torch.ones(96), atol=1e-5, rtol=0)
    made_of = hull.mix @ hull.points
    if recipe.name == "archetypal":
        assert hull.deviation is None
    else:
        size = hull.deviation.norm(dim=1)
        assert 0 < size.max() <= 0.3 * hull.points.norm(dim=1).mean() * 1.0001
        made_of = made_of + hull.deviation
    made = finished(learner)
    assert type(made) is Dictionary
    assert_close(made.W_dec, torch.nn.functional.normalize(made_of.detach(), dim=1))
    x = data(3)
    assert_close(made(x), learner.scale * hull(x / learner.scale).detach(), atol=1e-4, rtol=1e-4)


def test_archetypes_are_more_alike_over_seeds_than_topk() -> None:
    def made(id: str, seed: int) -> Tensor:
        recipe = recipe_of(id)
        learner = Learner(recipe, data(0, 4096), 150, 256, seed)
        while not learner.done:
            learner.step(data(1 + 1000 * seed + learner.step_count))
        return finished(learner).W_dec
    alike = {id: stability(made(id, 0), made(id, 1)) for id in ("topk", "archetypal")}
    assert alike["archetypal"] > alike["topk"], alike


def test_centroids_are_means_of_what_is_nearest() -> None:
    x = torch.cat([unit(50, 6) * 0.05 + center for center in 3 * unit(8, 6, seed=2)])
    found = centroids(x, 8, torch.Generator().manual_seed(0))
    nearest = torch.cdist(x, found).argmin(1)
    for i in nearest.unique():
        assert_close(found[i], x[nearest == i].mean(0), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="401 points are more than the 400"):
        centroids(x, 401, torch.Generator())
    with pytest.raises(ValueError, match="delta is above 0"):
        RelaxedArchetypal(8, 2, delta=0)
