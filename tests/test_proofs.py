"""Proofs: how they are run, kept and shown, and the parts that the first of them are made of."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from math import isnan, nan

import numpy as np
import pytest
import torch
from helpers import PLAIN, tiny_llama
from rich.console import Console
from torch.testing import assert_close

import cutaway as cw
from cutaway import catalogue
from cutaway.catalogue import proof, proofs
from cutaway.dictionaries import Facts
from cutaway.proofs import Proof, compare, k_sparse, prove, read, scores, table, topk
from cutaway.proofs.proof import interval, plain

BETTER = compare("new", "old", "error", [1.0, 1.1, 0.9], [2.0, 2.2, 1.9])
WORSE = compare("new", "old", "error", [2.0, 2.2, 1.9], [1.0, 1.1, 0.9])
UNCLEAR = compare("new", "old", "error", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0])


@pytest.fixture
def registers(monkeypatch):
    proofs()
    monkeypatch.setattr(catalogue, "_proofs", {})


def shown(folder) -> str:
    console = Console(file=io.StringIO(), width=160, highlight=False)
    table(folder, console)
    return console.file.getvalue()


# --- comparisons --------------------------------------------------------------------------------------------------------


def test_the_interval_of_known_numbers():
    low, high = interval([-1.0, -2.0, -3.0])  # sd 1, and t is 4.3027 for two degrees of freedom
    assert (low, high) == pytest.approx((-2 - 4.302653 / 3**0.5, -2 + 4.302653 / 3**0.5), abs=1e-5)
    assert UNCLEAR.difference == -2 and UNCLEAR.effect == pytest.approx(-2) and (UNCLEAR.low, UNCLEAR.high) == (low, high)
    assert all(map(isnan, interval([1.0])))


def test_the_interval_covers_the_truth_19_times_in_20():
    drawn = np.random.default_rng(0).normal(0.3, 1.0, (2000, 4))
    covered = np.mean([low <= 0.3 <= high for low, high in map(interval, drawn)])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_a_comparison_holds_only_on_the_better_side():
    assert (BETTER.holds, WORSE.holds, UNCLEAR.holds) == (True, False, None)
    assert replace(BETTER, better="higher").holds is False and replace(WORSE, better="higher").holds is True
    assert compare("a", "b", "x", [1.0], [2.0]).holds is None, "one seed decides nothing"
    same = compare("a", "b", "x", [1.0, 1.0], [1.0, 1.0])
    assert same.holds is None and isnan(same.effect)
    assert compare("a", "b", "x", [1.0, 2.0], [2.0, 3.0]).holds is True, "a difference without spread is decided"


@pytest.mark.parametrize(("ours", "theirs", "better", "said"), [
    ([1.0, 2.0], [1.0], "lower", "found 2 and 1"), ([], [], "lower", "found 0 and 0"),
    ([1.0], [1.0], "less", "found 'less'"), ([1.0, nan], [1.0, 2.0], "lower", "not a number")])
def test_figures_that_are_no_pairs_are_refused(ours, theirs, better, said):
    with pytest.raises(ValueError, match=said):
        compare("a", "b", "x", ours, theirs, better)


@pytest.mark.parametrize(("parts", "checks", "holds"), [
    ([BETTER], {}, True), ([BETTER, WORSE], {}, False), ([BETTER, UNCLEAR], {}, None), ([WORSE, UNCLEAR], {}, False),
    ([BETTER], {"few": False}, False), ([UNCLEAR], {"few": True}, None), ([], {"few": True}, True)])
def test_a_proof_is_as_good_as_its_weakest_part(parts, checks, holds):
    assert Proof("x", "X.", tuple(parts), checks, beside=(WORSE,)).holds is holds


def test_a_proof_of_nothing_is_refused():
    with pytest.raises(ValueError, match="rests on nothing"):
        Proof("x", "X.", ()).holds  # noqa: B018


# --- running and keeping ------------------------------------------------------------------------------------------------


def test_proofs_are_run_kept_and_shown(registers, tmp_path, capsys):
    @proof("good")
    def good() -> Proof:
        return Proof("good", "New errs less than old.", (BETTER,), seeds=(0, 1, 2), notes=("small",), n={"rows": 7},
                     figures={"deep": {"array": np.array([1.0, nan]), "pair": (1, 2)}}, beside=(UNCLEAR,))

    @proof("bad")
    def bad() -> Proof:
        return Proof("bad", "Old [b]errs[/b] less than new.", (WORSE,), {"is small": True}, seeds=(0, 1, 2))

    @proof("broken")
    def broken() -> Proof:
        raise RuntimeError("the data is gone")

    found = prove([], tmp_path)
    said = capsys.readouterr().err
    assert list(found) == ["bad", "broken", "good"], "the others go on after an error"
    assert isinstance(found["broken"], RuntimeError) and "broken could not be run: RuntimeError: the data is gone" in said
    assert "good holds" in said and "bad does not hold" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "good.json"]

    kept = read(tmp_path)
    assert kept["good"].holds is True and kept["bad"].holds is False
    assert kept["good"].comparisons == (BETTER,) and kept["good"].beside == (UNCLEAR,)
    assert kept["good"].figures == {"deep": {"array": [1.0, None], "pair": [1, 2]}}
    assert kept["good"].command == "cutaway prove good" and kept["good"].seconds > 0
    assert kept["good"].versions["torch"] == torch.__version__ and kept["good"].seeds == (0, 1, 2)
    text = (tmp_path / "good.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["holds"] is True, "the file is JSON as the standard has it"

    printed = " ".join(shown(tmp_path).split())
    assert "New errs less" in printed and "does not hold" in printed and "[b]" in printed
    assert "-1.03" in printed and "met: is small" in printed


def test_a_proof_that_breaks_leaves_its_kept_result(registers, tmp_path):
    proof("one")(lambda: Proof("one", "One.", (BETTER,)))
    prove("one", tmp_path)
    before = (tmp_path / "one.json").read_bytes()

    def gone() -> Proof:
        raise ValueError("no")
    proof("one")(gone)
    assert isinstance(prove(["one"], tmp_path)["one"], ValueError)
    assert (tmp_path / "one.json").read_bytes() == before


def test_an_unknown_proof_names_the_nearest_and_runs_nothing(registers, tmp_path):
    ran = []
    proof("topk")(lambda: ran.append(1))
    with pytest.raises(ValueError, match="no proof called 'top-k'; the nearest are topk"):
        prove(["topk", "top-k"], tmp_path)
    assert not ran


def test_a_folder_without_proofs_says_so(tmp_path):
    assert "no proofs are kept" in shown(tmp_path) and "no proofs are kept" in shown(tmp_path / "nowhere")


def test_a_file_that_is_no_proof_is_named(tmp_path):
    for text in ("{", "{}", "[]"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json is not a kept proof"):
            read(tmp_path)


def test_plain_values():
    assert plain({1: (np.float32(0.5), float("inf"), True, None, "a")}) == {"1": [0.5, None, True, None, "a"]}


# --- topk ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def activations() -> topk.Activations:
    torch.manual_seed(0)
    rows = torch.randn(64, 16)
    x = torch.zeros(6144, 64).scatter(1, torch.rand(6144, 64).topk(3).indices, 1 + torch.rand(6144, 3)) @ rows
    return topk.Activations(x[:4096], x[4096:5120], x[5120:].chunk(3))


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(topk, "TRAIN", 3072)
    monkeypatch.setattr(topk, "BATCH", 64)


def test_training_on_activations_in_memory(activations, short):
    recipe = cw.TopK(64, 4, lr=0.01)
    _, made = topk.straight(recipe, activations, 0)
    found, start = (topk.fidelity(d, activations.validation) for d in (
        made, topk.train(replace(recipe, lr=1e-9), activations.train, 0).export(Facts())))
    assert found["fvu"] < 0.75 * start["fvu"] and found["l0"] <= 4 and found["dead"] < 0.5
    assert_close(topk.straight(recipe, activations, 0)[1].W_dec, made.W_dec, rtol=0, atol=0)
    assert not torch.equal(topk.straight(recipe, activations, 1)[1].W_dec, made.W_dec)
    x = activations.validation
    fvu = (made(x) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert found["fvu"] == pytest.approx(float(fvu), rel=1e-4)


def test_an_untied_start(activations, short):
    tied, apart = (topk.train(cw.TopK(64, 4, lr=1e-9), activations.train, 0, begin).dictionary for begin in (None, topk.untied))
    assert_close(tied.W_dec, apart.W_dec)
    assert torch.cosine_similarity(tied.W_enc, tied.W_dec).min() > 0.99
    assert torch.cosine_similarity(apart.W_enc, apart.W_dec).mean().abs() < 0.2 and apart.W_enc.abs().max() <= 0.25


def test_l0_is_brought_to_what_is_wanted(activations, short, monkeypatch):
    monkeypatch.setattr(topk, "BATCH", 16)      # steering needs some steps
    start = cw.ReLU(64, l1=0.3, lr=0.02, l0=8.0)
    recipe, made = topk.matched(start, activations, 0, 8.0)
    assert topk.fidelity(made, activations.validation)["l0"] == pytest.approx(8.0, rel=topk.CLOSE)
    unsteered = topk.straight(replace(start, l0=None), activations, 0)[1]
    assert topk.fidelity(unsteered, activations.validation)["l0"] != pytest.approx(8.0, rel=2 * topk.CLOSE)
    assert recipe.losses[1].coefficient > 0.3


def test_the_best_learning_rate_is_passed_by_one_step(activations):
    tried = []

    def learn(recipe, x, seed):
        tried.append(recipe.rate)
        quality = {1: 0.3, 2: 0.2, 4: 0.1, 8: 0.4}[round(recipe.rate / tried[0])]
        dictionary = recipe.build(x.train, torch.Generator().manual_seed(0))
        with torch.no_grad():  # reconstruct the mean plus noise: FVU is 1 + noise
            dictionary.W_dec.zero_()
            dictionary.b_dec.copy_(x.validation.mean(0) + quality)
        return recipe, dictionary
    recipe, _ = topk.tuned(cw.TopK(64, 4, lr=0.02), learn, activations)
    assert tried == pytest.approx([0.02, 0.04, 0.08, 0.16]) and recipe.rate == pytest.approx(0.08)


def test_the_law_finds_a_law_and_not_what_is_none():
    true = {(n, k): float(np.exp(-0.5 - 0.1 * np.log(k) - 0.05 * np.log(n) - 0.03 * np.log(k) * np.log(n)))
            for n in topk.WIDTHS for k in topk.KS}
    found = topk.law(true)
    assert found["coefficients"] == pytest.approx({"a": -0.5, "k": -0.1, "n": -0.05, "kn": -0.03})
    assert found["r2_held_out"] == pytest.approx(1) and max(found["relative_error"].values()) < 1e-9
    assert topk.falls(true)
    changed = {point: 2 * fvu if point[0] == max(topk.WIDTHS) else fvu for point, fvu in true.items()}
    found = topk.law(changed)
    assert found["coefficients"]["n"] == pytest.approx(-0.05), "the largest width is not fitted"
    assert min(found["relative_error"].values()) == pytest.approx(0.5) and not topk.falls(changed)


@pytest.mark.parametrize(("relu", "l0", "dead", "holds"), [
    (0.3, 32.0, 0.01, True), (0.1, 32.0, 0.01, False), (0.3, 40.0, 0.01, False), (0.3, 32.0, 0.2, False)])
def test_what_the_topk_proof_concludes(activations, relu, l0, dead, holds):
    def rows(fvu, l0, dead):
        return [{"fvu": fvu + 0.001 * i, "l0": l0, "dead": dead + 0.0001 * i * i} for i in range(3)]
    grid = {(n, k): n ** -0.1 * k ** -0.2 for n in topk.WIDTHS for k in topk.KS}
    found = topk.concluded({"topk": rows(0.2, 32.0, dead), "relu": [{**r, "fvu": relu + 0.002 * i} for i, r in
                            enumerate(rows(relu, l0, 0.0))], "plain": [{**r, "dead": 0.5 + 0.01 * i} for i, r in
                            enumerate(rows(0.2, 32.0, 0.5))]}, grid, {}, activations, "test")
    assert found.holds is holds and json.dumps(found.json(), allow_nan=False)


# --- k-sparse -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split() -> k_sparse.Split:
    return k_sparse.splits()[0]


def test_every_digit_is_test_once():
    parts = k_sparse.splits()
    assert len(parts) == 5 and sum(len(part.test[1]) for part in parts) == 1797
    for part in parts:
        assert len(part.train[1]) + len(part.validation[1]) + len(part.test[1]) == 1797
        assert part.train[0].mean(0).abs().max() < 1e-5, "the mean is that of the training images"
        assert float(part.train[0].var(0).mean() + part.train[0].mean(0).var()) < 1.5
        rows = {tuple(row) for row in part.train[0].tolist()}
        assert not rows & {tuple(row) for row in part.test[0].tolist()}, "no test image is a training image"


def test_k_sparse_codes_at_the_test_time(split):
    at = k_sparse.k_sparse(split.train[0][:300], 0, k_sparse.Choice(16, 4e-3, 4))
    x = split.test[0][:50]
    narrow, wide = at(1.0)(x), at(1.5)(x)
    assert narrow.shape == (50, k_sparse.WIDTH) and (narrow != 0).sum(1).eq(16).all() and (wide != 0).sum(1).eq(24).all()
    assert_close(wide[narrow != 0], narrow[narrow != 0]), "more units are kept, and the same stay"


def test_without_noise_the_baselines_are_one_autoencoder(split):
    x, choice = split.train[0][:300], k_sparse.Choice(0.0, 4e-3, 6)
    plain_, dropped = (method(x, 0, choice)(split.test[0]) for method in (k_sparse.denoising, k_sparse.dropout))
    assert_close(plain_, dropped, rtol=0, atol=0)
    assert (plain_ >= 0).all() and plain_.shape == (len(split.test[1]), k_sparse.WIDTH)
    for method in (k_sparse.denoising, k_sparse.dropout):
        assert not torch.equal(method(x, 0, replace(choice, knob=0.3))(split.test[0]), plain_)


def test_the_classifier_reads_codes(split):
    validation, test = k_sparse.classify(lambda x: x, split)
    assert 0.9 < test < 1 and 0.9 < validation < 1
    noise = torch.Generator().manual_seed(0)
    assert k_sparse.classify(lambda x: torch.rand(len(x), 8, generator=noise), split)[1] < 0.3


def test_the_search_chooses_by_validation_and_epochs_last():
    made = []

    def train(choice):
        made.append(choice)
        return choice

    def judge(choice):
        return choice.knob - choice.lr + (choice.epochs == more), -choice.knob
    more = k_sparse.MORE_EPOCHS
    best, model = k_sparse.search(train, judge, (1, 3, 2))
    assert best is model and best == k_sparse.Choice(3, min(k_sparse.RATES), more) and len(made) == 5
    more = 0
    assert k_sparse.search(train, judge, (1, 3, 2))[0].epochs == k_sparse.EPOCHS, "more is not taken where it is no better"


@pytest.mark.parametrize(("dropout", "holds"), [(0.95, True), (0.99, False)])
def test_what_the_k_sparse_proof_concludes(dropout, holds):
    rows = [{"raw pixels": {"accuracy": 0.9 + e}, "k-sparse": {"accuracy": 0.97 + 2 * e}, "denoising": {"accuracy": 0.94},
             "dropout": {"accuracy": dropout + e}} for e in (0.0, 0.001, 0.002, 0.001, 0.0)]
    assert k_sparse.concluded(rows).holds is holds


# --- scores -------------------------------------------------------------------------------------------------------------


def test_slices_are_disjoint():
    data = cw.corpus([PLAIN], tiny_llama())
    parts = scores.slices(data, 10 * data.row_tokens, 3)
    numbers = np.concatenate([part.index for part in parts])
    assert [part.n_rows for part in parts] == [10, 10, 10] and len(set(numbers)) == 30
    assert len({part.fingerprint for part in parts}) == 3
    with pytest.raises(ValueError, match="less than 3 parts"):
        scores.slices(data, data.n_tokens, 3)


def test_agreements_of_a_tiny_network(monkeypatch):
    monkeypatch.setattr(scores, "PATH", 62)
    net = tiny_llama()
    first, second = scores.slices(cw.corpus([PLAIN], net), 124, 2)
    row = scores.Row(cw.units(net, "neurons", sites="blocks.1.mlp.neurons"), scores.CHEAP, path=True)
    found = scores.agreements(row, first, second, seed=0, n=12)
    other, same = found[scores.OTHER], found[scores.SAME]
    assert set(other) == {*scores.CHEAP, "path"} and set(same) == set(scores.CHEAP)
    assert all(-1 <= low <= high <= 1 for values in found.values() for _, low, high in values.values())
    assert same["gradient"][0] > 0.9, "in a random network the last block's neurons act nearly linearly"
    assert scores.agreements(row, second, second, seed=0, n=24)[scores.OTHER]["gradient"] == pytest.approx(
        scores.agreements(row, first, second, seed=0, n=24)[scores.SAME]["gradient"], abs=1e-6)


@pytest.mark.parametrize(("heads", "neurons", "holds"), [(0.1, 0.9, True), (0.95, 0.9, False), (0.1, 0.1, False)])
def test_what_the_score_proof_concludes(heads, neurons, holds):
    def seeds(gradient, fisher):
        return [{scores.OTHER: {"gradient": (gradient + e, 0, 1), "fisher": (fisher - e * e, 0, 1)},
                 scores.SAME: {"gradient": (0.5, 0, 1), "fisher": (0.5 - e, 0, 1)}} for e in (0.0, 0.01, 0.02)]
    found = {"heads": seeds(heads, 0.6), "neurons of one layer": seeds(neurons, 0.4)}
    proven = scores.concluded(found, {"heads": 16}, "test")
    assert proven.holds is holds and json.dumps(proven.json(), allow_nan=False)
