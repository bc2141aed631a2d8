"""What is read out of networks: sources of attention latents, circuits by codes, depths, languages, facets, image codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import BUILD, VOCAB
from helpers import tiny_llama, tiny_vit
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import cutaway as cw
from cutaway.dictionaries import Dictionary, Facts, parts
from cutaway.dictionaries.attention_sae import attention_sources, head_shares
from cutaway.dictionaries.vision_eval import Images, purity, template, vision_eval
from cutaway.explain import multifaceted as facets_room
from cutaway.explain import sae_circuit as circuits
from cutaway.explain.concept_depth import Depth, concept_depth
from cutaway.explain.latent_language import latent_language
from cutaway.network import Edit, Network
from cutaway.proofs import latent_language as languages
from cutaway.proofs import repeats


def ids(rows: int = 2, tokens: int = 9, seed: int = 0, vocabulary: int = VOCAB) -> torch.Tensor:
    return torch.randint(3, vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def family(name: str) -> Network:
    torch.manual_seed(0)
    return cw.open(BUILD[name]())


def attention_dictionary(net: Network, block: int = 1) -> Dictionary:
    site = f"blocks.{block}.attn.heads"
    d = net.record({"input_ids": ids()}, site)[site].shape[-1]
    made = Dictionary(d, 20, parts.TopK(4), Facts(site=site))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made.requires_grad_(False)


# --- attention ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_sources_add_up_and_heads_are_what_closing_them_costs(name):
    net = family(name)
    made, inputs = attention_dictionary(net), {"input_ids": ids()}
    found = attention_sources(net, made, inputs, latent=7, position=5, row=1)
    x = net.record(inputs, made.site)[made.site][1, 5]
    before = (x - made.b_dec) @ made.W_enc[7] + made.b_enc[7]
    assert found.before == pytest.approx(float(before), rel=1e-4)
    assert float(found.parts.sum()) + found.constant == pytest.approx(float(before), rel=1e-4)
    assert (found.parts[:, 6:] == 0).all() and (found.parts[:, :6] != 0).any(), "nothing comes from later tokens"
    gate = torch.ones(net.n_heads)
    gate[2] = 0
    with net.edited(Edit(made.site, gate=gate, over="u")):
        kept = {}
        with net.watched({made.site: lambda x, at: kept.update(x=x)}):
            net.forward(inputs)
    closed = (kept["x"][1, 5] - made.b_dec) @ made.W_enc[7] + made.b_enc[7]
    assert found.by_head[2] == pytest.approx(float((before - closed).detach()), rel=1e-3, abs=1e-5)
    assert found.by_source.sum() == pytest.approx(float(found.by_head.sum()), rel=1e-4)


def test_head_shares_come_from_the_decoder():
    made = Dictionary(6, 2, parts.TopK(1))
    with torch.no_grad():
        made.W_dec.copy_(torch.tensor([[3.0, 4, 0, 0, 0, 0], [1, 0, 0, 1, 2, 0]]))
    assert_close(head_shares(made, 3), torch.tensor([[1.0, 0, 0], [0.25, 0.25, 0.5]]))
    with pytest.raises(ValueError, match="4 heads cannot share"):
        head_shares(made, 4)


def test_only_attention_has_sources():
    net = family("llama")
    other = Dictionary(net.d_model, 8, parts.TopK(2), Facts(site="blocks.1"))
    with pytest.raises(ValueError, match="found one of blocks.1, and blocks.1.attn.heads would"):
        attention_sources(net, other, {"input_ids": ids()}, 0, 1)


# --- circuits by codes --------------------------------------------------------------------------------------------------


def test_heads_outputs_add_up_to_attention():
    net = family("llama")
    inputs = {"input_ids": ids()}
    x = circuits.head_outputs(net, inputs)
    assert x.shape == (2, net.n_blocks * net.n_heads, net.d_model)
    for block in range(net.n_blocks):
        whole = net.record(inputs, f"blocks.{block}.attn")[f"blocks.{block}.attn"]
        assert_close(x.unflatten(1, (net.n_blocks, -1))[:, block].sum(1), whole.mean(1), atol=1e-5, rtol=1e-4)
    last = circuits.head_outputs(net, inputs, "last").unflatten(1, (net.n_blocks, -1))[:, block].sum(1)
    assert_close(last, whole[:, -1], atol=1e-5, rtol=1e-4)


def test_scores_of_known_codes():
    codes = np.array([[1, 5, 0], [2, 5, 0], [1, 5, 0], [1, 5, 7]])    # two with the task, two without
    assert circuits.nodes(codes, 2).tolist() == [1, 0, 0]
    assert circuits.nodes(codes, 2, normalise=True).tolist() == [0.5, 0, 0]
    assert circuits.edges(codes, 2, 10).tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]


def test_a_head_that_differs_is_found():
    generator = torch.Generator().manual_seed(0)
    usual, task = (F.normalize(torch.randn(8, 32, generator=generator), dim=1) for _ in range(2))
    x = usual.repeat(20, 1, 1) * 6 + 0.1 * torch.randn(20, 8, 32, generator=generator)
    x[:10, 3] += 6 * (task[3] - usual[3])
    scores = circuits.nodes(circuits.discrete_codes(x, 60, 0.02, 10, 0), 10)
    assert scores.argmax() == 3 and scores[3] > np.delete(scores, 3).max()


def test_unequal_examples_are_refused():
    net = family("llama")
    with pytest.raises(ValueError, match="equally many"):
        circuits.sae_circuit(net, {"input_ids": ids(3)}, {"input_ids": ids(2)})
    with pytest.raises(ValueError, match="trained on 10 examples, but there are 4"):
        circuits.sae_circuit(net, {"input_ids": ids(2)}, {"input_ids": ids(2)})
    with pytest.raises(ValueError, match="one of mean, last"):
        circuits.sae_circuit(net, {"input_ids": ids(2)}, {"input_ids": ids(2)}, positions="first")


# --- depth --------------------------------------------------------------------------------------------------------------


def test_depths_of_known_accuracies():
    late = Depth((0.5, 0.5, 0.7, 0.9, 0.9), 400)
    assert (late.jump, late.settled, late.converged, late.peak) == (0.5, 1.0, 1.0, 0.75)
    flat = Depth((0.9, 0.9, 0.91), 400)
    assert flat.jump is None and flat.settled == 0.5 and flat.peak == 0
    assert late.error[0] == pytest.approx(0.025)


def test_what_a_token_is_is_known_at_the_embedding_and_chance_is_not():
    net = tiny_llama()
    x = ids(60, 16, vocabulary=290)
    answers = {"even": (x % 2 == 0).long().numpy(), "chance": np.random.default_rng(0).integers(2, size=x.shape)}
    answers["even"][:, 0] = -1
    few = {"special": (x < 20).long().numpy()}
    found = concept_depth(net, cw.arrays({"input_ids": x}), {"even": (x < 150).long().numpy(), "chance": answers["chance"]},
                          each=200)
    assert set(found) == {"even", "chance"} and len(found["even"].accuracy) == net.n_blocks + 1
    assert abs(found["chance"].accuracy[-1] - 0.5) < 0.15
    repeated = torch.where(x < 150, 20, 200)
    sure = concept_depth(net, cw.arrays({"input_ids": repeated}), {"which": (repeated == 20).long().numpy()}, each=100)
    assert sure["which"].accuracy[0] == 1 and sure["which"].peak == 0
    with pytest.raises(ValueError, match="give more data"):
        concept_depth(net, cw.arrays({"input_ids": x[:5]}), {"special": few["special"][:5]})
    with pytest.raises(ValueError, match="with the 60 rows"):
        concept_depth(net, cw.arrays({"input_ids": x}), {"even": answers["even"][:3]})


# --- languages ----------------------------------------------------------------------------------------------------------


def test_the_last_block_reads_what_the_network_says():
    net = family("llama")
    inputs = {"input_ids": ids(5)}
    words = {"one": [[i, i + 20] for i in range(3, 8)], "other": [[40 + i] for i in range(5)]}
    found = latent_language(net, inputs, words)
    p = net.logits(inputs)[:, -1].softmax(-1)
    expected = [float((p[i, 3 + i] + p[i, 23 + i]).detach()) for i in range(5)]
    np.testing.assert_allclose(found.probability["one"][-1], expected, rtol=1e-4)
    assert found.probability["one"].shape == (net.n_blocks, 5) and (found.energy > 0).all()
    np.testing.assert_allclose(found.lead("one", "other"), -found.lead("other", "one"), rtol=1e-6)
    same = latent_language(net, inputs, words, gain=net.module.get_submodule(net.named["norm"].path).weight.detach())
    np.testing.assert_allclose(same.probability["one"], found.probability["one"], rtol=1e-4)
    with pytest.raises(ValueError, match="item 0 has no tokens in some language, or languages share one"):
        latent_language(net, inputs, {**words, "other": [[3]] * 5})


def test_a_network_without_unembedding_has_no_languages():
    with pytest.raises(ValueError, match="no final norm and unembedding"):
        latent_language(tiny_vit(), torch.zeros(1, 3, 8, 8), {"one": [[1]]})


# --- facets -------------------------------------------------------------------------------------------------------------


class Either(nn.Module):
    """One unit that fires on the left or on the right half of an image, whichever is brighter."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = nn.Conv2d(1, 2, 4, bias=False)
        with torch.no_grad():
            self.halves.weight.fill_(-0.05)
            self.halves.weight[0, 0, :, :2] = 0.2
            self.halves.weight[1, 0, :, 2:] = 0.2
        self.head = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.head.weight.fill_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.halves(x).flatten(1).relu())


