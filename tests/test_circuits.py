"""Circuits: patching by its definition, estimates where they must be exact, and circuits that are known by construction."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import built
import numpy as np
import pytest
import torch
from families import example, module, network
from test_edits import traces
from torch import Tensor, nn
from torch.testing import assert_close

import cutaway
from cutaway import Edit, Network, circuits
from cutaway.catalogue import methods
from cutaway.circuits import Task
from cutaway.circuits.effects import alike
from cutaway.circuits.faithfulness import Kept, level_of
from cutaway.circuits.graph import Pass, written
from cutaway.circuits.information_flow import shares
from cutaway.circuits.smallest_circuit import greedy, pruned
from cutaway.cli import main
from cutaway.network.relevance import ATTN_LRP, CP_LRP, RELP, RULES, relevance, relevance_at
from cutaway.proofs import relp as proof

WIRED = ["gpt2", "gpt-neox", "llama", "qwen3", "phi3", "mixtral", "vit"]
ESTIMATES = {"gradient": circuits.attribution_patching, "integrated": circuits.attribution_patching_ig, "relp": circuits.relp}


def last(logits: Tensor, rows: Tensor) -> Tensor:
    """A measure of any network: some logits of the last position, a different mixture in each row."""
    here = logits[:, -1] if logits.ndim == 3 else logits
    return here[:, 1] - here[:, 2] + 0.1 * (rows + 1) * here[:, 3]


@cache
def task(name: str, rows: int = 4) -> Task:
    """Random inputs, and others with the same first token."""
    key = "pixel_values" if name == "vit" else "input_ids"
    clean, other = (example(name, rows, 6, seed) for seed in (0, 1))
    dtype = next(network(name).module.parameters()).dtype
    clean, other = (x.to(dtype) if x.is_floating_point() else x for x in (clean, other))
    return Task("random", {key: clean}, {key: other}, last)


@cache
def double(name: str) -> Network:
    return cutaway.open(module(name).double())


def values(net: Network, of: Task, inputs: Any = None) -> np.ndarray:
    with torch.no_grad():
        return of.measured(net, inputs or of.clean, torch.arange(len(of))).double().numpy()


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_induction_prompts_ask_for_what_followed_before() -> None:
    net = network("gpt2")
    of = circuits.induction(net, 20, seed=3, length=12, cue=2)
    ids, other, answers = of.clean["input_ids"], of.corrupted["input_ids"], of.measure
    assert ids.shape == other.shape == (20, 14)
    for row in range(20):
        for prompt, answer in ((ids[row], answers.right[row]), (other[row], answers.wrong[row])):
            at = int((prompt[:12] == prompt[-1]).nonzero())
            assert prompt[at - 1] == prompt[-2] and prompt[at + 1] == answer
        assert set(ids[row, :12].tolist()) == set(other[row, :12].tolist()) and answers.right[row] != answers.wrong[row]
    again = circuits.induction(net, 20, seed=3, length=12, cue=2)
    assert torch.equal(again.clean["input_ids"], ids)
    with pytest.raises(ValueError, match="cue=0"):
        circuits.induction(net, 2, cue=0)


def test_halves_and_rows_keep_their_answers() -> None:
    net, of = network("gpt2"), circuits.induction(network("gpt2"), 7, length=8)
    whole = values(net, of)
    for half, rows in zip(of.halves(), (range(0, 7, 2), range(1, 7, 2)), strict=True):
        clean, _ = circuits.task.ends(net, half, batch_size=2)
        np.testing.assert_allclose(clean, whole[list(rows)], rtol=1e-5)


def test_pairs_of_texts() -> None:
    net = network("llama")
    of = circuits.pairs(net, ["w5 w9", "w5 w9 w7"], ["w6 w9", "w6 w9 w7"], ["w3", "w3"], ["w4", "w4"])
    logits = net.logits(torch.tensor([[5, 9]]))[0, -1]
    assert values(net, of)[0] == pytest.approx((logits[3] - logits[4]).item(), abs=1e-5)
    for clean, corrupted, right, says in ((["w5 w9"], ["w6"], ["w3"], "row 0 has 2 and 1 tokens"),
                                          (["w5"], ["w6"], ["w3 w4"], "is 2:"), ([], [], [], "at least one"),
                                          (["w5", "w6"], ["w5"], ["w3"], "found 2, 1, 1 and 1")):
        with pytest.raises(ValueError, match=says):
            circuits.pairs(net, clean, corrupted, right, ["w4"] * max(1, len(right)))
    with pytest.raises(ValueError, match="as much of same on corrupted as on clean"):
        circuits.activation_patching(net, Task("same", of.clean, of.clean, of.measure))
    with pytest.raises(ValueError, match="token by token"):
        Task("x", {"input_ids": torch.ones(2, 3)}, {"input_ids": torch.ones(2, 4)}, last)


def test_tasks_from_a_file(tmp_path: Path) -> None:
    net, path = network("llama"), tmp_path / "pairs.jsonl"
    row = {"clean": "w5 w9", "corrupted": "w6 w9", "right": "w3", "wrong": "w4"}
    path.write_text("\n".join([json.dumps(row)] * 3))
    assert len(circuits.task_of(net, str(path))) == 3
    path.write_text('{"clean": "w5"}')
    with pytest.raises(ValueError, match="line 1 of .* lacks the text 'corrupted'"):
        circuits.task_of(net, str(path))
    with pytest.raises(ValueError, match="no task 'inducton'; there are induction"):
        circuits.task_of(net, "inducton")


# --- patching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["", "u", "t", "t u"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_activation_patching_is_a_pass_with_the_other_activation(name: str, over: str) -> None:
    net, of, site = network(name), task(name), "blocks.1.attn.heads"
    before = traces(net)
    for direction, base, other in (("denoising", of.corrupted, of.clean), ("noising", of.clean, of.corrupted)):
        found = circuits.activation_patching(net, of, site, over, direction, batch_size=3, at_once=5)
        sizes = [{"t": 6, "u": 4}[axis] for axis in over.split()]
        assert found.values[site].shape == (4, *sizes)
        place = tuple(size - 1 for size in sizes)
        gate = torch.ones(sizes)
        gate[place] = 0
        source = net.record(other, site)[site].unflatten(-1, (4, -1))
        with net.edited(Edit(site, lambda z, at, source=source: source, gate, over)):
            patched = values(net, of, base)
        change = patched - values(net, of, base)
        np.testing.assert_allclose(found.values[site][(slice(None), *place)],
                                   change if direction == "denoising" else -change, atol=1e-5)
    assert traces(net) == before


def test_patching_everything_moves_the_whole_gap() -> None:
    net, of = network("llama"), task("llama")
    for direction in ("denoising", "noising"):
        found = circuits.activation_patching(net, of, ["embed", "blocks.2"], "", direction)
        assert found.share("embed") == pytest.approx(1, abs=1e-4) == found.share("blocks.2")
        assert found.frame()["site"].tolist() == ["embed", "blocks.2"] and "whole sites at 2 sites, 4 pairs" in repr(found)
    whole = circuits.activation_patching(net, of, "blocks.2", "t")
    assert whole.share("blocks.2")[-1] == pytest.approx(1, abs=1e-4) and np.abs(whole.share("blocks.2")[:-1]).max() < 1e-5
    top = whole.top(1).iloc[0]
    assert top["position"] == 5 and top["low"] <= top["effect"] <= top["high"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_estimates_have_the_shape_and_leave_nothing_behind(estimate: str, name: str) -> None:
    net, of = network(name), task(name)
    before, sites = traces(net), ["blocks.*", "blocks.*.mlp", "blocks.*.attn.heads"]
    found = ESTIMATES[estimate](net, of, sites, "t", batch_size=3)
    true = circuits.activation_patching(net, of, sites, "t")
    assert {site: x.shape for site, x in found.values.items()} == {site: x.shape for site, x in true.values.items()}
    agreed = circuits.agreement(found, true)
    assert list(agreed) == ["residual", "MLP", "heads"] and agreed["MLP"].n == 18 and traces(net) == before
    assert all(np.isfinite(x).all() for x in found.values.values())
    assert circuits.agreement(true, true)["MLP"] == circuits.Agreement(pytest.approx(1), pytest.approx(1), 1.0, 18)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def test_first_order_estimates_are_exact_in_a_linear_network() -> None:
    torch.manual_seed(0)
    net = cutaway.open(Linear())
    clean, other = torch.randn(2, 3, 5)
    of = Task("linear", {"x": clean}, {"x": other}, lambda logits, rows: logits[:, 0])
    true = circuits.activation_patching(net, of, "a:out", "u")
    for estimate in (circuits.attribution_patching, circuits.relp):
        np.testing.assert_allclose(estimate(net, of, "a:out", "u").values["a:out"], true.values["a:out"], atol=1e-5)
    assert true.share("a:out").sum() == pytest.approx(1, abs=1e-5)


def test_integrated_gradients_are_complete_at_the_embedding() -> None:
    net, of = double("gpt2"), task("gpt2")
    found = circuits.attribution_patching_ig(net, of, "embed", "", steps=60)
    np.testing.assert_allclose(found.values["embed"], found.clean - found.corrupted, rtol=0.02, atol=0.02 * abs(found.gap))
    with pytest.raises(ValueError, match="steps=0"):
        circuits.attribution_patching_ig(net, of, steps=0)


@pytest.mark.parametrize(("given", "says"), [
    ({"over": "x"}, "over one of"), ({"direction": "sideways"}, "found 'sideways'"), ({"sites": "blocks.9"}, "no site"),
    ({"sites": "model.layers.0.mlp.up_proj:weight"}, "no activation that can be patched"),
    ({"sites": "logits", "over": "u"}, None)])
def test_what_cannot_be_patched_is_named(given: dict[str, Any], says: str | None) -> None:
    net, of = network("llama"), task("llama")
    if says is None:
        assert circuits.attribution_patching(net, of, **given).values["logits"].shape == (4, 64)
        return
    for method in (circuits.activation_patching, circuits.attribution_patching):
        with pytest.raises(ValueError, match=says):
            method(net, of, **{"sites": "blocks.0", "over": "", **given})


def test_a_measure_that_is_nan_or_has_the_wrong_shape_says_so() -> None:
    net, of = network("llama"), task("llama")
    for measure, says in ((lambda logits, rows: logits[:, -1, 0] * float("nan"), "not a number"),
                          (lambda logits, rows: logits[:, -1], "one number for each of 4 rows")):
        with pytest.raises(ValueError, match=says):
            circuits.relp(net, Task("bad", of.clean, of.corrupted, measure), "blocks.0")
    with pytest.raises(ValueError, match="has no gradient"):
        circuits.relp(net, Task("cut", of.clean, of.corrupted, lambda logits, rows: last(logits.detach(), rows)), "blocks.0")


def test_agreement_of_what_does_not_differ_is_undefined() -> None:
    same = alike(np.ones(5), np.arange(5.0))
    assert np.isnan([same.pearson, same.spearman, same.signs]).all() and same.n == 5
    assert alike(np.array([1.0, 2, -3, 0]), np.array([2.0, 4, -6, 0])).signs == 1.0


# --- relevance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "opt", "llama", "qwen3", "gemma2", "phi3", "bert", "vit", "cnn", "mlp"])
def test_rules_leave_values_alone_and_are_gone_afterwards(name: str) -> None:
    net, x = network(name), example(name)
    before, plain = traces(net), net.logits(x)
    with relevance(net, RELP):
        assert torch.equal(net.logits(x), plain)
    for rules in (CP_LRP, ATTN_LRP):  # which open attention patterns, and so compute attention in another order
        with relevance(net, rules):
            assert_close(net.logits(x), plain)
    with pytest.raises(ZeroDivisionError), relevance(net):
        raise ZeroDivisionError
    assert traces(net) == before


def unbiased(name: str) -> Network:
    """A network in float64 without biases."""
    built_module = module(name).double()
    with torch.no_grad():
        for path, parameter in built_module.named_parameters():
            if path.endswith("bias"):
                parameter.zero_()
    return cutaway.open(built_module)


def logit(logits: Tensor) -> Tensor:
    return (logits[:, -1] if logits.ndim == 3 else logits)[:, 3]


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "llama", "qwen3", "phi3", "bert", "vit", "resnet", "cnn", "mlp"])
def test_relevance_is_conserved(name: str) -> None:
    """Without biases the embedding holds all of the output; with them, embedding and biases do."""
    site = {"mlp": "0:in", "cnn": "conv1:in", "resnet": "resnet.embedder.embedder.convolution:in"}.get(name, "embed")
    x = example(name).double() if name in ("mlp", "vit", "cnn", "resnet") else example(name)
    for net in (unbiased(name), double(name)):
        found = relevance_at(net, x, logit, site)
        assert abs(found.leak) < 1e-4
        assert_close(found.output, logit(net.logits(x)))
    assert unbiased(name).module is not double(name).module
    if name not in ("mlp", "vit", "llama", "qwen3", "phi3"):
        assert abs(relevance_at(double(name), x, logit, site).biases) > 1e-6
    if name == "llama":
        plain = relevance_at(double(name), x, logit, site, rules=())
        assert abs(plain.leak) > 1e-2, "the gradient conserves nothing"


def test_the_uniform_rule_halves_what_goes_to_values_and_patterns() -> None:
    net, x = double("llama"), example("llama")
    sites = ["blocks.2.attn.heads", "blocks.2.attn.pattern", "model.layers.2.self_attn.v_proj:out"]

    def coefficients(rules: tuple[str, ...]) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def touch(x: Tensor, at: Any) -> Tensor:
                kept[name] = x
                return x
            return touch
        with relevance(net, rules), net.watched({site: keep(site) for site in sites}):
            out = logit(net.logits(x)).sum()
        return dict(zip(sites, torch.autograd.grad(out, [kept[site] for site in sites]), strict=True))

    plain, uniform = coefficients(()), coefficients(("attention",))
    assert_close(uniform[sites[0]], plain[sites[0]])
    assert_close(uniform[sites[2]], plain[sites[2]] / 2)
    assert_close(uniform[sites[1]], plain[sites[1]] / 2)


def test_rules_that_are_not_known_or_cannot_be_put() -> None:
    for rules, says in ((("gamma",), f"no rule 'gamma' of relevance; there are {', '.join(RULES)}"),
                        (("pattern", "attention"), "give one rule")):
        with pytest.raises(ValueError, match=says), relevance(network("llama"), rules):
            pass
    with pytest.raises(ValueError, match="leave 'product' out"), relevance(network("mixtral")):
        pass


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_relevance_is_captum_s_where_it_has_lrp(activation: type[nn.Module]) -> None:
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(6, 9), activation(), nn.Linear(9, 8), activation(), nn.Linear(8, 3))
    cnn = nn.Sequential(nn.Conv2d(2, 4, 3), activation(), nn.AvgPool2d(2), nn.Conv2d(4, 5, 2), activation(), nn.Conv2d(5, 3, 2))
    for net, x, target in ((cutaway.open(mlp), torch.randn(4, 6), 1), (cutaway.open(cnn), torch.randn(4, 2, 8, 8), (1, 0, 0))):
        found = relevance_at(net, x, lambda logits: logits.flatten(1)[:, 1], "0:in")
        wanted = captum.LRP(net.module).attribute(x.clone().requires_grad_(), target=target)
        assert_close(found.values, wanted.detach(), rtol=1e-3, atol=1e-5)
        assert abs(found.leak) < 1e-4


def test_relevance_stays_in_the_weights_own_type() -> None:
    """bfloat16 weights, as most models are saved, go through every rule."""
    net = cutaway.open(module("llama").to(torch.bfloat16))
    x = example("llama")
    plain = net.logits(x)
    for rules in (RELP, CP_LRP, ATTN_LRP):
        with relevance(net, rules):
            found = net.logits(x)
        assert found.dtype == torch.bfloat16
        assert_close(found, plain, rtol=0.05, atol=0.1)     # attention that is opened rounds otherwise
    assert np.isfinite(circuits.head_patterns(net).select_dtypes("number").to_numpy()).all()


def test_relevance_as_a_score_is_relevance_of_the_units() -> None:
    net = double("llama")
    of = cutaway.arrays({"input_ids": example("llama", rows=3, tokens=7)})

    def minus_logit(net: Network, batch: Any) -> Tensor:
        return -logit(net.logits(batch))

    scored = cutaway.units(net, "neurons", sites="blocks.1.mlp.neurons").score("relevance", of, metric=minus_logit)
    found = relevance_at(net, of.rows(slice(None)), logit, "blocks.1.mlp.neurons").values.sum((0, 1)) / 3
    np.testing.assert_allclose(scored.column("relevance"), found.detach().numpy(), rtol=1e-5, atol=1e-9)


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WIRED)
def test_a_graph_with_open_gates_is_the_network_and_with_closed_ones_the_other_run(name: str) -> None:
    net, of = network(name), task(name)
    parts, before = circuits.graph(net), traces(net)
    other, plain = written(parts, of.corrupted), values(net, of)
    assert len(other) == len(parts.senders) and parts.edges.shape == parts.owner.T.shape
    stream = net.record(of.corrupted, "blocks.2")["blocks.2"]
    assert_close(other.sum(0) + _constants(other, stream), stream, rtol=1e-4, atol=1e-4)
    with Pass(parts, torch.ones(parts.edges.shape), other).in_force():
        assert torch.equal(torch.from_numpy(values(net, of)), torch.from_numpy(plain))
    with Pass(parts, torch.zeros(parts.edges.shape), other).in_force():
        np.testing.assert_allclose(values(net, of), values(net, of, of.corrupted), rtol=1e-3, atol=1e-4)
    assert traces(net) == before


def _constants(other: Tensor, stream: Tensor) -> Tensor:
    """What the output projections' biases add, the same at every token."""
    return (stream - other.sum(0)).mean((0, 1)).expand_as(stream)


