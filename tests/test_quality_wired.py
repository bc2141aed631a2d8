"""The profile of dictionaries that read or write several sites: what is measured is right, and the rest says why it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PLAIN, tiny_llama
from rich.text import Text
from torch import Tensor

import cutaway as cw
from cutaway.dictionaries import Codes, Dictionary, Facts, parts
from cutaway.dictionaries.apart import apart
from cutaway.dictionaries.jump import Jump
from cutaway.dictionaries.quality import Profile, ablation, controls, core, profile
from cutaway.dictionaries.quality.bench import Bench, gather
from cutaway.dictionaries.quality.contract import Sums
from cutaway.dictionaries.shared_code import SharedCode
from cutaway.network import At, Edit
from cutaway.report.profile import tables

WIDTH, K = 32, 4
PLANS: dict[str, dict[str, Any]] = {
    "transcoder": {"blocks.1.mlp": cw.Transcoder(WIDTH, K)}, "skip": {"blocks.0.mlp": cw.SkipTranscoder(WIDTH, K)},
    "crosscoder": {"blocks.*": cw.Crosscoder(WIDTH, K)}, "layer": {"blocks.*.mlp": cw.CrossLayerTranscoder(WIDTH, K)}}
MEANINGLESS = ("absorption_full_classes", "scr_10", "tpp_intended", "interchange_both", "description_bits")


@pytest.fixture(scope="module", params=PLANS)
def world(request: pytest.FixtureRequest) -> tuple[str, cw.Network, Dictionary, Bench]:
    net = tiny_llama()
    data = cw.corpus([PLAIN[i: i + 1500] for i in range(0, 18_000, 1500)], net, context=32)
    run = cw.learn(net, data, PLANS[request.param], tokens=4096, batch=256, progress=False)
    made = next(iter(apart(run.dictionaries).values()))
    return request.param, net, made, gather(net, made, data, 3_000)


def sites(found: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
    return torch.cat([found[name] for name in names], -1)


def test_the_bench_holds_what_is_read_and_what_is_written(world: tuple[str, cw.Network, Dictionary, Bench]) -> None:
    _, net, made, bench = world
    for i in (0, 700, bench.n - 1):
        seen = net.record(bench.data.rows([int(bench.row[i])]), dict.fromkeys([*made.reads, *made.writes]))
        x, y = (torch.cat([seen[name][0, bench.position[i]] for name in names]) for names in (made.reads, made.writes))
        torch.testing.assert_close(bench.x[i], x)
        torch.testing.assert_close(bench.written[i], y)
    assert (bench.y is None) == (made.reads == made.writes)


def test_explained_variance_is_the_mean_over_the_sites_that_are_written(
        world: tuple[str, cw.Network, Dictionary, Bench]) -> None:
    name, _, made, bench = world
    found = core.reconstruction(made, bench)
    assert isinstance(found["l0"], Sums) and found["l0"].value == pytest.approx(float(made.encode(bench.x).l0.float().mean()))
    if name == "layer":
        assert "sum over the layers" in found["explained_variance"].reason
        return
    both = bench.written.double(), made.decode(made.encode(bench.x)).double()
    y, right = (z.split(bench.widths or (z.shape[1],), 1) for z in both)
    each = [1 - float((a - b).pow(2).sum() / (a - a.mean(0)).pow(2).sum()) for a, b in zip(y, right, strict=True)]
    assert found["explained_variance"].value == pytest.approx(np.mean(each), abs=1e-4)


def test_controls_lie_as_the_dictionary_does(world: tuple[str, cw.Network, Dictionary, Bench]) -> None:
    name, _, made, bench = world
    for control, (make, _) in controls.CONTROLS.items():
        one = make(made, bench.x, 0, bench.y)
        assert type(one) is type(made) and (one.reads, one.writes, one.facts) == (made.reads, made.writes, made.facts), control
    random = controls.random_initial(made, bench.x, 0, bench.y)
    ours, theirs = (float(one.encode(bench.x).l0.float().mean()) for one in (made, random))
    assert theirs == pytest.approx(ours, abs=0.5) and random.width == made.width
    mixed = controls.permuted(made, bench.x, 0, bench.y)
    torch.testing.assert_close(mixed.encode(bench.x).dense(WIDTH), made.encode(bench.x).dense(WIDTH))
    torch.testing.assert_close(mixed.W_dec.sum(0), made.W_dec.sum(0), atol=1e-4, rtol=1e-4)
    if name == "layer":
        return
    linear, few = (controls.CONTROLS[which][0](made, bench.x, 0, bench.y) for which in ("neurons", "few components"))
    value = {which: core.reconstruction(one, bench)["explained_variance"].value for which, one in (
        ("linear", linear), ("few", few), ("random", random), ("ours", made))}
    assert value["linear"] > value["few"] and value["ours"] > value["random"]
    x, y = bench.x.double(), bench.written.double()
    best = (x - x.mean(0)) @ torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution + y.mean(0)
    expected = 1 - float((best / bench.spread - y / bench.spread).pow(2).sum()
                         / ((y - y.mean(0)) / bench.spread).pow(2).sum())
    assert value["linear"] == pytest.approx(expected, abs=1e-3)


@torch.no_grad()
def test_what_is_cut_is_what_the_latent_writes(world: tuple[str, cw.Network, Dictionary, Bench]) -> None:
    _, net, made, bench = world
    if len(made.writes) > 1:
        assert "a latent is cut at one site" in ablation.effects(made, bench)["ablation_sparsity"].reason
        return
    place = int(np.flatnonzero((bench.position < 10) & (np.asarray(bench.matrix(made).sum(1)).ravel() > 0))[0])
    latent = int(bench.matrix(made)[place].indices[0])
    strength = float(bench.matrix(made)[place, latent])
    _, size = ablation.measured(made, bench, np.array([[latent, place]]))
    at = int(bench.position[place])
    ids = bench.data.rows([int(bench.row[place])]).inputs["input_ids"][:, : at + ablation.AFTER]

    def less(y: Tensor, here: At) -> Tensor:
        y = y.clone()
        y[0, at] -= strength * made.W_dec[latent]
        return y
    before = net.logits(ids)
    with net.edited(Edit(made.writes[0], less)):
        moved = (net.logits(ids) - before)[0, at:].double()
    expected = (moved - moved.median(-1, keepdim=True).values).norm()
    assert size[0] == pytest.approx(float(expected), rel=1e-3)


def test_every_figure_is_measured_or_says_why_not(world: tuple[str, cw.Network, Dictionary, Bench]) -> None:
    name, net, made, bench = world
    found: Profile = profile(made, net, bench.data, tokens=1_000)
    undefined = {line.name: line.figure.undefined for line in found.lines if line.figure.undefined}
    for figure in MEANINGLESS:
        assert ("takes what latents write out of what they read" in undefined.get(figure, "")) == (made.reads != made.writes)
    assert found["l0"].figure.value > 0 and found["frac_alive"].controls["random"].value > 0
    assert ("explained_variance" in undefined) == ("kl_div_score" in undefined) == (name == "layer")
    assert ("encoder_decoder_cosine_sim" in undefined) == (made.reads != made.writes)
    if name != "layer":
        spliced = cw.evaluate(net, made, bench.data, None)["kl"].value
        assert found["kl"].figure.value == pytest.approx(spliced, rel=0.3)
        roles = {control: value.role for control, value in found["explained_variance"].controls.items()}
        assert roles["random"] == "floor" and roles["neurons"] == ("ceiling" if made.reads == made.writes else "beside")
    assert found.facts["dictionary"]["site"].count("->") == (made.reads != made.writes)
    said = "".join(str(part) for part in tables(found) if isinstance(part, Text))
    assert ("best linear map" in said) == (made.reads != made.writes) and ("its own spread" in said) == (len(made.writes) > 1)


def test_the_last_layer_of_a_cross_layer_transcoder_writes_one_site(world: tuple[str, cw.Network, Dictionary, Bench]) -> None:
    name, net, _, bench = world
    if name == "layer":
        run = cw.learn(net, bench.data, PLANS[name], tokens=1024, batch=256, progress=False)
        last = [*apart(run.dictionaries).values()][-1]
        found = profile(last, net, bench.data, tokens=1_000, metrics=["reconstruction", "behaviour", "ablation_sparsity"])
        assert len(last.writes) == 1 and found["ablation_sparsity"].figure.value > 0
        assert "sum over the layers" in found["explained_variance"].verdict


def test_a_cross_layer_transcoder_is_profiled_by_layers(world: tuple[str, cw.Network, Dictionary, Bench]) -> None:
    name, net, _, bench = world
    if name == "layer":
        run = cw.learn(net, bench.data, PLANS[name], tokens=512, batch=256, progress=False)
        with pytest.raises(ValueError, match="a profile for each of its layers"):
            profile(run.dictionary, net, bench.data, tokens=500)


def test_permuted_rows_keep_the_codes_of_thresholds() -> None:
    made = Dictionary(16, WIDTH, Jump(), Facts(site="blocks.1"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made.W_enc.copy_(torch.randn(WIDTH, 16, generator=generator)), made.W_dec.copy_(made.W_enc)
        made.extra["threshold"].fill_(3.0)
    x = torch.randn(200, 16, generator=generator)
    mixed = controls.permuted(made, x, 0)
    torch.testing.assert_close(mixed.encode(x).dense(WIDTH), made.encode(x).dense(WIDTH))
    assert not torch.equal(mixed.W_dec, made.W_dec)


def test_sites_of_several_scales_count_alike() -> None:
    """A crosscoder whose second site is a thousand times the first, and which reconstructs the first alone."""
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    joined = torch.cat([x, 1000 * x.flip(0)], 1)
    made = SharedCode(32, 16, parts.LargestLinear(16), sites=("a", "b"), widths=(16, 16))
    with torch.no_grad():
        made.W_enc[:, :16] = made.W_dec[:, :16] = torch.eye(16)
        made.b_dec.copy_(joined.mean(0))
    made.requires_grad_(False)
    bench = Bench(joined, np.arange(400) // 20, np.arange(400), np.zeros(400, int), "blocks", widths=(16, 16))
    assert core.reconstruction(made, bench)["explained_variance"].value == pytest.approx(0.5, abs=1e-3)
    codes = bench.codes(made)
    assert isinstance(codes, Codes) and replace(codes, values=codes.values[:1]).values.shape == (1, 16)
