"""Columns that share passes: each is what its definition says, computed here in another, plain way; and what goes wrong."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from families import example, module, network
from test_edits import traces
from test_scores import data, double, loss, mean_loss
from torch import Tensor, nn

import cutaway
from cutaway import Edit, Network, row_loss, units
from cutaway.scores import defined, estimators, gates, inputs, which_to_trust
from cutaway.scores.attention_rank import ranks


def recorded(net: Network, of: Any, *sites: str) -> list[Tensor]:
    found = net.record(of.rows(slice(None)), list(sites))
    return [found[site] for site in sites]


# --- gates ------------------------------------------------------------------------------------------------------------

def slopes_by_row(net: Network, of: Any, site: str, n: int) -> Tensor:
    """-d loss / d gate of each unit on each row."""
    gate = torch.ones(of.n_rows, n, dtype=torch.float64, requires_grad=True)
    with net.edited(Edit(site, gate=gate, over="b u")):
        return -torch.autograd.grad(loss(net, of.rows(slice(None))).sum(), gate)[0]


@pytest.mark.parametrize(("name", "kind", "site", "n"), [
    ("gpt2", "heads", "blocks.1.attn.heads", 4), ("llama", "neurons", "blocks.2.mlp.neurons", 48),
    ("opt", "neurons", "blocks.0.mlp.neurons", 48), ("cnn", "channels", "bn1:out", 6)])
def test_taylor_and_obd_are_of_the_slope_of_each_row(name: str, kind: str, site: str, n: int) -> None:
    net, of = double(name), data(name)
    scored = units(net, kind, sites=[site]).score(["taylor", "obd", "gradient"], of, metric=loss, batch_size=4)
    each = slopes_by_row(net, of, site, n)
    np.testing.assert_allclose(scored.column("taylor"), each.abs().mean(0), rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(scored.column("obd"), each.square().mean(0) / 2, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(scored.column("gradient"), each.mean(0), rtol=1e-5, atol=1e-10)


def test_taylor_of_features_and_of_tokens() -> None:
    from test_units import dictionary
    net, of, made = network("llama"), data("llama"), dictionary()
    scored = units(net, "features", dictionary=made).score(["taylor", "kurtosis"], of)
    gate = torch.ones(6, 40, requires_grad=True)
    with net.edited(Edit(made.features(net), gate=gate, over="b u")):
        each = -torch.autograd.grad(row_loss(net, of.rows(slice(None))).sum(), gate)[0]
    np.testing.assert_allclose(scored.column("taylor"), each.abs().mean(0), rtol=1e-3, atol=1e-6)
    dense = made.encode(recorded(net, of, "blocks.1")[0]).dense(40).flatten(0, 1).double().numpy()
    from scipy.stats import kurtosis
    fires = np.ptp(dense, axis=0) > 0
    np.testing.assert_allclose(scored.column("kurtosis")[fires], kurtosis(dense, fisher=False)[fires], rtol=1e-4)
    assert (scored.column("kurtosis")[~fires] == 0).all()
    tokens = units(net, "tokens", data=of, rows=[2]).score(["taylor", "abs"], of, ref="zero")
    np.testing.assert_allclose(tokens.column("taylor"), tokens.column("abs"), rtol=1e-6)  # a token is in one place


def test_kurtosis_is_scipys_whatever_the_mean() -> None:
    from scipy.stats import kurtosis
    net, of = double("llama"), data("llama")
    found = units(net, "neurons").score("kurtosis", of, batch_size=4).column("kurtosis").reshape(3, -1)
    x = recorded(net, of, "blocks.1.mlp.neurons")[0].flatten(0, 1)
    np.testing.assert_allclose(found[1], kurtosis(x.numpy(), fisher=False), rtol=1e-6)
    far = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(0))
    steady = cutaway.open(nn.Sequential(nn.Identity(), nn.Linear(2, 1)))
    of = cutaway.arrays(torch.cat([far + 300, torch.full_like(far, 7.3)], 1), name="far")
    found = units(steady, "neurons", sites=["0:out"], data=of).score("kurtosis", of, batch_size=5_000).column("kurtosis")
    assert found[0] == pytest.approx(float(kurtosis(far[:, 0].numpy(), fisher=False)), rel=1e-3) and found[1] == 0


def test_one_pass_serves_all_scores_that_can_share_it() -> None:
    net, of, passes = cutaway.open(module("llama")), data("llama"), []
    net.base.register_forward_hook(lambda *_: passes.append(1))
    names = ["gradient", "abs", "fisher", "taylor", "obd", "activation", "activation_max", "kurtosis", "frequency", "wanda",
             "sparsegpt", "gptq", "snip"]
    together = units(net, "neurons").score(names, of, batch_size=3)
    assert len(passes) == 2  # batches of three of six rows
    for name in names:
        alone = units(net, "neurons").score(name, of, batch_size=3).column(name)
        np.testing.assert_allclose(together.column(name), alone, rtol=1e-5, atol=1e-9, err_msg=name)
    assert together.about["wanda"]["metric"] is None and together.about["snip"]["metric"] == "row_loss"
    assert together.about["gptq"]["reference"] is None and together.about["fisher"]["reference"] == "zero"


def test_scores_whose_passes_differ_do_not_share_one_and_options_are_known() -> None:
    from cutaway.scores.fisher import fisher
    net, of, passes = cutaway.open(module("llama")), data("llama"), []
    net.base.register_forward_hook(lambda *_: passes.append(1))
    both = units(net, "heads").score(["fisher", "relevance"], of)
    assert len(passes) == 2  # relevance has other rules for the way back
    np.testing.assert_allclose(both.column("fisher"), fisher(units(net, "heads"), of).values)
    with pytest.raises(ValueError, match="no option 'colour' of fisher"):
        fisher(units(net, "heads"), of, colour="red")


# --- weights ----------------------------------------------------------------------------------------------------------

MAPS = [("llama", "rows", "model.layers.1.mlp.up_proj:weight"), ("llama", "neurons", "blocks.1.mlp.neurons"),
        ("gpt2", "rows", "transformer.h.0.attn.c_attn:weight"), ("opt", "rows", "model.decoder.layers.1.fc1:weight"),
        ("opt", "neurons", "blocks.1.mlp.neurons"), ("bert", "heads", "blocks.1.attn.heads"), ("cnn", "rows", "conv2:weight"),
        ("cnn", "channels", "conv2:in"), ("mlp", "neurons", "2:in")]


def by_hand(net: Network, of: Any, site: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The module of a site, its weight [out, in] and what it multiplies [n, in], patch by patch for a convolution."""
    place = net.site(site)
    module: Any = net.module.get_submodule(place.path)
    x, weight = recorded(net, of, f"{place.path}:in")[0], module.weight.detach()
    if isinstance(module, nn.Conv2d):
        padded = nn.functional.pad(x, [1, 1, 1, 1])
        x = torch.stack([padded[:, :, i: i + 3, j: j + 3].flatten(1) for i in range(0, 8, 2) for j in range(0, 8, 2)])
        weight = weight.flatten(1)
    return module, weight.T if type(module).__name__ == "Conv1D" else weight, x.reshape(-1, x.shape[-1])


