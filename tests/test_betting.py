"""Tests by betting: their level, their power, and which concepts they find."""

from __future__ import annotations

import numpy as np
import pytest

from cutaway.attribute.concept_betting import concept_betting, concept_betting_at
from cutaway.attribute.independence import Seen, c_skit, fitted, skit, x_skit
from cutaway.metrics.betting import crossing, discoveries, e_bh, wealth


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- wealth -------------------------------------------------------------------------------------------------------------


def test_wealth_is_a_bet_at_even_odds():
    payoffs = random().standard_normal((200, 2000))
    grown = wealth(payoffs)
    assert grown.shape == (2000, 200) and (grown > 0).all()
    assert grown[:, 0].tolist() == [1.0] * 2000, "nothing is bet before the first payoff is seen"
    assert grown[:, 20].mean() == pytest.approx(1, abs=0.1)
    assert (grown.max(1) > 20).mean() < 0.05, "wealth of 20 at any time has a chance of at most one in 20"


def test_wealth_grows_where_payoffs_lean():
    leaning = wealth(0.5 + random().standard_normal((200, 100)))
    assert (leaning[:, -1] > 20).mean() > 0.95
    assert (wealth(-0.5 + random().standard_normal((200, 100))) < 20).all(), "nobody bets on the other side"
    assert np.array_equal(wealth(7 * np.ones((9, 2)))[:, -1], wealth(7 * np.ones((9, 1)))[[0, 0], -1])


def test_crossings_and_discoveries():
    grown = np.array([[1.0, 50, 90, 90], [1, 1, 25, 41], [1, 2, 3, 26], [1, 1, 1, 1]])
    assert crossing(grown, 20).tolist() == [2, 3, 4, np.inf]
    assert discoveries(grown, 0.05).tolist() == [3, 4, np.inf, np.inf], "levels of 80, 40 and 26.7 for four tests"
    assert np.isinf(discoveries(np.ones((3, 5)), 0.05)).all()
    with pytest.raises(ValueError, match="at least one payoff"):
        wealth([])


def test_e_values_with_false_discovery_control():
    assert e_bh(np.array([100.0, 30.0, 1.0, 0.1])).tolist() == [True, False, False, False]
    assert e_bh(np.array([41.0, 0.1, 100.0, 1.0])).tolist() == [True, False, True, False]
    assert not e_bh(np.ones(3)).any()


# --- tests of independence ----------------------------------------------------------------------------------------------


