"""The training loop: exact resume, many recipes in a pass, bounded memory, and clear words about bad input."""

from __future__ import annotations

import errno
import gc
import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from families import example, network
from helpers import PLAIN, tiny_llama
from torch import Tensor

import cutaway as cw
from cutaway.counts import count_of
from cutaway.dictionaries import KSparse, Recipe, ReLU, TopK
from cutaway.files import locked, sweep, write_safetensors
from cutaway.network import Network
from cutaway.observe import Covariance, Moments, observe
from cutaway.train import Run, Schedule, Settings, checkpoint, learn, load, sources
from cutaway.train.buffer import ShuffleBuffer
from cutaway.train.learner import HISTORY, Learner

SITES = {"blocks.0": TopK(32, 4), "blocks.1": [KSparse(32, 4), ReLU(32, l0=5.0)]}
TOKENS, BATCH = 4096, 64
Weights = dict[str, dict[str, Tensor]]


@cache
def world() -> tuple[Network, Any]:
    net = tiny_llama()
    return net, cw.corpus([PLAIN[:9000]], net)


def run(out: Path | None = None, recipes: Any = None, tokens: int = TOKENS, seed: int = 0, data: Any = None,
        save_every: float = 0.0) -> Run:
    net, text = world()
    return learn(net, data or text, recipes or SITES, tokens, batch=BATCH, seed=seed, out=out, save_every=save_every,
                 progress=False)


def weights(found: Run) -> Weights:
    return {key: {name: p.detach().clone() for name, p in d.named_parameters()} for key, d in found.dictionaries.items()}


@cache
def straight() -> Weights:
    """What training gives that nothing interrupts."""
    return weights(run())


def assert_same(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for key, tensors in found.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, expected[key][name]), f"{key} {name}"


def after(n: int, act: Any) -> Any:
    """Learner.step, which does something else before the n-th call."""
    calls, step = [0], Learner.step

    def stepped(self: Learner, x: Tensor) -> Any:
        calls[0] += 1
        if calls[0] == n:
            act()
        return step(self, x)
    return stepped


def fail() -> None:
    raise RuntimeError("out of luck")


# --- resume -----------------------------------------------------------------------------------------------------------

def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    """Checkpoints change nothing, and another seed gives others."""
    found = run(tmp_path)
    assert_same(weights(found), straight())
    assert not (tmp_path / "checkpoint.safetensors").exists()
    other = run(seed=1, recipes={"blocks.0": TopK(32, 4)})
    assert not torch.equal(other.dictionary.W_dec, straight()["blocks.0"]["W_dec"])


@pytest.mark.parametrize("step", [30, 77, 160])
def test_an_error_anywhere_costs_nothing_but_time(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", after(step, fail))
        with pytest.raises(RuntimeError, match="out of luck"):
            run(tmp_path)
    assert (tmp_path / "checkpoint.safetensors").exists()
    assert_same(weights(run(tmp_path)), straight())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked here, to be killed")
def test_what_a_killed_process_leaves_of_a_file_is_swept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the nameless file that safetensors makes beside the one it is given."""
    def killed(tensors: object, path: str, metadata: object) -> None:
        Path(path).with_name(".tmpAbC123").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("safetensors.torch.save_file", killed)
    if (child := os.fork()) == 0:
        write_safetensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)})
    os.waitpid(child, 0)
    assert list(tmp_path.rglob(".tmpAbC123"))
    sweep(tmp_path, "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_saves_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, in the middle of a step, with no checkpoint due: all that was learned is kept."""
    before = signal.getsignal(signal.SIGINT)
    for step in (40, 60):
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "step", after(step, lambda: os.kill(os.getpid(), signal.SIGINT)))
            with pytest.raises(KeyboardInterrupt, match=r"stopped after [\d,]+ tokens; run the same command again"):
                run(tmp_path, save_every=1e9)
        with pytest.raises(FileNotFoundError, match="training there is not finished; run the same command again"):
            load(tmp_path, world()[0])
    assert signal.getsignal(signal.SIGINT) is before
    steps: list[int] = []
    step_of = Learner.step
    monkeypatch.setattr(Learner, "step", lambda self, x: steps.append(self.step_count) or step_of(self, x))
    assert_same(weights(run(tmp_path)), straight())
    assert min(steps) > 5  # it went on, and did not begin again


