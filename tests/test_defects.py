"""What other libraries got wrong: docs/defects.md names a test for each defect, and those that fit nowhere else are here."""

from __future__ import annotations

import ast
import inspect
import re
import tracemalloc
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods import RECIPES, K, data, finished, learner_of, recipe_of, rows
from test_store import a_run
from torch import Tensor

from cutaway.catalogue import methods
from cutaway.dictionaries import Facts
from cutaway.dictionaries.batch_topk import BatchLargest
from cutaway.dictionaries.parts import AuxK, Pass
from cutaway.dictionaries.recipe import geometric_median
from cutaway.metrics import Reconstruction
from cutaway.store import coded, store
from cutaway.train.buffer import ShuffleBuffer

PAGE = Path(__file__).parent.parent / "docs" / "defects.md"


def test_every_defect_has_a_test_that_is_there() -> None:
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(line.split("|")[1]) for line in table] == list(range(1, len(table) + 1)) and len(table) >= 30
    written: dict[str, set[str]] = {}
    for line in table:
        named = re.findall(r"`(test_\w+)::(test_\w+)`", line.split("|")[4])
        assert named or line.split("|")[4].strip().startswith("not offered"), line
        for file, name in named:
            if file not in written:
                tree = ast.parse((Path(__file__).parent / f"{file}.py").read_text(encoding="utf-8"))
                written[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert name in written[file], f"{file} has no {name}"


# --- options and facts ----------------------------------------------------------------------------------------------------

def others(id: str, name: str) -> list[Any]:
    """Values of an option that are not its default; of words, those that the error names which a wrong one gets."""
    default = methods("dictionary")[id].signature.parameters[name].default
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, str):
        with pytest.raises(ValueError) as error:
            recipe_of(id, **{name: "?"})
        return [word for word in re.findall(r"[\w-]+", str(error.value)) if word != default]
    if isinstance(default, tuple):
        return [default[1:], (0.25, 1.0), (2, 4)]
    if default is None:
        return [3, 0.3, (3,)]
    return [type(default)(value) for value in (2 * default, default / 2, 1, 4, 0.5) if type(default)(value) != default]


@pytest.mark.parametrize("id", RECIPES)
def test_no_option_of_a_method_does_nothing(id: str) -> None:
    """Each option changes the recipe, or says why it cannot; two libraries take options that nothing reads."""
    plain = recipe_of(id).json()
    for name in methods("dictionary")[id].signature.parameters:
        if name in ("width", "k", "l0"):
            continue
        found = []
        for value in others(id, name):
            try:
                found.append(recipe_of(id, **{name: value}).json() != plain)
            except (ValueError, TypeError):
                continue
        assert found and any(found), f"{id} takes {name} and does nothing with it"


def test_every_setting_of_a_part_is_read_by_it() -> None:
    """A field of a sparsifier or a loss term that its code never reads would be an option that does nothing."""
    for id in RECIPES:
        recipe = recipe_of(id)
        for part in filter(is_dataclass, (recipe.sparsify, *recipe.losses)):
            text = "".join(inspect.getsource(inspect.getmodule(kind)) for kind in type(part).__mro__[:-1])  # type: ignore[arg-type]
            for field in fields(part):
                assert re.search(rf"\.{field.name}\b", text), f"{type(part).__name__}.{field.name} of {id} is never read"


def test_facts_that_are_not_there_are_not_none() -> None:
    with pytest.raises(AttributeError, match="hook_nmae"):
        _ = Facts().hook_nmae  # type: ignore[attr-defined]


# --- training -------------------------------------------------------------------------------------------------------------

def test_the_geometric_median_is_none_of_the_outliers_business() -> None:
    """Another library calls the mean a geometric median."""
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    x[:5] += 1000
    found = geometric_median(x)

    def distance(point: Tensor) -> float:
        return float((x - point).norm(dim=1).sum())
    assert float(found.norm()) < 0.5 and float(x.mean(0).norm()) > 20
    nearby = [found + 0.05 * torch.randn(8, generator=torch.Generator().manual_seed(seed)) for seed in range(50)]
    assert distance(found) < min(map(distance, nearby))


@pytest.mark.parametrize("n", [1, 16, 300])
def test_batch_topk_counts_latents_a_token_and_not_a_batch(n: int) -> None:
    recipe = recipe_of("batch-topk")
    made = learner_of(recipe).dictionary
    codes = BatchLargest(K)(data(3, n), made)
    assert int(codes.l0.sum()) <= n * K and codes.l0.float().mean() > 0.8 * K


