"""Many ranks: the same as one process, however the work is split; checkpoints for any number of them; lost ranks."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
import torch
from helpers import PLAIN, tiny_llama
from torch import Tensor

import cutaway as cw
from cutaway.dictionaries import BatchTopK, KSparse, Recipe, ReLU, TopK
from cutaway.train import Settings, learn, sources
from cutaway.train.learner import Learner
from cutaway.train.parallel import SPLITS, Alone, folders, together
from cutaway.train.parallel.group import Group
from cutaway.train.parallel.sites import spread
from cutaway.train.parallel.sources import Stripe, Striped, _dealt
from cutaway.train.parallel.width import SPLIT, Width

D, BATCH, CPU = 24, 64, torch.device("cpu")
RECIPES = {
    "topk with dead latents": (TopK(256, 4, dead_after=150, lr=3e-3), Settings()),
    "topk, wide batch": (TopK(32, 4, dead_after=150, first=8), Settings(accumulate=2)),
    "relu with steered l0": (ReLU(256, l0=6.0), Settings()),
    "tied": (KSparse(256, 4), Settings()),
}
WIDTH = ["topk with dead latents", "topk, wide batch"]
SITES = {"blocks.0": TopK(32, 4, dead_after=300), "blocks.1": [TopK(64, 4), TopK(32, 2)]}


@pytest.fixture(scope="module")
def pool() -> Iterator[ranks.Pool]:
    found = ranks.Pool(4)
    yield found
    found.close()


# --- steps ------------------------------------------------------------------------------------------------------------

@cache
def activations(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    chosen = torch.rand(n, 100, generator=generator) * (torch.rand(n, 100, generator=generator) < 0.05)
    return chosen @ torch.randn(100, D, generator=generator) + 1


def steps(name: str, split: str, n: int = 8) -> dict[str, Any]:
    """Some steps as one of the ranks, with the first step's gradients: Adam's mean is a tenth of them then."""
    recipe, settings = RECIPES[name]
    with together(split, CPU, Path("nowhere")) as here:
        learner = Learner(recipe, activations(512), 100, BATCH, 0, settings, here)
        mine = here.group.share(BATCH) if split == "data" else range(BATCH)
        facts = []
        for i in range(n):
            x = activations(512 + n * BATCH)[512 + i * BATCH:][:BATCH]
            # Parts of a batch are parts of each rank's batch, so that their union must be the part of the whole.
            x = torch.cat([some[here.group.share(len(some)).start:][: len(some) // here.group.size]
                           for some in x.tensor_split(settings.accumulate)]) if len(mine) < BATCH else x
            facts.append(learner.step(x))
            if i == 0:
                gradients = {key: whole(here, key, value).clone() for key, value in learner.optimizer.m.items()}
        return {"facts": facts, "gradients": gradients, "weights": here.whole(learner.dictionary),
                "silent": whole(here, "silent", learner.silent)}


def whole(here: Alone, name: str, value: Tensor) -> Tensor:
    """A tensor of all latents, for the first rank."""
    found = here.group.joined(value) if isinstance(here, Width) and name in SPLIT else value
    return value if found is None else found


@cache
def alone(name: str) -> dict[str, Any]:
    return steps(name, "data")


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, x in found.items():
        torch.testing.assert_close(x, expected[name], rtol=0, atol=tolerance * float(expected[name].abs().max()), msg=name)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("split", "name"), [*(("data", name) for name in RECIPES), *(("width", name) for name in WIDTH)])
def test_steps_are_those_of_one_process(split: str, name: str, size: int, pool: ranks.Pool) -> None:
    found, expected = pool.run(size, steps, name, split), alone(name)
    assert_near(found[0]["gradients"], expected["gradients"], 2e-6)
    assert_near(found[0]["weights"], expected["weights"], 2e-5)
    assert torch.equal(found[0]["silent"], expected["silent"])
    for one, other in zip(found[0]["facts"], expected["facts"], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    if split == "data":   # bit for bit on all ranks, or they would drift apart
        for other in found[1:]:
            assert all(torch.equal(x, other["weights"][key]) for key, x in found[0]["weights"].items())
    if "dead" in name:
        assert found[0]["facts"][-1]["dead"] > 0.05


# --- whole trainings --------------------------------------------------------------------------------------------------

TOKENS = 40 * BATCH


@cache
def world() -> tuple[Any, Any]:
    net = tiny_llama()
    return net, cw.corpus([PLAIN[:9000]], net)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net, data = world()
    folder = tmp_path_factory.mktemp("harvest")
    cw.harvest(net, data, "blocks.*", folder, dtype="float32", progress=False)
    return folder


def train(split: str, out: Path | None, harvest: Path | None = None, stop: int = 0, recipes: Any = None,
          save_every: float = 1e9) -> dict[str, Any]:
    """A training as one of the ranks; with `stop`, it is interrupted in this step."""
    net, data = world()
    rows: list[tuple[int, int]] = []
    step, passes, taken = Learner.step, sources.activations, [0]

    def stepped(self: Learner, x: Tensor) -> Any:
        taken[0] += 1
        if taken[0] == stop:
            # From ranks also in torchrun's way, which a process alone dies of.
            os.kill(os.getpid(), signal.SIGTERM if "RANK" in os.environ and stop % 2 else signal.SIGINT)
        return step(self, x)

    def read(*given: Any, **named: Any) -> Any:
        for seen in passes(*given, **named):
            rows.extend((named["seed"], row) for row in seen.batch.rows.tolist())
            yield seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", stepped)
        patch.setattr(sources, "activations", read)
        try:
            run = learn(net, cw.Harvest(harvest) if harvest else data, recipes or SITES, TOKENS, batch=BATCH, out=out,
                        progress=False, split=split, save_every=save_every)
        except KeyboardInterrupt:
            return {"steps": taken[0], "rows": rows}
    return {"steps": taken[0], "rows": rows, "history": run.history, "weights": {
        key: {name: p.detach() for name, p in d.named_parameters()} for key, d in run.dictionaries.items()}}


@cache
def straight(harvest: Path | None = None) -> dict[str, Any]:
    """The training of one process that nothing interrupts."""
    return train("data", None, harvest)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["weights"].keys() == expected["weights"].keys() and found["history"] == expected["history"]
    for key, tensors in found["weights"].items():
        assert all(torch.equal(x, expected["weights"][key][name]) for name, x in tensors.items()), key


def assert_nearly(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["weights"].keys() == expected["weights"].keys()
    for key, tensors in found["weights"].items():
        assert_near(tensors, expected["weights"][key], 5e-3)   # a tie that rounding breaks otherwise is worth 2e-3
        for one, other in zip(found["history"][key], expected["history"][key], strict=True):
            assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("split", ["data", "width"])
def test_training_from_a_harvest_is_that_of_one_process(split: str, cached: Path, tmp_path: Path, pool: ranks.Pool) -> None:
    found = pool.run(4, train, split, tmp_path, cached)
    assert_nearly(found[0], straight(cached))
    assert found[1]["weights"].keys() == (found[0]["weights"].keys() if split == "data" else set())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dictionaries", "history.json", "learning.json"]
    kept = cw.load(tmp_path, world()[0])
    assert set(kept.dictionaries) == set(found[0]["weights"]) and kept.history == found[0]["history"]


@pytest.mark.parametrize("size", [2, 3])
def test_sites_are_those_of_one_process_bit_for_bit(size: int, tmp_path: Path, pool: ranks.Pool) -> None:
    found = pool.run(size, train, "sites", tmp_path)
    assert_same(found[0], straight())
    assert sum(one["steps"] for one in found) == train("data", None)["steps"]
    assert set(cw.load(tmp_path, world()[0]).dictionaries) == set(straight()["weights"])


def test_sites_from_a_harvest(cached: Path, tmp_path: Path, pool: ranks.Pool) -> None:
    assert_same(pool.run(2, train, "sites", tmp_path, cached)[0], straight(cached))


# --- checkpoints ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("split", ["data", "width", "sites"])
def test_an_interrupted_training_ends_as_if_it_had_not_been(split: str, tmp_path: Path, pool: ranks.Pool) -> None:
    expected = pool.run(2, train, split, tmp_path / "straight")[0]
    for stop in (5, 8):
        assert "weights" not in pool.run(2, train, split, tmp_path / "often", None, stop)[0]
        assert len(folders.found(tmp_path / "often")) >= 1
    found = pool.run(2, train, split, tmp_path / "often")[0]
    assert_same(found, expected)
    assert found["steps"] < expected["steps"] and not (tmp_path / "often" / "checkpoints").exists()


@pytest.mark.parametrize("split", ["data", "width"])
def test_another_number_of_ranks_goes_on(split: str, cached: Path, tmp_path: Path, pool: ranks.Pool) -> None:
    """From a harvest, where ranks share one order of tokens, the end is the same to float error: 4, then 2, 1 and 2 ranks."""
    pool.run(4, train, split, tmp_path, cached, 20)
    pool.run(2, train, split, tmp_path, cached, 21)
    assert "weights" not in train(split, tmp_path, cached, 22)
    other = "width" if split == "data" else "data"
    assert_nearly(pool.run(2, train, other, tmp_path, cached)[0], straight(cached))


def test_one_process_then_two(cached: Path, tmp_path: Path, pool: ranks.Pool) -> None:
    train("data", tmp_path, cached, 25)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["checkpoint.safetensors"]
    assert_nearly(pool.run(2, train, "width", tmp_path, cached)[0], straight(cached))
    assert not list(tmp_path.glob("*.safetensors"))


def test_sites_go_on_with_rows_but_rows_not_with_sites(cached: Path, tmp_path: Path, pool: ranks.Pool) -> None:
    pool.run(2, train, "sites", tmp_path / "sites", cached, 9)
    assert_nearly(pool.run(4, train, "data", tmp_path / "sites", cached)[0], straight(cached))
    pool.run(2, train, "data", tmp_path / "data", cached, 9)
    with pytest.raises(AssertionError, match="training with split='data', whose ranks read different rows; go on with"):
        pool.run(2, train, "sites", tmp_path / "data", cached)


def refuse() -> None:
    rank = int(os.environ["RANK"])
    with together("data", torch.device("cpu"), None):
        time.sleep(rank)
        raise ValueError(f"rank {rank} does not take this.")


def test_every_rank_ends_with_its_own_error(pool: ranks.Pool) -> None:
    """One that fails a moment after another is not ended before it has said why."""
    with pytest.raises(AssertionError, match=r"(?s)rank 0 does not take this.*rank 1 does not take this"):
        pool.run(2, refuse)


def test_another_number_of_ranks_reads_on_from_a_network(tmp_path: Path, pool: ranks.Pool) -> None:
    """No row is read twice in the first epoch, few are passed over, and every step is made once."""
    parts = [*pool.run(4, train, "data", tmp_path, None, 12), *pool.run(2, train, "data", tmp_path, None, 12),
             train("data", tmp_path)]
    read = [row for part in parts for row in part["rows"] if row[0] == 0]
    assert len(set(read)) == len(read) >= world()[1].n_rows - 4 * 16
    assert all([facts["step"] for facts in history] == list(range(1, 41)) for history in parts[-1]["history"].values())


def test_damaged_checkpoints(tmp_path: Path, pool: ranks.Pool) -> None:
    """The one before is used where the newest is damaged in any way; where none is whole, there is one sentence."""
    pool.run(2, train, "data", tmp_path, None, 60, None, 0.0)
    newest, before = folders.found(tmp_path)
    data = sorted(newest.glob("*.distcp"))[1]
    flipped = bytearray(data.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    data.write_bytes(flipped)
    with pytest.warns(UserWarning, match=r"distcp is missing, or no longer what was written .* the checkpoint before it"):
        assert folders.newest(tmp_path, Group())[0] == before  # type: ignore[index]
    (before / folders.HEADER).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"is not a whole checkpoint .* Delete .*checkpoints to begin again"):
            folders.newest(tmp_path, Group())


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.save(tmp_path, Group(), 1, {"x": torch.ones(3)}, {"config": {}})

    def full(*given: Any, **named: Any) -> None:
        Path(named["checkpoint_id"], "__0_0.distcp").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.dcp, "save", full)
    with pytest.raises(OSError, match="there is no space left on the disk to write .*000000000002; free some"):
        folders.save(tmp_path, Group(), 2, {"x": torch.zeros(3)}, {"config": {}})
    assert [path.name for path in (tmp_path / folders.FOLDER).iterdir()] == ["000000000001"]
    x = torch.zeros(3)
    folders.read(folders.newest(tmp_path, Group())[0], {"x": x})  # type: ignore[index]
    assert x.tolist() == [1, 1, 1]


def test_other_settings_do_not_go_on(tmp_path: Path, pool: ranks.Pool) -> None:
    pool.run(2, train, "data", tmp_path, None, 20)
    with pytest.raises(ValueError, match=r"unfinished training with other settings \(recipes differ\)"):
        train("data", tmp_path, recipes={"blocks.0": TopK(32, 4)})


# --- what ranks read --------------------------------------------------------------------------------------------------

def test_every_row_is_read_by_one_rank() -> None:
    _, data = world()
    for seed in (None, 3):
        parts = [Striped(data, Group(rank, 3)) for rank in range(3)]
        read = [[int(row) for batch in part.batches(4, seed=seed) for row in batch.rows] for part in parts]
        assert sorted(sum(read, [])) == list(range(data.n_rows))
        whole = [int(row) for batch in data.batches(4, seed=seed) for row in batch.rows]
        assert read[1] == whole[1::3]
        assert [int(row) for batch in parts[1].batches(4, start=5, seed=seed) for row in batch.rows] == read[1][5:]
    with pytest.raises(ValueError, match="rows, too few for 9999 ranks; start at most as many"):
        Striped(data, Group(0, 9999))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_buffers_are_dealt_out_whole(size: int) -> None:
    held = [torch.arange(a, b).float()[:, None] for a, b in ((0, 7), (7, 7), (7, 20), (20, 21))]
    stripes = [Stripe({}, {"s|held": len(x)}, lambda name, x=x: x) for x in held]  # type: ignore[misc]
    dealt = [_dealt(stripes, ["s|held", "s|waiting"], Group(rank, size)) for rank in range(size)]
    assert torch.cat(dealt).flatten().tolist() == list(range(21))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_dictionaries_are_spread_evenly() -> None:
    assert spread([1, 1, 1, 1], 2) == [0, 0, 1, 1]
    assert spread([5, 1, 1, 1], 2) == [0, 1, 1, 1]
    assert spread([1, 1, 9], 3) == [0, 1, 2]
    rng = np.random.default_rng(0)
    for _ in range(200):
        costs = rng.integers(1, 50, rng.integers(2, 12)).tolist()
        size = int(rng.integers(1, len(costs) + 1))
        found = spread(costs, size)
        assert found == sorted(found) and set(found) == set(range(size))


# --- lost ranks -------------------------------------------------------------------------------------------------------

def lost(rank: int, size: int, port: int, out: Path, log: Path, victim: int) -> None:
    """A rank that writes what it says to a file; the victim kills itself in the middle of a step, without a word."""
    os.environ.update(ranks.environment(rank, size, port))
    torch.set_num_threads(1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    step, taken = Learner.step, [0]

    def stepped(self: Learner, x: Tensor) -> Any:
        taken[0] += 1
        if rank == victim and taken[0] == 70:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, x)

    Learner.step = stepped  # type: ignore[method-assign]
    train("data", out, save_every=0.0)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_rank_ends_the_others_and_the_run_goes_on(victim: int, tmp_path: Path, pool: ranks.Pool) -> None:
    out, port = tmp_path / "out", ranks.free_port()
    logs = [tmp_path / f"{rank}.txt" for rank in range(2)]
    started = [ranks.context.Process(target=lost, args=(rank, 2, port, out, logs[rank], victim)) for rank in range(2)]
    for process in started:
        process.start()
    started[victim].join(ranks.PATIENCE)
    assert started[victim].exitcode == -signal.SIGKILL
    since = time.monotonic()
    started[1 - victim].join(50)
    assert started[1 - victim].exitcode == 1 and time.monotonic() - since < 30
    said = logs[1 - victim].read_text()
    assert f"Rank {victim} of 2 was lost: its process ended without a word" in said and "Traceback" not in said
    assert f"run the same command again, on as many ranks or on another number, to go on from {out}" in said
    found = pool.run(2, train, "data", out)[0]
    assert found["steps"] < 120
    assert_same(found, pool.run(2, train, "data", tmp_path / "straight")[0])


# --- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("split", "recipes", "words"), [
    ("width", {"blocks.0": TopK(33, 4)}, "the 33 latents of blocks.0 cannot be split evenly over 2 ranks; give a width that 2"),
    ("width", {"blocks.0": KSparse(32, 4)}, "blocks.0 is to be learned with k-sparse, which takes split='data' or 'sites'"),
    ("data", {"blocks.0": BatchTopK(32, 4)}, "with batch-topk, which chooses latents over whole batches, of which each"),
    ("sites", {"blocks.0": TopK(32, 4)}, "1 dictionaries cannot be spread over 2 ranks; start at most 1, or take"),
    ("rows", SITES, "work is split over ranks by data, width, sites; found split='rows'")])
def test_bad_splits(split: str, recipes: dict[str, Recipe], words: str) -> None:
    net, data = world()
    with pytest.raises(ValueError, match=words):
        if split in SPLITS:
            SPLITS[split](Group(0, 2)).own({key: (key, recipe) for key, recipe in recipes.items()}, BATCH)
        else:
            learn(net, data, recipes, TOKENS, split=split, progress=False)


def test_a_batch_that_ranks_cannot_share() -> None:
    with pytest.raises(ValueError, match="a batch of 64 cannot be split evenly over 3 ranks; give a batch that 3 divides"):
        SPLITS["data"](Group(0, 3)).own({}, 64)