def least_step(folder: Path) -> int:
    """How far the training in a folder has come by its last checkpoint."""
    try:
        with safetensors.safe_open(str(folder / "checkpoint.safetensors"), "pt") as file:
            learners = json.loads(file.metadata()["cutaway"])["learners"]
    except (OSError, RuntimeError, safetensors.SafetensorError):   # it is being replaced, which each library says in its way
        return 0
    return min(facts["step"] for facts in learners.values())


def slowly(folder: str) -> None:
    step = Learner.step
    Learner.step = lambda self, x: time.sleep(0.02) or step(self, x)  # type: ignore[method-assign,func-returns-value]
    run(Path(folder))


def test_twenty_times_kill_9_costs_nothing_but_time(tmp_path: Path) -> None:
    """At random moments, of which some fall into the start, some into a step and some into the writing of a checkpoint."""
    context, chance, kills = multiprocessing.get_context("forkserver"), random.Random(0), 0
    context.set_forkserver_preload(["test_train"])
    until = time.monotonic() + 240
    while kills < 20:
        assert time.monotonic() < until
        process = context.Process(target=slowly, args=(str(tmp_path),))
        process.start()
        before, patience = least_step(tmp_path), chance.random()
        # Every other time only after it has gone on a little, so that it ends one day; but never too late.
        while kills % 2 and least_step(tmp_path) == before and process.is_alive():
            time.sleep(0.005)
        process.join(0.6 * patience)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
    assert kills >= 12, "it ended before it could be killed often enough"
    assert_same(weights(run(tmp_path)), straight())
    assert not list(tmp_path.glob("*checkpoint*"))


def test_the_newest_whole_checkpoint_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "step", after(90, fail))
            with pytest.raises(RuntimeError):
                run(tmp_path)

    stopped()
    newest, before = tmp_path / checkpoint.NEWEST, tmp_path / checkpoint.BEFORE
    kept = newest.read_bytes(), before.read_bytes()
    newest.write_bytes(kept[0][:-100])
    with pytest.warns(UserWarning, match="is not a whole checkpoint .* Going on from the checkpoint before"):
        assert_same(weights(run(tmp_path)), straight())
    newest.write_bytes(kept[0][:-9] + bytes([kept[0][-9] ^ 4]) + kept[0][-8:])   # one flipped bit
    before.write_bytes(kept[1])
    with pytest.warns(UserWarning, match="was changed after it was written"):
        assert_same(weights(run(tmp_path)), straight())
    newest.write_bytes(b"")
    before.write_bytes(kept[1][:-1])
    with pytest.raises(ValueError, match="Delete what is in .* to begin again"):
        run(tmp_path)


def test_other_settings_do_not_go_on_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", after(50, fail))
        with pytest.raises(RuntimeError):
            run(tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"unfinished training with other settings \(seed differ\).*another folder"):
        run(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"\(tokens, recipes differ\)"):
        run(tmp_path, tokens=2 * TOKENS, recipes={"blocks.0": TopK(32, 5)})
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_finished_dictionaries_of_other_settings_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    first = weights(run(tmp_path))
    with pytest.raises(ValueError, match=r"learned with other settings \(seed differ\).*another folder"):
        run(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"\(recipes differ\)"):
        run(tmp_path, recipes={"blocks.1": TopK(32, 4)})
    assert_same(weights(load(tmp_path, world()[0])), first)
    run(tmp_path)     # the same again is welcome


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    with locked(tmp_path, "learning"), pytest.raises(BlockingIOError, match="another process is learning in"):
        run(tmp_path)
    run(tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves, save_file = [0], safetensors.torch.save_file

    def full(tensors: Any, filename: str, metadata: Any = None) -> None:
        saves[0] += 1
        if saves[0] > 2:
            Path(filename).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, filename, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OSError, match="no space left on the disk to write .*checkpoint.safetensors; free some"):
            run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "learning.json"]
    assert_same(weights(run(tmp_path)), straight())