def summed(saliency: Tensor, kind: str, n: int) -> np.ndarray:
    return (saliency.sum(1) if kind == "rows" else saliency.sum(0).view(n, -1).sum(1)).numpy()


@pytest.mark.parametrize(("name", "kind", "site"), MAPS)
def test_scores_of_weights_are_what_they_say(name: str, kind: str, site: str) -> None:
    net, of = double(name), data(name)
    part = units(net, kind, sites=[site])
    scored = part.score(["magnitude", "wanda", "sparsegpt", "snip"], of, metric=loss, batch_size=4)
    scored = scored.score("gptq", of, bits=3)
    module, w, x = by_hand(net, of, site)

    def check(score: str, saliency: Tensor) -> None:
        wanted = summed(saliency, kind, len(part))
        np.testing.assert_allclose(scored.column(score), wanted, rtol=1e-5, atol=1e-9 * wanted.max(), err_msg=score)

    check("magnitude", w.abs())
    check("wanda", w.abs() * x.norm(dim=0))
    h = 2 * x.T @ x / len(x)
    inverse = torch.linalg.inv(h + 0.01 * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)).diagonal()
    check("sparsegpt", w.square() / inverse)
    low, high = w.amin(1, keepdim=True).clamp(max=0), w.amax(1, keepdim=True).clamp(min=0)
    grid = low[..., None] + (high - low)[..., None] * torch.linspace(0, 1, 8, dtype=w.dtype)
    check("gptq", (grid - w[..., None]).abs().amin(-1).square() / inverse)
    grad = torch.autograd.grad(loss(net, of.rows(slice(None))).mean(), module.weight)[0]
    grad = grad.T if type(module).__name__ == "Conv1D" else grad.flatten(1)
    check("snip", (w * grad).abs())


