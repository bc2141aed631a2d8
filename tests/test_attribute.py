"""Attribution of an output to an input: targets, gates, methods against known truth and captum, pictures, bad input."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import example, module, network
from helpers import tiny_bert, tiny_llama, tiny_vit
from torch import Tensor, nn
from torch.testing import assert_close

import cutaway as cw
from cutaway.attribute import Attribution, as_batch, attribute, goal_of, inputs_of
from cutaway.attribute.baselines import blur
from cutaway.attribute.inputs import OVER
from cutaway.attribute.rise import grids
from cutaway.attribute.token_activation_map import one, rank_filtered, text_places
from cutaway.attribute.words import word_groups, word_texts
from cutaway.catalogue import methods
from cutaway.cli import main
from cutaway.data import Batch
from cutaway.dictionaries import Direction
from cutaway.dictionaries.dictionary import Dictionary, Facts
from cutaway.dictionaries.parts import TopK

TEXT = "def f1(self, x): return self.x"
PER_INPUT = [id for id, m in methods("attribute").items()
             if list(inspect.signature(m.object).parameters)[:2] == ["inputs", "target"]]


@pytest.fixture(scope="module")
def llama() -> cw.Network:
    net = tiny_llama()
    with torch.no_grad():
        for parameter in net.module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    return net


def cnn() -> cw.Network:
    """Convolutions, batch norm, both poolings, a sum and dense layers, all as modules or traceable functions."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn, self.act1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
            self.conv2, self.act2, self.pool = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)
            self.most, self.flat = nn.MaxPool2d(2), nn.Flatten()
            self.dense, self.act3, self.head = nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act1(self.bn(self.conv1(x)))
            x = self.pool(x + self.act2(self.conv2(x)))
            return self.head(self.act3(self.dense(self.flat(self.most(x)))))

    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.7)
        net.bn.running_mean.uniform_(-0.3, 0.3)
        net.bn.weight.copy_(torch.tensor([1.0, -0.7, 1.2, 0.4, -1.1, 0.9]))
    return cw.open(net)


def images(n: int = 3, side: int = 8) -> Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(5))