def test_which_edges_there_are() -> None:
    llama, neox = (circuits.graph(network(name)) for name in ("llama", "gpt-neox"))
    assert llama.senders[:6] == ["embed", *(f"blocks.0.attn.heads:{i}" for i in range(4)), "blocks.0.mlp"]
    assert llama.receivers[:9] == [*(f"blocks.0.attn.q:{i}" for i in range(4)), *(
        f"blocks.0.attn.{part}:{i}" for part in "kv" for i in range(2)), "blocks.0.mlp"]
    # By hand: 8 readers of heads a block and one MLP; 5 more senders a block, and the logits.
    assert llama.n_edges == sum(8 * (1 + 5 * i) + (1 + 5 * i + 4) for i in range(3)) + 16
    beside = "blocks.0.attn.heads:1 -> blocks.0.mlp"
    assert beside in llama.names() and beside not in neox.names(), "GPT-NeoX's attention and MLP read at the same time"
    own = [llama.receivers.index(f"blocks.0.attn.{reader}") for reader in ("q:2", "k:1", "v:1")]
    assert llama.owner[3].nonzero()[:, 0].tolist() == own
    for name in ("bert", "gemma2", "mlp", "opt"):
        with pytest.raises(ValueError, match="edges between the parts of .* are not known"):
            circuits.graph(network(name))


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "llama"])
def test_edge_patching_is_path_patching_with_everything_between_frozen(name: str) -> None:
    net, of = network(name), task(name)
    parts = circuits.graph(net)
    wanted = [("embed", "blocks.1.attn.k:1"), ("blocks.0.attn.heads:2", "blocks.2.attn.q:3"), ("blocks.1.mlp", "logits"),
              ("blocks.0.mlp", "blocks.2.mlp"), ("blocks.0.attn.heads:0", "blocks.1.attn.v:0")]
    chosen = torch.zeros_like(parts.edges)
    for sender, receiver in wanted:
        chosen[parts.receivers.index(receiver), parts.senders.index(sender)] = True
    found = circuits.edge_patching(net, of, chosen, batch_size=3, at_once=2)
    assert int((found.values != 0).sum()) == len(wanted) and len(found.frame()) == parts.n_edges
    for sender, receiver in wanted:
        path = circuits.path_patching(net, of, sender, [receiver], freeze_mlps=True)
        value = found.values[parts.receivers.index(receiver), parts.senders.index(sender)]
        assert float(path.share(f"{sender} -> {receiver}")) == pytest.approx(float(value), abs=1e-4)
    free = circuits.path_patching(net, of, "blocks.0.attn.heads:2", ["logits"])
    frozen = circuits.path_patching(net, of, "blocks.0.attn.heads:2", ["logits"], freeze_mlps=True)
    assert abs(float(free.share("blocks.0.attn.heads:2 -> logits")) - float(frozen.share(
        "blocks.0.attn.heads:2 -> logits"))) > 1e-6
    with pytest.raises(ValueError, match="no part 'blocks.0.attn.q:9'"):
        circuits.path_patching(net, of, "embed", ["blocks.0.attn.q:9"])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_scores_of_edges_are_slopes_of_their_gates(name: str) -> None:
    net, of = double(name), task(name)
    parts = circuits.graph(net)
    scores = circuits.eap(net, of, batch_size=3)
    other, gap = written(parts, of.corrupted), values(net, of).mean() - values(net, of, of.corrupted).mean()
    step = 1e-4 if name == "gpt2" else 2e-2  # Llama's norm computes in float32
    for receiver, sender in ((0, 0), (9, 3), (len(parts.receivers) - 1, 7)):
        sides = []
        for sign in (1, -1):
            gates = torch.ones(parts.edges.shape, dtype=torch.float64)
            gates[receiver, sender] += sign * step
            with Pass(parts, gates, other).in_force():
                sides.append(values(net, of).mean())
        slope = (sides[0] - sides[1]) / (2 * step) / gap
        assert float(scores.values[receiver, sender]) == pytest.approx(slope, rel=1e-2, abs=1e-4)
    assert not scores.values[~parts.edges].any() and len(scores.of_edges) == parts.n_edges
    assert_close(scores.of_nodes, scores.values.sum(0))
    mixed = circuits.eap_ig(net, of, steps=3)
    assert not torch.allclose(mixed.values, scores.values) and alike(
        mixed.of_edges.numpy(), scores.of_edges.numpy()).pearson > 0.3
    ruled = circuits.eap(net, of, rules=("norm", "activation"))
    assert not torch.allclose(ruled.values, scores.values)