def test_a_run_is_loaded_again(tmp_path: Path) -> None:
    net, data = world()
    found = run(tmp_path)
    again = load(tmp_path, net, data)
    assert_same(weights(again), weights(found))
    assert again.history == found.history and again.config == found.config
    assert again.dictionaries["blocks.0"].facts == found.dictionaries["blocks.0"].facts
    assert [path.name for path in tmp_path.glob("*.part")] == []


# --- many at once -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("site", "i"), [("blocks.0", 0), ("blocks.1", 0), ("blocks.1", 1)])
def test_recipes_learn_together_as_they_learn_alone(site: str, i: int) -> None:
    recipes = SITES[site]
    recipe = recipes if isinstance(recipes, Recipe) else recipes[i]
    key = site if isinstance(recipes, Recipe) else f"{site}/{i}-{recipe.name}"
    assert_same({key: weights(run(recipes={site: recipe}))[site]}, {key: straight()[key]})


def test_wildcards_and_keys() -> None:
    found = run(recipes={"blocks.*": TopK(16, 2)}, tokens=256)
    assert list(found.dictionaries) == ["blocks.0", "blocks.1"]
    assert set(straight()) == {"blocks.0", "blocks.1/0-k-sparse", "blocks.1/1-relu-l1"}
    with pytest.raises(ValueError, match="this run has dictionaries at blocks.0, blocks.1; choose one"):
        found.dictionary  # noqa: B018


def test_what_a_dictionary_says_about_its_training() -> None:
    net, data = world()
    facts = run(tokens=256).dictionaries["blocks.0"].facts
    assert facts.site == "blocks.0" and facts.path == "model.layers.0" and facts.network == net.name
    assert facts.skip_tokens == tuple(data.special_ids) and 0 < facts.max_norm < float("inf")
    assert facts.tokens == 256 and data.fingerprint in facts.data and facts.recipe["sparsify"]["k"] == 4


# --- memory -----------------------------------------------------------------------------------------------------------

def tensor_bytes() -> int:
    """The memory of all tensors that are alive."""
    tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor) and x.layout == torch.strided]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


def test_memory_does_not_grow_with_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    step, peaks, lengths = Learner.step, [], []
    for tokens in (TOKENS, 4 * TOKENS):
        seen = [0, 0]

        def stepped(self: Learner, x: Tensor, seen: list[int] = seen) -> Any:
            seen[0] += 1
            if seen[0] % 40 == 0:
                seen[1] = max(seen[1], tensor_bytes())
            return step(self, x)

        with monkeypatch.context() as patch:
            patch.setattr(Learner, "step", stepped)
            patch.setattr(sources, "BUFFER_BYTES", 50_000)
            found = run(recipes={"blocks.0": TopK(32, 4)}, tokens=tokens)
        peaks.append(seen[1])
        lengths.append(len(found.history["blocks.0"]))
    assert peaks[1] < 1.02 * peaks[0]
    assert TOKENS // BATCH == lengths[0] < lengths[1] <= HISTORY + 1


def test_observers_keep_no_activations() -> None:
    net, data = world()
    sizes = []
    for tokens in (1000, 4000):
        observers = [Covariance("blocks.0"), Moments("blocks.1")]
        observe(net, data, observers, tokens=tokens)
        sizes.append(sum(x.numel() for o in observers for x in vars(o).values() if isinstance(x, Tensor)))
    assert sizes[0] == sizes[1]


def test_the_shuffle_buffer_gives_everything_once() -> None:
    buffer = ShuffleBuffer(100, 10, torch.Generator().manual_seed(0))
    x = torch.arange(333.0)[:, None].repeat(1, 2)
    out = [batch for part in x.split(17) for batch in buffer.add(part)] + list(buffer.drain())
    assert all(len(batch) == 10 for batch in out) and len(buffer.held) == 100  # type: ignore[arg-type]
    found = torch.cat(out)[:, 0]
    assert len(found) == 330 and len(found.unique()) == 330
    assert (found[:50] != torch.arange(50)).float().mean() > 0.9