class Reader(nn.Module):
    """A language model that says 7 if token 3 is a 5 (in a row of 8), for known truth."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.config = nn.Embedding(12, 4), type("Config", (), {"vocab_size": 12})()

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        known = (self.embedding.weight[5] - x[:, 3]).norm(dim=-1)
        logits = torch.zeros(*input_ids.shape, 12)
        logits[:, -1, 7] = 6 - 8 * known.clamp(max=1)
        return logits


# --- targets ------------------------------------------------------------------------------------------------------------


def test_a_target_is_a_token_by_text_or_number_at_a_position(llama: cw.Network) -> None:
    batch = as_batch(llama, TEXT)
    logits = llama.logits(batch)
    token = int(batch.inputs["input_ids"][0, 4])  # type: ignore[index]
    text = llama.tokenizer.decode([token])
    by_text, by_number = (goal_of(llama, batch, t, position=2) for t in (text, token))
    assert_close(by_text.values(llama, batch), logits[:, 2, token])
    assert_close(by_number.values(llama, batch), logits[:, 2, token])
    usual = goal_of(llama, batch, None, of="log-probability")
    assert int(usual.index) == int(logits[0, -1].argmax()) and int(usual.position) == logits.shape[1] - 1
    assert_close(usual.values(llama, batch), logits[0, -1].log_softmax(-1).amax()[None])
    contrast = goal_of(llama, batch, token, (token + 1) % 50, position=-1)
    assert_close(contrast.values(llama, batch), logits[:, -1, token] - logits[:, -1, (token + 1) % 50])
    assert "rather than" in contrast.names(llama)[0] and repr(text) in contrast.names(llama)[0]


def test_the_usual_position_is_the_last_real_token_or_the_mask() -> None:
    llama, bert = tiny_llama(), tiny_bert()
    batch = as_batch(llama, ["def f", "def f1(self, x): return"])
    padded = as_batch(llama, ["def f"])
    both, alone = goal_of(llama, batch, 7), goal_of(llama, padded, 7)
    assert_close(both.values(llama, batch)[0], alone.values(llama, padded)[0], rtol=1e-4, atol=1e-4)
    masked = as_batch(bert, "def [MASK](self)")
    where = int(goal_of(bert, masked, None).position)
    assert int(masked.inputs["input_ids"][0, where]) == bert.tokenizer.mask_token_id  # type: ignore[index]
    with pytest.raises(ValueError, match="explains a masked token"):
        goal_of(bert, as_batch(bert, "def f(self)"), None)


def test_a_text_classifier_explains_its_classes_by_name() -> None:
    net = tiny_bert("BertForSequenceClassification")
    net.config.id2label = {0: "dull", 1: "bright"}
    net.config.label2id = {"dull": 0, "bright": 1}
    text = f"[CLS]{TEXT}[SEP]"
    logits = net.logits(as_batch(net, text))
    found = attribute(net, text, "integrated-gradients", n_steps=200)
    assert found.about["target"] == ["logit of " + ("dull", "bright")[int(logits.argmax())]] and found.complete < 0.02  # type: ignore[operator]
    assert not found.keep[0, 0] and not found.keep[0, -1], "the class token and the separator do not count"
    against = attribute(net, text, "leave-one-out", target="bright", contrast="dull")
    assert_close(against.about["output"], logits[:, 1] - logits[:, 0], rtol=1e-4, atol=1e-5)
    assert "bright rather than dull" in against.terminal() and set(against.words().names[0]) > {"def", " return"}  # type: ignore[index]


def test_integrated_gradients_of_text_are_captum_s() -> None:
    from captum.attr import LayerIntegratedGradients
    net = tiny_bert("BertForSequenceClassification")
    batch, model = as_batch(net, TEXT), net.module
    x = net.record(batch, "embed")["embed"]
    ours = attribute(net, TEXT, "integrated-gradients", target=1, baseline="zero", n_steps=30)
    theirs = LayerIntegratedGradients(lambda ids: model(ids).logits, model.bert.embeddings).attribute(  # type: ignore[union-attr,operator]
        batch.inputs["input_ids"], torch.zeros_like(batch.inputs["input_ids"]), target=1, n_steps=30)  # type: ignore[index]
    assert theirs.shape == x.shape
    # Captum goes from another text, token 0 everywhere; the same way is asked of ours by its baseline.
    other = net.record({"input_ids": torch.zeros_like(batch.inputs["input_ids"])}, "embed")["embed"]  # type: ignore[index]
    every = Batch(batch.inputs, torch.ones_like(batch.keep), None, batch.rows)  # type: ignore[arg-type]
    same = attribute(net, every, "integrated-gradients", target=1, baseline=other, n_steps=30)
    assert_close(same.values, theirs.sum(-1).float(), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(ours.values, same.values)


def test_a_feature_s_activation_is_explained_where_it_fires() -> None:
    net = tiny_llama()
    made, batch = dictionary(net), as_batch(net, ["def f1(self): return x", "class A: pass"])
    codes = made.encode(net.record(batch, "blocks.0")["blocks.0"])
    counts = torch.where(batch.keep[..., None], codes.values, 0)  # type: ignore[index]
    fires = codes.indices[counts > 0].unique()
    feature = next(int(f) for f in fires if all((((codes.indices == f) & (counts > 0)).flatten(1).any(1)).tolist()))
    strength = torch.stack([torch.where(codes.indices == feature, counts, 0).sum(-1)[i] for i in range(2)])
    found = attribute(net, batch, "leave-one-out", Direction(made, feature))
    assert_close(found.about["output"], strength.amax(1))
    assert found.about["position"] == strength.argmax(1).tolist()
    assert found.about["of"] == f"activation of feature {feature} at blocks.0" and found.values.abs().max() > 0
    later = torch.arange(found.values.shape[1]) > strength.argmax(1)[:, None]
    assert (found.values[later] == 0).all(), "what comes later cannot matter"
    slope = attribute(net, batch, "input-x-gradient", Direction(made, feature))
    assert slope.values.abs().max() > 0 and attribute(net, batch, "rise", Direction(made, feature), n_masks=20) is not None
    where = int(strength[1].argmax())
    at = attribute(net, batch.select([1]), "leave-one-out", Direction(made, feature), position=where)
    assert_close(at.values[0], found.values[1])
    silent = next(f for f in range(40) if f not in codes.indices)
    with pytest.raises(ValueError, match=f"feature {silent} does not fire in row 0"):
        attribute(net, batch, "leave-one-out", Direction(made, silent))
    with pytest.raises(ValueError, match="has no contrast"):
        attribute(net, batch, "leave-one-out", Direction(made, feature), 5)
    with pytest.raises(ValueError, match="cannot be read off logits|replaces tokens and watches a token"):
        attribute(net, batch, "reagent", Direction(made, feature))


def test_a_target_may_be_a_function_or_a_class_by_name() -> None:
    vit, x = tiny_vit(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    by_name = attribute(vit, x, "saliency", target="LABEL_2")
    assert_close(by_name.values, attribute(vit, x, "saliency", target=2).values)
    assert by_name.about["target"] == ["logit of LABEL_2"] * 2

    def twice(net: cw.Network, batch: Batch) -> Tensor:
        return 2 * net.logits(batch)[:, 2]
    assert_close(attribute(vit, x, "saliency", target=twice).values, 2 * by_name.values)
    rows = attribute(vit, x, "saliency", target=[2, 1])
    assert_close(rows.values[0], by_name.values[0])
    assert not torch.allclose(rows.values[1], by_name.values[1])


# --- gates --------------------------------------------------------------------------------------------------------------


CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "tokens": ("llama", None, {}), "words": ("words", "words", {}), "pixels": ("cnn", None, {}),
    "patches": ("vit", "patches", {}), "inputs": ("mlp", None, {}), "features": ("features", None, {})}


def case(over: str) -> tuple[cw.Network, Any, Any]:
    """A network, an input and units for each way of cutting one."""
    if over in ("words", "features"):
        net = tiny_llama()
        return net, ["def f1(self, x): return x", "class A: pass"], (dictionary(net) if over == "features" else "words")
    name, units, _ = CASES[over]
    return network(name), example(name, rows=2), units


def dictionary(net: cw.Network) -> Dictionary:
    made = Dictionary(net.d_model or 0, 40, TopK(4), Facts(site="blocks.0", skip_tokens=(0,)))
    with torch.no_grad():
        made.W_enc.copy_(torch.randn(40, net.d_model or 0, generator=torch.Generator().manual_seed(2)))
        made.W_dec.copy_(made.W_enc / 8)
    return made


@pytest.mark.parametrize("over", OVER)
def test_gate_one_is_the_input_and_gate_zero_the_baseline(over: str) -> None:
    net, data, units = case(over)
    batch = as_batch(net, data)
    inputs = inputs_of(net, batch, units)
    goal = goal_of(net, batch, 1)
    ones = torch.ones(inputs.keep.shape)
    with torch.no_grad():
        assert_close(inputs.gated(ones, goal), goal.values(net, batch), rtol=1e-4, atol=1e-5)
        assert_close(inputs.gated(0 * ones, goal), inputs.values(inputs.baseline, goal), rtol=1e-4, atol=1e-5)
        # Rows may come in any order and number.
        rows, gates = torch.tensor([1, 0, 1]), torch.rand(3, *inputs.shape, generator=torch.Generator().manual_seed(0))
        apart = torch.cat([inputs.gated(gate[None], goal, row[None]) for gate, row in zip(gates, rows, strict=True)])
        assert_close(inputs.gated(gates, goal, rows), apart, rtol=1e-3, atol=1e-4)
    gate, x = torch.rand(inputs.keep.shape), torch.rand(inputs.x.shape)
    spread = inputs.units.spread(gate, inputs.rows).expand_as(x)
    assert_close((spread * x).sum(), (gate * inputs.units.gather(x)).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama", "gemma2", "mixtral", "bert", "vit", "resnet", "cnn", "mlp"])
def test_every_family_can_be_explained(name: str) -> None:
    net, x = network(name), example(name, rows=2)
    asked = {"target": 1, "position": 3 if name == "bert" else None, "baseline": "zero"}
    exact, first = (attribute(net, x, method, **asked) for method in ("leave-one-out", "input-x-gradient"))
    assert exact.values.shape == first.values.shape and exact.values.abs().max() > 0 and first.values.abs().max() > 0
    with torch.no_grad():
        logits = net.logits(x)
    said = logits[:, asked["position"] or -1, 1] if logits.ndim == 3 else logits[:, 1]
    assert_close(exact.about["output"], said, rtol=1e-4, atol=1e-4)


def test_special_tokens_and_padding_are_never_taken_away(llama: cw.Network) -> None:
    ids = torch.cat([torch.zeros(1, 1, dtype=torch.int64), as_batch(llama, TEXT).inputs["input_ids"]], 1)  # type: ignore[index]
    found = attribute(llama, ids, "integrated-gradients", 9)
    assert not found.keep[0, 0] and found.values[0, 0] == 0 and found.keep[0, 1:].all()
    for baseline in ("zero", "mean"):
        pair = attribute(llama, ["def f1(self, x): return", "def f"], "leave-one-out", 9, baseline=baseline)
        alone = attribute(llama, "def f", "leave-one-out", 9, baseline=baseline)
        assert_close(pair.values[1][pair.keep[1]], alone.values[0][alone.keep[0]], rtol=1e-3, atol=1e-4)
    assert (pair.values[1][~pair.keep[1]] == 0).all() and not pair.keep[1].all()


def test_a_feature_is_taken_away_as_its_edit_does() -> None:
    net = tiny_llama()
    made, batch = dictionary(net), as_batch(net, "def f1(self): return x")
    found = attribute(net, batch, "leave-one-out", 5, over=made)
    unit = int(found.values[0].abs().argmax())
    t, k = divmod(unit, found.values.shape[2])
    latent = int(found.features[0, t, k])  # type: ignore[index]
    gate = torch.ones(1, found.values.shape[1], made.width)
    gate[0, t, latent] = 0
    goal = goal_of(net, batch, 5)
    with torch.no_grad(), net.edited(cw.Edit(made.features(net), gate=gate, over="b t u")):
        without = goal.values(net, batch)
    assert_close(found.values[0, t, k], (found.about["output"] - without)[0], rtol=1e-3, atol=1e-5)
    assert_close(found.by_feature(made.width).sum(1), found.values.flatten(1).sum(1))
    assert found.top(1)[0][0] == f"feature {latent} at token {t}"


# --- methods against captum and known truth -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")      # captum's, about what it sets up
def test_captum_s_own_figures_are_matched() -> None:
    import captum.attr as attr
    net, x, base = cnn(), images(), torch.full((3, 1, 8, 8), 0.3)
    y, rows = net.logits(x).argmax(1), torch.arange(3)

    def ours(method: str, **options: Any) -> Tensor:
        return attribute(net, x, method, baseline=0.3, **options).values

    assert_close(ours("integrated-gradients"), attr.IntegratedGradients(net.module).attribute(x, base, target=y)[:, 0],
                 rtol=1e-3, atol=1e-5)
    assert_close(ours("leave-one-out"), attr.FeatureAblation(net.module).attribute(x, base, target=y)[:, 0],
                 rtol=1e-3, atol=1e-5)
    assert_close(ours("occlusion"), ours("leave-one-out"), rtol=1e-3, atol=1e-5)
    assert_close(ours("occlusion", window=3, stride=2), attr.Occlusion(net.module).attribute(
        x, (1, 3, 3), (1, 2, 2), base, target=y)[:, 0], rtol=1e-3, atol=1e-5)
    assert_close(ours("saliency"), attr.Saliency(net.module).attribute(x, target=y)[:, 0], rtol=1e-3, atol=1e-5)
    assert_close(ours("input-x-gradient"), ((x - base) * attr.Saliency(net.module).attribute(x, target=y, abs=False))[:, 0],
                 rtol=1e-3, atol=1e-5)
    torch.manual_seed(0)
    noise = 0.15 * float(x.max() - x.min())
    noisy = attr.NoiseTunnel(attr.Saliency(net.module)).attribute(
        x, "smoothgrad_sq", nt_samples=25, stdevs=noise, nt_samples_batch_size=21, target=y, abs=False)
    assert_close(ours("smoothgrad-squared"), noisy[:, 0], rtol=1e-3, atol=1e-5)
    cam = attr.LayerGradCam(net.module, net.module.conv2).attribute(x, target=y, relu_attributions=True)  # type: ignore[arg-type]
    assert_close(ours("grad-cam"), attr.LayerAttribution.interpolate(cam, (8, 8), "bilinear")[:, 0], rtol=1e-3, atol=1e-5)
    assert rows.shape == y.shape


def plain_cnn(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1, bias=bias), nn.ReLU(), nn.Conv2d(5, 6, 3, stride=2, bias=bias), nn.ReLU(),
        nn.AvgPool2d(3), nn.Flatten(), nn.Linear(6, 10, bias=bias), nn.ReLU(), nn.Linear(10, 3, bias=bias))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_deeplift_s_rescale_rule_is_captum_s() -> None:
    import captum.attr as attr
    module, x = plain_cnn(), images()
    net = cw.open(module)
    y = net.logits(x).argmax(1)
    theirs = attr.DeepLift(plain_cnn()).attribute(x, torch.zeros_like(x), target=y)[:, 0]
    assert_close(attribute(net, x, "deeplift", rule="rescale").values, theirs, rtol=1e-3, atol=1e-5)
    assert_close(attribute(net, x, "captum-deeplift").values, theirs, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(attribute(net, x, "deeplift", rule="reveal-cancel").values, theirs, atol=1e-3)


@pytest.mark.parametrize("rule", ["rescale", "reveal-cancel", "genomics"])
@pytest.mark.parametrize("contrast", [None, 2])
def test_deeplift_s_values_sum_to_the_difference(rule: str, contrast: int | None) -> None:
    net = cnn()
    for x in (images(), images() - 0.5, torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))):
        found = attribute(net, x, "deeplift", target=1, contrast=contrast, rule=rule, baseline=0.2)
        assert found.about["gap"].abs().max() < 1e-4 and found.values.abs().max() > 0.01
        assert found.complete is not None and found.complete < 1e-2


def test_reveal_cancel_shares_a_minimum_where_rescale_gives_all_to_one() -> None:
    """The paper's example: min(x1, x2) as x1 - relu(x1 - x2), from 0 to (2, 1)."""
    class Minimum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sub, self.act, self.out = nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)
            self.first = nn.Linear(2, 1, bias=False)
            with torch.no_grad():
                self.sub.weight.copy_(torch.tensor([[1.0, -1.0]]))
                self.first.weight.copy_(torch.tensor([[1.0, 0.0]]))
                self.out.weight.fill_(-1)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + self.out(self.act(self.sub(x)))
    net, x = cw.open(Minimum()), torch.tensor([[2.0, 1.0]])
    assert_close(attribute(net, x, "deeplift", 0, rule="rescale").values, torch.tensor([[0.0, 1.0]]))
    assert_close(attribute(net, x, "deeplift", 0, rule="reveal-cancel").values, torch.tensor([[0.5, 0.5]]))


