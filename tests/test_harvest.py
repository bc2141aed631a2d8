"""Activations on disk: what is written is what is read, however often the writing was killed, and nothing else is read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PLAIN, tiny_bert, tiny_llama, tiny_vit
from torch import Tensor, nn

import cutaway as cw
from cutaway.cli import main
from cutaway.data import below, norm_limit
from cutaway.files import locked
from cutaway.harvest import Harvest, Permutation
from cutaway.harvest.codecs import CODECS, calibrate
from cutaway.harvest.permutation import Without
from cutaway.network import Network
from cutaway.observe import Moments, activations, observe

SITES = ["blocks.0", "blocks.1.mlp.neurons"]
SHARD = 700     # tokens: no multiple of a batch, so that shards begin inside batches


@cache
def world() -> tuple[Network, Any]:
    net = tiny_llama()
    return net, cw.corpus([PLAIN[:9000]], net)


def write(out: Path, dtype: str = "bfloat16", tokens: int | None = None, sites: Any = SITES, net: Network | None = None,
          data: Any = None, shard_tokens: int = SHARD, seed: int = 0) -> Harvest:
    own, text = world()
    return cw.harvest(net or own, data or text, sites, out, tokens, dtype, shard_tokens, progress=False, seed=seed)


@cache
def expected() -> dict[str, Tensor]:
    """Every activation that counts, in the order of the harvest."""
    net, text = world()
    seen = [{site: s.kept(site) for site in SITES} for s in activations(net, text, SITES, seed=0)]
    return {site: torch.cat([part[site] for part in seen]) for site in SITES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Harvest:
    """A harvest that no test changes."""
    return write(tmp_path_factory.mktemp("harvest") / "whole")


@pytest.fixture
def copy(whole: Harvest, tmp_path: Path) -> Path:
    """A harvest to be broken."""
    return Path(shutil.copytree(whole.folder, tmp_path / "copy"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file by its path in the folder, but for the lock."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != ".lock"}


def one_sentence(error: BaseException) -> str:
    said = str(error.args[-1])
    assert "\n" not in said and len(said) < 500
    return said


# --- what is written is what is read ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("dtype", "most"), [("float32", 0.0), ("bfloat16", 1e-5), ("int8", 1e-4)])
def test_round_trip(dtype: str, most: float, tmp_path: Path) -> None:
    found = write(tmp_path, dtype)
    assert found.n == len(expected()[SITES[0]]) and found.sites == SITES and found.dtype == dtype
    for site in SITES:
        x, y = expected()[site], found.read(site, slice(None))
        assert y.dtype == torch.float32 and y.shape == x.shape == (found.n, found.d(site))
        assert float((x - y).pow(2).sum() / (x - x.mean(0)).pow(2).sum()) <= most
        if dtype == "float32":
            assert torch.equal(x, y)
        if dtype == "bfloat16":
            assert torch.equal(x.bfloat16().float(), y)
    assert (tmp_path / "shards" / "00001").is_dir() and len({shard.n for shard in found.manifest.shards[:-1]}) == 1


def test_int8_errs_by_half_a_step_and_outliers_cost_others_nothing() -> None:
    """The step of each value is known; four dimensions a hundred times as large leave the FVU where it was."""
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    plain = calibrate(x)
    steps = ((x - plain.centre) / plain.spread).abs().amax(1, keepdim=True) / 127 * plain.spread
    back = CODECS["int8"].decode(CODECS["int8"].encode(x, plain), plain)
    assert ((x - back).abs() <= 0.501 * steps).all()
    x[:, :4] = 100 * x[:, :4] + 1000
    wide = calibrate(x)
    y = CODECS["int8"].decode(CODECS["int8"].encode(x, wide), wide)
    share = (x - y)[:, 4:].pow(2).sum() / x[:, 4:].var(0).sum() / len(x)
    assert float(share) < 1e-4


@pytest.mark.parametrize("dtype", CODECS)
def test_constant_and_zero_activations(dtype: str) -> None:
    """Neither a dimension that never moves nor a token at the very centre divides by 0."""
    x = torch.zeros(6, 3)
    x[:, 1] = 4.0
    for sample in (x, torch.cat([x, x + torch.eye(3)[torch.arange(6) % 3]])):
        found = calibrate(sample)
        y = CODECS[dtype].decode(CODECS[dtype].encode(sample, found), found)
        torch.testing.assert_close(y, sample, atol=0.02, rtol=0.01)


def test_any_index_in_its_own_order(whole: Harvest) -> None:
    everything = whole.read(SITES[0], slice(None))
    index = np.random.default_rng(0).integers(0, whole.n, 500)
    for chosen in (index, index.tolist(), torch.from_numpy(index), 7, slice(650, 750), slice(None, None, -3), []):
        numbers = np.arange(whole.n)[chosen if isinstance(chosen, slice) else np.asarray(chosen, int)].reshape(-1).copy()
        assert torch.equal(whole.read(SITES[0], chosen), everything[numbers])
    with pytest.raises(IndexError, match=f"has the tokens 0 to .*; {whole.n:,} was asked for"):
        whole.read(SITES[0], [0, whole.n])
    with pytest.raises(IndexError, match="-1 was asked for"):
        whole.read(SITES[0], -1)
    with pytest.raises(ValueError, match="whole numbers; found float64"):
        whole.tokens([0.5])


def test_tokens_lead_back_to_the_data(whole: Harvest) -> None:
    _, text = world()
    found = whole.tokens(slice(None))
    rows = text.rows(slice(None))
    assert (rows.inputs["input_ids"][found["row"].astype(int), found["position"].astype(int)].numpy() == found["id"]).all()
    places = set(zip(found["row"].tolist(), found["position"].tolist(), strict=True))
    assert places == set(map(tuple, rows.keep.nonzero().tolist())), "exactly the positions that count"
    assert not np.isin(found["id"], whole.special_ids).any() and whole.special_ids == text.special_ids
    assert not found["hidden"].any()


def test_the_seed_decides_which_rows_come_first(tmp_path: Path) -> None:
    """The first tokens are those of a random choice of rows, and exactly as many as were asked for."""
    few, others = write(tmp_path / "0", tokens=1000), write(tmp_path / "1", tokens=1000, seed=1)
    assert few.n == others.n == 1000 and [shard.n for shard in few.manifest.shards] == [700, 300]
    assert set(few.tokens(slice(None))["row"]) != set(others.tokens(slice(None))["row"])
    assert torch.equal(few.read(SITES[0], slice(None)), expected()[SITES[0]][:1000].bfloat16().float())


def test_other_networks_and_data(tmp_path: Path) -> None:
    """Arrays have no token ids, images have tokens without ids, and masked models hide some of theirs."""
    mlp = cw.open(nn.Sequential(nn.Linear(5, 7), nn.ReLU()))
    x = torch.randn(50, 5)
    found = cw.harvest(mlp, cw.arrays(x), "0:out", tmp_path / "mlp", dtype="float32", shard_tokens=20, progress=False, seed=3)
    tokens = found.tokens(slice(None))
    torch.testing.assert_close(found.read("0:out", slice(None)), mlp.module[0](x[tokens["row"].astype(int)]).detach())
    assert (tokens["id"] == -1).all() and (tokens["position"] == 0).all() and sorted(tokens["row"]) == list(range(50))

    vit = tiny_vit()
    found = cw.harvest(vit, cw.arrays(torch.randn(6, 3, 8, 8)), "blocks.0", tmp_path / "vit", progress=False)
    assert found.n == 6 * 5 and found.tokens(slice(None))["position"].max() == 4

    bert = tiny_bert()
    text = cw.corpus([PLAIN[:3000]], bert)
    tokens = cw.harvest(bert, text, "blocks.1", tmp_path / "bert", progress=False).tokens(slice(None))
    labels = text.rows(slice(None)).labels
    assert tokens["hidden"].any()
    assert ((labels != -100).numpy()[tokens["row"].astype(int), tokens["position"].astype(int)] == tokens["hidden"]).all()


# --- statistics ---------------------------------------------------------------------------------------------------------

def test_statistics_are_those_of_the_observers(whole: Harvest) -> None:
    net, text = world()
    moments = [Moments(site) for site in SITES]
    observe(net, text, moments)
    for site, known in zip(SITES, moments, strict=True):
        found = whole.moments(site)
        assert found.n == known.n
        torch.testing.assert_close(found.mean, known.mean, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found.variance, known.variance, rtol=1e-5, atol=0)
        norms = expected()[site].norm(dim=-1)
        torch.testing.assert_close(whole.norms(site), norms, rtol=1e-6, atol=0)
        assert whole.max_norm(site) == pytest.approx(norm_limit(expected()[site]), rel=1e-6)
        for share, value in found.quantiles.items():
            assert value == pytest.approx(np.quantile(norms.double(), share), rel=1e-6)


@cache
def with_sinks() -> tuple[Network, Any, list[int]]:
    """Activations of which three are sinks."""
    x, rows = torch.randn(400, 8, generator=torch.Generator().manual_seed(0)), [5, 250, 399]
    x[rows] *= 1000
    return cw.open(nn.Sequential(nn.Identity(), nn.Linear(8, 4))), cw.arrays(x), rows


def test_sinks_are_stored_and_left_out(tmp_path: Path) -> None:
    net, data, rows = with_sinks()
    found = cw.harvest(net, data, "0:out", tmp_path, dtype="float32", shard_tokens=150, progress=False)
    sinks = found.moments("0:out").sinks
    assert sorted(found.tokens(sinks)["row"]) == rows and found.n == 400
    assert (found.norms("0:out") > found.max_norm("0:out")).nonzero()[:, 0].tolist() == sinks.tolist()
    x = torch.cat([xs["0:out"] for xs, _ in found.batches(["0:out"], 1)])
    assert len(x) == 397 and below(x, found.max_norm("0:out")).all() and len(x.unique(dim=0)) == 397
    sample = found.sample("0:out", 10_000)
    assert len(sample) == 397 and below(sample, found.max_norm("0:out")).all()
    assert torch.equal(found.sample("0:out", 20), sample[:20]) and not torch.equal(sample[:20], x[:20])


# --- the order of a permutation -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 16, 17, 100, 1023, 1024, 1025, 50_000])
def test_a_permutation_has_everything_once(n: int) -> None:
    for key in [(0, 0), (0, 1), (1, 0), (12345, 678)]:
        assert (np.sort(Permutation(n, *key)(np.arange(n))) == np.arange(n)).all()


def test_a_permutation_is_another_for_another_key_and_the_same_anywhere() -> None:
    n = 10_007
    orders = [Permutation(n, *key)(np.arange(n)) for key in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).sum() < 10, "as often as by chance: once"
    some = np.array([9_000, 3, 3, 4_999])
    assert (Permutation(n, 0, 0)(some) == orders[0][some]).all()
    huge = Permutation(10**15 + 37, 5)(np.arange(10**6))
    assert len(np.unique(huge)) == 10**6 and huge.min() >= 0 and huge.max() < 10**15 + 37
    with pytest.raises(ValueError, match="keys of at least 0"):
        Permutation(5, -1)


def test_a_permutation_is_a_global_shuffle() -> None:
    """Places and neighbours tell nothing: uniform over the whole, as far from home and from each other as by chance."""
    n = 100_000
    order = Permutation(n, 7, 0)(np.arange(n))
    counts = np.histogram2d(np.arange(n), order, bins=20)[0]
    expected_count = n / 400
    chi = ((counts - expected_count) ** 2 / expected_count).sum()
    assert 361 - 5 * np.sqrt(2 * 361) < chi < 361 + 5 * np.sqrt(2 * 361), "5 sigma of a chi-square of 19 * 19"
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.abs(order - np.arange(n)).mean() / n - 1 / 3) < 0.01
    firsts = [Permutation(10, seed)(np.arange(10))[0] for seed in range(3000)]
    assert np.bincount(firsts, minlength=10).min() > 200, "every number comes first for some seeds, about equally often"


@pytest.mark.parametrize("left_out", [[], [0], [9], [0, 1, 2], [3, 4, 8, 9], list(range(9))])
def test_numbers_without_some(left_out: list[int]) -> None:
    rest = Without(10, np.array(left_out, np.int64))
    assert rest(np.arange(rest.n)).tolist() == [i for i in range(10) if i not in left_out]


def test_batches_are_one_epoch_of_everything_and_go_on_exactly(whole: Harvest) -> None:
    batches = list(whole.batches(SITES, 64, seed=3, epoch=2))
    assert len(batches) == whole.n // 64 and batches[-1][1] == len(batches) * 64
    everything = {site: whole.read(site, slice(None)) for site in SITES}
    order = Permutation(whole.n, 3, 2)(np.arange(whole.n))
    for i, (xs, position) in enumerate(batches):
        for site in SITES:
            assert torch.equal(xs[site], everything[site][order[position - 64: position]]), "the same tokens at each site"
        if i % 7 == 0:
            rest = list(Harvest(whole.folder).batches(SITES, 64, seed=3, start=position, epoch=2))
            assert len(rest) == len(batches) - i - 1
            assert all(a[1] == b[1] and torch.equal(a[0][SITES[1]], b[0][SITES[1]])
                       for a, b in zip(rest, batches[i + 1:], strict=True))
    other = next(whole.batches(SITES, 64, seed=3, epoch=3))[0][SITES[0]]
    assert not torch.equal(other, batches[0][0][SITES[0]])
    alone = next(whole.batches(SITES[0], 64, seed=3, epoch=2))[0]
    assert list(alone) == SITES[:1]


@pytest.mark.parametrize(("options", "says"), [
    ({"batch": 10**6}, "tokens that count, which do not give a batch of 1,000,000"), ({"batch": 0}, "take a batch from 1"),
    ({"batch": 8, "start": -1}, "positions 0 to"), ({"batch": 8, "start": 10**7}, "positions 0 to"),
    ({"batch": 8, "sites": ["blocks.9"]}, "found the site 'blocks.9'; harvest it")])
def test_batches_that_cannot_be(options: dict, says: str, whole: Harvest) -> None:
    with pytest.raises(ValueError, match=says):
        whole.batches(**{"sites": SITES, **options})


def test_several_readers_at_once(whole: Harvest) -> None:
    """Eight threads on one harvest and on their own read the same as one reader alone, from the first touch on."""
    alone = [xs[SITES[0]] for xs, _ in whole.batches(SITES, 32, seed=1)]
    shared, barrier = Harvest(whole.folder), threading.Barrier(8)

    def read(i: int) -> bool:
        own = shared if i % 2 else Harvest(whole.folder)
        barrier.wait()
        return all(torch.equal(xs[SITES[0]], x) for (xs, _), x in zip(own.batches(SITES, 32, seed=1), alone, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    net, data, _ = with_sinks()
    found = cw.harvest(net, data, "0:out", tmp_path, shard_tokens=1, tokens=60, progress=False)
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    found.read("0:out", slice(None))
    after = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    assert len(found.manifest.shards) == 60 and after == before


# --- killed, interrupted, out of room -----------------------------------------------------------------------------------

KILLED = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    torch.set_num_threads(1)    # no threads, so that a fork is safe
    sys.path.insert(0, sys.argv[2])
    from test_harvest import write, world
    folder, kills = Path(sys.argv[1]), 0
    world()

    def begun(before=lambda: None):
        child = os.fork()
        if child == 0:
            try:
                before()
                write(folder, tokens=700, shard_tokens=300)
            except BaseException as error:
                print(type(error), error, file=sys.stderr)
                os._exit(1)
            os._exit(0)
        return child

    def dies_at(call):
        # At the call-th time that something is synced or put in place, as a process dies by kill -9: nothing is cleaned up.
        left = [call]
        def counted(function):
            def act(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            return act
        for name in ("fsync", "rename", "replace"):
            setattr(os, name, counted(getattr(os, name)))
"""