def test_sparsegpt_is_the_least_that_removing_an_input_costs() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=random) @ torch.randn(6, 6, generator=random)
    net, of = cutaway.open(nn.Sequential(nn.Identity(), nn.Linear(6, 3))), cutaway.arrays(x)
    found = units(net, "neurons", sites=["1:in"]).score("sparsegpt", of, batch_size=100).column("sparsegpt")
    w, h = net.module[1].weight.detach().double(), 2 / 400 * (x.T @ x).double()
    h = h + 0.01 * h.diagonal().mean() * torch.eye(6)
    for j in range(6):
        rest = [i for i in range(6) if i != j]
        mend = torch.linalg.solve(h[rest][:, rest], h[rest, j][:, None] @ w[:, j][None])  # of the other weights
        change = torch.zeros(3, 6, dtype=torch.float64)
        change[:, j], change[:, rest] = -w[:, j], mend.T
        assert found[j] == pytest.approx(float(torch.einsum("oi,ij,oj->", change, h, change)), rel=1e-4)


def test_wanda_does_not_change_when_an_input_is_scaled_and_scaled_back() -> None:
    net, of = cutaway.open(module("llama")), data("llama")
    before = units(net, "rows", sites="blocks.1.mlp").score(["wanda", "magnitude"], of)
    with torch.no_grad():
        block = net.module.model.layers[1]
        block.post_attention_layernorm.weight[5] *= 30
        for path in ("gate_proj", "up_proj"):
            block.mlp.get_submodule(path).weight[:, 5] /= 30
    after = units(net, "rows", sites="blocks.1.mlp").score(["wanda", "magnitude"], of)
    np.testing.assert_allclose(after.column("wanda"), before.column("wanda"), rtol=1e-4)
    assert not np.allclose(after.column("magnitude"), before.column("magnitude"), rtol=1e-2)


def test_a_dead_input_is_worth_nothing_to_those_who_look_at_inputs() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0
    net, of = cutaway.open(nn.Sequential(nn.Identity(), nn.Linear(4, 20))), cutaway.arrays(x)
    scored = units(net, "neurons", sites=["1:in"]).score(["wanda", "sparsegpt", "gptq", "magnitude"], of)
    for name in ("wanda", "sparsegpt", "gptq"):
        values = scored.column(name)
        assert values[2] == 0 and (np.delete(values, 2) > 0).all()
    assert scored.column("magnitude")[2] > 0
    fine = [units(net, "neurons", sites=["1:in"]).score("gptq", of, bits=bits).column("gptq").sum() for bits in (2, 4, 8)]
    assert fine[0] > fine[1] > fine[2] > 0
    with pytest.raises(ValueError, match="1 to 16 bits; found bits=0"):
        units(net, "neurons", sites=["1:in"]).score("gptq", of, bits=0)


def test_scores_of_parameters_alone_need_no_data() -> None:
    scored = units(network("llama"), "neurons").score("magnitude", None)
    assert scored.about["magnitude"]["rows"] == 0 and "magnitude: no data" in repr(scored)
    net = cutaway.open(nn.Sequential(nn.Linear(400, 50), nn.Linear(50, 2)))
    nn.init.normal_(net.module[0].weight, generator=torch.Generator().manual_seed(0))
    rows = units(net, "rows", sites="0:weight").score("weight_outliers", None).column("weight_outliers")
    assert rows.mean() == pytest.approx(-0.1587, abs=0.004) and (rows < 0).all()
    w = net.module[0].weight[7].detach()
    assert rows[7] == pytest.approx(-float(((w - w.mean()) / w.std() > 1).float().mean()))
    layers = units(network("gpt2"), "layers").score("weight_outliers", None, above=3).column("weight_outliers")
    flat = torch.cat([p.detach().flatten() for name, p in network("gpt2").module.transformer.h[1].named_parameters()
                      if name.endswith("weight") and p.ndim == 2])
    assert layers[1] == pytest.approx(-float((((flat - flat.mean()) / flat.std()) > 3).double().mean()), abs=1e-6)