def test_lrp_conserves_the_output_of_a_network_without_biases() -> None:
    found = attribute(cw.open(plain_cnn(bias=False)), images(), "captum-lrp")
    assert_close(found.values.flatten(1).sum(1), found.about["output"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "bert", "vit", "resnet", "cnn", "mlp"])
def test_lrp_is_conserved_by_inputs_and_constants(name: str) -> None:
    net = cw.open(module(name).double())
    x = example(name) if name in ("gpt2", "llama", "qwen3", "bert") else example(name).double()
    found = attribute(net, x, "lrp", 1, position=3 if name == "bert" else None)
    assert abs(found.about["notes"]["leak"]) < 1e-4
    assert float(found.values.sum()) == pytest.approx(found.about["notes"]["held by units"], rel=1e-4)
    assert found.values.abs().max() > 0
    net.module.requires_grad_(False)
    frozen = attribute(net, x, "lrp", 1, position=3 if name == "bert" else None)
    assert frozen.about["notes"] == found.about["notes"] and not any(p.requires_grad for p in net.module.parameters())
    if name in ("resnet", "cnn", "vit"):
        assert abs(found.about["notes"]["held by constants"]) > 1e-3, "batch norms and class tokens hold their part"


def test_captum_s_lrp_is_refused_where_it_does_not_follow() -> None:
    with pytest.raises(ValueError, match="does not follow what .* computes between its modules.*Use lrp"):
        attribute(network("resnet"), example("resnet"), "captum-lrp", 1)
    residual = attribute(cw.open(cnn().module.double()), images().double(), "lrp", 1)
    assert abs(residual.about["notes"]["leak"]) < 1e-4