@pytest.mark.parametrize("id", ["batch-topk", "matryoshka"])
def test_a_dictionary_is_sparse_from_its_first_step(id: str) -> None:
    """Its threshold is one that fires for k latents a token, after one step as after many: it never stands at -1."""
    young = learner_of(recipe_of(id))
    young.step(rows(young.recipe, 1))
    codes = finished(young).encode(data(50, 2048))
    assert 0.5 * K < float(codes.l0.float().mean()) < 2 * K


@pytest.mark.parametrize("id", RECIPES)
def test_dead_latents_are_pulled_and_living_ones_are_not_by_the_auxiliary_loss(id: str) -> None:
    """Wherever a dictionary reads and writes: the encoder of dead latents gets a gradient, and nothing else does."""
    trained = learner_of(recipe_of(id))
    terms = [term for term in trained.losses if isinstance(term, AuxK)]
    if not terms:
        assert "aux" not in methods("dictionary")[id].signature.parameters or not trained.recipe.losses
        return
    d, x = trained.dictionary, rows(trained.recipe, 1)
    silent = torch.where(torch.arange(d.width) % 4 == 0, 10**12, 0)
    read, written = (part(trained._scaled(x)) for part in (trained.row.read, trained.row.written))
    codes = d.encode(read, 0.5)
    now = Pass(d, read, codes, silent, float(written.shape[-1]), 0.5, ranks=trained.ranks, target=written)
    loss = sum(term(now) for term in terms)
    assert float(loss.detach()) > 0
    names, parameters = zip(*((name, p) for name, p in d.named_parameters() if p.requires_grad), strict=True)
    found = dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))
    encoders = [g for name, g in found.items() if name.startswith("W_") and g is not None and g.ndim == 2]
    assert encoders
    for g in encoders:     # of one layer, where there are several
        dead = silent[: len(g)] > 0
        assert g[dead].abs().sum() > 0 and not g[~dead].any()


def test_the_buffer_is_shuffled_once_for_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permutation of all that is held costs as much as reading it, so it is not made for every batch."""
    drawn, randperm = list[int](), torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **more: drawn.append(n) or randperm(n, **more))
    buffer, out = ShuffleBuffer(1000, 10, torch.Generator().manual_seed(0)), 0
    for part in torch.arange(8000.0)[:, None].split(100):
        out += sum(1 for _ in buffer.add(part))
    assert out > 600 and sum(drawn) < 3 * 8000


def test_gradients_of_one_step_are_gone_at_the_next() -> None:
    """The second of two steps on the same batch is that of a learner that stands there without a past gradient."""
    one, two = learner_of(recipe_of("topk")), learner_of(recipe_of("topk"))
    x = data(1)
    one.step(x)
    tensors, facts = one.state()
    two.load_state({name: t.clone() for name, t in tensors.items()}, facts)      # no gradient comes with a state
    one.step(x)
    two.step(x)
    for name, p in one.dictionary.named_parameters():
        assert torch.equal(p, dict(two.dictionary.named_parameters())[name]), name


def test_explained_variance_does_not_depend_on_the_batches() -> None:
    """A mean of each batch's ratio, or a variance about each batch's mean, would."""
    made, x, found = finished(learner_of(recipe_of("topk"))), 3 + data(5, 960), []
    for size in (960, 96, 7):
        seen = Reconstruction(made.width)
        for part in x.split(size):
            codes = made.encode(part)
            seen.update(part, made.decode(codes), codes)
        found.append(seen.figures()["fvu"].value)
    expected = float((made(x) - x).double().pow(2).sum() / (x - x.mean(0)).double().pow(2).sum())
    assert found == pytest.approx([expected] * 3, rel=1e-5)


# --- the store ------------------------------------------------------------------------------------------------------------

def test_memory_of_a_store_does_not_grow_with_its_tokens_and_tokens_are_kept_once(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coded, "CHUNK", 1024)
    peaks, n_rows = [], []
    for tokens in (600, 2_400, 4_800):     # with the first, what is loaded once is loaded
        tracemalloc.start()
        built = store(a_run(), tokens=tokens, out=tmp_path / str(tokens), progress=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        n_rows.append(built.manifest["n_rows"])
    assert n_rows[2] > 1.7 * n_rows[1] and peaks[2] < 1.2 * peaks[1]
    kept = [path.name for path in (tmp_path / "4800").rglob("*") if path.is_file() and path.stat().st_size >= n_rows[2] * 64]
    assert kept.count("tokens.npy") == 1 and (tmp_path / "4800" / "tokens.npy").stat().st_size < 1.1 * n_rows[2] * 64