def test_what_an_estimate_of_the_last_edges_sums_to() -> None:
    """The logits read all senders: to first order, closing every edge to them is patching the last norm's input."""
    net, of = network("gpt2"), task("gpt2")
    scores = circuits.eap(net, of)
    site = circuits.attribution_patching(net, of, "blocks.2", "", "noising")
    assert float(scores.values[-1].sum()) == pytest.approx(float(site.share("blocks.2")), rel=1e-3, abs=1e-4)


# --- faithfulness -----------------------------------------------------------------------------------------------------


@cache
def by_hand() -> tuple[Network, Task]:
    net = built.induction_gpt2()
    return net, circuits.induction(net, 24, seed=1, length=8, cue=1)


def test_information_flows_from_who_wrote_what_is_read() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]])[:, None]
    assert_close(shares(z), torch.tensor([0.25, 0.75, 0.0]))
    against = shares(torch.tensor([[[3.0]], [[-1.0]]]))
    assert_close(against, torch.tensor([1.0, 0.0]))
    net = network("llama")
    of = task("llama")
    found = circuits.information_flow(net, of, batch_size=2)
    assert_close(found.values.sum(1), torch.ones(len(found.values), dtype=torch.float64))
    assert (found.values >= 0).all() and (found.values[~found.graph.edges] == 0).all()
    first = [found.graph.receivers.index(name) for name in ("blocks.0.attn.q:0", "blocks.0.attn.v:1")]
    assert_close(found.values[first, 0], torch.ones(2, dtype=torch.float64))     # the first block reads the embedding alone
    assert_close(found.values, circuits.information_flow(net, of).values)
    assert circuits.smallest_circuit(net, of, "nodes", by="information-flow", n_random=0).about["by"] == "information-flow"