def test_lrp_is_captum_s_where_it_has_rules() -> None:
    net = cw.open(plain_cnn())
    ours, theirs = (attribute(net, images(), method, 1).values for method in ("lrp", "captum-lrp"))
    assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="LRP goes by the rules cp-lrp or attn-lrp"):
        attribute(net, images(), "lrp", 1, rules="gamma")


def test_lrp_of_words_and_features_says_what_the_rest_holds(llama: cw.Network) -> None:
    tokens, words = (attribute(llama, TEXT, "lrp", 9, over=over) for over in ("tokens", "words"))
    assert_close(tokens.words().values, words.values, rtol=1e-3, atol=1e-5)
    features = attribute(llama, TEXT, "lrp", 9, over=dictionary(llama)).about
    assert features["notes"]["held by units"] + features["notes"]["held by all else"] == pytest.approx(
        float(features["output"].sum()), rel=1e-4)
    other = attribute(llama, TEXT, "lrp", 9, rules="attn-lrp")
    assert not torch.allclose(other.values, tokens.values)


def test_integrated_gradients_sum_to_the_difference_over_text_words_and_features(llama: cw.Network) -> None:
    for over in (None, "words", dictionary(llama)):
        found = attribute(llama, TEXT, "integrated-gradients", 9, over=over, n_steps=200)
        assert found.complete is not None and found.complete < 0.02