EVERY_CALL = KILLED + """
    call = 0
    while True:
        call = call % 14 + 1
        _, status = os.waitpid(begun(lambda: dies_at(call)), 0)
        if not os.WIFSIGNALED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills += 1
    print(kills, os.WEXITSTATUS(status))
"""

ANY_MOMENT = KILLED + """
    random.seed(0)
    longest = 0.01
    while True:
        child = begun()
        time.sleep(random.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        kills, longest = kills + 1, longest * 1.2
    print(kills, os.WEXITSTATUS(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here, to be killed by the dozen")
@pytest.mark.parametrize("script", [EVERY_CALL, ANY_MOMENT], ids=["at every call", "at any moment"])
def test_killed_again_and_again_it_ends_with_the_same_bytes(script: str, tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "out"), str(Path(__file__).parent)],
                            capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    kills, status = map(int, result.stdout.split())
    assert status == 0, result.stderr
    assert kills >= 3
    write(tmp_path / "whole", tokens=700, shard_tokens=300)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def interrupting(call: int, act: Callable[[], None]) -> Any:
    """os.fsync that does something before its call-th time."""
    left, fsync = [call], os.fsync

    def act_or_sync(handle: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            act()
        fsync(handle)
    return act_or_sync


def test_ctrl_c_says_how_to_go_on(whole: Harvest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)      # a shell's background processes ignore it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupting(25, lambda: os.kill(os.getpid(), signal.SIGINT)))
            with pytest.raises(KeyboardInterrupt, match=r"stopped after [1-9][\d,]* tokens; run the same command again"):
                write(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.rglob("*.part"))
    with pytest.raises(ValueError, match=r"is not finished \([\d,]+ tokens so far\); run the same harvest again"):
        Harvest(tmp_path)
    write(tmp_path)
    assert content(tmp_path) == content(whole.folder)


@pytest.mark.parametrize("call", [1, 6, 25, 30, 34])
def test_a_full_disk_costs_nothing_that_was_whole(call: int, whole: Harvest, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is being synced when it fills up: an activation file, the manifest, the statistics."""
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupting(call, full))
        with pytest.raises(OSError, match="no space left on the disk to write") as error:
            write(tmp_path)
    said = one_sentence(error.value)
    assert str(tmp_path) in said and "free some and run th" in said and error.value.errno == errno.ENOSPC
    assert not list(tmp_path.rglob("*.part")) and (call < 25 or (tmp_path / "shards" / "00000").is_dir())
    write(tmp_path)
    assert content(tmp_path) == content(whole.folder)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    net, text = world()
    out = tmp_path / "new" / "harvest"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    with pytest.raises(OSError, match="need .* and a margin of .* has 100 MB free; give another folder") as error:
        cw.harvest(net, text, SITES, out)
    assert error.value.errno == errno.ENOSPC and one_sentence(error.value) and not out.parent.exists()
    assert not capsys.readouterr().out
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    cw.harvest(net, text, SITES, out, shard_tokens=SHARD)
    said = capsys.readouterr().out
    size = sum(path.stat().st_size for path in out.rglob("*") if path.name != "manifest.json")
    assert "of 1 GB that are free" in said
    about = float(said.split(" kB")[0].rsplit(" ", 1)[1]) * 1000
    assert 0.9 * size < about < 1.1 * size, "the estimate is right"


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with (locked(tmp_path / "out", "writing the harvest"),
          pytest.raises(BlockingIOError, match="another process is writing") as error):
        write(tmp_path / "out")
    assert "or give another folder" in one_sentence(error.value) and content(tmp_path / "out") == {}
    write(tmp_path / "out")