def test_each_facet_is_one_half():
    net = cw.open(Either())
    images = torch.zeros(60, 1, 4, 4)
    images[:30, :, :, :2], images[30:, :, :, 2:] = 1, 1
    random = torch.Generator().manual_seed(0)
    bright, noise = torch.rand(60, 1, 1, 1, generator=random), torch.rand(images.shape, generator=random)
    images = images * (0.3 + 0.7 * bright) + 0.05 * noise
    found = facets_room.multifaceted(net, "head:out", 0, images, "halves:out", k=2)
    assert len(set(found.of[:30])) == 1 and len(set(found.of)) == 2
    lit = found.pictures[:, 0].mean(1)                      # [facets, columns]
    sides = {("left" if row[:2].sum() > row[2:].sum() else "right") for row in lit}
    assert sides == {"left", "right"}
    grey = torch.full((1, 1, 4, 4), 0.5)
    raised = facets_room.ascend(net, "head:out", 0, grey + torch.tensor([0.1, 0.1, 0, 0]), (0.0, 1.0))
    assert facets_room.activation(net, "head:out", 0, raised) > facets_room.activation(net, "head:out", 0, grey) + 0.1
    assert found.pictures.min() >= 0 and found.pictures.max() <= images.max()
    with pytest.raises(ValueError, match="need 45 images that fire the unit; found 44"):
        facets_room.multifaceted(net, "head:out", 0, images[:44], "halves:out")


