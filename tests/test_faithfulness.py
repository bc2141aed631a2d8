"""Measures of faithfulness: what they give for attributions that are right, wrong and random."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny_llama, tiny_vit
from torch import Tensor, nn
from torch.testing import assert_close

import cutaway as cw
from cutaway.attribute.faithfulness import LOWER, MEASURES, faithfulness
from cutaway.cli import main
from cutaway.data.edges import edges
from cutaway.dictionaries import Dictionary, Facts
from cutaway.dictionaries.parts import TopK
from cutaway.metrics import faithfulness as m

UNITS = 12
ALL = torch.ones(3, UNITS, dtype=torch.bool)


def weights(rows: int = 3) -> Tensor:
    return torch.rand(rows, UNITS, generator=torch.Generator().manual_seed(1)) / UNITS


def linear(w: Tensor) -> m.Value:
    """A network whose answer is the sum of the open units' weights."""
    return lambda rows, gates: (w[rows] * gates).sum(1)


# --- the measures -------------------------------------------------------------------------------------------------------


def test_ranks_fall_with_importance_and_leave_out_what_does_not_count():
    importance = torch.tensor([[0.1, 0.9, 0.5, 7.0]])
    counts = torch.tensor([[True, True, True, False]])
    assert m.ranks(importance, counts).tolist() == [[2, 0, 1, 3]]
    assert m.top(importance, counts, 1 / 3).tolist() == [[False, True, False, False]]
    assert m.top(importance, counts, 1.0).tolist() == [[True, True, True, False]]
    assert not m.top(importance, counts, 0.0).any() and m.top(importance, counts, 0.01).sum() == 1


def test_ties_favour_no_place():
    flat = m.top(torch.zeros(1, 400), torch.ones(1, 400, dtype=torch.bool), 0.5)[0].nonzero()[:, 0].float()
    assert 150 < flat.mean() < 250


def test_curves_of_a_sum_are_its_partial_sums():
    w = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    counts = torch.ones(1, 4, dtype=torch.bool)
    assert m.deletion(linear(w), w, counts, 4).tolist() == [[10, 6, 3, 1, 0]]
    assert m.insertion(linear(w), w, counts, 4).tolist() == [[0, 4, 7, 9, 10]]
    assert m.area(torch.tensor([[10.0, 6, 3, 1, 0]])).tolist() == [3.75]


def test_units_that_do_not_count_are_never_closed():
    seen = []
    counts = ALL.clone()
    counts[:, :3] = False

    def value(rows: Tensor, gates: Tensor) -> Tensor:
        seen.append(gates)
        return gates.sum(1)
    for measure in (m.deletion, m.insertion, m.sufficiency, m.comprehensiveness, m.infidelity):
        measure(value, weights(), counts)
    assert torch.cat(seen)[:, :3].eq(1).all() and torch.cat(seen)[:, 3:].eq(0).any()


@pytest.mark.parametrize("measure", ["deletion", "insertion", "sufficiency", "comprehensiveness", "infidelity"])
def test_the_right_order_is_better_than_any_other(measure):
    w = weights()
    wrong = w.max() - w

    def score(importance: Tensor) -> Tensor:
        found = getattr(m, measure)(linear(w), importance, ALL)
        found = found[1] if isinstance(found, tuple) else found
        return m.area(found) if found.ndim == 2 else found
    sign = -1 if measure in ("deletion", "infidelity") else 1
    assert (sign * (score(w) - score(wrong)) > 0).all()


def test_sums_that_are_exact_have_no_infidelity():
    w = weights()
    exact, scaled, together = m.infidelity(linear(w), w, ALL)
    assert_close(together, torch.ones(3))
    assert_close(exact, torch.zeros(3), atol=1e-12, rtol=0)
    plain, best, _ = m.infidelity(linear(w), 5 * w, ALL)
    assert (plain > 1e-3).all() and (best < 1e-9).all() and (scaled < 1e-9).all(), "the best scale takes the factor out"
    _, nothing, none = m.infidelity(linear(w), torch.zeros_like(w), ALL)
    assert_close((nothing, none), (torch.ones(3), torch.zeros(3)))