def test_a_harvest_that_is_there_is_not_written_again(whole: Harvest, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(whole.folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: pytest.fail("something was written"))
        again = write(whole.folder)
    assert again.fingerprint == whole.fingerprint and content(whole.folder) == before


# --- damage -------------------------------------------------------------------------------------------------------------

def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGE = {"cut short": (cut_short, "bytes where .* were written"), "flipped bit": (flipped, "its checksum differs"),
          "missing": (Path.unlink, "is missing")}


@pytest.mark.parametrize("name", ["blocks.0.bfloat16", "tokens.bin", "statistics.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_found_and_alone_written_again(name: str, damage: str, copy: Path, whole: Harvest) -> None:
    place = copy / "shards" / "00002"
    act, says = DAMAGE[damage]
    act(place / name)
    found = Harvest(copy)
    reader = {"blocks.0.bfloat16": lambda index: found.read("blocks.0", index), "tokens.bin": found.tokens,
              "statistics.safetensors": lambda index: found.norms("blocks.0")}[name]
    if name != "statistics.safetensors":
        reader([0, SHARD])     # what is whole can be read
    found.read(SITES[1], slice(None))
    for touch in (lambda: reader([2 * SHARD]), found.verify):
        with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
            touch()
        assert str(place / name) in one_sentence(error.value)
        assert f"delete {place} and run the same harvest again" in one_sentence(error.value)
    if name == "blocks.0.bfloat16":
        with pytest.raises((ValueError, FileNotFoundError), match=says):
            found.batches(SITES, 32)
    shutil.rmtree(place)
    times = {path: path.stat().st_mtime_ns for path in copy.glob("shards/*/*")}
    assert torch.equal(write(copy).read("blocks.0", slice(None)), whole.read("blocks.0", slice(None)))
    assert content(copy) == content(whole.folder)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()), "the other shards were left alone"


@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_running_again_is_enough_where_it_shows(damage: str, copy: Path, whole: Harvest) -> None:
    for number in (1, 3):
        DAMAGE[damage][0](copy / "shards" / f"0000{number}" / "blocks.0.bfloat16")
    shutil.rmtree(copy / "shards" / "00000")
    (copy / "statistics.safetensors").unlink()
    write(copy).verify()
    assert content(copy) == content(whole.folder)


@pytest.mark.parametrize(("name", "touch", "remedy"), [
    ("calibration.safetensors", lambda found: None, "harvest anew into another folder"),
    ("statistics.safetensors", lambda found: found.max_norm("blocks.0"), "delete it and run the same harvest again")])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_what_all_shards_share(name: str, touch: Any, remedy: str, damage: str, copy: Path) -> None:
    act, says = DAMAGE[damage]
    act(copy / name)
    with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
        touch(Harvest(copy))
    assert str(copy / name) in one_sentence(error.value) and remedy in one_sentence(error.value)


def edited(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
    return act


@pytest.mark.parametrize(("act", "says"), [
    (edited(lambda value: value.update(format=2)), "is of format 2, but this version of Cutaway reads format 1; update"),
    (edited(lambda value: value["shards"].pop()), "manifest.json is damaged"),
    (edited(lambda value: value.update(kind="else")), "is not the manifest of a harvest"),
    (cut_short, "manifest.json is damaged"), (flipped, "manifest.json is damaged"), (Path.unlink, "holds no manifest.json")])
def test_a_manifest_that_cannot_be_trusted(act: Callable[[Path], None], says: str, copy: Path) -> None:
    act(copy / "manifest.json")
    with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
        Harvest(copy)
    assert str(copy) in one_sentence(error.value)
    before = content(copy)
    with pytest.raises((ValueError, FileNotFoundError)):
        write(copy)
    assert content(copy) == before, "writing stops as well, and what is there stays"


# --- another network, site or setting -----------------------------------------------------------------------------------

def test_a_harvest_of_another_network_or_site(whole: Harvest) -> None:
    net, _ = world()
    Harvest(whole.folder, net)
    other = tiny_llama()
    with torch.no_grad():
        next(other.module.parameters())[0, 0] += 1e-3
    with pytest.raises(ValueError, match="was made with a network called") as error:
        Harvest(whole.folder, other)
    assert str(whole.folder) in one_sentence(error.value)
    with pytest.raises(ValueError, match="whose weights, or their type, differ"):
        Harvest(whole.folder, cw.open(tiny_llama().module.double(), net.tokenizer))
    for call in (whole.moments, whole.max_norm, whole.norms, whole.d, lambda site: whole.read(site, 0)):
        with pytest.raises(ValueError, match=r"holds blocks.0, blocks.1.mlp.neurons; found the site 'blocks.1'"):
            call("blocks.1")


@pytest.mark.parametrize(("options", "name"), [
    ({"dtype": "int8"}, "dtype, layout"), ({"tokens": 800}, "tokens"), ({"sites": "blocks.0"}, "sites"), ({"seed": 1}, "seed"),
    ({"shard_tokens": 100}, "shard_tokens"), ({"data": "other"}, "data"), ({"net": "other"}, "network")])
def test_other_settings_do_not_go_on_in_a_folder(options: dict, name: str, whole: Harvest) -> None:
    net, text = world()
    others: dict[str, Any] = {"data": text.take(500), "net": cw.open(tiny_llama().module.double(), net.tokenizer)}
    before = content(whole.folder)
    with pytest.raises(ValueError, match=rf"another harvest|other settings \({name} differ\); give another folder"):
        write(whole.folder, **{key: others.get(key, value) if value == "other" else value for key, value in options.items()})
    assert content(whole.folder) == before


@pytest.mark.parametrize(("options", "says"), [
    ({"dtype": "int4"}, "float32, bfloat16, int8; found the dtype 'int4'"), ({"tokens": 0}, "at least one token"),
    ({"tokens": "two"}, "looks like 500000, 500k or 2M"), ({"shard_tokens": 0}, "at least 1 token"),
    ({"sites": []}, "no sites"), ({"sites": "blocks.7"}, "there is no site"),
    ({"sites": "blocks.0.attn.pattern"}, "holds pattern, not activations"),
    ({"sites": "lm_head:weight"}, "holds weight, not activations")])
def test_what_cannot_be_harvested(options: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says) as error:
        write(tmp_path / "out", **options)
    assert one_sentence(error.value) and not (tmp_path / "out").exists()


def test_a_harvest_is_no_data_for_a_harvest(whole: Harvest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds activations already; give the rows"):
        write(tmp_path / "out", data=whole)


def test_nan_and_sites_of_other_tokens_are_refused(tmp_path: Path) -> None:
    x = torch.zeros(40, 3)
    x[7] = -1
    roots = cw.open(nn.Sequential(nn.Identity(), Root()))
    with pytest.raises(ValueError, match=r"activations at 1:out hold NaN or infinity, in the rows"):
        cw.harvest(roots, cw.arrays(x), "1:out", tmp_path / "nan", progress=False)
    pooled = cw.open(nn.Sequential(nn.Linear(3, 2), Pool()))
    with pytest.raises(ValueError, match=r"0:out has activations for \[4, 5\] tokens and 1:out for \[4\]; harvest them"):
        cw.harvest(pooled, cw.arrays(torch.randn(4, 5, 3)), ["0:out", "1:out"], tmp_path / "two", progress=False)
    assert not (tmp_path / "nan").exists() and not (tmp_path / "two").exists()


class Root(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


# --- the command line ---------------------------------------------------------------------------------------------------

def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["harvest", "pico", "--site", "blocks.[12]*", "--tokens", "3k", "--dtype", "int8", "--out", str(tmp_path / "out"),
             "--shard-tokens", "2000", "--data", str(tmp_path / "text.py")]
    (tmp_path / "text.py").write_text(PLAIN)
    main(words)
    said = " ".join(capsys.readouterr().out.split())
    assert "Writing about 3,000 tokens at blocks.1, blocks.2 as int8" in said and "sinks with norms above" in said
    found = Harvest(tmp_path / "out", cw.open("pico"))
    assert found.n == 3000 and found.sites == ["blocks.1", "blocks.2"]
    before = content(tmp_path / "out")
    main(words)
    main(["rerun", str(tmp_path / "out"), "--out", str(tmp_path / "again")])
    assert content(tmp_path / "out") == before
    again = content(tmp_path / "again")
    assert {k: v for k, v in again.items() if k != "config.json"} == {k: v for k, v in before.items() if k != "config.json"}
    with pytest.raises(SystemExit, match=r"^cutaway: .*other settings \(tokens differ\)"):
        main([*words, "--tokens", "4k"])
    assert content(tmp_path / "out") == before