def test_words_add_up_their_tokens(llama: cw.Network) -> None:
    tokens = attribute(llama, TEXT, "integrated-gradients", 9)
    words, direct = tokens.words(), attribute(llama, TEXT, "integrated-gradients", 9, over="words")
    assert "".join(words.names[0]) == "".join(tokens.names[0]) == TEXT  # type: ignore[index]
    assert words.names[0][0] == "def" and " return" in words.names[0] and words.values.shape[1] < tokens.values.shape[1]  # type: ignore[index]
    assert_close(words.values, direct.values, rtol=1e-3, atol=1e-5)
    assert_close(words.values.sum(1), tokens.values.sum(1))


def test_words_end_at_spaces_and_signs() -> None:
    pieces = [["<s>", " sel", "f", ".", "assert", "Equal", "(", "x", "2", " y", "\n", "", "⟨e2⟩", "⟨80⟩"]]
    keep = torch.ones(1, len(pieces[0]), dtype=torch.bool)
    keep[0, 0] = False
    words = word_texts(pieces, word_groups(pieces, keep))[0]
    assert words[:6] == ["<s>", " self", ".", "assertEqual", "(", "x2"] and "⟨e2⟩⟨80⟩" in words[-1]


def test_rise_finds_the_pixel_that_a_network_reads() -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([4 * x[:, 0, 5, 2], 0 * x[:, 0, 0, 0]], 1)
    net = cw.open(Reads())
    x = torch.ones(2, 1, 8, 8)
    found = attribute(net, x, "rise", 0, n_masks=3000, cells=8)
    assert [int(i) for i in found.values.flatten(1).argmax(1)] == [5 * 8 + 2] * 2
    assert found.about["passes"] == pytest.approx(3000) and found.about["seed"] == 0
    few, same = (attribute(net, x, "rise", 0, n_masks=50, of=of).values for of in ("logit", "probability"))
    assert_close(few, same)
    vector = attribute(cw.open(nn.Linear(6, 2)), torch.eye(6)[:1], "rise", 1, n_masks=100)
    assert vector.values.shape == (1, 6)


def test_rise_s_masks_are_smooth_and_keep_their_share() -> None:
    masks = grids(2000, 12, 8, 3, 0.3, torch.Generator().manual_seed(0))
    assert masks.shape == (2000, 12, 8) and masks.min() >= 0 and masks.max() <= 1
    assert float(masks.mean()) == pytest.approx(0.3, abs=0.02)
    assert float((masks[:, 1:] - masks[:, :-1]).abs().max()) < 0.51
    with pytest.raises(ValueError, match="grid has from 1 cell"):
        grids(2, 4, 4, 9, 0.5, torch.Generator())


def reader_s_row() -> Batch:
    ids = torch.tensor([[1, 2, 3, 5, 8, 9, 10, 11]])
    return Batch({"input_ids": ids}, torch.ones_like(ids, dtype=torch.bool), None, torch.arange(1))


def test_reagent_finds_the_token_that_a_network_reads() -> None:
    torch.manual_seed(0)
    net = cw.open(Reader())
    found = attribute(net, reader_s_row(), "reagent", 7, site="embedding:out", substitutes=torch.arange(12), runs=4, steps=60,
                      keep=0.13)
    assert int(found.values[0].argmax()) == 3 and float(found.values.sum()) == pytest.approx(1, abs=1e-5)
    again = attribute(net, reader_s_row(), "reagent", 7, site="embedding:out", substitutes=torch.arange(12), runs=4, steps=60,
                      keep=0.13)
    assert_close(found.values, again.values, rtol=0, atol=0)
    assert found.about["of"] == "probability" and found.about["passes"] <= 1 + 2 * 4 * 60