# --- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("epochs", "words"), [
    (0, "the activations at blocks.0 hold NaN or infinity"), (1, "the activations to learn from hold NaN or infinity")])
def test_nan_activations(epochs: int, words: str, tmp_path: Path) -> None:
    """From the first pass on, and in the middle of training, after one epoch from which the start is estimated."""
    net, data = world()
    passes, seen = epochs * (len(list(data.batches())) + 3), [0]

    def spoil(x: Tensor, at: Any) -> Tensor:
        seen[0] += 1
        return torch.full_like(x, float("nan")) if seen[0] > passes else x

    with pytest.raises(ValueError, match=words), net.watched({"blocks.0": spoil}):
        learn(net, data, {"blocks.0": TopK(32, 4)}, 50 * TOKENS, batch=BATCH, out=tmp_path, progress=False)
    assert not list(tmp_path.glob("**/*.safetensors"))


def test_bad_plans() -> None:
    net, data = world()
    for recipes, words in [
            ({"blocks.7": TopK()}, "there is no site 'blocks.7' in .*; the nearest are blocks"),
            ({"lm_head:weight": TopK()}, "lm_head:weight holds weight, not activations"),
            ({"blocks.0.attn.pattern": TopK()}, "holds pattern, not activations"),
            ({}, "no recipes were given")]:
        with pytest.raises(ValueError, match=words):
            learn(net, data, recipes, progress=False)
    with pytest.raises(ValueError, match="60 tokens are less than one batch of 64; give more tokens or a smaller batch"):
        run(tokens=60)
    with pytest.raises(ValueError, match="looks like 500000, 500k or 2M; found 'many'"):
        learn(net, data, SITES, "many", progress=False)


def test_text_of_special_tokens_alone() -> None:
    """Where no activation counts, there is an error and no endless loop."""
    net, data = world()
    silent = replace(data, layout=replace(data.layout, special=tuple(range(net.config.vocab_size))))
    with pytest.raises(ValueError, match="none were kept; give more tokens"):
        run(data=silent)


@pytest.mark.parametrize(("text", "count"), [("500k", 500_000), ("2M", 2_000_000), ("1.5B", 1_500_000_000), ("1_000", 1000),
                                             (7, 7), (2.5e5, 250_000), ("1e4", 10_000)])
def test_counts(text: int | float | str, count: int) -> None:
    assert count_of(text) == count


# --- settings ---------------------------------------------------------------------------------------------------------

def planted(n: int, d: int = 32, width: int = 1024, k: int = 8, seed: int = 0) -> Tensor:
    """Activations [n, d] that are sparse sums of the same random directions."""
    directions = torch.randn(width, d, generator=torch.Generator().manual_seed(99))
    chance = torch.Generator().manual_seed(seed)
    codes = torch.zeros(n, width).scatter_(1, torch.randint(width, (n, k), generator=chance),
                                           1 + torch.rand(n, k, generator=chance))
    return codes @ directions + 0.1 * torch.randn(n, d, generator=chance)


def trained(recipe: Recipe, steps: int, settings: Settings, batch: int = 256) -> Learner:
    learner, seed = Learner(recipe, planted(4096), steps, batch, 0, settings), 1
    while not learner.done:
        learner.step(planted(batch, seed=seed))
        seed += 1
    return learner