# --- the stream, attention, directions --------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "vit"])
def test_influence_and_norm_of_blocks_and_sublayers(name: str) -> None:
    net, of = double(name), data(name)
    x, attn, mlp, y = recorded(net, of, "blocks.0", "blocks.1.attn", "blocks.1.mlp", "blocks.1")
    both = ["block_influence", "relative_norm"]
    layers = units(net, "layers").score(both, of, batch_size=4)
    cosine = nn.functional.cosine_similarity
    assert layers.column("block_influence")[1] == pytest.approx(float(1 - cosine(x, y, dim=-1).mean()), rel=1e-5)
    assert layers.column("relative_norm")[1] == pytest.approx(float(((y - x).norm(dim=-1) / x.norm(dim=-1)).mean()), rel=1e-5)
    parts = units(net, "sublayers").score(both, of)
    rows = {site: i for i, site in enumerate(parts.frame["site"])}
    for site, before, added in (("blocks.1.attn", x, attn), ("blocks.1.mlp", x + attn, mlp)):
        row = rows[site]
        wanted = float(1 - cosine(before, before + added, dim=-1).mean())
        assert parts.column("block_influence")[row] == pytest.approx(wanted, rel=1e-4)
        wanted = float((added.norm(dim=-1) / before.norm(dim=-1)).mean())
        assert parts.column("relative_norm")[row] == pytest.approx(wanted, rel=1e-4)


def test_blocks_that_normalise_what_they_add_have_no_stream_before_a_sublayer() -> None:
    with pytest.raises(ValueError, match="blocks.0 is not its input plus what attention and MLP give"):
        units(double("bert"), "sublayers").score("block_influence", data("bert"))
    assert units(double("bert"), "layers").score("block_influence", data("bert")).column("block_influence").min() > 0


def test_influence_is_taken_over_kept_tokens() -> None:
    from helpers import PLAIN, tiny_llama
    net = tiny_llama()
    of = cutaway.corpus([PLAIN], net).take(31 * 5)
    x, y = recorded(net, of, "blocks.0", "blocks.1")
    keep = of.rows(slice(None)).keep
    wanted = 1 - nn.functional.cosine_similarity(x[keep], y[keep], dim=-1).mean()
    found = units(net, "layers").score("block_influence", of, batch_size=2).column("block_influence")[1]
    assert found == pytest.approx(float(wanted), rel=1e-4) and not bool(keep.all())


def test_attention_rank_leaves_out_the_diagonal() -> None:
    net, of = network("llama"), data("llama", rows=9)
    pattern = recorded(net, of, "blocks.1.attn.pattern")[0]
    wanted = [[np.linalg.matrix_rank(np.tril(p.numpy(), -1)) for p in row] for row in pattern[:8]]
    heads = units(net, "heads").score("attention_rank", of, batch_size=3)
    np.testing.assert_allclose(heads.column("attention_rank")[4:8], np.mean(wanted, 0))
    assert heads.about["attention_rank"]["rows"] == 8
    layers = units(net, "layers").score("attention_rank", of).column("attention_rank")
    assert layers[1] == pytest.approx(np.mean(wanted))
    sink = torch.zeros(1, 1, 6, 6)
    sink[..., 0] = 1
    previous = torch.eye(6)[None, None].roll(-1, -1).tril() + torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 0]))
    assert ranks(sink, "sink").item() == 1 and ranks(previous, "previous").item() == 5
    with pytest.raises(ValueError, match="at least one row; found rows=0"):
        units(net, "heads").score("attention_rank", of, rows=0)