def test_reagent_stops_once_its_best_tokens_are_enough() -> None:
    class Sure(Reader):
        def forward(self, input_ids: Tensor) -> Tensor:
            logits = super().forward(input_ids)
            logits[:, -1, 7] += 50
            return logits
    found = attribute(cw.open(Sure()), reader_s_row(), "reagent", 7, site="embedding:out", substitutes=torch.arange(12), runs=2)
    assert found.about["passes"] == 1 + 2 * 2, "one step and one test of each run"


def test_a_token_activation_map_takes_away_what_the_context_lends() -> None:
    """Patches 0 and 1 show token 2, patch 3 token 1, which came before and is lent to token 2's map."""
    logits = torch.zeros(6, 4)
    logits[:4, 2] = torch.tensor([3.0, 3.0, -1.0, 2.0])
    logits[:4, 1] = torch.tensor([0.0, 0.0, 0.0, 4.0])
    logits[4:, 2] = 1
    ids, places = torch.tensor([1, 3]), text_places(6, 0, 4, 2)
    raw = one(logits, ids, places, 2, 5, (0, 4), False)
    less = one(logits, ids, places, 2, 5, (0, 4), True)
    assert raw.tolist() == [3, 3, 0, 2] and less.tolist() == [3, 3, 0, 0]
    assert text_places(6, 1, 5, 6).tolist() == list(range(6)) and text_places(6, 1, 5, 2).tolist() == [0, 5]
    spike = torch.zeros(1, 5, 5)
    spike[0, 2, 2] = 9
    flat = rank_filtered(torch.full((1, 5, 5), 2.0))
    assert rank_filtered(spike).max() < 3 and torch.allclose(flat, torch.tensor(2.0))


def test_attention_and_random_are_what_they_say(llama: cw.Network) -> None:
    paid = attribute(llama, TEXT, "attention")
    assert (paid.values >= 0).all() and float(paid.values.sum()) <= 1 + 1e-5
    assert_close(paid.words().values, attribute(llama, TEXT, "attention", over="words").values)
    first, second, other = (attribute(llama, TEXT, "random", seed=s).values for s in (0, 0, 1))
    assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first, other)


TEXTUAL = {"reagent", "attention"}


@pytest.mark.parametrize("id", [id for id in PER_INPUT if id not in ("token-activation-map", "mmel")])
def test_every_method_gives_one_number_a_unit_and_leaves_the_network_alone(id: str, llama: cw.Network) -> None:
    net, data = (llama, TEXT) if id in TEXTUAL else (cw.open(plain_cnn()), images())
    before = {name: p.clone() for name, p in net.module.state_dict().items()}
    state = torch.random.get_rng_state()
    few = {"steps": 3, "runs": 2, "n_masks": 40, "n_samples": 20, "samples": 40, "alpha": 1e-4}
    options = {name: few[name] for name in inspect.signature(methods("attribute")[id].object).parameters if name in few}
    found = attribute(net, data, id, **options)
    assert found.values.shape == found.keep.shape and torch.isfinite(found.values).all() and found.values.abs().max() > 0
    assert found.about["method"] == id and found.about["passes"] >= 0 and found.about["output"].shape == (len(found),)
    assert_close(attribute(net, data, id, **options).values, found.values, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], p) for name, p in net.module.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.module.modules())


# --- to look at ---------------------------------------------------------------------------------------------------------


def test_text_is_shown_escaped_and_highlighted(llama: cw.Network) -> None:
    found = attribute(llama, "x = '<script>alert(1)</script>'", "integrated-gradients", 9)
    page = found.html()
    assert "<script" not in page and "&lt;" in page and "background:rgba" in page and found.about["title"] in page
    said = found.terminal()
    assert "\x1b[" in said and "alert" in said and "Integrated gradients" in said
    with pytest.raises(IndexError, match="rows 0 to 0"):
        found.html(row=3)


def test_maps_are_drawn_over_images(tmp_path: Any) -> None:
    found = attribute(cnn(), images(), "input-x-gradient")
    assert found.html().count("<img") == 6 and found.html(row=1).count("<img") == 2 and "data:image/png" in found.html()
    found.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000
    assert "\x1b[" in found.terminal(0)
    patches = attribute(tiny_vit(), torch.randn(1, 3, 8, 8), "occlusion", over="patches")
    assert patches.values.shape == (1, 2, 2) and patches.called(2) == "patch 1,0" and patches.html()


def test_a_large_gap_is_said_loudly(llama: cw.Network) -> None:
    found = attribute(llama, TEXT, "integrated-gradients", 9, n_steps=200)
    assert "sum to the difference within" in found.terminal(width=400) and "do not trust" not in found.terminal(width=400)
    missed = replace(found, about={**found.about, "gap": found.about["gap"] + 0.5 * (
        found.about["output"] - found.about["output_at_baseline"])})
    assert "VALUES MISS THE DIFFERENCE" in missed.terminal(width=400) and "50% of it" in missed.html()
    assert "the leak is 0.0%" in attribute(llama, TEXT, "lrp", 9).terminal(width=400)