@pytest.mark.parametrize("recipe", [TopK(1024, 8), ReLU(64), KSparse(64, 8)], ids=lambda r: r.name)
def test_accumulated_gradients_are_those_of_the_whole_batch(recipe: Recipe) -> None:
    recipe = replace(recipe, losses=tuple(term for term in recipe.losses if type(term).__name__ != "AuxK"))
    one, four = (trained(recipe, 5, Settings("exact", parts)) for parts in (1, 4))
    for a, b in zip(one.dictionary.parameters(), four.dictionary.parameters(), strict=True):
        assert ((a - b).abs() < 1e-4).float().mean() > 0.999   # Adam steps by the sign where a gradient is only rounding
    assert one.history[-1]["fvu"] == pytest.approx(four.history[-1]["fvu"], rel=1e-4)
    assert one.history[-1]["l0"] == pytest.approx(four.history[-1]["l0"], abs=0.1)


def test_fast_selection_ends_where_exact_selection_does() -> None:
    """Within 0.5% of the same FVU on data that neither was trained on, over a whole training."""
    x, found = planted(8192, seed=12345), {}
    for selection in ("exact", "fast"):
        learner = trained(TopK(1024, 8), 300, Settings(selection), 1024)
        found[selection] = float((learner.dictionary(x / learner.scale).detach() - x / learner.scale).pow(2).sum())
    assert found["fast"] == pytest.approx(found["exact"], rel=0.005)


def test_schedules() -> None:
    linear, cosine = Schedule(0.1, 0.5), Schedule(0.1, 0.5, "cosine")
    assert linear.rate(0.05) == pytest.approx(0.5) and linear.rate(0.3) == 1 and linear.rate(0.75) == pytest.approx(0.5)
    assert cosine.rate(0.75) == pytest.approx(0.5) and cosine.rate(0.9) < linear.rate(0.9) and cosine.rate(1.0) == 0
    assert Schedule(0, 0).rate(0.0) == Schedule(0, 0.5, "constant").rate(1.0) == 1
    with pytest.raises(ValueError, match="one of the shapes linear, cosine, constant; found 'square'"):
        Schedule(shape="square")
    with pytest.raises(ValueError, match="decay is a share"):
        Schedule(decay=2)
    with pytest.raises(ValueError, match="auto, fast or exact"):
        Settings("quick")


def test_training_ends_early_on_a_plateau() -> None:
    recipe = TopK(64, 8, lr=1e-9)   # it cannot improve
    learner = trained(recipe, 400, Settings(schedule=Schedule(patience=0.2)))
    assert learner.ending is not None and 80 <= learner.ending <= 120
    assert learner.step_count == pytest.approx(learner.ending + 80, abs=2)   # then the learning rate falls to zero
    assert learner.history[-1]["step"] == learner.step_count
    assert trained(TopK(64, 8), 100, Settings(schedule=Schedule(patience=0.5))).ending is None


def test_k_can_fall_during_training() -> None:
    learner = trained(TopK(64, 4, first=16), 40, Settings())
    assert [round(h["l0"]) for h in learner.history[:: 10]][0] > 10 and learner.history[-1]["l0"] <= 4


def test_training_from_a_harvest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = world()
    stored = cw.harvest(net, data, ["blocks.0", "blocks.1"], tmp_path / "cache", dtype="float32", progress=False)
    from_disk = run(data=stored)
    for key, history in run().history.items():
        assert from_disk.history[key][-1]["fvu"] == pytest.approx(history[-1]["fvu"], rel=0.2)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", after(77, fail))
        with pytest.raises(RuntimeError):
            run(tmp_path / "run", data=stored)
    assert_same(weights(run(tmp_path / "run", data=stored)), weights(from_disk))


@pytest.mark.parametrize("made", [lambda net, data, site: learn(net, data, {site: TopK(8, 2)}, tokens=64, batch=8),
                                  lambda net, data, site: cw.harvest(net, data, site, "nowhere")], ids=["learn", "harvest"])
def test_maps_of_a_convolution_are_not_taken_for_vectors(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their last axis is the width of an image, and what was learned along it would mean nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("cnn", "resnet"):
        net = network(name)
        with pytest.raises(ValueError, match=r"holds maps \[b, channels, h, w\]"):
            made(net, cw.arrays(example(name, 4)), {"cnn": "conv1:out", "resnet": "blocks.0"}[name])
    assert not list(tmp_path.iterdir())