def test_dead_ends_change_nothing() -> None:
    net, of = by_hand()
    kept = Kept(circuits.graph(net), of)
    draw = torch.Generator().manual_seed(0)
    for share in (0.3, 0.6):
        chosen = (torch.rand(kept.graph.edges.shape, generator=draw) < share) & kept.graph.edges
        alive = kept.graph.without_dead_ends(chosen)
        assert int(alive.sum()) < int(chosen.sum())
        np.testing.assert_allclose(kept.values(alive), kept.values(chosen), atol=1e-4)
    none = torch.zeros_like(kept.graph.edges)
    assert kept.faithfulness(none) == pytest.approx(0, abs=1e-5) and kept.faithfulness(~none) == pytest.approx(1)
    assert not kept.graph.without_dead_ends(none | (torch.arange(len(none)) == len(none) - 1)[:, None])[:, 1:].any()


def test_areas_of_a_curve_are_the_benchmark_s() -> None:
    net, of = by_hand()
    scores = circuits.eap_ig(net, of)
    found = circuits.benchmark(of, scores, shares=(0.1, 0.5, 1.0), n_random=2)
    f = found.curves["signed"].faithfulness
    assert f[-1] == pytest.approx(1) and found.curves["signed"].sizes[-1] == scores.graph.n_edges
    assert found.cpr.value == pytest.approx(0.4 * (f[0] + f[1]) / 2 + 0.5 * (f[1] + f[2]) / 2)
    g = np.abs(1 - found.curves["size"].faithfulness)
    assert found.cmd.value == pytest.approx(0.4 * (g[0] + g[1]) / 2 + 0.5 * (g[1] + g[2]) / 2)
    assert found.log_cmd.value == pytest.approx(np.log10(5) * (g[0] + g[1]) / 2 + np.log10(2) * (g[1] + g[2]) / 2)
    assert found.cpr.low <= found.cpr.value <= found.cpr.high and found.cpr.n == 24
    assert found.cmd.value < 0.3 * min(found.random["cmd"])