def pairs(correlation: float, tests: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    z, noise = random(1).standard_normal((2, tests, n))
    return correlation * z + (1 - correlation**2) ** 0.5 * noise, z[..., None]


@pytest.mark.parametrize(("correlation", "least", "most"), [(0.0, 0.0, 0.05), (0.6, 0.95, 1.0)])
def test_skit_finds_dependence_and_nothing_else(correlation, least, most):
    y, z = pairs(correlation, 100, 302)
    assert least <= np.isfinite(crossing(wealth(skit(y, z, 0)), 20)).mean() <= most


def test_skit_sees_what_correlation_does_not():
    _, z = pairs(0.0, 60, 402)
    assert np.isfinite(crossing(wealth(skit(z[..., 0] ** 2, z, 0)), 20)).mean() > 0.9


def copied(tests: tuple[int, ...], seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """An output of concept 0, and concept 1 a noisy copy of it."""
    z, noise, copy = random(seed).standard_normal((3, *tests))
    return z + 0.5 * noise, np.stack([z, z + copy], -1)


def law(others, j, generator):
    noise = generator.standard_normal(len(others))
    return others[:, 0] / 2 + noise * 0.5**0.5 if j == 0 else others[:, 0] + noise


@pytest.mark.parametrize("sampler", [law, fitted(copied((800,), 3)[1])], ids=["known law", "fitted"])
def test_a_copy_is_dependent_but_not_given_what_it_copies(sampler):
    y, z = copied((80, 251))
    rejected = [np.isfinite(crossing(wealth(c_skit(y, z, j, sampler, random(5))), 20)).mean() for j in (0, 1)]
    assert rejected[0] > 0.9 and rejected[1] <= 0.08
    assert np.isfinite(crossing(wealth(skit(y, z, 1)), 20)).mean() > 0.9


def test_the_fitted_sampler_draws_from_the_conditional_law():
    z = copied((1500,), 4)[1]
    given = np.full((4000, 1), 1.5)
    drawn = fitted(z)(given, 0, random())
    assert drawn.mean() == pytest.approx(0.75, abs=0.08) and drawn.std() == pytest.approx(0.5**0.5, abs=0.06)


def test_local_tests_compare_two_laws():
    a, b, c = random().standard_normal((3, 60, 200))
    assert np.isfinite(crossing(x_skit(a, b), 20)).mean() <= 0.06
    assert np.isfinite(crossing(x_skit(a, c + 1), 20)).mean() > 0.95


def test_the_kernel_follows_the_scale_of_what_it_saw():
    points = random().standard_normal((3, 50, 1))
    small, large = (Seen(scale * points) for scale in (0.01, 100.0))
    assert np.allclose(small(0.01 * points[:, 0]), large(100 * points[:, 0]))
    same = Seen(np.ones((2, 5, 1)))
    assert (same(np.ones((2, 1))) == 1).all(), "points that are all the same have a width of one"


# --- concepts -----------------------------------------------------------------------------------------------------------


def test_concepts_are_ranked_and_discovered():
    y, z = copied((1600,), 6)
    z = np.concatenate([z, random(7).standard_normal((1600, 1))], -1)
    names = ["used", "copy", "noise"]
    found = concept_betting(y, z, names, steps=400, repeats=8)
    frame = found.frame.set_index("concept")
    assert found.frame["concept"][0] == "used" and frame.loc["used", "discovered"] == 1
    assert (frame.loc[["copy", "noise"], "discovered"] == 0).all()
    assert "c-skit, level 0.05, 400 steps, 8 orders of 1600 rows" in str(found)
    plain = concept_betting(y, z, names, test="skit", steps=200, repeats=8).frame.set_index("concept")
    assert plain.loc["copy", "rejected"] == 1 and plain.loc["noise", "rejected"] == 0
    first, again = (concept_betting(y, z, names, steps=50, repeats=3).frame for _ in range(2))
    assert first.equals(again)


@pytest.mark.parametrize(("change", "said"), [
    (dict(test="t-test"), "no test 't-test'"), (dict(y=np.zeros(60)), "the output is the same"),
    (dict(concepts=np.ones((60, 2))), "concept 0 is the same"), (dict(y=np.full(60, np.nan)), "NaN"),
    (dict(concepts=np.random.default_rng(0).random((60, 1))), "test='skit'"), (dict(alpha=1.5), "between 0 and 1"),
    (dict(steps=100), "Give more rows, or steps=29"), (dict(names=["a"]), "1 names"), (dict(y=np.zeros((5, 2))), r"\[5, 2\]")])
def test_bad_input_is_named(change, said):
    y, z = copied((60,))
    options = {"y": y, "concepts": z, "steps": 20, **change}
    with pytest.raises(ValueError, match=said):
        concept_betting(options.pop("y"), options.pop("concepts"), options.pop("names", None), **options)


def test_what_moves_the_output_of_one_row():
    z = random(3).standard_normal((3000, 3))
    y = 2 * z[:, 0] + 0.3 * random(4).standard_normal(3000)
    row = int(np.abs(z - [2.0, 2.0, 0.0]).sum(1).argmin())
    found = concept_betting_at(y, z, row, ["moves", "far", "plain"], repeats=10)
    frame = found.frame.set_index("concept")
    assert frame.loc["moves", "rejected"] == 1 and (frame.loc[["far", "plain"], "rejected"] <= 0.2).all()
    assert f"x-skit at row {row}" in str(found) and found.frame["concept"][0] == "moves"
    with pytest.raises(ValueError, match="row is 0 to 2999 and at most 2"):
        concept_betting_at(y, z, 3000)
