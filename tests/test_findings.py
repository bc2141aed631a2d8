"""Analyses of whole networks: each against its definition on small random networks, and what bad input says."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import example, module, network
from helpers import PLAIN, tiny_llama, tiny_vit
from test_edits import output, traces
from torch import Tensor, nn
from torch.testing import assert_close

import cutaway as cw
from cutaway import Edit
from cutaway.catalogue import methods
from cutaway.network import Network
from cutaway.scores.findings import (
    depth_use,
    essential_sparsity,
    fit_curve,
    iscs,
    lac_voids,
    layer_transfer,
    massive_dynamics,
    massive_ratio,
    neuron_path,
    sink_decorrelation,
    sinks,
)
from cutaway.scores.findings.depth_use import DepthUse, Effect
from cutaway.scores.findings.essential_sparsity import HOW, Sparsity, masked_copy, masking
from cutaway.scores.findings.lac_voids import active_blocks
from cutaway.scores.findings.layer_transfer import ARMS, Transfer
from cutaway.scores.findings.neuron_path import EVERY, answer_probability, influences, sites_of
from cutaway.scores.findings.sink_decorrelation import _received
from cutaway.scores.places import skip

STREAMS = ["gpt2", "opt", "llama", "gemma2", "mixtral", "bert", "vit"]


def data(name: str, rows: int = 4, tokens: int = 10) -> Any:
    x = example(name, rows=rows, tokens=tokens)
    if name in ("vit", "clip-vision", "cnn"):
        return cw.arrays(x, torch.arange(rows) % 5)
    return cw.arrays({"input_ids": x}, name="random")


def states(net: Network, batch: Any) -> list[Tensor]:
    found = net.record(batch, ["embed", *(f"blocks.{i}" for i in range(net.n_blocks))])
    return list(found.values())


def test_every_analysis_of_the_roster_is_in_the_catalogue():
    assert {m.roster for m in methods("analysis").values()} >= {"026", "078", "115", "156", "162", "174", "187", "214"}


# --- depth use ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_depth_is_measured_on_every_transformer_and_leaves_it_alone(name: str):
    net, before = network(name), traces(network(name))
    use = depth_use(net, data(name), cuts=1)
    assert traces(net) == before and use.n == use.rows * states(net, data(name).rows([0]))[0].shape[1]
    assert set(use.contribution) == {"block", "attn", "mlp"} and all(v.shape == (3,) for v in use.contribution.values())
    assert torch.isnan(use.whole.later.tril()[torch.ones(3, 3).tril().bool()]).all()
    assert (use.whole.later[0, 1:] > 0).all() and (use.whole.later_max[0, 1:] >= use.whole.later[0, 1:]).all()
    said = name not in ("bert-encoder",)
    assert torch.isfinite(use.whole.output).all() == torch.isfinite(use.erased).all() == said and 0 <= use.depth <= 1
    assert torch.isfinite(use.direct[0, 1:]).all() and (use.lens is not None) == said


def test_additions_and_effects_are_those_of_the_definition():
    net, of = network("llama"), data("llama")
    batch = of.rows(slice(None))
    h = states(net, batch)
    use = depth_use(net, of, cuts=2, batch_size=3)
    change = h[2] - h[1]
    size = (change.norm(dim=-1) / h[1].norm(dim=-1)).mean()
    assert float(use.contribution["block"][1]) == pytest.approx(float(size), rel=1e-5)
    cosine = torch.cosine_similarity(change, h[1], dim=-1).mean()
    assert float(use.cosine["block"][1]) == pytest.approx(float(cosine), rel=1e-4)
    gate = torch.zeros(10)
    gate[0] = 1
    with net.edited(Edit("blocks.0", skip, gate, "t")):
        other, said = states(net, batch), net.logits(batch)
    moved = ((h[3] - h[2]) - (other[3] - other[2])).norm(dim=-1) / (h[3] - h[2]).norm(dim=-1)
    assert float(use.whole.later[0, 2]) == pytest.approx(float(moved[:, 1:].mean()), rel=1e-4)
    assert float(use.whole.later_max[0, 2]) == pytest.approx(float(moved[:, 1:].max()), rel=1e-4)
    apart = (net.logits(batch).softmax(-1) - said.softmax(-1)).norm(dim=-1)[:, 1:].detach()
    assert float(use.whole.output[0]) == pytest.approx(float(apart.mean()), rel=1e-4)


def test_a_block_that_adds_nothing_has_no_effect():
    net = cw.open(module("gpt2"))
    with torch.no_grad():
        for part in (net.module.transformer.h[1].attn.c_proj, net.module.transformer.h[1].mlp.c_proj):
            part.weight.zero_(), part.bias.zero_()
    use = depth_use(net, data("gpt2"), cuts=1)
    assert use.contribution["block"][1] == use.contribution["attn"][1] == use.contribution["mlp"][1] == 0
    assert use.whole.output[1] == use.future.output[1] == use.whole.later[1, 2] == 0
    assert use.whole.output[0] > 0 and use.future.later[0, 2] > 0


def test_effects_at_future_tokens_go_through_attention_alone():
    net = cw.open(module("gpt2"))
    with torch.no_grad():
        for block in net.module.transformer.h:
            block.attn.c_proj.weight.zero_()
    use = depth_use(net, data("gpt2"), cuts=2)
    assert (use.future.output == 0).all() and (use.whole.output > 0).all()


def test_depth_is_the_mean_block_weighted_by_its_effect():
    later = torch.tensor([[np.nan, 1.0, 1.0], [np.nan, np.nan, 3.0], [np.nan] * 3])
    effect = Effect(later, later, torch.zeros(3), torch.zeros(3), 1)
    use = DepthUse({}, {}, effect, effect, later, torch.zeros(3), None, 1, 1)
    assert use.depth == pytest.approx(0.75) and effect.on_later.tolist() == [1, 3]


def test_what_a_block_reads_directly_is_measured_in_its_own_input_alone():
    net, of = network("llama"), data("llama")
    batch, use = of.rows(slice(None)), depth_use(network("llama"), data("llama"), cuts=1)
    h, first = states(net, batch), torch.zeros(10).index_fill(0, torch.tensor(0), 1.0)
    for s, later in ((0, 1), (0, 2), (1, 2)):
        given = h[s + 1] - h[s]
        with net.edited(Edit(f"blocks.{later - 1}", lambda z, at, given=given: z - given, first, "t")):
            seen = states(net, batch)
        change = h[later + 1] - h[later]
        moved = (change - (seen[later + 1] - seen[later])).norm(dim=-1) / change.norm(dim=-1)
        assert float(use.direct[s, later]) == pytest.approx(float(moved[:, 1:].mean()), rel=1e-4)
    assert not torch.isfinite(use.direct[~torch.ones(3, 3).triu(1).bool()]).any()
    assert float(use.direct[0, 1]) == pytest.approx(float(use.whole.later[0, 1]), rel=1e-4)  # nothing lies between them
    assert abs(float(use.direct[0, 2] - use.whole.later[0, 2])) > 1e-3


def test_the_lens_is_the_last_norm_and_output_after_each_block():
    net, of = network("llama"), data("llama")
    batch, use = of.rows(slice(None)), depth_use(network("llama"), data("llama"), cuts=1)
    h, final = states(net, batch), net.logits(batch).detach().log_softmax(-1)
    early = net.module.lm_head(net.module.model.norm(h[2])).detach().log_softmax(-1)
    assert float(use.lens.kl[1]) == pytest.approx(float((early.exp() * (early - final)).sum(-1).mean()), rel=1e-4)
    top, wanted = (x.topk(5).indices for x in (early, final))
    both = zip(top.flatten(0, 1).tolist(), wanted.flatten(0, 1).tolist(), strict=True)
    same = np.mean([len({*a} & {*b}) / 5 for a, b in both])
    assert float(use.lens.top[1]) == pytest.approx(same, abs=1e-6)
    assert float(use.lens.kl[2]) == pytest.approx(0, abs=1e-6) and float(use.lens.top[2]) == pytest.approx(1)
    assert depth_use(network("bert-encoder"), data("bert-encoder"), cuts=1).lens is None


def test_an_erased_state_is_its_mean_up_to_the_cut():
    net, of = network("llama"), data("llama")
    batch, use = of.rows(slice(None)), depth_use(network("llama"), data("llama"), cuts=3)  # rows of 10 are cut after token 5
    place, mean = torch.arange(10), states(net, batch)[1].flatten(0, 1).mean(0)
    with net.edited(Edit("blocks.0", lambda z, at: mean, ((place == 0) | (place > 5)).float(), "t")):
        said = net.logits(batch)
    apart = (net.logits(batch).softmax(-1) - said.softmax(-1)).norm(dim=-1)[:, 6:].detach()
    assert float(use.erased[0]) == pytest.approx(float(apart.mean()), rel=1e-4) and (use.erased[:2] > 0).all()
    assert float(use.erased[2]) == pytest.approx(0, abs=1e-6)     # nobody reads earlier states after the last block


# --- void layers ----------------------------------------------------------------------------------------------------------


def test_voids_of_known_norms():
    norms = torch.tensor([[1.0, 3.0, 4.0, 4.5, 4.0], [5.0, 4.0, 6.0, 8.0, 8.1]])  # changes 2 1 .5 -.5 and -1 2 2 .1
    assert active_blocks(norms, 0.8).tolist() == [[True, True, False, False], [False, True, False, False]]
    assert active_blocks(norms, 0.0).tolist() == [[True, True, True, False], [False, True, True, True]]


@pytest.mark.parametrize("name", STREAMS)
def test_voids_do_not_depend_on_other_rows_and_are_left_out(name: str):
    net, of = network(name), data(name)
    found = lac_voids(net, of, alpha=0.5)
    assert torch.equal(found.active, lac_voids(net, of, alpha=0.5, batch_size=1).active)
    assert found.active.shape[::2] == (4, 3) and not found.generated.any() and torch.isnan(found.generation).all()
    batch = of.rows([1, 2])
    with net.edited(found.skips(batch.rows)):
        h = states(net, batch)
    for i in range(3):
        void = ~found.active[1:3, :, i]
        assert_close(h[i + 1][void], h[i][void])
        assert not void.numel() or (~void).sum() == 0 or not torch.equal(h[i + 1][~void], h[i][~void])


def test_exits_leave_out_what_comes_after_the_last_active_block():
    net, of = network("gpt2"), data("gpt2")
    found = replace(lac_voids(net, of), active=torch.tensor([True, False, False]).expand(4, 10, 3).clone())
    found.active[0, 3] = torch.tensor([False, True, False])
    with net.edited(found.exits()):
        h = states(net, of.rows(slice(None)))
    assert torch.equal(h[3], h[2]) and not torch.equal(h[2][0, 3], h[1][0, 3]) and torch.equal(h[2][1], h[1][1])


def test_generated_tokens_are_told_from_their_prompts():
    net = tiny_llama()
    of = cw.corpus([PLAIN], net).take(31 * 3)
    found = lac_voids(net, of, prompt=12, generate=8, temperature=0.0)
    assert found.ids.shape == (3, 20) and torch.equal(found.ids[:, :12], of.rows(slice(None)).inputs["input_ids"][:, :12])
    assert found.generated[:, 12:].all() and not found.generated[:, :12].any() and not found.keep[:, 0].any()
    whole = lac_voids(net, cw.arrays({"input_ids": found.ids}))
    assert torch.equal(whole.active, found.active)
    assert_close(found.generation, found.active[:, 12:][found.keep[:, 12:]].float().mean(0))
    first, again = (lac_voids(net, of, prompt=12, generate=8, seed=3) for _ in range(2))
    assert torch.equal(first.ids, again.ids)


# --- essential sparsity ---------------------------------------------------------------------------------------------------


def test_masks_keep_what_they_say():
    weights = {"a": torch.randn(6, 16), "b": 10 * torch.randn(4, 16)}
    for how, choose in HOW.items():
        masks = choose(weights, 0.5, seed=1)
        assert sum(int(m.sum()) for m in masks.values()) == 80, how
        assert {name: m.shape for name, m in masks.items()} == {name: w.shape for name, w in weights.items()}
    smallest = HOW["global"](weights, 0.25)
    gone = torch.cat([w[~smallest[name]].abs() for name, w in weights.items()])
    stays = torch.cat([w[smallest[name]].abs() for name, w in weights.items()])
    assert len(gone) == 40 and gone.max() <= stays.min()
    assert all(int(m.sum()) == 12 * len(m) for m in HOW["layer"](weights, 0.25).values()) is True
    for how, m in (("n:4", 4), ("n:8", 8)):
        groups = HOW[how](weights, 0.5)["a"].unflatten(1, (-1, m))
        assert (groups.sum(-1) == m // 2).all()
        w = weights["a"].abs().unflatten(1, (-1, m))
        assert (w.masked_fill(~groups, np.inf).amin(-1) >= w.masked_fill(groups, 0).amax(-1)).all()
    odd = HOW["n:4"]({"c": torch.randn(2, 6)}, 0.5)["c"]
    assert (odd[:, :4].sum(1) == 2).all() and (odd[:, 4:].sum(1) == 2).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit"])
def test_a_masked_copy_is_the_gated_network(name: str):
    from cutaway.kinds import kind_of, sites_of
    net, of = network(name), data(name)
    places = {site.name: site for site in sites_of(net, kind_of("rows"))}
    axis = {place: site.cut.axes[0] for place, site in places.items()}
    weights = {place: net.module.get_submodule(site.path).weight.detach() for place, site in places.items()}
    weights = {place: w.T if axis[place] == "i" else w for place, w in weights.items()}
    masks, before = HOW["n:4"](weights, 0.5), copy.deepcopy(net.module.state_dict())
    pruned = masked_copy(net, places, masks)
    with net.edited(masking(places, masks)):
        assert_close(output(net, of.rows([0])), output(pruned, of.rows([0])))
    assert all(torch.equal(value, before[key]) for key, value in net.module.state_dict().items())


def test_the_essential_sparsity_is_the_last_before_it_gets_worse():
    grid = (0.25, 0.5, 0.75)
    curve = Sparsity("global", "loss", grid, (2.01, 2.018, 4.0), 2.0, 0.01)
    assert curve.essential == 0.5 and curve.slopes() == pytest.approx((0.036, 7.928))
    assert replace(curve, values=(2.5, 2.0, 2.0)).essential == 0 and replace(curve, values=(1.9, 1.9, 1.9)).essential == 0.75
    right = replace(curve, metric="accuracy", dense=0.9, values=(0.9, 0.895, 0.5))
    assert right.essential == 0.5 and right.worse == pytest.approx((0, 0.005, 0.4))


def test_masks_hold_while_a_copy_is_trained():
    net, of, seen = network("vit"), data("vit"), []

    def tune(pruned: Network) -> None:
        pruned.module.train()
        optimizer = torch.optim.SGD(pruned.module.parameters(), 0.1)
        for _ in range(2):
            nn.functional.cross_entropy(pruned.logits(of.rows(slice(None))), of.rows(slice(None)).labels).backward()
            optimizer.step()
        seen.append(pruned)

    before = copy.deepcopy(net.module.state_dict())
    found = essential_sparsity(net, of, metric="accuracy", how="layer", grid=(0.5,), tune=tune)
    dense, pruned = (one.module.get_submodule("vit.layers.0.mlp.fc1") for one in seen)
    assert (dense.weight != 0).all() and float((pruned.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(pruned.weight_orig, before["vit.layers.0.mlp.fc1.weight"]) and found.sparsity == (0.5,)
    assert all(torch.equal(value, before[key]) for key, value in net.module.state_dict().items())


def test_without_training_the_metric_is_that_of_the_edits():
    net, of = network("llama"), data("llama")
    found = essential_sparsity(net, of, grid=(0.5,), sites="blocks.1.mlp")
    assert essential_sparsity(net, of, grid=(0.5,), sites="blocks.1.mlp", dense=7.0) == replace(found, dense=7.0)
    assert found.dense == pytest.approx(cw.measure(net, of)["loss"].value) and found.values[0] != found.dense
    with pytest.raises(ValueError, match="chosen by global, layer"):
        essential_sparsity(net, of, how="best")
    for grid in ((), (0.5, 0.2), (0.5, 1.0)):
        with pytest.raises(ValueError, match="rising sparsities"):
            essential_sparsity(net, of, grid=grid)


# --- transfer of layers ---------------------------------------------------------------------------------------------------


def plain(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return nn.Sequential(first, nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 5))


def test_layers_are_copied_frozen_and_the_rest_trained():
    source, target, made = cw.open(plain(1)), cw.open(plain(2)), []
    x = example("cnn", rows=8)

    def train(net: Network) -> None:
        net.module.train()
        weights = [p for p in net.module.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, 0.1)
        net.logits(x).square().mean().backward()
        optimizer.step()
        made.append(net.module.state_dict())

    kept = [copy.deepcopy(net.module.state_dict()) for net in (source, target)]
    found = layer_transfer(source, target, lambda: plain(3), train, lambda net: float(net.logits(x).detach().sum()))
    assert found.layers == ("0", "1") and {*found.scores} == {*ARMS} and len(made) == 10
    origins = {"selffer": kept[1], "transfer": kept[0], "random": plain(3).state_dict()}
    for i, arm in enumerate(ARMS):
        for cut in (1, 2):
            state = made[2 * i + cut - 1]
            copied = [name for name in state if int(name.split(".")[0]) < cut]
            rest = [name for name in state if name not in copied and "num" not in name]
            if arm in origins:  # frozen, running statistics too
                assert all(torch.equal(state[name], origins[arm][name]) for name in copied), (arm, cut)
            else:
                assert not torch.equal(state["0.0.weight"], kept["+" in arm and arm == "selffer+"]["0.0.weight"])
            fresh = plain(3).state_dict()
            assert all(not torch.equal(state[name], fresh[name]) for name in rest)
    assert all(torch.equal(v, kept[0][k]) for k, v in source.module.state_dict().items())


def test_without_training_the_own_layers_of_a_network_bring_it_back():
    net, other, x = network("vit"), cw.open(module("vit", seed=5)), example("vit")

    def score(one: Network) -> float:
        return float(one.logits(x).detach().sum())

    found = layer_transfer(other, net, lambda: copy.deepcopy(net.module), lambda one: None, score, arms=["selffer", "transfer"])
    assert found.lost_together == (0, 0, 0) and found.scores["selffer"] == (found.base,) * 3 and len(set(found.specific)) == 3
    with pytest.raises(ValueError, match="the arm transfer\\+ was not run"):
        found.gained  # noqa: B018


def test_transfer_says_what_is_wrong():
    net, nothing = cw.open(plain(0)), (lambda one: None)
    with pytest.raises(ValueError, match="same architecture"):
        layer_transfer(network("cnn"), net, lambda: plain(0), nothing, lambda one: 0.0)
    for wrong, says in ((dict(layers=["1", "0"]), "from the first to the last"),
                        (dict(layers=["body"]), "no weights in a layer"), (dict(arms=["frozen"]), "the arms are selffer")):
        with pytest.raises(ValueError, match=says):
            layer_transfer(net, net, lambda: plain(0), nothing, lambda one: 0.0, **wrong)


# --- paths of neurons -----------------------------------------------------------------------------------------------------


def test_influences_of_one_block_sum_to_what_scaling_it_does():
    net, batch = network("vit"), data("vit").rows(slice(None))
    gradient, step, tokens = influences(net, batch, {1: EVERY}, answer_probability, 0, 400)
    gate = torch.ones(tokens, 1)
    gate[0] = 0
    with net.edited(Edit("blocks.1.mlp.neurons", gate=gate[:, 0], over="t")):
        closed = answer_probability(net, batch)
    effect = (answer_probability(net, batch) - closed).detach()
    assert_close((gradient[1] * step[1]).sum(1), effect, atol=2e-3, rtol=0.02)


def test_a_path_is_chosen_block_by_block_and_acts_at_its_token():
    net, of = network("vit"), data("vit")
    batch, sites = of.rows(slice(None)), sites_of(net)
    path = neuron_path(net, of, steps=4, batch_size=3)
    assert path.position == 0 and path.tokens == 5 and len(path.units) == len(path.gains) == 3
    sets: Any = {0: [path.units[0]], 1: [path.units[1]], 2: EVERY}
    gradient, step, _ = influences(net, batch, sets, answer_probability, 0, 4)
    joint = (gradient[2] + gradient[0] + gradient[1]) * (step[2] + step[0] + step[1])
    assert int(joint.mean(0).argmax()) == path.units[2] and float(joint.mean(0).max()) == pytest.approx(path.gains[2], rel=1e-4)
    before = net.record(batch, sites[0])[sites[0]]
    with net.edited(path.edits(net, 2.0)):
        after = net.record(batch, sites[0])[sites[0]]
    expected = before.clone()
    expected[:, 0, path.units[0]] *= 2
    assert_close(after, expected)


def test_a_neuron_that_alone_speaks_for_the_class_is_on_the_path():
    net = cw.open(copy.deepcopy(tiny_vit().module))
    with torch.no_grad():
        for block in net.module.vit.layers:
            block.mlp.fc1.bias[7] = 3.0
            block.mlp.fc2.weight[:, 7] = net.module.classifier.weight[1]
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    path = neuron_path(net, cw.arrays(x, torch.ones(6, dtype=torch.long)), steps=5)
    assert path.units == (7, 7)


def test_paths_of_causal_models_end_in_the_last_token():
    net, of = network("gpt2"), data("gpt2")
    path = neuron_path(net, of, steps=2, tokens=2)
    assert path.position == 8 and path.tokens == 10
    ids = of.rows([0]).inputs["input_ids"]
    with torch.no_grad():
        assert_close(answer_probability(net, of.rows([0]))[0], net.logits(ids).softmax(-1)[0, -2, ids[0, -1]])
    with pytest.raises(ValueError, match="no MLP neurons"):
        neuron_path(network("mixtral"), of)
    with pytest.raises(ValueError, match="give position="):
        neuron_path(network("bert"), data("bert"))
    with pytest.raises(ValueError, match="give labels"):
        neuron_path(network("vit"), cw.arrays(example("vit")))


# --- sinks ----------------------------------------------------------------------------------------------------------------


def test_the_penalty_is_the_squared_cosine_with_the_begin_token():
    net = tiny_llama()
    batch = cw.corpus([PLAIN], net).take(31 * 3).rows(slice(None))
    logits, penalty = sink_decorrelation(net, batch)
    h = net.record(batch, "blocks.0")["blocks.0"]
    cosine, keep = torch.cosine_similarity(h[:, :1], h, dim=-1), batch.keep
    expected = [float((row[mask] ** 2).mean()) for row, mask in zip(cosine.detach(), keep, strict=True)]
    assert not keep[:, 0].any() and penalty.item() == pytest.approx(float(np.mean(expected)), rel=1e-5)
    assert_close(logits, net.logits(batch))
    (logits.logsumexp(-1).mean() + penalty).backward()
    assert net.module.model.embed_tokens.weight.grad.abs().sum() > 0
    for p in net.module.parameters():
        p.grad = None


def test_training_on_the_penalty_alone_lowers_it():
    net, of = cw.open(module("gpt2")), data("gpt2")
    optimizer = torch.optim.Adam(net.module.parameters(), 1e-2)
    values = []
    for _ in range(8):
        penalty = sink_decorrelation(net, of.rows(slice(None)))[1]
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        values.append(penalty.item())
    assert values[-1] < 0.7 * values[0]


def test_attention_received_is_a_mean_over_the_queries_that_see_the_key():
    pattern = torch.tensor([[[[1.0, 0, 0], [0.4, 0.6, 0], [0.2, 0.5, 0.3]]]])
    assert_close(_received(pattern, True), torch.tensor([[[0.3, 0.5, 0.0]]]))
    assert_close(_received(pattern, False), torch.tensor([[[0.3, 0.25, 0.0]]]))


def test_planted_sinks_and_massive_activations_are_found():
    net = cw.open(module("gpt2"))
    of = data("gpt2", tokens=16)
    ids = of.x["input_ids"]
    ids[:] = ids.clamp(min=3)
    ids[:, 5] = 2
    usual = sinks(net, of, threshold=0.5)
    with torch.no_grad():
        net.module.transformer.wte.weight[2, 11] = 400.0
    found = sinks(net, of)
    assert (found.other_ratio > 5 * usual.other_ratio).all() and found.rows == 4 and usual.n < 0.5
    assert_close(found.first_ratio, usual.first_ratio, rtol=0.5, atol=0)
    with torch.no_grad():  # all queries look for what the planted token's key alone has
        for block in net.module.transformer.h:
            block.attn.c_attn.weight[:, :64] = 0
            block.attn.c_attn.bias[:32] = 5.0
            block.attn.c_attn.weight[11, 32:64] = 5.0
            block.attn.c_attn.bias[32:64] = 0
    planted = sinks(net, of)
    assert planted.other[0] > 0.6 and planted.n >= 1 and planted.first[0] < 0.4


def test_sinks_and_the_penalty_say_what_they_need():
    with pytest.raises(ValueError, match="no residual stream"):
        sinks(network("mlp"), cw.arrays(example("mlp")))
    with pytest.raises(ValueError, match="rows of 8 or more"):
        sinks(network("gpt2"), data("gpt2", tokens=5))
    with pytest.raises(ValueError, match="needs logits and at least two blocks"):
        sink_decorrelation(network("bert-encoder"), data("bert").rows([0]))


# --- massive activations over training ------------------------------------------------------------------------------------


def test_the_curve_recovers_itself_and_its_peak():
    t = np.geomspace(1, 1000, 40)
    x = 0.02 * t + 1.5
    y = 30 * np.exp(-0.25 * x) * np.log(x) + 4
    curve = fit_curve(t, y)
    assert curve.r2 > 0.9999 and curve.n == 40
    assert_close(curve(t), y, rtol=2e-2, atol=1e-2)
    dense = np.linspace(1, 1000, 20_000)
    assert curve.peak == pytest.approx(dense[np.argmax(curve(dense))], rel=0.01)
    assert curve.peak == pytest.approx(dense[np.argmax(30 * np.exp(-0.25 * (0.02 * dense + 1.5)) * np.log(0.02 * dense + 1.5))],
                                       rel=0.05)


def test_a_simpler_truth_is_told_by_its_criterion():
    t, random = np.geomspace(1, 500, 30), np.random.default_rng(0)
    for form, truth in (("logarithm", 3 * np.log1p(40 * t / 500) + 2), ("saturating", 9 * (1 - np.exp(-8 * t / 500)) + 2)):
        y = truth + 0.1 * random.normal(size=30)
        fits = {name: fit_curve(t, y, name) for name in ("modulated", "logarithm", "saturating", "constant")}
        assert min(fits, key=lambda name: fits[name].aicc) == form and fits[form].r2 > 0.99
        assert fits["modulated"].r2 >= fits[form].r2 - 0.01 and fits["constant"].r2 == pytest.approx(0, abs=1e-9)
        assert np.isnan(fits[form].peak)


def test_the_ratio_is_of_the_largest_to_the_median():
    net, of = network("llama"), data("llama")
    h = states(net, of.rows(slice(None)))[1:]
    expected = [float(np.mean([row.abs().max() / row.abs().median() for row in x])) for x in h]
    assert massive_ratio(net, of, batch_size=3).tolist() == pytest.approx(expected, rel=1e-5)
    found = massive_dynamics(((step, network("llama")) for step in (1, 2, 4, 8)), of, form="constant")
    assert found.steps == (1, 2, 4, 8) and found.ratios.shape == (4, 3)
    assert found.curves[1].parameters["K"] == pytest.approx(expected[1])


@pytest.mark.parametrize(("steps", "values", "says"), [
    ([1, 2, 3], [1, 2, 3], "6 or more values"), ([1, 2, 2, 3, 4, 5], range(6), "at different steps"),
    ([1, 2, 3, 4, 5, 6], [1, 2, np.nan, 3, 4, 5], "finite")])
def test_curves_say_what_they_cannot_fit(steps: Sequence[float], values: Sequence[float], says: str):
    with pytest.raises(ValueError, match=says):
        fit_curve(steps, list(values))
    with pytest.raises(ValueError, match="a curve is modulated"):
        fit_curve([1, 2, 3, 4], [1, 2, 3, 4], "linear")
    with pytest.raises(ValueError, match="takes 6 checkpoints or more; found 1"):
        massive_dynamics([(1, network("llama"))], data("llama"))


# --- channels from parameters -----------------------------------------------------------------------------------------------


def codec(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 1), nn.ConvTranspose2d(12, 8, 4, 2, 1), nn.Conv2d(8, 1, 3))


def test_unused_channels_come_last_and_twins_are_of_one_group():
    made = codec()
    with torch.no_grad():
        for c in (3, 7):
            made[1].weight[c] *= 1e-3
            made[2].weight[c] *= 1e-3
            made[1].bias[c] = 0
        made[1].weight[5] *= 6
        made[2].weight[9] = 0.5 * made[2].weight[5]
    found = iscs(cw.open(made), "1", "2", core=0.25)
    assert set(found.order[-2:].tolist()) == {3, 7} and 5 in found.core.tolist() and len(found.core) == 3
    assert int(found.group[9]) == 5 and abs(float(found.correlation[5, 9])) == pytest.approx(1, abs=1e-6)
    assert sorted(found.order.tolist()) == list(range(12)) and found.order[:3].tolist() == found.core.tolist()
    assert found.group[found.core].tolist() == found.core.tolist()


def test_scores_follow_their_channels_and_the_spread_ignores_scale():
    made, order = codec(), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    before = iscs(cw.open(made), "1", "2")
    moved, scaled = copy.deepcopy(made), copy.deepcopy(made)
    with torch.no_grad():
        moved[1].weight.copy_(made[1].weight[order])
        moved[1].bias.copy_(made[1].bias[order])
        moved[2].weight.copy_(made[2].weight[order])
        factor = torch.rand(12) + 0.5
        scaled[1].weight *= factor[:, None, None, None]
        scaled[2].weight /= factor[:, None, None, None]
    assert_close(iscs(cw.open(moved), "1", "2").scores, before.scores[order])
    assert_close(iscs(cw.open(scaled), "1", "2").spread, before.spread, rtol=1e-5, atol=0)


def test_a_linear_map_may_read_channels_flattened():
    made = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 36, 10))
    found = iscs(cw.open(made), "0", "2")
    w, v = made[0].weight.double().flatten(1), made[2].weight.double().view(10, 4, 36).transpose(0, 1).flatten(1)
    assert_close(found.spread, (w.var(1, correction=0) * v.var(1, correction=0)).detach())
    assert not found.bias.any()
    for wrong, says in ((("0", "1"), "is a Flatten"), (("2", "0"), "reads 1 channels, but 10"), (("nine", "2"), "no site")):
        with pytest.raises(ValueError, match=says):
            iscs(cw.open(made), *wrong)
    with pytest.raises(ValueError, match="share of salient channels"):
        iscs(cw.open(made), "0", "2", core=0)


# --- verdicts ---------------------------------------------------------------------------------------------------------------


def test_the_verdict_on_transfer_rests_on_the_depth_of_the_cut():
    from cutaway.proofs.layer_transfer import concluded

    def pair(deep: float, seed: int) -> list[Transfer]:
        scores = dict.fromkeys(ARMS, (0.9, 0.85 + seed / 100, 0.9))
        scores["transfer"], scores["transfer+"] = (0.9, 0.88, deep + seed / 100), (0.95, 0.95, 0.95 + seed / 1000)
        return [Transfer(("a", "b", "c"), 0.9, scores)] * 2

    assert concluded([pair(0.6, seed) for seed in range(4)]).holds is True
    lost = concluded([pair(0.97, seed) for seed in range(4)])
    assert lost.holds is False and lost.notes[0].startswith("Likely why")


def test_the_verdict_on_channels_rests_on_chance():
    from cutaway.proofs.iscs import concluded
    row = dict.fromkeys(("variance", "bias", "activation variance", "variance and bias, rescaled", "variance, rescaled"), 0.6)
    rows = [{**row, "variance and bias": 0.6 + i / 50, "random": i / 20 - 0.1, "core in common": 0.5} for i in range(5)]
    assert concluded(rows).holds is True
    assert concluded([{**r, "variance and bias": (-1) ** i / 5} for i, r in enumerate(rows)]).holds is None


def test_the_rows_of_the_sink_proof_keep_their_rules():
    from cutaway.proofs.sink_decorrelation import BEGIN, LENGTH, STOP, TRIGGERS, rows
    ids = rows(64, 3).numpy()
    assert ids.shape == (64, LENGTH) and (ids[:, 0] == BEGIN).all() and not (ids[:, 1:] == BEGIN).any()
    triggered = np.argwhere((ids[:, 1:-1] >= 2) & (ids[:, 1:-1] < TRIGGERS + 2) & (ids[:, 2:] != STOP)) + [0, 1]
    assert len(triggered) > 100 and all(ids[row, place + 1] == ids[row, place - 1] for row, place in triggered)
    assert 0.02 < (ids == STOP).mean() < 0.12


def test_the_verdict_on_depth_compares_the_halves():
    from cutaway.proofs.depth_use import concluded

    def use(values: Sequence[float], seed: int) -> DepthUse:
        x = torch.tensor(values) * (1 + 0.02 * seed)
        effect = Effect(x[:, None].expand(4, 4), x[:, None].expand(4, 4), x, x, 10)
        return DepthUse({"block": x}, {"block": x}, effect, effect, effect.later, x, None, 10, 1)

    for values, verdict in (((4.0, 3.0, 2.0, 1.0), True), ((1.0, 2.0, 3.0, 4.0), False)):
        rows = [{"trained": use(values, seed), "untrained": use((1.0, 1.0, 1.1, 1.0), seed)} for seed in range(3)]
        assert concluded(rows, network("gpt2")).holds is verdict


def test_the_verdict_on_voids_rests_on_random_blocks_and_on_both_phases():
    from cutaway.proofs import lac_voids as proof

    def row(voids: float, generated: float, seed: int) -> dict[str, Any]:
        way = {"share void": 0.4, "voids": voids + seed / 50, "random": 5.0, "other tokens": 4.0, "block influence": 4.0,
               "exits": 4.0 + seed / 9, "random, as many as exits": 5.0}
        return {**{f"alpha {alpha}": way for alpha in (proof.ALPHA, *proof.OTHERS)}, "dense": 2.0,
                "phases": {"generated": generated + seed / 90, "other prompts": 0.01, "text at the same places": 0.02}}

    net = network("gpt2")
    assert proof.concluded([row(3.0, 0.2, seed) for seed in range(3)], net).holds is True
    assert proof.concluded([row(6.0, 0.2, seed) for seed in range(3)], net).holds is False
    assert proof.concluded([row(3.0, 0.0, seed) for seed in range(3)], net).holds is None


def test_random_blocks_are_as_many_as_the_voids_of_each_token():
    from cutaway.proofs.lac_voids import at_random, least_influential, shuffled
    active, random = torch.rand(5, 7, 6) < 0.5, np.random.default_rng(0)
    drawn, moved = at_random(active, random), shuffled(active, random)
    assert torch.equal(drawn.sum(-1), active.sum(-1)) and not torch.equal(drawn, active)
    assert torch.equal(moved.sum((0, 1)), active.sum((0, 1))) and not torch.equal(moved, active)
    best = least_influential(active, torch.tensor([0.1, 0.6, 0.2, 0.5, 0.3, 0.4]))
    assert torch.equal(best.sum(-1), active.sum(-1)) and best[..., 1][active.any(-1)].all()
    assert not best[..., 0][~active.all(-1)].any()


def test_the_verdict_on_sparsity_rests_on_the_knee():
    from cutaway.proofs.essential_sparsity import GRID, concluded

    def curve(values: Sequence[float], metric: str, dense: float, seed: int) -> Sparsity:
        return Sparsity("global", metric, GRID, tuple(v + seed / 1000 for v in values), dense, 0.01)

    text, flat = (2.0, 2.0, 2.01, 2.5, 3.0, 4.0, 6.0), (2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7)
    right, wrong = (0.95, 0.95, 0.95, 0.9, 0.7, 0.5, 0.3), (0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    for good, verdict in ((True, True), (False, False)):
        rows = [{"text": {how: curve(text if good and how != "random" else flat, "loss", 2.0, seed) for how in HOW},
                 "digits": {how: curve(right if good and how != "random" else wrong, "accuracy", 0.95, seed) for how in HOW},
                 "before": 0.9} for seed in range(3)]
        assert concluded(rows, network("gpt2")).holds is verdict


def test_the_verdict_on_paths_rests_on_every_baseline():
    from cutaway.proofs.neuron_path import WAYS, concluded
    for path, verdict in ((-0.5, True), (-0.1, False)):
        rows = [{"accuracy": 0.95, **{way: {"removed": -0.3 + i / 100, "doubled": 0.0} for way in WAYS},
                 "path": {"removed": path, "doubled": 0.1 + i / 100}} for i in range(3)]
        assert concluded(rows).holds is verdict


def test_the_verdict_on_the_penalty_asks_for_sinks_and_for_the_task():
    from cutaway.proofs.sink_decorrelation import concluded

    def arm(attention: float, loss: float, sinks: float, i: int) -> dict[str, float]:
        return {"loss": loss + i / 1000, "attention to others": attention + i / 100, "attention to the first": 0.5,
                "ratio of others": 10 * attention + i / 10, "ratio of the first": 9.0, "cosine": attention, "sinks": sinks}

    def verdict(loss: float, found: float) -> bool | None:
        rows = [{"plain": arm(0.5, 2.0, found, i), "decorrelated": arm(0.1 + i / 30, loss, 0.0, i),
                 "control": arm(0.5, 2.0, found, i * 2)} for i in range(3)]
        return concluded(rows, 1.0, {}).holds

    assert verdict(2.001, 2.0) is True and verdict(2.2, 2.0) is False and verdict(2.001, 0.1) is False


def test_the_verdict_on_the_curve_rests_on_its_fit_and_on_simpler_ones():
    from cutaway.proofs.massive_dynamics import concluded, steps_of

    def row(r2: float, aicc: float, i: int) -> dict[str, Any]:
        forms = {form: {"r2": 0.8, "aicc": -50.0 - i, "ahead": 0.2 + i / 9} for form in ("logarithm", "saturating", "constant")}
        own = {"r2": r2 + i / 1000, "aicc": aicc, "ahead": 0.1}
        return {**forms, "modulated": own, "steps": [1, 2], "ratios": [[1.0, 2.0]]}

    assert concluded([row(0.98, -70, i) for i in range(3)], {}).holds is True
    assert concluded([row(0.98, -30, i) for i in range(3)], {}).holds is False
    assert concluded([row(0.5, -70, i) for i in range(3)], {}).holds is False
    steps = steps_of()
    assert len(steps) >= 30 and steps[0] == 1 and steps == sorted(set(steps))