def test_greedy_takes_the_fewest_and_pruning_leaves_what_is_needed() -> None:
    scores, needed = torch.arange(20.0), torch.zeros(20, dtype=torch.bool)
    needed[[4, 9, 17]] = True
    asked = []

    def keeps(kept: Tensor) -> bool:
        asked.append(int(kept.sum()))
        return bool((kept & needed).sum() == 3)

    first = greedy(scores.argsort(descending=True), keeps)
    assert first.nonzero()[:, 0].tolist() == list(range(4, 20)) and len(asked) < 15
    assert torch.equal(pruned(scores, first, keeps), needed)
    assert bool(greedy(scores.argsort(), lambda kept: False).all())


# --- known circuits ---------------------------------------------------------------------------------------------------


def test_the_built_network_repeats() -> None:
    net, of = by_hand()
    strength = {figure.name: figure.value for figure in circuits.strength(net, of)}
    assert strength["right"] == 1.0 and strength["clean"] > 0.5
    assert strength["clean"] == pytest.approx(-strength["corrupted"], rel=0.2)
    patterns = circuits.head_patterns(net, length=7).set_index(["site", "unit"])
    assert patterns["previous_token"].idxmax() == ("blocks.0.attn.heads", 1) and patterns["previous_token"].max() > 0.95
    assert patterns["prefix_matching"].idxmax() == ("blocks.1.attn.heads", 0) and patterns["prefix_matching"].max() > 0.8