def test_soft_measures_at_their_ends():
    """Importance 1 everywhere: all is kept where it should be kept, and all is lost where it should be lost; 0: neither."""
    w = weights()
    drawn = linear(w)          # the expected answer of elements that stay with the unit's chance
    with_all = torch.full((3, UNITS), 40.0)
    kept, lost = m.soft(linear(w), drawn, with_all, ALL, scaling="sigmoid")
    assert_close((kept, lost), (torch.ones(3), torch.ones(3)))
    kept, lost = m.soft(linear(w), drawn, -with_all, ALL, scaling="sigmoid")
    assert_close((kept, lost), (torch.zeros(3), torch.zeros(3)))
    for scaling in m.SCALINGS:
        chance = m.SCALINGS[scaling](w, ALL)
        assert (chance >= 0).all() and (chance <= 1).all(), scaling
        assert (chance.argsort(1) == w.argsort(1)).all(), scaling
    with pytest.raises(ValueError, match="no scaling 'z-score'"):
        m.soft(linear(w), drawn, w, ALL, scaling="z-score")


def test_sensitivity_is_the_largest_relative_change():
    w = torch.tensor([[3.0, 4.0]])
    assert m.sensitivity(w, [w, w + torch.tensor([[0.0, 1.0]]), w * 1.5]).tolist() == [0.5]