def test_a_heads_strongest_channel() -> None:
    net, of = double("gpt2"), data("gpt2")
    found = units(net, "heads", sites="blocks.1.attn.heads").score("head_channels", of, batch_size=4).column("head_channels")
    x = recorded(net, of, "blocks.1.attn.heads")[0].flatten(0, 1).unflatten(-1, (4, -1))
    w = net.module.transformer.h[1].attn.c_proj.weight.detach().view(4, 8, 32)
    wanted = [float(torch.linalg.svdvals(x[:, h] @ w[h])[0]) / len(x) ** 0.5 for h in range(4)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_zeroth_order_is_the_slope_along_random_directions() -> None:
    net, of = double("llama"), data("llama")
    layers, before = units(net, "layers").pick([1]), mean_loss(net, of)
    found = layers.score("zeroth_order", of, metric=loss, directions=25).column("zeroth_order")[0]
    once, parts = (layers.score("zeroth_order", of, metric=loss, batch_size=n).column("zeroth_order")[0] for n in (6, 2))
    assert parts == pytest.approx(once, rel=1e-6)
    norms = 0.0
    for row in range(6):
        mine = loss(net, of.rows([row])).sum()
        weights = [p for p in net.module.model.layers[1].parameters() if p.ndim == 2]
        norms += sum(float(g.norm()) for g in torch.autograd.grad(mine, weights)) / 6
    assert found == pytest.approx(norms * (2 / np.pi) ** 0.5, rel=0.12)  # E |z| of a Gaussian, 25 directions a matrix
    assert mean_loss(net, of) == before
    with pytest.raises(ValueError, match="a step above 0; found directions=1, step=0"):
        layers.score("zeroth_order", of, step=0.0)


# --- width ------------------------------------------------------------------------------------------------------------

def test_memory_does_not_grow_with_the_width_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = cutaway.open(nn.Sequential(nn.Linear(4, 20_000), nn.ReLU(), nn.Linear(20_000, 3)))
    of = cutaway.arrays(torch.randn(30, 4), torch.arange(30) % 3)
    wide = units(net, "neurons", sites=["2:in"])
    names = ["fisher", "activation", "activation_max", "kurtosis", "taylor", "wanda"]

    def metric(net: Network, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(net.logits(batch), batch.labels, reduction="none")

    whole, handed = wide.score(names, of, metric=metric, batch_size=30), []
    monkeypatch.setattr(gates, "AT_ONCE", 100_000)
    gathered = gates.Total._gathered

    def counting(self: Any, flat: Tensor, index: Any, size: int) -> np.ndarray:
        own = self.each
        self.each = lambda x: (handed.append(x.numel()), own(x))[1]
        try:
            return gathered(self, flat, index, size)
        finally:
            self.each = own

    monkeypatch.setattr(gates.Total, "_gathered", counting)
    parts = wide.score(names, of, metric=metric, batch_size=30)
    assert max(handed) == 100_000
    for name in names:
        np.testing.assert_allclose(parts.column(name), whole.column(name), rtol=1e-6, atol=1e-12)
    with pytest.raises(ValueError, match="sparsegpt would keep a table of 20,000 x 20,000 numbers for 2:in, and at most"):
        wide.score("sparsegpt", of)
    assert inputs.WIDEST == 16_384


# --- which are defined, and which to trust ----------------------------------------------------------------------------

def test_scores_are_defined_for_some_kinds_and_say_so() -> None:
    net = network("llama")
    assert {"wanda", "fisher", "magnitude", "head_channels", "attention_rank"} <= set(defined(units(net, "heads")))
    assert {"block_influence", "zeroth_order", "weight_outliers"} <= set(defined(units(net, "layers")))
    assert "wanda" not in defined(units(net, "layers")) and "exact" not in defined(units(net, "heads"))
    with pytest.raises(ValueError, match="wanda has no meaning here: weights belong to rows, neurons, heads and channels, and "
                                         "these are layers. For layers there are .*block_influence"):
        units(net, "layers").score("wanda", data("llama"))
    with pytest.raises(ValueError, match="head_channels has no meaning here: it is defined for heads, and these are neurons"):
        units(net, "neurons").score("head_channels", data("llama"))
    with pytest.raises(ValueError, match="bn1:out is neither what a linear map is given nor what it gives"):
        units(network("cnn"), "channels", sites=["bn1:out"]).score("snip", data("cnn"))
    grouped = cutaway.open(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="0:weight is at a convolution in groups"):
        units(grouped, "rows", sites="0:weight").score("wanda", cutaway.arrays(torch.randn(2, 4, 3, 3)))


def test_the_table_of_estimators_says_which_to_use() -> None:
    net, of, check = network("llama"), data("llama"), data("llama", rows=9)
    verdicts = which_to_trust(net, of, check, n=20)
    assert [v.kind for v in verdicts] == ["layers", "sublayers", "heads", "neurons"]
    for v in verdicts:
        assert set(v.trusts) == set(defined(v.units)) and v.sample.column("exact").shape == (min(20, len(v.units)),)
        agreements = [trust.agreement for trust in v.trusts.values() if trust.defined]
        assert agreements == sorted(agreements, reverse=True) and v.words.startswith(f"For {v.kind} ")
        if v.best:
            assert v.best.low > 0 and f"use {v.best.score}" in v.words
    assert "there are 3 units, and it takes at least 5" in verdicts[0].words
    made = estimators(verdicts)
    assert set(made["kind"]) == {v.kind for v in verdicts} and made["n"].max() == 20
    heads = verdicts[2]
    flat = replace(heads, trusts={name: replace(trust, low=-0.1) for name, trust in heads.trusts.items() if trust.defined})
    assert "none of the scores can be trusted" in flat.words and flat.best is None
    with pytest.raises(ValueError, match="has no units that Cutaway knows by name; give kinds= and sites="):
        which_to_trust(network("mlp"), data("mlp"), data("mlp"))


def test_a_network_without_blocks_is_judged_where_one_says() -> None:
    found = which_to_trust(double("mlp"), data("mlp"), data("mlp", rows=12), ["neurons"], sites=["1:out"], metric=loss)[0]
    assert "wanda" not in found.trusts and found.trusts["gradient"].metric == "loss" and len(found.units) == 16


@pytest.mark.parametrize(("name", "kind", "score"), [
    ("bert", "sublayers", "block_influence"), ("bert", "sublayers", "relative_norm"), ("mixtral", "heads", "relevance")])
def test_what_a_network_does_not_allow_is_left_out_with_its_reason(name: str, kind: str, score: str) -> None:
    of, check = data(name), data(name, rows=9)
    found = which_to_trust(network(name), of, check, [kind], n=8)[0]
    assert score in found.left_out and score not in found.trusts and len(found.trusts) > 8
    assert {"gradient", "fisher", "path", "activation"} <= set(found.trusts) and found.words.startswith(f"For {kind} ")
    assert found.trusts["fisher"].metric == "row_loss" and len(found.left_out[score]) > 20
    with pytest.raises(ValueError, match="no option 'colour' of scores; there are .*metric"):
        which_to_trust(network(name), of, check, [kind], colour="red")


def test_a_kind_that_cannot_be_measured_is_said_and_the_others_go_on() -> None:
    of = cutaway.arrays(example("resnet", rows=6), torch.arange(6) % 5)
    found = {v.kind: v for v in which_to_trust(network("resnet"), of, of, n=8)}
    assert {"fisher", "activation"} <= set(found["channels"].trusts) and "For channels " in found["channels"].words
    assert found["layers"].why and not found["layers"].trusts and found["layers"].best is None
    assert found["layers"].words.startswith("For layers nothing can be said: a block can be skipped only where")
    with pytest.raises(ValueError, match="a block can be skipped only where"):
        which_to_trust(network("resnet"), of, of, ["layers"], n=8)


def test_the_best_of_many_random_scores_is_not_advised() -> None:
    from cutaway.scores.which import Verdict, beyond_chance
    table = units(network("llama"), "heads")
    trust = table.score("fisher", data("llama")).trust("fisher", data("llama"))
    random, advised, n = np.random.default_rng(0), 0, 24

    def verdict(agreements: np.ndarray) -> Verdict:
        found = {f"s{i}": replace(trust, score=f"s{i}", agreement=float(r), low=float(r) - 0.35, high=float(r) + 0.3, n=n)
                 for i, r in enumerate(sorted(agreements, reverse=True))}
        return Verdict(table, table, found)

    for _ in range(200):
        x, y = random.random((20, n)), random.random(n)
        from cutaway.scores.ranks import spearman
        advised += verdict(spearman(x, np.broadcast_to(y, x.shape))).best is not None
    assert advised <= 0.1 * 200     # without a control for the number of scores two of five would be
    real = verdict(np.array([0.8, *random.uniform(-0.3, 0.3, 19)]))
    assert real.best and real.best.score == "s0" and beyond_chance(list(real.trusts.values())) == {"s0"}
    noisy = {name: replace(one, repeats=0.2) for name, one in real.trusts.items()}
    said = Verdict(table, table, noisy).words
    assert "use s0" in said and "repeats only 0.20 on so much data" in said


def test_an_encoder_is_scored_by_how_far_its_output_moves() -> None:
    from cutaway.metrics import moved
    net, of = network("bert-encoder"), data("gpt2")
    batch = of.rows([0, 1])
    assert float(moved(net, batch).detach().abs().max()) < 1e-6
    plain = net.logits(batch)
    with net.edited(Edit("blocks.1.mlp")):
        wanted = (1 - nn.functional.cosine_similarity(net.logits(batch), plain, dim=-1)).mean(1)
        np.testing.assert_allclose(moved(net, batch).detach(), wanted.detach(), rtol=1e-4, atol=1e-7)
    found = which_to_trust(net, of, data("gpt2", rows=9), ["heads"], n=12, metric=moved)[0]
    assert found.trusts["path"].metric == "moved" and (found.sample.column("exact") > 0).all()
    with pytest.raises(ValueError, match="has no loss on data without labels"):
        which_to_trust(net, of, of, ["heads"])


def test_an_empty_mask_is_said() -> None:
    from cutaway.data.tensors import ArrayData
    from cutaway.scores.findings import depth_use, lac_voids, sinks

    class Masked(ArrayData):
        def _read(self, whole: np.ndarray) -> Any:
            ids, _, labels = super()._read(whole)
            return ids, torch.zeros(len(whole), 8, dtype=torch.bool), labels

    plain = data("llama")
    of = Masked(**{field.name: getattr(plain, field.name) for field in fields(plain)})
    for name in ("activation", "fisher", "wanda", "exact", "path"):
        with pytest.raises(ValueError, match="none of the tokens of random counts"):
            units(network("llama"), "heads").score(name, of)
    for analysis in (depth_use, lac_voids, sinks):
        with pytest.raises(ValueError, match="token that counts"):
            analysis(network("llama"), of)


def test_labels_that_do_not_fit_are_named() -> None:
    of = cutaway.arrays(example("clip-vision", rows=4), torch.arange(4))
    with pytest.raises(ValueError, match=r"the labels have the shape \[4\], but what .* says here has \[4, 5, 32\]"):
        row_loss(network("clip-vision"), of.rows(slice(None)))


# --- what goes wrong --------------------------------------------------------------------------------------------------

class Frozen(nn.Module):
    """A network that computes without gradients, as those that only infer do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, 8), nn.Linear(8, 4)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


def test_a_network_without_gradients_says_so_and_is_scored_without() -> None:
    net, of = cutaway.open(Frozen()), cutaway.arrays(torch.randn(8, 10), torch.arange(8) % 4)
    table, before = units(net, "neurons", sites=["last:in"]), traces(net)

    def metric(net: Network, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(net.logits(batch), batch.labels, reduction="none")

    for name in ("fisher", "taylor", "snip", "path"):
        with pytest.raises(ValueError, match="the metric metric has no gradient.*or use the exact score"):
            table.score(name, of, metric=metric)
    scored = table.score(["exact", "wanda", "activation", "sparsegpt"], of, metric=metric)
    assert np.isfinite(scored.frame[["exact", "wanda", "activation", "sparsegpt"]].to_numpy()).all() and traces(net) == before
    frozen = cutaway.open(module("llama").requires_grad_(False))  # parameters that need no gradient are no hindrance
    found = units(frozen, "heads").score(["fisher", "snip"], data("llama"))
    wanted = units(network("llama"), "heads").score(["fisher", "snip"], data("llama"))
    np.testing.assert_allclose(found.column("snip"), wanted.column("snip"), rtol=1e-5)


@pytest.mark.parametrize("name", ["wanda", "kurtosis", "block_influence"])
def test_nan_in_the_data_is_named_by_scores_without_a_metric(name: str) -> None:
    net = cutaway.open(module("llama"))
    with torch.no_grad():
        net.module.model.embed_tokens.weight[int(example("llama", rows=6, tokens=8)[0, 0])] = float("inf")
    kind = "layers" if name == "block_influence" else "neurons"
    with pytest.raises(ValueError, match="NaN or infinity"):
        units(net, kind).score(name, data("llama"))