@pytest.mark.parametrize("by", ["eap-ig", "edge-patching"])
def test_the_built_circuit_is_found_exactly(by: str, tmp_path: Path) -> None:
    net, of = by_hand()
    found = circuits.smallest_circuit(net, of, by=by, target=0.95)
    assert set(found.parts) == built.CIRCUIT == set(found.graph.names(found.edges))
    figures = found.figures
    assert figures["faithfulness"].value > 0.95 and abs(figures["completeness"].value) < 0.2 and found.drops.min() > 0.3
    assert figures["random"].value < 0.2 and figures["faithfulness"].n == 12 == found.about["rows to measure"]
    assert found.nodes == ["embed", built.PREVIOUS, built.INDUCTION] and json.dumps(found.json())
    from cutaway.circuits.pictures import draw_circuit, save
    assert save(draw_circuit(found), tmp_path / "circuit.png").stat().st_size > 5_000


def test_the_built_circuit_s_nodes_are_found() -> None:
    net, of = by_hand()
    found = circuits.smallest_circuit(net, of, "nodes", target=0.95)
    assert found.parts == [built.PREVIOUS, built.INDUCTION] and found.figures["faithfulness"].value > 0.95
    for given, says in (({"target": 1.0}, "found 1.0"), ({"level": "parts"}, "edges or nodes"),
                        ({"by": "relp"}, "scores no edges")):
        with pytest.raises(ValueError, match=says):
            circuits.smallest_circuit(net, of, **given)


def test_what_an_mlp_knows_is_found() -> None:
    net = built.lookup_llama()
    clean, corrupted = torch.randint(0, 10, (2, 12, 5), generator=torch.Generator().manual_seed(0))
    corrupted[:, -1] = (clean[:, -1] + 1 + corrupted[:, -1] % 9) % 10  # another last token
    answers = circuits.LogitDifference(torch.full((12,), 4), built.SUCCESSOR[clean[:, -1]], built.SUCCESSOR[corrupted[:, -1]])
    of = Task("successor", {"input_ids": clean}, {"input_ids": corrupted}, answers)
    assert (net.logits(clean)[:, -1].argmax(-1) == built.SUCCESSOR[clean[:, -1]]).all()
    found = circuits.smallest_circuit(net, of, target=0.95)
    assert set(found.parts) == built.LOOKUP and found.figures["faithfulness"].value > 0.95
    path = circuits.path_patching(net, of, "embed", ["blocks.1.mlp"])
    assert float(path.share("embed -> blocks.1.mlp")) == pytest.approx(1, abs=0.05)


