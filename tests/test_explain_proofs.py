"""Neurons decoded by the LM head, and the parts that the proofs about explanations are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import CAUSAL, EXPERTS, N_BLOCKS, example, network
from helpers import tiny_bert, tiny_llama
from torch.testing import assert_close

import cutaway as cw
from cutaway.explain.lm_head import clamped, lm_head_decode, place, vectors
from cutaway.proofs import auto_interp
from cutaway.proofs import lm_head_decode as lm_head_proof
from cutaway.proofs.scores import slices

DENSE = [name for name in CAUSAL if name not in EXPERTS]


@pytest.mark.parametrize("name", DENSE)
def test_every_family_s_neurons_are_decoded_by_their_own_weights(name: str):
    net = network(name)
    with torch.no_grad():
        x = torch.randn(1, 1, net.d_model)
        path, start = place(net, "reads", 1)
        module = net.module.get_submodule(path.removesuffix(":out"))
        rows = vectors(net, 1, "reads")
        made = (module(x) - module(torch.zeros_like(x)))[0, 0, start:]
        assert_close(made, rows @ x[0, 0], atol=1e-4, rtol=1e-4)
        down = net.module.get_submodule(net.site("blocks.1.mlp.neurons").path)
        z = torch.randn(1, 1, len(rows))
        assert_close((down(z) - down(torch.zeros_like(z)))[0, 0], vectors(net, 1, "writes").T @ z[0, 0], atol=1e-4, rtol=1e-4)
    found = lm_head_decode(net, k=3)
    assert len(found) == N_BLOCKS * len(rows) and found.tokens.shape == (len(found), 3)


def test_a_neuron_that_is_an_unembedding_row_names_its_token():
    net = tiny_llama()
    with torch.no_grad():
        net.module.get_submodule("model.layers.1.mlp.up_proj").weight[5] = 100 * net.module.lm_head.weight[77]
        net.module.get_submodule("model.layers.0.mlp.down_proj").weight[:, 3] = 100 * net.module.lm_head.weight[88]
    reads, writes = (lm_head_decode(net, side=side).peaked(1) for side in ("reads", "writes"))
    assert (int(reads.block), int(reads.unit), int(reads.tokens[0, 0])) == (1, 5, 77)
    assert (int(writes.block), int(writes.unit), int(writes.tokens[0, 0])) == (0, 3, 88)
    assert reads.frame["tokens"][0][0] == net.tokenizer.decode([77])
    expected = torch.softmax(net.module.lm_head.weight @ net.module.lm_head.weight[77] * 100, 0).max()
    assert_close(reads.probabilities[0, 0], expected.detach())


def test_the_last_norm_can_be_passed():
    net = tiny_llama()
    with torch.no_grad():
        net.module.get_submodule("model.norm").weight.uniform_(0.1, 3)
    assert not torch.equal(lm_head_decode(net).probabilities, lm_head_decode(net, gain=True).probabilities)


@pytest.mark.parametrize("side", ["reads", "writes"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "phi3"])
def test_a_clamped_neuron_has_that_value_and_no_other_changes(name: str, side: str):
    net, batch = network(name), example(name)
    site, start = place(net, side, 0)
    before = net.record(batch, site)[site]
    with net.edited(clamped(net, side, 0, 4, 2.5)), net.watched({}):
        after = net.record(batch, site)[site]
    assert (after[..., start + 4] == 2.5).all()
    others = [i for i in range(after.shape[-1]) if i != start + 4]
    assert torch.equal(before[..., others], after[..., others])


@pytest.mark.parametrize(("net", "options", "says"), [
    (lambda: tiny_llama(), dict(side="sideways"), "reads or writes"),
    (lambda: network("mixtral"), {}, "no MLP neurons"),
    (lambda: tiny_bert("BertModel"), {}, "no unembedding"),
    (lambda: cw.open(torch.nn.Linear(2, 2)), {}, "no unembedding")])
def test_what_cannot_be_decoded_says_why(net, options, says):
    with pytest.raises(ValueError, match=says):
        lm_head_decode(net(), **options)


# --- the proof of lm-head-decode ----------------------------------------------------------------------------------------


def figures(own: float, other: float) -> list[dict[str, float]]:
    return [{"named": own + i / 100, "re-paired": other, "raised": own, "raised by random": other + i / 100}
            for i in range(3)]


def test_the_verdict_rests_on_what_neurons_read():
    good, bad = figures(0.9, 0.1), figures(0.1, 0.9)
    net = tiny_llama()
    assert lm_head_proof.concluded({"reads": good, "writes": bad}, {}, net).holds is True
    failed = lm_head_proof.concluded({"reads": bad, "writes": good}, {}, net)
    assert failed.holds is False and failed.notes[0].startswith("Likely why")


def test_names_are_counted_where_the_neuron_is_strongest():
    net = tiny_llama()
    text = slices(cw.corpus([f"def f{i}(x): return x[{i}]\n" * 20 for i in range(30)], net), 500, 1)[0]
    chosen = lm_head_decode(net).peaked(6)
    seen = lm_head_proof.names(net, chosen, text, 0)
    site, _ = place(net, "reads", int(chosen.block[0]))
    batch = text.rows(slice(None))
    x = net.record(batch, site)[site][..., int(chosen.unit[0])].masked_fill(~batch.keep, -torch.inf)
    best = batch.inputs["input_ids"].flatten()[x.flatten().topk(lm_head_proof.TOP).indices]
    own = bool(torch.isin(chosen.tokens[0], best).any())
    alone = lm_head_proof.names(net, chosen.pick(torch.tensor([0])), text, 0)
    assert alone["named"] == alone["re-paired"] == float(own) and 0 <= seen["named"] <= 1


# --- the proof of auto-interp -------------------------------------------------------------------------------------------


def test_neurons_are_the_strongest_of_both_signs(monkeypatch):
    net = tiny_llama()
    monkeypatch.setattr(auto_interp, "SITE", "blocks.1.mlp")
    monkeypatch.setattr(auto_interp, "K", 5)
    dictionary = auto_interp.neurons(net)
    x = torch.randn(7, dictionary.d)
    codes = dictionary.encode(x)
    strongest = x.abs().topk(5).indices.sort().values
    assert torch.equal((codes.indices % dictionary.d).sort().values, strongest) and dictionary.width == 2 * dictionary.d
    assert_close(dictionary.decode(codes), torch.zeros_like(x).scatter(1, strongest, x.gather(1, strongest)))


def test_every_planted_rule_fires_in_real_text():
    net = cw.open("pico")
    source = "".join(f"{line}\n" for line in (
        "import os", "", "class Thing(Base):", "    def run(self, n=10):", "        if n is None:",
        "            raise ValueError('bad')", "        return self.n + 12", "", "def other(x):", "    return x['name']", ""))
    from cutaway.explain import Pattern, Rule
    from cutaway.explain.planted import Planted
    data = cw.corpus([source * 8] * 4, net, context=64)
    planted = Planted(net, data, [Rule((Pattern(parts),)) for parts in auto_interp.PLANTED], "blocks.4")
    assert (planted.counts > 0).all() and np.isfinite(planted.dictionary.W_dec.numpy()).all()


def test_the_verdict_of_auto_interp_rests_on_all_scorers_and_both_comparisons():
    good = [{"true": 0.9 + i / 100, "others": 0.5} for i in range(3)]
    planted = dict.fromkeys((*auto_interp.OWN, "simulation"), good)

    def kind(score: float) -> list[dict[str, float]]:
        return [dict.fromkeys(auto_interp.JUDGED, score + i / 100 * (i == 1)) for i in range(3)]
    kinds = {"latents": kind(0.7), "neurons": kind(0.6), "untrained latents": kind(0.65)}
    assert auto_interp.concluded(planted, kinds, [], "net").holds is True
    assert auto_interp.concluded(planted, {**kinds, "neurons": kind(0.8)}, [], "net").holds is False
    lost = {**planted, "surprisal": [{"true": 0.5, "others": 0.5 + d} for d in (-0.1, 0.0, 0.1)]}
    undecided = auto_interp.concluded(lost, kinds, [], "net")
    assert undecided.holds is None and "surprisal" in undecided.notes[0] and "not decided" in undecided.notes[0]