def test_attention_of_a_text_classifier_is_that_of_its_class_token() -> None:
    net = tiny_bert("BertForSequenceClassification")
    paid = attribute(net, f"[CLS]{TEXT}", "attention")
    patterns = net.record(as_batch(net, f"[CLS]{TEXT}"), "blocks.*.attn.pattern").values()
    assert_close(paid.values[0, 1:], torch.stack([p[0, :, 0, 1:].mean(0) for p in patterns]).mean(0))
    with pytest.raises(ValueError, match="what is explained of .* has none"):
        attribute(net, TEXT, "attention", lambda net, batch: net.logits(batch)[:, 0])


def test_values_that_are_all_0_say_so() -> None:
    found = attribute(cw.open(plain_cnn()), images(), "lime", alpha=1e6)
    assert "ALL VALUES ARE 0" in found.terminal(0, width=400)
    with torch.inference_mode(), pytest.raises(ValueError, match="call attribute outside of it"):
        attribute(cnn(), images())


def test_an_attribution_is_plain_data(llama: cw.Network) -> None:
    found = attribute(llama, ["def f", "class A: pass"], "integrated-gradients", 9, "x", over=dictionary(llama))
    data = json.loads(json.dumps(found.json()))
    assert data["values"] == found.values.tolist() and data["about"]["method"] == "integrated-gradients"
    assert len(data["about"]["gap"]) == 2 and "feature" in found.terminal() and "feature" in found.html()
    names = [name for name, _ in found.top(3)]
    assert len(names) == 3 and found.plot() is not None
    with pytest.raises(ValueError, match="words are made of tokens"):
        found.words()
    with pytest.raises(ValueError, match="ask for over=dictionary"):
        attribute(llama, "def f", "random").by_feature(3)


# --- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "says"), [
    ({"target": 10**6}, "the target 1000000 is not there: the vocabulary has the tokens 0 to "),
    ({"target": -1}, "the target -1 is not there"),
    ({"target": "self return"}, "is not one token of the vocabulary but"),
    ({"target": lambda net, batch: net.logits(batch)[:, 0, 0], "position": 2}, "reads where it likes"),
    ({"target": 5, "contrast": 5}, "the target and its contrast are both"),
    ({"target": 5, "position": 99}, "rows of .* tokens; found the positions"),
    ({"target": [1, 2, 3]}, "one for all or one for each of 1 rows; found 3"),
    ({"of": "perplexity"}, "what is explained is logit, probability"),
    ({"over": "sentences"}, "an attribution is over tokens, words"),
    ({"over": "features"}, "needs the dictionary"),
    ({"over": "pixels"}, "reads tokens, which are no numbers"),
    ({"baseline": "noise"}, "a baseline is zero, mean, blur"),
    ({"baseline": torch.zeros(3)}, "does not broadcast to the input's"),
    ({"method": "integrated-gradient"}, "the nearest are integrated-gradients"),
    ({"method": "integrated-gradients", "steps": 4}, "has no option 'steps'; did you mean 'n_steps'"),
    ({"method": "deeplift"}, "not for text or features"),
    ({"method": "grad-cam"}, "nothing to say over tokens"),
    ({"method": "captum-lrp"}, "not for text"),
    ({"method": "token-activation-map"}, "reads an image and text"),
    ({"n_steps": 0}, "n_steps of integrated-gradients is at least 1; found 0"),
    ({"n_steps": "many"}, "n_steps of integrated-gradients is a whole number; found 'many'"),
    ({"method": "smoothgrad", "noise": float("nan")}, "noise of smoothgrad is a number; found nan"),
    ({"method": "rise", "n_masks": True}, "n_masks of rise is a whole number"),
    ({"method": "reagent", "share": 2.0}, "replaces and keeps shares"),
    ({"method": "roar"}, "asks another question"),
])
def test_bad_options_get_one_sentence(options: dict[str, Any], says: str, llama: cw.Network) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        attribute(llama, TEXT, **options)
    assert "\n" not in str(caught.value)


def test_input_that_cannot_be_explained_gets_one_sentence(llama: cw.Network) -> None:
    ids = as_batch(llama, TEXT).inputs["input_ids"]  # type: ignore[index]
    with pytest.raises(ValueError, match="no token of row 0 counts"):
        attribute(llama, Batch({"input_ids": ids}, torch.zeros_like(ids, dtype=torch.bool), None, torch.arange(1)))
    with pytest.raises(ValueError, match="the input has no rows"):
        attribute(llama, ids[:0])
    with pytest.raises(ValueError, match="an attribution is of text"):
        attribute(llama, 3)
    net = cnn()
    with pytest.raises(ValueError, match="NaN or infinity"):
        attribute(net, images() * float("nan"))
    with pytest.raises(ValueError, match="the baseline is the input itself in row 1"):
        attribute(net, torch.stack([images()[0], torch.zeros(1, 8, 8)]))
    with pytest.raises(ValueError, match="patches need a side that divides"):
        attribute(net, images(), over="patches", patch=3)
    with pytest.raises(ValueError, match="has the classes 0 to 3"):
        attribute(net, images(), target=4)
    with pytest.raises(ValueError, match="its classes have no names"):
        attribute(net, images(), target="cat")
    with pytest.raises(ValueError, match="no position to choose"):
        attribute(net, images(), position=1)
    with pytest.raises(ValueError, match="1 <= stride <= window"):
        attribute(net, images(), "occlusion", window=9)
    with pytest.raises(ValueError, match="explains a logit"):
        attribute(net, images(), "deeplift", of="probability")
    with pytest.raises(ValueError, match="gives an embedding, of which nothing is the likeliest"):
        attribute(tiny_bert("BertModel"), "def f")
    with pytest.raises(ValueError, match="no site 'embed'"):
        attribute(cw.open(Reader()), reader_s_row())


