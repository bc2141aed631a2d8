"""Dictionaries: what is learned, the file, what they do in a network, and how that is measured."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import PLAIN, tiny_llama
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

import cutaway as cw
from cutaway.data import ArrayData, Batch
from cutaway.dictionaries import Codes, Dictionary, Direction, Facts, KSparse, Recipe, ReLU, TopK, evaluate, parts
from cutaway.dictionaries.recipe import geometric_median
from cutaway.edits import clamp
from cutaway.network import At, Network
from cutaway.train.learner import Learner

D, WIDTH, N = 16, 64, 50
RECIPES = {"topk": TopK(WIDTH, 4), "k-sparse": KSparse(WIDTH, 4), "relu-l1": ReLU(WIDTH)}


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def dictionary(sparsify: Any = None, d: int = D, width: int = WIDTH, facts: Facts | None = None, seed: int = 0,
               dtype: torch.dtype = torch.float32) -> Dictionary:
    """A random dictionary; its biases are not zero."""
    made = Dictionary(d, width, sparsify or parts.TopK(4), facts or Facts()).to(dtype)
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter.copy_(numbers(*parameter.shape, seed=seed + i) * (0.5 if parameter.ndim == 1 else d**-0.5))
    return made.requires_grad_(False)


# --- learning ---------------------------------------------------------------------------------------------------------

def train(recipe: Recipe, x: Tensor, batch: int = 256, seed: int = 0) -> Learner:
    learner = Learner(recipe, x[:4096], len(x) // batch, batch, seed)
    for part in x.split(batch):
        if not learner.done:
            learner.step(part)
    return learner


@cache
def sparse_world(n: int = 100_000, d: int = 32, n_features: int = 64, active: int = 3) -> tuple[Tensor, Tensor]:
    """Activations [n, d] that are sums of a few of `n_features` directions, about a mean far from zero; and the directions."""
    generator = torch.Generator().manual_seed(1)
    directions = F.normalize(torch.randn(n_features, d, generator=generator), dim=1)
    chosen = torch.rand(n, n_features, generator=generator).topk(active).indices
    codes = torch.zeros(n, n_features).scatter_(1, chosen, 1 + torch.rand(n, active, generator=generator))
    return 5 * (codes @ directions) + 30 * torch.randn(d, generator=generator), directions


@pytest.mark.parametrize("recipe", [TopK(64, 3), ReLU(64, l1=0.1)], ids=lambda recipe: recipe.name)
def test_a_known_dictionary_is_found_again(recipe: Recipe) -> None:
    x, directions = sparse_world()
    learner = train(recipe, x)
    made = F.normalize(learner.export(Facts()).W_dec, dim=1)
    assert (directions @ made.T).amax(1).mean() > 0.9
    assert learner.history[-1]["fvu"] < 0.15 < learner.history[0]["fvu"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_scale_is_folded(name: str) -> None:
    """Codes and reconstructions in the site's own units are those of training, times the scale."""
    x = sparse_world()[0]
    learner = train(RECIPES[name], x[:20 * 256])
    made, inside = learner.export(Facts()), learner.dictionary
    assert learner.scale > 2
    part = x[:100]
    codes, expected = made.encode(part), inside.encode(part / learner.scale)
    assert_close(codes.dense(WIDTH), expected.dense(WIDTH) * learner.scale, rtol=1e-4, atol=1e-4)
    assert_close(made(part), inside(part / learner.scale) * learner.scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_decoder_rows_keep_the_norm_that_the_recipe_says(name: str) -> None:
    learner = train(RECIPES[name], sparse_world()[0][:20 * 256])
    norms = learner.export(Facts()).W_dec.norm(dim=1)
    if RECIPES[name].unit_norm:
        assert_close(norms, torch.ones(WIDTH))
    else:
        assert (norms - 1).abs().max() > 1e-3


def test_l0_is_steered_to_its_target() -> None:
    x = sparse_world()[0]
    learner = train(ReLU(64, l0=6.0), x)
    made = learner.export(Facts())
    assert made.encode(x[:5000]).l0.float().mean() == pytest.approx(6.0, rel=0.05)


def test_dead_latents_are_revived() -> None:
    """Latents that begin too weak to be chosen stay dead without AuxK and come to life with it."""
    x, dead = sparse_world()[0], {}
    for aux in (0.0, 1 / 32):
        learner = Learner(TopK(64, 3, aux=aux, dead_after=1024), x[:4096], 200, 256, 0)
        with torch.no_grad():
            learner.dictionary.W_enc[:32] *= 0.02
        for part in x[: 200 * 256].split(256):
            learner.step(part)
        dead[aux] = float((learner.silent >= 4096).float().mean())
    assert 2 * dead[1 / 32] < dead[0.0] > 0.3


def test_the_start_is_the_data() -> None:
    x = sparse_world()[0][:4096]
    made = TopK(64, 3).build(x, torch.Generator().manual_seed(0))
    assert_close(made.b_dec.detach(), geometric_median(x))
    with torch.no_grad():
        error = (made(x) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
        random = TopK(64, 3, initial="random").build(x, torch.Generator().manual_seed(0))
        worse = (random(x) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert error < worse < 1


def test_the_rate_follows_the_scaling_rule() -> None:
    assert TopK(2**14).rate / TopK(2**12).rate == pytest.approx(0.5)
    assert TopK(2**12, lr=1.0).rate == 1.0


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="k must be between 1 and the width 8; found 9"):
        TopK(8, 9)
    with pytest.raises(ValueError, match="constant or hold NaN"):
        Learner(TopK(8, 2), torch.ones(100, 4), 10, 10, 0)
    learner = Learner(TopK(8, 2), numbers(100, 4, dtype=torch.float32), 10, 10, 0)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        learner.step(torch.full((10, 4), float("nan")))


# --- the file ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", RECIPES)
def test_a_saved_dictionary_is_the_same(name: str, tmp_path: Path) -> None:
    facts = Facts(site="blocks.0", path="model.layers.0", network="tiny", data="text", tokens=7, max_norm=12.5,
                  skip_tokens=(0, 1), recipe=RECIPES[name].json())
    made = train(RECIPES[name], sparse_world()[0][:2560]).export(facts)
    path = made.save(tmp_path / "deep" / "one.safetensors")
    again, x = Dictionary.load(path), sparse_world()[0][:50]
    assert again.sparsify == made.sparsify and again.tied == made.tied
    assert torch.equal(again(x), made(x))
    assert again.facts == replace(facts, recipe=RECIPES[name].json())
    assert not any(p.requires_grad for p in again.parameters())
    assert [p.name for p in path.parent.iterdir()] == ["one.safetensors"]


def test_the_file_states_its_conventions(tmp_path: Path) -> None:
    import json

    from safetensors import safe_open
    made = dictionary(facts=Facts(site="blocks.0", max_norm=3.0))
    with safe_open(made.save(tmp_path / "one.safetensors"), "pt") as file:
        header = json.loads(file.metadata()["cutaway"])
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes == {"W_enc": (WIDTH, D), "W_dec": (WIDTH, D), "b_enc": (WIDTH,), "b_dec": (D,)}
    assert header["sparsify"] == {"name": "topk", "k": 4, "first": None}
    assert header["site"] == "blocks.0" and header["max_norm"] == 3.0
    assert {"format", "d", "width", "tied", "layout", "b_dec", "input_scale", "skip_tokens", "recipe"} <= header.keys()


def test_files_that_are_no_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no dictionary at"):
        Dictionary.load(path)
    whole = dictionary().save(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Dictionary.load(path)
    torch.save({"W_dec": torch.zeros(3, 3)}, path)
    with pytest.raises(ValueError, match="only safetensors are read"):
        Dictionary.load(path)
    save_file({"W_dec": torch.zeros(3, 3)}, path)
    with pytest.raises(ValueError, match="conventions are unknown"):
        Dictionary.load(path)
    path.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(ValueError, match="format 9; this version of Cutaway reads up to 1"):
        Dictionary.load(path)


# --- in a network -----------------------------------------------------------------------------------------------------

@cache
def world() -> tuple[Network, Any, Dictionary]:
    """A network, its text, and a random dictionary at its first block that leaves the begin token and sinks alone."""
    net = tiny_llama()
    data = cw.corpus([PLAIN[:4000]], net)
    x = net.record(data.rows(slice(0, 8)), "blocks.0")["blocks.0"]
    limit = float(x[:, 1:].norm(dim=-1).flatten().quantile(0.9))
    facts = Facts(site="blocks.0", max_norm=limit, skip_tokens=tuple(data.special_ids))
    return net, data, dictionary(facts=facts)


def test_a_wrong_width_is_refused() -> None:
    net, _, _ = world()
    with pytest.raises(ValueError, match="activations of width 16; found 5"):
        dictionary().encode(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="learned on activations of width 5, but blocks.0 of .* has 16"):
        dictionary(d=5, facts=Facts(site="blocks.0")).splice(net)
    with pytest.raises(ValueError, match="does not say at which site"):
        dictionary().splice(net)
    with pytest.raises(IndexError, match="features 0 to 63; found 64"):
        Direction(dictionary(), 64)


def test_splice_leaves_special_tokens_and_sinks_alone() -> None:
    net, data, made = world()
    batch = data.rows(slice(0, 4))
    x = net.record(batch, "blocks.0")["blocks.0"]
    with net.edited(made.splice(net)):
        spliced = net.record(batch, "blocks.0")["blocks.0"]
    keep = made.keeps(x, batch.inputs["input_ids"])
    assert not keep[:, 0].any() and batch.keep is not None and (batch.keep & ~keep).any() and keep.float().mean() > 0.5
    assert torch.equal(spliced[~keep], x[~keep])
    assert_close(spliced[keep], made(x[keep]))
    assert (spliced[keep] != x[keep]).any(-1).all()


def test_splice_is_the_same_in_cached_generation() -> None:
    net, data, made = world()
    prompt = torch.as_tensor(data.tokens(0)[None, :6])
    with net.edited(made.splice(net)):
        assert torch.equal(net.generate(prompt, 8), net.generate(prompt, 8, cache=False))


@pytest.mark.parametrize("sparsify", [parts.TopK(4), parts.ReLU(), parts.LargestLinear(4)], ids=str)
def test_the_features_are_a_site(sparsify: Any) -> None:
    """Gate 1 changes no bit; gate 0 on one feature is clamp(feature, 0); all gates 0 leave the error of reconstruction."""
    net, data, made = world()
    made = dictionary(sparsify, facts=made.facts)
    batch, features = data.rows(slice(0, 4)), made.features(net)
    plain = net.logits(batch)
    with net.edited(cw.Edit(features, gate=torch.ones(WIDTH), over="u")):
        assert torch.equal(net.logits(batch), plain)
    x = net.record(batch, "blocks.0")["blocks.0"]
    feature = int(made.encode(x[:, 1:]).counts(WIDTH).argmax())
    gate = torch.ones(WIDTH).index_fill(0, torch.tensor(feature), 0.0)
    with net.edited(cw.Edit(features, gate=gate, over="u")):
        gated = net.logits(batch)
    with net.edited(clamp(Direction(made, feature), 0.0)):
        assert_close(gated, net.logits(batch))
    assert (gated - plain).abs().max() > 1e-3
    with net.edited(cw.Edit(features, gate=torch.zeros(WIDTH), over="u")):
        emptied = net.record(batch, "blocks.0")["blocks.0"]
    keep = made.keeps(x, batch.inputs["input_ids"])
    assert_close(emptied, torch.where(keep[..., None], x - made.directions(made.encode(x)), x))


def test_a_gate_on_features_by_row_and_token() -> None:
    net, data, made = world()
    batch, features = data.rows(slice(0, 2)), made.features(net)
    x = net.record(batch, "blocks.0")["blocks.0"]
    gate = torch.ones(2, x.shape[1], WIDTH)
    gate[1, 5] = 0.0
    with net.edited(cw.Edit(features, gate=gate, over="b t u")):
        changed = (net.record(batch, "blocks.0")["blocks.0"] != x).any(-1)
    assert changed.nonzero().tolist() in ([[1, 5]], []) and bool(changed[1, 5]) == bool(made.keeps(x)[1, 5])
    with pytest.raises(ValueError, match="a gate on features is over"), \
            net.edited(cw.Edit(features, gate=torch.ones(WIDTH, 2), over="u b")):
        net.logits(batch)


# --- evaluation -------------------------------------------------------------------------------------------------------

def identity(d: int, facts: Facts) -> Dictionary:
    """Each dimension and its opposite are a latent: the reconstruction is x."""
    made = Dictionary(d, 2 * d, parts.ReLU(), facts)
    both = torch.cat([torch.eye(d), -torch.eye(d)])
    made.load_state_dict({"W_enc": both, "W_dec": both, "b_enc": torch.zeros(2 * d), "b_dec": torch.zeros(d)})
    return made.requires_grad_(False)


def reader() -> tuple[Network, Any]:
    """A network that reads, so that taking a block away from it costs something: pico and some text."""
    net = cw.open("pico")
    return net, cw.stdlib(net, "validation").take(2000)


def test_an_identity_loses_nothing() -> None:
    net, data = reader()
    found = evaluate(net, identity(256, Facts(site="blocks.0", skip_tokens=tuple(data.special_ids))), data, None)
    assert found["fvu"].value < 1e-9 and found["kl"].value < 1e-6
    assert found["cosine"].value == pytest.approx(1.0) and found["norm_ratio"].value == pytest.approx(1.0)
    assert found["l0"].value == 256 and found["dead"].value < 0.02      # some dimensions keep their sign
    for name in ("loss_recovered_zero", "loss_recovered_mean"):
        assert found[name].value == pytest.approx(1.0, abs=1e-3), name
    assert found["loss"].value == pytest.approx(found["loss_spliced"].value, abs=1e-6)
    assert all(figure.n > 0 and figure.data.startswith("stdlib") for figure in found.values())


def constant(value: Tensor, facts: Facts = Facts()) -> Dictionary:  # noqa: B008
    made = Dictionary(len(value), 2, parts.TopK(1), facts)
    made.b_dec.data = value
    return made.requires_grad_(False)


def test_the_mean_explains_nothing() -> None:
    net, data = reader()
    facts = Facts(site="blocks.0", skip_tokens=tuple(data.special_ids))
    batch = data.rows(slice(None))
    mean = net.record(batch, "blocks.0")["blocks.0"][batch.keep].double().mean(0).float()
    found = evaluate(net, constant(mean, facts), data, None)
    assert found["fvu"].value == pytest.approx(1.0, abs=1e-9)
    assert found["loss_recovered_mean"].value == pytest.approx(0.0, abs=1e-4)
    assert found["dead"].value == 1 and found["l0"].value == 0
    assert found["loss_mean"].value == pytest.approx(found["loss_spliced"].value, abs=1e-5)


def test_a_large_mean_costs_no_digits() -> None:
    """FVU is about the mean of each dimension: a shift of all data changes nothing but the rounding of x itself."""
    from cutaway.metrics import Reconstruction
    x, made = sparse_world()[0][:4000], train(TopK(64, 3), sparse_world()[0][:25_600]).export(Facts())
    found = []
    for shift in (0.0, 1000.0):
        moved = Dictionary(32, 64, made.sparsify)
        moved.load_state_dict({**made.state_dict(), "b_dec": made.b_dec + shift})
        seen = Reconstruction(64)
        for part in (x + shift).split(100):
            codes = moved.encode(part)
            seen.update(part, moved.decode(codes).detach(), codes)
        found.append(seen.figures()["fvu"])
    assert 0 < found[0].value < 0.5
    assert found[1].value == pytest.approx(found[0].value, rel=1e-3)
    assert found[0].low < found[0].value < found[0].high


def test_evaluate_speaks_of_the_same_activations_everywhere() -> None:
    """Sinks and special tokens count neither in the reconstruction nor are they changed in the network."""
    net, data, made = world()
    found = evaluate(net, made, data, 400)
    batch = data.take(400).rows(slice(None))
    x = net.record(batch, "blocks.0")["blocks.0"]
    keep = made.keeps(x, batch.inputs["input_ids"])
    x, mean = x[keep].double(), x[keep].double().mean(0)
    error = (made(x.float()).double() - x).pow(2).sum() / (x - mean).pow(2).sum()
    assert found["fvu"].n == int(keep.sum()) < found["loss"].n
    assert found["fvu"].value == pytest.approx(float(error), rel=1e-5)
    assert found["dense"].n == WIDTH and found["l0"].value <= 4


def test_codes() -> None:
    codes = Codes(torch.tensor([[1.0, 0.0], [2.0, 3.0]]), torch.tensor([[1, 0], [2, 1]]))
    assert codes.dense(4).tolist() == [[0, 1, 0, 0], [0, 3, 2, 0]]
    assert codes.l0.tolist() == [1, 2] and codes.counts(4).tolist() == [0, 2, 1, 0]
    assert codes.of(1).tolist() == [1.0, 3.0] and codes.of(0).tolist() == [0.0, 0.0]


def test_images_and_plain_modules_have_dictionaries_too() -> None:
    """Activations without a token axis: a site of an MLP that is only a module."""
    net = cw.open(torch.nn.Sequential(torch.nn.Linear(6, D), torch.nn.ReLU(), torch.nn.Linear(D, 3)))
    data = cw.arrays(numbers(200, 6, dtype=torch.float32))
    assert isinstance(data, ArrayData) and isinstance(data.rows([0]), Batch)
    run = cw.learn(net, data, {"0:out": TopK(32, 4)}, tokens=2000, batch=50, progress=False)
    found = run.evaluate(tokens=None)["0:out"]
    assert found["fvu"].value < 0.7 and found["fvu"].n == 200 and "loss" not in found
    with net.edited(run.dictionary.splice(net)):
        spliced = net.record(data.rows([0, 1]), "0:out")["0:out"]
    x = net.record(data.rows([0, 1]), "0:out")["0:out"]
    assert_close(spliced, run.dictionary(x))
    assert isinstance(At(), At)


def test_features_at_each_token_of_a_text_leave_special_tokens_out() -> None:
    net = tiny_llama()
    text = cw.corpus([PLAIN[:4000]], net)
    made = cw.learn(net, text, {"blocks.0": cw.AbsTopK(16, 4)}, tokens=512, batch=32, progress=False).dictionary
    begin, *others = cw.watch(net, made, text).active("<s>def f1(self, x):")
    assert begin == [] and others and all(others)
    assert any(value < 0 for found in others for _, value in found), "a latent with two poles fires on either side of zero"
    for found in others:
        assert [abs(value) for _, value in found] == sorted((abs(value) for _, value in found), reverse=True)
