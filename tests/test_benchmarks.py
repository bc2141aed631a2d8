"""The benchmarks' worker: what it is asked and what it answers; and the figures that are made of the answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

import faithfulness  # noqa: E402
import target_l0  # noqa: E402
import train_fvu  # noqa: E402
import train_steps  # noqa: E402
import train_worker  # noqa: E402


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A tiny training on 2,048 activations near a few directions."""
    chance = np.random.default_rng(0)
    x = chance.standard_normal((8, 16))[chance.integers(0, 8, 2048)] + 0.01 * chance.standard_normal((2048, 16))
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    return {"library": "cutaway", "settings": {"lr": 0.01, "initial": "random"}, "data": str(tmp_path / "x.npy"), "d": 16,
            "width": 64, "k": 2, "batch": 128, "steps": 40, "seed": 0}


def test_a_worker_answers_each_line_with_one_line(job: dict[str, Any]) -> None:
    requests = [{"do": "build", "job": job}, {"do": "fvu", "data": job["data"], "n": 512}, {"do": "step", "n": 40},
                {"do": "fvu", "data": job["data"], "n": 512}, {"do": "memory"}, {"do": "build", "job": {**job, "k": 0}}]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([sys.executable, FOLDER / "train_worker.py"], input=lines, capture_output=True, text=True, check=True)
    built, before, stepped, after, memory, refused = map(json.loads, done.stdout.splitlines())
    assert len(stepped["seconds"]) == 40 and min(stepped["seconds"]) > 0
    assert after["fvu"] < 0.5 * before["fvu"]
    assert built["versions"]["torch"] == torch.__version__
    assert memory["bytes"] is None or memory["bytes"] > 0
    assert "k must be between 1 and the width" in refused["error"]


def test_the_largest_tensor_is_seen(job: dict[str, Any]) -> None:
    weight = torch.randn(64, 16)
    with train_worker.Largest() as seen:
        made = torch.zeros(128, 16) @ weight.T
        made[:2].expand(1000, 2, 64)                      # a view holds no more than what it looks at
        torch.zeros(400, 400, dtype=torch.float64)        # another type
    assert seen.found["elements"] == 128 * 64 and seen.found["shape"] == [128, 64]


def test_a_loop_that_pulls_is_given_its_batches_one_by_one() -> None:
    taken: list[float] = []

    def loop(stream: Any) -> None:
        for x in stream:
            if x < 0:
                raise ValueError("a negative batch.")
            taken.append(float(x))

    pulled = train_worker.Pulled(loop)
    for value in (1.0, 2.0, 3.0):
        pulled.step(torch.tensor(value))
        assert taken[-1] == value                         # the step is over when `step` returns
    with pytest.raises(ValueError, match="negative"):
        pulled.step(torch.tensor(-1.0))


def test_ratios_are_of_medians_and_of_rounds() -> None:
    found = train_steps.ratio([[2.0, 2.0], [4.0, 4.0], [6.0, 60.0]], [[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    assert found == {"value": 4.0, "low": 2.0, "high": 16.5}


def test_a_row_takes_the_shortest_time_and_says_who_did_not_arrive() -> None:
    def run(seed: int, seconds: float | None) -> dict[str, Any]:
        return {"seed": seed, "reached": {"0.2": seconds}}

    row = {"runs": [run(0, 9.0), run(0, 7.0), run(1, None), run(1, 8.0), run(2, None)]}
    times = [train_fvu.least(row, seed, 0.2) for seed in range(3)]
    assert times == [7.0, 8.0, None]
    assert train_fvu.seconds_of(times) == "7.5 (7.0 to 8.0); not reached by 1 of 3"
    assert train_fvu.seconds_of([None, None]) == "not reached"


def test_a_wanted_l0_that_is_missed_stands_out() -> None:
    runs = [{"told": told, "seed": 0, "found": {
        "near": {"l0": 1.01 * told, "low": told, "high": 2.0 * told, "fvu": 0.2},
        "far": {"l0": 0.9 * told, "low": 0.0, "high": told, "fvu": 0.3}}} for told in (20, 40)]
    other = {"told": 40, "seed": 1, "found": {"near": {"l0": 41.0, "low": 40.0, "high": 42.0, "fvu": 0.4}}}
    kept = {"options": {"width": 64, "tokens": 1000, "model": "pico", "test_tokens": 500, "split": "test"}, "command": "it",
            "commit": "abc", "runs": [*runs, other]}
    text = target_l0.table(kept)
    assert "| near | 20.20 (20.0 to 40.0) | +1.0% | 0.200 |" in text
    assert "| 40.40 (40.0 to 80.0); 41.00 (40.0 to 42.0) | +2.5% | 0.300 |" in text
    assert "| far | 18.00 (0.0 to 20.0) | **-10.0%** | 0.300 | 36.00 (0.0 to 40.0) | **-10.0%** | 0.300 |" in text
    assert {"topk", "gated", "cross-layer-transcoder"} <= set(target_l0.trainable())
    assert target_l0.recipe_of("group-max", 1024, 40).sparsify.k == 40


def test_a_method_is_better_than_random_only_where_all_seeds_together_say_so() -> None:
    def seeds(ours: float, theirs: float, spread: float) -> list[list[float]]:
        return [[ours + spread * i, theirs] for i in (-1, 0, 1, 2, -2)]

    case = {"found": {"good": {"deletion": seeds(0.1, 0.5, 0.01), "agreement": seeds(0.9, 0.0, 0.01)},
                      "bad": {"deletion": seeds(0.9, 0.5, 0.01), "agreement": seeds(0.1, 0.0, 0.5)},
                      "flat": {"deletion": [[0.5, 0.5]] * 5}},
            "wants": {"deletion": "less", "agreement": "more"}, "seeds": [0, 1, 2, 3, 4], "accuracy": [0.9] * 5, "rows": 3,
            "baseline": "mean"}
    found = faithfulness.verdicts(case)
    assert [found["good", "deletion"], found["good", "agreement"], found["bad", "deletion"]] == [True, True, False]
    assert found["bad", "agreement"] is None and found["flat", "deletion"] is None
    case["roar"] = {"gone": 0.5, "seeds": 2, "n": {"train": 9, "test": 8}, "ways": {
        "random": {"accuracy": [0.8, 0.9], "from masks": [0.1, 0.1]},
        "good": {"accuracy": [0.4, 0.5], "from masks": [0.3, 0.5]},
        "all pixels": {"accuracy": [0.99, 0.97], "from masks": []}}}
    text = faithfulness.table({"digits": case})
    assert "| good | **0.10** (0.50 \u00b1 0.02) |" in text and "| bad | *0.90* (0.50" in text and "deletion (less)" in text
    assert text.index("| good |") < text.index("| bad |")
    assert "| good | 0.45 | -0.40 [-0.40, -0.40] | 0.40 |" in text and "| random | 0.85 |  | 0.10 |" in text