def test_infidelity_and_sensitivity_are_captums():
    from captum.attr import Saliency
    from captum.metrics import infidelity, sensitivity_max
    torch.manual_seed(0)
    net, x, draws = nn.Sequential(nn.Linear(UNITS, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(3, UNITS), 10
    local = torch.randn(3, UNITS)                       # importance for each step of an input; times the input, its share
    chosen = torch.rand(3, draws, UNITS, generator=torch.Generator().manual_seed(4)) < 0.5

    @torch.no_grad()
    def value(rows: Tensor, gates: Tensor) -> Tensor:
        return net(x[rows] * gates)[:, 0]

    def closing(inputs: Tensor) -> tuple[Tensor, Tensor]:
        taken = chosen.flatten(0, 1) * inputs
        return taken, inputs - taken
    theirs = infidelity(net, closing, x, local, n_perturb_samples=draws)
    assert_close(m.infidelity(value, local * x, ALL, draws=draws, seed=4)[0], theirs)
    scaled = infidelity(net, closing, x, local, n_perturb_samples=draws, normalize=True)
    fall = value(torch.arange(3), torch.ones(3, UNITS))[:, None] - m.asked(value, m.closed(chosen))
    assert_close(m.infidelity(value, local * x, ALL, draws=draws, seed=4)[1], scaled / fall.pow(2).mean(1))

    steps, explain = 0.1 * torch.randn(3, UNITS), Saliency(net)
    theirs = sensitivity_max(explain.attribute, x, lambda inputs: inputs + steps, n_perturb_samples=1, abs=False)
    plain, moved = (explain.attribute(inputs, abs=False) for inputs in (x, x + steps))
    assert_close(m.sensitivity(plain, [moved]), theirs)


def test_edges_of_images():
    x = torch.zeros(1, 2, 6, 6)
    x[:, :, :, 3:] = 1.0
    found = edges(x)
    assert found.shape == (1, 6, 6) and (found[0, :, 2:4] == 8).all() and (found[0, :, :2] == 0).all()


def test_agreement_is_the_rank_correlation_with_single_effects():
    w, counts = weights(), ALL.clone()
    counts[1, 5:] = False
    units, effect = m.effects(linear(w), counts, most=8)
    assert units.shape == (3, 8) and (units[1] >= 0).sum() == 5 and (units[0] >= 0).all()
    assert len(set(units[0].tolist())) == 8
    assert_close(effect[0], w[0][units[0]])
    assert_close(m.agreement(3 * w + 1, units, effect), torch.ones(3))
    assert_close(m.agreement(-w, units, effect), -torch.ones(3))
    assert_close(m.agreement(torch.ones_like(w), units, effect), torch.zeros(3)), "where all is one, nothing agrees"


# --- of a network -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sums() -> tuple[cw.Network, Tensor]:
    torch.manual_seed(0)
    return cw.open(nn.Sequential(nn.Linear(8, 3))), torch.randn(20, 8)


def row(found, method: str, measure: str):
    frame = found.frame
    return frame[(frame["method"] == method) & (frame["measure"] == measure)].iloc[0]


def test_a_linear_network_is_explained_exactly(sums):
    net, x = sums
    found = faithfulness(net, x, {"integrated-gradients": {"n_steps": 4}, "random": {}, "saliency": {}}, target=1)
    assert row(found, "integrated-gradients", "infidelity")["value"] < 1e-9
    assert row(found, "integrated-gradients", "correlation")["value"] == pytest.approx(1, abs=1e-5)
    assert row(found, "integrated-gradients", "correlation")["better"] and not row(found, "random", "correlation")["better"]
    assert row(found, "saliency", "sensitivity")["value"] < 1e-6 < row(found, "saliency", "sensitivity")["random"]
    assert row(found, "integrated-gradients", "deletion")["value"] < row(found, "random", "deletion")["value"]
    assert set(found.frame["method"]) == {"integrated-gradients", "random", "saliency", "size"}
    values = found.frame[["value", "low", "high", "random", "difference"]].to_numpy(float)
    assert np.isfinite(values).all() and (found.frame["n"] == 20).all()
    low, value, high = (found.frame[name].to_numpy() for name in ("low", "value", "high"))
    assert (low <= value + 1e-9).all() and (value <= high + 1e-9).all()
    assert set(found.frame.query("wants == 'less'")["measure"]) == LOWER
    text = str(found)
    assert "20 rows" in text and "than random" in text and "seed 0" in text


def test_the_same_seed_gives_the_same_figures_and_another_others(sums):
    net, x = sums
    asked = dict(methods=["saliency"], which=["soft", "infidelity"])
    first, again, other = (faithfulness(net, x[:6], **asked, seed=seed).frame for seed in (0, 0, 1))
    assert first.equals(again) and not first["random"].equals(other["random"])


@pytest.mark.parametrize("over", ["tokens", "words"])
def test_text(over):
    net = tiny_llama()
    text = ["def f1(self):", "return self.x"]
    found = faithfulness(net, text, ["input-x-gradient"], over=over, draws=2, which=list(MEASURES))
    assert set(found.frame["method"]) == {"input-x-gradient", "size"}
    assert np.isfinite(found.frame["value"]).all() and found.about["baseline"] == "mean"


def test_what_does_not_look_at_numbers_has_no_sensitivity():
    net = tiny_llama()
    asked = {"attention": {}, "reagent": {"runs": 1, "steps": 3}, "leave-one-out": {}}
    found = faithfulness(net, ["def f1(self):", "return self.x"], asked, draws=2, which=["sensitivity", "agreement"])
    assert row(found, "attention", "sensitivity")["value"] > 0
    assert found.frame.query("measure == 'sensitivity'")["method"].tolist() == ["attention", "leave-one-out", "size"]
    assert row(found, "leave-one-out", "agreement")["value"] == pytest.approx(1, abs=1e-6)


def test_features_of_a_dictionary():
    net = tiny_llama()
    made = Dictionary(net.d_model, 40, TopK(4), Facts(site="blocks.0", skip_tokens=(0,)))
    with torch.no_grad():
        made.W_enc.copy_(torch.randn(40, net.d_model, generator=torch.Generator().manual_seed(2)))
        made.W_dec.copy_(made.W_enc / 8)
    found = faithfulness(net, ["def f1(self):", "return self.x"], ["leave-one-out"], over=made, draws=2)
    assert np.isfinite(found.frame["value"]).all() and found.about["over"] == "features"
    best = row(found, "leave-one-out", "deletion")
    assert best["value"] <= row(found, "size", "deletion")["value"] + 1e-4


def test_images_have_edges_beside_and_a_picture(tmp_path):
    net = tiny_vit()
    found = faithfulness(net, torch.rand(4, 3, 8, 8), ["saliency"], over="patches", patch=2, draws=2,
                         which=["deletion", "insertion", "soft"])
    assert set(found.frame["method"]) == {"saliency", "size", "edges"}
    assert {measure for _, measure in found.curves} == {"deletion", "insertion"}
    assert ("random order", "deletion") in found.curves
    found.plot().savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="no curves"):
        replace(found, curves={}).plot()


def test_a_contrast_is_attributed_and_the_targets_probability_is_followed(sums):
    net, x = sums
    found = faithfulness(net, x, {"integrated-gradients": {"n_steps": 4}}, target=1, contrast=2,
                         which=["infidelity", "deletion"])
    assert row(found, "integrated-gradients", "infidelity")["value"] < 1e-9 and found.about["answer"] == "probability"


@pytest.mark.parametrize(("methods", "options", "said"), [
    ([], {}, "nothing to measure"), (["saliency"], {"which": ["sanity"]}, "no measure 'sanity'"),
    (["saliencies"], {}, "the nearest are saliency"), (["roar"], {}, "asks another question"),
    ({"saliency": {"steps": 3}}, {}, "no option 'steps'"), (["saliency"], {"radius": -1.0}, "radius above 0; found draws=8"),
    (["saliency"], {"draws": 0}, "at least one draw"), (["saliency"], {"target": 9}, "the network has the classes 0 to 2")])
def test_bad_input_is_named(sums, methods, options, said):
    with pytest.raises(ValueError, match=said):
        faithfulness(*sums, methods, **options)


def test_one_row_has_no_interval_and_says_so(sums):
    said = str(faithfulness(sums[0], sums[1][:1], {"saliency": {}}, which=["deletion", "infidelity"]))
    assert "nan" not in said and "one row, which decides nothing" in said and "1 row of" in said


def test_nan_is_named(sums):
    with pytest.raises(ValueError, match="NaN"):
        faithfulness(sums[0], torch.full((2, 8), torch.nan), ["saliency"])


def test_the_command(tmp_path, capsys):
    asked = ["--rows", "2", "--tokens", "12", "--draws", "2", "--methods", "integrated-gradients", "--measures", "deletion",
             "infidelity", "--set", "integrated-gradients.n_steps=4"]
    main(["faithfulness", "pico", *asked, "--out", str(tmp_path / "run")])
    assert "2 rows of pico, units closed to mean" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert "n_steps=4" in json.loads((tmp_path / "run" / "config.json").read_text())["arguments"]["set"][0]
    assert len(found["rows"]) == 8 and len(found["curves"]["deletion of integrated-gradients"]) == 17
    assert (tmp_path / "run" / "curves.png").exists()
    main(["rerun", str(tmp_path / "run")])
    again = json.loads((tmp_path / "run-again" / "figures.json").read_text())
    assert again["rows"] == found["rows"]
    with pytest.raises(SystemExit, match="--set takes METHOD.NAME=VALUE"):
        main(["faithfulness", "pico", "--set", "n_steps=4"])
    with pytest.raises(SystemExit, match="give its folder as --run"):
        main(["faithfulness", "pico", "--target", "feature:3"])
    with pytest.raises(SystemExit, match="either --text or --images"):
        main(["faithfulness", "pico", "--text", "x", "--images", "y"])