def test_networks_without_gradients_or_numbers_get_one_sentence() -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([(x.flatten(1) > 0.5).float().sum(1), 0 * x.detach().flatten(1).sum(1)], 1)
    net = cw.open(Steps())
    for method in ("saliency", "integrated-gradients", "smoothgrad", "gradient-shap"):
        with pytest.raises(ValueError, match="has no gradient from its input"):
            attribute(net, images(), method, 0)
    assert attribute(net, images(), "leave-one-out", 0).values.sum() > 0
    broken = cnn()
    with torch.no_grad():
        broken.module.head.bias[0] = float("nan")  # type: ignore[union-attr,index]
    with pytest.raises(ValueError, match="gives NaN or infinity on this input"):
        attribute(broken, images())
    with pytest.raises(ValueError, match="one number for each of a batch's 3 rows"):
        attribute(cnn(), images(), "saliency", lambda net, batch: net.logits(batch))


def test_deeplift_names_an_operation_that_it_has_no_rule_for() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x
    with pytest.raises(ValueError, match="no rule for mul.*Use integrated-gradients"):
        attribute(cw.open(Product()), torch.rand(2, 3), "deeplift", 0)

    class Depends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x
    with pytest.raises(ValueError, match="depend on its input"):
        attribute(cw.open(Depends()), torch.rand(2, 3), "deeplift", 0)


def test_deeplift_follows_functions_and_methods() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.nn.functional.gelu(self.a(x.flatten(1)))
            x = x.view(x.size(0), 2, 4).mean(1) - 0.5
            return self.b(x.tanh())
    torch.manual_seed(0)
    net = cw.open(Plain())
    found = attribute(net, torch.randn(4, 2, 3), "deeplift", 1, over="inputs", rule="reveal-cancel")
    assert found.about["gap"].abs().max() < 1e-5


def test_blur_keeps_a_flat_image_and_spreads_a_point() -> None:
    flat = torch.full((1, 2, 9, 9), 0.4)
    assert_close(blur(flat), flat)
    point = torch.zeros(1, 1, 31, 31)
    point[..., 15, 15] = 1
    spread = blur(point)
    assert float(spread.sum()) == pytest.approx(1, abs=1e-3) and float(spread.max()) < 0.02
    assert isinstance(attribute(cnn(), images(), "leave-one-out", baseline="blur"), Attribution)


# --- the command --------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["attribute", *words])
    assert stop.value.code not in (0, None) and "\n" not in str(stop.value.code)
    return str(stop.value.code)


def test_the_command_prints_highlighted_text_and_leaves_a_page(tmp_path: Any, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "why"
    main(["attribute", "pico", "--text", "def area(width):", "x = 1", "--method", "input-x-gradient", "--over", "words",
          "--target", "\n", "--contrast", "id:300", "--out", str(out)])
    said = capsys.readouterr().out
    assert "area" in said and "rather than" in said and str(out / "attribution.html") in said
    data = json.loads((out / "attribution.json").read_text())
    assert data["over"] == "words" and len(data["values"]) == 2
    assert (out / "attribution.png").stat().st_size > 1000 and "<mark" not in (out / "attribution.html").read_text()
    main(["rerun", str(out), "--out", str(tmp_path / "again")])
    again = json.loads((tmp_path / "again" / "attribution.json").read_text())
    assert again["values"] == data["values"]
    assert "give either --text or --images" in refused(capsys, "pico")
    assert "--set takes NAME=VALUE" in refused(capsys, "pico", "--text", "x", "--set", "steps")
    assert "no option 'steps'" in refused(capsys, "pico", "--text", "x", "--set", "steps=3")
    assert "the vocabulary has the tokens" in refused(capsys, "pico", "--text", "x = 1", "--target", "id:999999")


def test_the_command_explains_images(tmp_path: Any, capsys: pytest.CaptureFixture) -> None:
    from PIL import Image
    tiny_vit().module.save_pretrained(tmp_path / "vit")
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (80 * i, 20, 90)).save(tmp_path / "photos" / f"{i}.png")
    main(["attribute", str(tmp_path / "vit"), "--images", str(tmp_path / "photos"), "--rows", "2", "--method", "leave-one-out",
          "--over", "patches", "--target", "LABEL_1", "--out", str(tmp_path / "why")])
    capsys.readouterr()
    data = json.loads((tmp_path / "why" / "attribution.json").read_text())
    assert np.shape(data["values"]) == (2, 2, 2) and data["about"]["target"] == ["logit of LABEL_1"] * 2
    main(["attribute", str(tmp_path / "vit"), "--images", str(tmp_path / "photos" / "1.png"), "--method", "saliency",
          "--target", "2", "--out", str(tmp_path / "one")])
    assert "there is no image or folder" in refused(capsys, str(tmp_path / "vit"), "--images", str(tmp_path / "none"))
    (tmp_path / "notes.png").write_text("not an image")
    assert "not an image" in refused(capsys, str(tmp_path / "vit"), "--images", str(tmp_path / "notes.png"))