# --- what the proofs are made of ---------------------------------------------------------------------------------------


def test_sequences_repeat_and_are_reordered():
    net = tiny_llama()
    again, never = (repeats.repeated(net, 4, 10, 3, repeat) for repeat in (True, False))
    assert torch.equal(again[:, 1:11], again[:, 11:]) and not torch.equal(never[:, 1:11], never[:, 11:])
    assert torch.equal(again[:, :11], never[:, :11])
    assert not set(again[:, 1:].unique().tolist()) & set(net.tokenizer.all_special_ids)
    other = repeats.reordered(again, 0)
    assert torch.equal(other.sort(1).values, again.sort(1).values) and torch.equal(other[:, :11], again[:, :11])
    assert not torch.equal(other, again)
    loss = repeats.second_half_loss(net, again)
    logits = net.logits({"input_ids": again})[:, 11:-1]
    assert_close(loss, F.cross_entropy(logits.flatten(0, 1), again[:, 12:].flatten(), reduction="none").view(4, -1).mean(1))


def test_dictionary_lines_translate():
    lines = languages.translations(2, np.array([2, 0]), np.array([1, 1]), np.array([[5, 7], [1, 2]]))
    assert lines[0].tolist() == [0, 5, 4, languages.word(2, 5), 1, languages.word(1, 5), 2, languages.word(2, 7), 1,
                                 languages.word(1, 7), 2]
    ids_, asked = languages.questions(2, 0)
    assert (ids_[:, -1] == languages.EQUALS).all() and (ids_[:, -2].numpy() == languages.word(2, asked)).all()
    sentence = languages.sentences(50, (0, 1, 0), np.random.default_rng(0))[:, 2:] - languages.word(1, np.array(0))
    follows = languages.successors()
    assert all(b in follows[a] for row in sentence for a, b in zip(row, row[1:], strict=False))


# --- images -------------------------------------------------------------------------------------------------------------


def test_codes_of_classes_are_pure_and_know_what_is_elsewhere():
    random, y = torch.Generator().manual_seed(0), np.arange(240) % 3
    x = torch.eye(12)[torch.from_numpy(y)] + 0.05 * torch.randn(240, 12, generator=random)
    made = Dictionary(12, 12, parts.TopK(2))
    with torch.no_grad():
        made.W_enc.copy_(torch.eye(12)), made.W_dec.copy_(torch.eye(12))
    elsewhere = torch.eye(12)[5].repeat(40, 1) + 0.05 * torch.randn(40, 12, generator=random)
    found = vision_eval(made, Images(x[:120], y[:120]), Images(x[120:], y[120:]), {"else": elsewhere}, Images(x[120:], y[120:]))
    assert found["ood else"]["template of codes"] == 1 == found["shifted"]["codes"] == found["linear shifted"]["codes"]
    z = torch.zeros(60, 2)
    z[:20, 0], z[:60:2, 1] = 1, 1
    labels = np.array([0] * 20 + [1] * 40)
    assert purity(z[:, :1], labels) == 1 and purity(z[:, 1:], labels) < 1
    assert template(torch.eye(3), torch.eye(3)[:2]).tolist() == [1, 1, 0]