def test_edges_of_a_level_are_those_of_its_parts() -> None:
    parts = circuits.graph(by_hand()[0])
    edges, nodes = (level_of(parts, name) for name in ("edges", "nodes"))
    assert torch.equal(edges.edges_of(torch.ones(parts.n_edges, dtype=torch.bool)), parts.edges)
    one = torch.zeros(len(nodes.parts), dtype=torch.bool)
    one[1] = True
    assert set(nodes.edges_of(one).any(0).nonzero()[:, 0].tolist()) == {0, 2}, "the embedding is always kept"
    scores = torch.rand(parts.edges.shape) * parts.edges
    assert_close(edges.sums(scores), scores[parts.edges])
    assert_close(nodes.sums(scores), scores.sum(0)[1:])


# --- features ---------------------------------------------------------------------------------------------------------


@cache
def dictionary(name: str = "llama", site: str = "blocks.1") -> Any:
    from cutaway.dictionaries.dictionary import Dictionary, Facts
    from cutaway.dictionaries.parts import TopK
    generator = torch.Generator().manual_seed(0)
    made = Dictionary(32, 40, TopK(6), Facts(site=site))
    with torch.no_grad():
        made.W_enc.copy_(torch.randn(40, 32, generator=generator))
        made.W_dec.copy_(made.W_enc / 8)
    return made.requires_grad_(False)


def test_features_and_error_are_the_whole_site_to_first_order() -> None:
    net, of = network("llama"), task("llama")
    both = circuits.feature_attribution(net, of, [dictionary(), dictionary(site="blocks.0.mlp")])
    for site in ("blocks.1", "blocks.0.mlp"):
        whole = circuits.attribution_patching(net, of, site, "")
        total = both.values[f"{site}.features"].sum(1) + both.values[f"{site}.error"][:, 0]
        np.testing.assert_allclose(total, whole.values[site], rtol=1e-3, atol=1e-4)
    assert both.values["blocks.1.features"].shape == (4, 40) and len(both.frame()) == 82


def test_a_feature_is_patched_by_its_activation_on_the_other_prompt() -> None:
    net, of, made = network("llama"), task("llama"), dictionary()
    estimate = circuits.feature_attribution(net, of, made, steps=4)
    chosen = np.argsort(-np.abs(estimate.values["blocks.1.features"].mean(0)))[:5].tolist()
    found = circuits.feature_patching(net, of, made, chosen)
    x, y = (net.record(inputs, "blocks.1")["blocks.1"] for inputs in (of.clean, of.corrupted))
    change = (made.encode(x).dense(40) - made.encode(y).dense(40))[..., chosen[2], None] * made.W_dec[chosen[2]]
    with net.edited(Edit("blocks.1", lambda z, at: z + change)):
        wanted = values(net, of, of.corrupted) - found.corrupted
    np.testing.assert_allclose(found.values["blocks.1.features"][:, 2], wanted, atol=1e-4)
    with pytest.raises(ValueError, match="features 0 to 39; found 40"):
        circuits.feature_patching(net, of, made, [40])


def test_faithfulness_of_features_goes_from_nothing_to_all() -> None:
    net, of, made = network("llama"), task("llama"), dictionary()
    all_of, none = torch.ones(40, dtype=torch.bool), torch.zeros(40, dtype=torch.bool)
    assert circuits.features_kept(net, of, made, {"blocks.1": all_of}).value == pytest.approx(1, abs=1e-4)
    gone = circuits.features_kept(net, of, made, {"blocks.1": none}, errors=False)
    whole = circuits.activation_patching(net, of, "blocks.1", "", "noising")
    assert gone.value == pytest.approx(1 - float(whole.share("blocks.1")), abs=1e-3)
    some = circuits.features_kept(net, of, made, {}, errors=True)
    assert some.value != pytest.approx(gone.value, abs=1e-3) and some.n == 4


# --- the catalogue, pico and the command line -------------------------------------------------------------------------


def test_all_methods_of_the_room_are_in_the_catalogue() -> None:
    assert set(methods("circuit")) == {
        "activation-patching", "attribution-patching", "attribution-patching-ig", "relp", "path-patching", "eap", "eap-ig",
        "edge-patching", "information-flow", "smallest-circuit", "feature-attribution", "feature-patching"}
    assert methods("circuit")["relp"].roster == "185" and methods("circuit")["relp"].proof is not None


