"""The comparison of methods: cells are kept, resumed and tabled; what a method cannot do is said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from torch.testing import assert_close

from cutaway.bench import QUICK, bench, report
from cutaway.bench import dictionaries as benching
from cutaway.bench.scenes import of_world
from cutaway.bench.table import rows
from cutaway.dictionaries.truth.worlds import superposed

TINY = replace(QUICK, scenes=("superposed-2",), methods=("topk", "pca"), samples=1024, rates=(1.0, 0.3))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(benching, "SAMPLE", 512)
    monkeypatch.setattr(benching, "DECOMPOSED", 512)
    monkeypatch.setattr(benching, "scene", lambda name, n, frontier: of_world(superposed(2, d=16, active=3.0), 32, (5,)))


def test_cells_are_kept_and_not_made_again(tmp_path, monkeypatch):
    found = bench(tmp_path, TINY)
    assert {(c["method"], c["seed"]) for c in found} == {(m, s) for m in ("topk", "pca") for s in (0, 1)}
    assert all({"cosine", "f1", "fvu", "l0", "stability"} <= set(c["figures"]) for c in found)
    assert json.loads((tmp_path / "superposed-2" / "topk-l0-5-rate.json").read_text())["rate"] in (1.0, 0.3)
    trained = []
    monkeypatch.setattr(benching, "learn", lambda *a: trained.append(a))
    assert bench(tmp_path, TINY) == found and not trained
    (tmp_path / "superposed-2" / "pca-l0-5-seed-1.json").unlink()
    again = bench(tmp_path, TINY)
    assert [c["figures"] for c in again] == [c["figures"] for c in found] and not trained


def test_the_report_is_a_table_a_plot_and_every_figure(tmp_path):
    found = bench(tmp_path / "cells", TINY)
    path = report(tmp_path / "out", found, {"samples": 1024, "batch": 256, "rates": [1.0, 0.3]})
    table = path.read_text()
    assert "| topk |" in table and "| pca |" in table and "superposed-2 (L0 5)" in table
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    kept = json.loads(path.with_suffix(".json").read_text())
    row = next(row for row in kept["rows"] if row["method"] == "topk")
    mine = [c["figures"]["cosine"] for c in found if c["method"] == "topk"]
    assert row["cosine"]["n"] == 2 and row["cosine"]["mean"] == pytest.approx(sum(mine) / 2)
    assert row["cosine"]["low"] < row["cosine"]["mean"] < row["cosine"]["high"]


def test_another_budget_takes_another_folder(tmp_path):
    bench(tmp_path, replace(TINY, methods=("pca",), seeds=(0,)))
    with pytest.raises(ValueError, match="another budget"):
        bench(tmp_path, replace(TINY, samples=2048))


def test_a_wrong_name_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="topk"):
        bench(tmp_path / "out", replace(TINY, methods=("tokp",)))
    assert not (tmp_path / "out").exists()


def test_a_method_that_cannot_be_trained_says_why(tmp_path, monkeypatch):
    def fails(*args):
        raise ValueError("it needs gradients.")
    monkeypatch.setattr(benching, "learn", fails)
    found = bench(tmp_path, replace(TINY, methods=("topk",), seeds=(0,)))
    assert [c["error"] for c in found] == ["it needs gradients."]
    assert "error" in rows(found)[0]
    assert "cannot be trained" in report(tmp_path, found, {"samples": 1, "batch": 1, "rates": [1]}).read_text()


def test_all_methods_see_the_same_stream():
    on = of_world(superposed(2, d=8), 16, (3,))
    for a, b in zip(on.train(600, 256, 1), on.train(600, 256, 1), strict=True):
        assert_close(a, b)
    assert sum(len(x) for x in on.train(600, 256, 1)) == 600


def test_comparable_methods_are_those_of_activations_alone():
    known = benching.comparable()
    assert {"topk", "jumprelu", "mp-sae", "pca", "snmf"} <= set(known)
    assert not {"bilinear-ae", "codebook"} & set(known)
    assert benching.options("group-max", 32, 3) == {"width": 32, "k": 2}