def test_induction_heads_of_pico_are_found() -> None:
    net = cutaway.open("pico")
    of = circuits.induction(net, 12, seed=0)
    strength = {figure.name: figure.value for figure in circuits.strength(net, of)}
    assert strength["right"] > 0.6
    measured = circuits.activation_patching(net, of)
    table = measured.frame().merge(circuits.head_patterns(net, 8), on=["site", "unit"])
    by_pattern = set(table.nlargest(4, "prefix_matching").index)
    by_patching = set(table.nlargest(6, "effect").index)
    assert len(by_pattern & by_patching) >= 2, "heads that look where induction heads look carry the behaviour"
    assert circuits.agreement(circuits.relp(net, of), measured)["heads"].pearson > 0.5
    of = circuits.assignment(net, 6)
    assert {figure.name: figure.value for figure in circuits.strength(net, of)}["right"] > 0.6


def test_the_command_says_where_edges_are_not_known(tmp_path: Path, capsys: pytest.CaptureFixture,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.cli.inputs.network", lambda *_: network("gemma2"))
    monkeypatch.setitem(circuits.TASKS, "induction", lambda net, n, seed: circuits.induction(net, n, seed, length=7, cue=1))
    main(["circuit", "gemma", "--n", "2", "--out", str(tmp_path / "circuit")])
    said = capsys.readouterr().out
    assert "Heads by activation patching" in said and "No circuit was sought: edges between the parts of" in said
    assert (tmp_path / "circuit" / "heads.png").exists() and not (tmp_path / "circuit" / "circuit.json").exists()
    with pytest.raises(SystemExit, match="between 0 and 1; found 1.5"):
        main(["circuit", "gemma", "--target", "1.5", "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_the_command_leaves_tables_pictures_and_its_configuration(tmp_path: Path, capsys: pytest.CaptureFixture,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = by_hand()
    monkeypatch.setattr("cutaway.cli.inputs.network", lambda *_: net)
    monkeypatch.setitem(circuits.TASKS, "induction", lambda net, n, seed: circuits.induction(net, n, seed, length=7, cue=1))
    main(["circuit", "built", "--n", "8", "--target", "0.95", "--out", str(tmp_path / "circuit")])
    said = capsys.readouterr().out
    assert "The smallest circuit found on 4 pairs has 5 of" in said and "cpr" in said and built.PREVIOUS in said
    kept = json.loads((tmp_path / "circuit" / "circuit.json").read_text())
    assert {part["part"] for part in kept["parts"]} == built.CIRCUIT and kept["areas"]["cmd"]["n"] == 4
    heads = json.loads((tmp_path / "circuit" / "heads.json").read_text())
    assert len(heads["heads"]) == 4 and heads["agreement"]["relp"]["n"] == 4
    assert json.loads((tmp_path / "circuit" / "config.json").read_text())["command"] == "circuit"
    for picture in ("circuit", "heads", "curves"):
        assert (tmp_path / "circuit" / f"{picture}.png").stat().st_size > 5_000
    with pytest.raises(SystemExit) as stop:
        main(["circuit", "built", "--task", "nothing", "--out", str(tmp_path / "none")])
    assert "no task 'nothing'" in str(stop.value.code) and not (tmp_path / "none").exists()


# --- the proof --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs", "counted", "holds"), [
    (0.9, 0.5, [5, 5], True), (0.5, 0.9, [5, 5], False), (0.9, 0.5, [9, 5], False), (0.7, 0.7, [5, 5], None)])
def test_what_the_relp_proof_concludes(ours: float, theirs: float, counted: list[int], holds: bool | None) -> None:
    def seeds(value: dict[str, float]) -> list[dict[str, dict[str, circuits.Agreement]]]:
        def at(name: str, e: float) -> circuits.Agreement:
            return circuits.Agreement(value.get(name, 0.6) + (e if name == proof.OURS else -e), 0.5 + e, 0.9, 162)
        return [{name: {kind: at(name, e) for kind in ("residual", "attention", "MLP")} for name in proof.ESTIMATES}
                for e in (0.0, 0.02, -0.02)]
    found = {task: seeds({proof.OURS: ours, proof.PLAIN: theirs}) for task in (*proof.TASKS, "MiniLM")}
    took = [{"activation patching": 1.0, **dict.fromkeys(proof.ESTIMATES, 0.1)}]
    proven = proof.concluded(found, took, counted, "test")
    assert proven.holds is holds and len(proven.comparisons) == 4 and json.dumps(proven.json(), allow_nan=False)
    assert (holds is True) != any("Likely why" in note for note in proven.notes)


def test_what_the_relp_proof_measures() -> None:
    net = by_hand()[0]
    agreed, took = proof.one(net, circuits.induction(net, 3, length=5, cue=1))
    assert set(agreed) == set(proof.ESTIMATES) and set(took) == {"activation patching", *proof.ESTIMATES}
    assert all(found[kind].n == 12 for found in agreed.values() for kind in ("residual", "attention", "MLP"))
    counts = [proof.passes(net, lambda e=estimate: e(net, circuits.induction(net, 2, length=5, cue=1)))
              for estimate in (proof.ESTIMATES[proof.OURS], proof.ESTIMATES[proof.PLAIN])]
    assert counts[0] == counts[1] > 2
