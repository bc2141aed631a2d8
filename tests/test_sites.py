"""Every named site holds what its name says, checked against transformers' outputs and the network's own weights."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from families import (
    ATTENTION,
    BUILD,
    CAUSAL,
    D_MODEL,
    EXPERTS,
    GROUPED,
    N_BLOCKS,
    N_HEADS,
    NAMED,
    VOCAB,
    example,
    module,
    network,
)
from torch import Tensor, nn
from torch.testing import assert_close

import cutaway.network as cw

GATED = ["gpt2", "gpt-neox", "opt", "llama", "mistral", "qwen2", "qwen3", "phi3", "vit", "clip-vision"]
POST_NORM = ["gemma2", "gemma3"]
BERT = ["bert", "roberta", "bert-encoder", "sentence"]


def own_outputs(net: cw.Network, x: Tensor, **options: Any) -> Any:
    """What transformers itself reports for an input, such as hidden states and attention patterns."""
    root = net.base if net.kind == "sentence" else net.module
    with torch.no_grad():
        return root(**{net.base.main_input_name: x}, **options)


def eager(net: cw.Network) -> cw.Network:
    """A copy of a network that uses transformers' eager attention."""
    copied = copy.deepcopy(net.module)
    base = copied[0].auto_model if net.kind == "sentence" else copied
    base.set_attn_implementation("eager")
    return cw.open(copied)


def matrix(linear: nn.Module) -> Tensor:
    """A linear map's weight [out, in]."""
    return linear.weight.T if type(linear).__name__ == "Conv1D" else linear.weight


def after(net: cw.Network, site: str, x: Tensor) -> Tensor:
    """The norm that Gemma puts between a sublayer's output and the residual stream; others put nothing there."""
    last = net.module.get_submodule(net.site(site).path)
    return last(x) if "norm" in type(last).__name__.lower() else x


@pytest.mark.parametrize("name", NAMED)
def test_blocks_are_transformers_hidden_states(name: str) -> None:
    net, x = network(name), example(name)
    hidden = own_outputs(net, x, output_hidden_states=True).hidden_states
    blocks = [f"blocks.{i}" for i in range(net.n_blocks)]
    assert len(hidden) == net.n_blocks + 1 and net.n_blocks == (2 if name == "resnet" else N_BLOCKS)
    names = ["embed", *blocks]
    if net.kind == "causal":  # their last hidden state is the one after the norm
        names[-1] = "norm"
    seen = net.record(x, names)
    for site, own in zip(names, hidden, strict=True):
        assert_close(seen[site], own, rtol=0, atol=0, msg=site)


@pytest.mark.parametrize("name", GATED + POST_NORM + EXPERTS)
def test_a_block_adds_its_attention_and_its_mlp_to_the_stream(name: str) -> None:
    net, x = network(name), example(name)
    seen = net.record(x, ["embed", "blocks.*", "blocks.*.attn", "blocks.*.mlp"])
    before = seen["embed"]
    for i in range(net.n_blocks):
        assert_close(before + seen[f"blocks.{i}.attn"] + seen[f"blocks.{i}.mlp"], seen[f"blocks.{i}"])
        before = seen[f"blocks.{i}"]


@pytest.mark.parametrize("name", BERT)
def test_a_bert_block_norms_each_sum(name: str) -> None:
    net, x = network(name), example(name)
    seen = net.record(x, ["embed", "blocks.*", "blocks.*.attn", "blocks.*.mlp"])
    before = seen["embed"]
    for i in range(net.n_blocks):
        layer = net.base.encoder.layer[i]
        middle = layer.attention.output.LayerNorm(before + seen[f"blocks.{i}.attn"])
        assert_close(layer.output.LayerNorm(middle + seen[f"blocks.{i}.mlp"]), seen[f"blocks.{i}"])
        before = seen[f"blocks.{i}"]


@pytest.mark.parametrize("name", ATTENTION)
def test_heads_through_the_projection_add_up_to_the_attention_output(name: str) -> None:
    net, x = network(name), example(name)
    for i in range(net.n_blocks):
        site = net.site(f"blocks.{i}.attn.heads")
        seen = net.record(x, [site, f"blocks.{i}.attn"])
        z, _ = site.cut.split(seen[site.name], cw.At())
        projection = net.module.get_submodule(site.path)
        slices = matrix(projection).chunk(N_HEADS, dim=1)
        assert z.shape[2] == site.n == len(slices)
        total = sum(z[:, :, u] @ slices[u].T for u in range(site.n))
        if projection.bias is not None:
            total = total + projection.bias
        assert_close(after(net, f"blocks.{i}.attn", total), seen[f"blocks.{i}.attn"])


@pytest.mark.parametrize("name", [name for name in ATTENTION if name not in ("mixtral", "qwen3-moe")])
def test_neurons_through_the_down_projection_are_the_mlp_output(name: str) -> None:
    net, x = network(name), example(name)
    sites = net.sites("blocks.*.mlp.neurons")
    assert len(sites) == (1 if name == "qwen2-moe" else net.n_blocks)
    for site in sites:
        mlp = f"blocks.{site.block}.mlp"
        seen = net.record(x, [site, mlp])
        down = net.module.get_submodule(site.path)
        total = seen[site.name] @ matrix(down).T + (0 if down.bias is None else down.bias)
        assert seen[site.name].shape[-1] == site.n
        assert_close(after(net, mlp, total), seen[mlp])


@pytest.mark.parametrize("name", ATTENTION)
def test_patterns_are_those_of_eager_attention(name: str) -> None:
    net, x = network(name), example(name)
    plain = eager(net)
    own = own_outputs(plain, x, output_attentions=True).attentions
    seen = net.record(x, "blocks.*.attn.pattern")
    for i, pattern in enumerate(own):
        found = seen[f"blocks.{i}.attn.pattern"]
        assert_close(found, pattern)
        assert_close(found.sum(-1), torch.ones(found.shape[:-1]))
        assert found.shape[:2] == (len(x), N_HEADS)


@pytest.mark.parametrize("name", ATTENTION)
def test_a_watched_pattern_leaves_eager_attention_as_it_is(name: str) -> None:
    net, x = network(name), example(name)
    with torch.no_grad():
        expected, sdpa = eager(net).logits(x), net.logits(x)
        with net.watched({"blocks.1.attn.pattern": lambda p, at: None}):
            assert_close(net.logits(x), expected, rtol=0, atol=0)
            with net.as_it_is():
                assert torch.equal(net.logits(x), sdpa)
            assert_close(net.logits(x), expected, rtol=0, atol=0)
        assert torch.equal(net.logits(x), sdpa)


@pytest.mark.parametrize("name", ["llama", "gemma2", "bert"])
def test_patterns_respect_padding(name: str) -> None:
    net, x = network(name), example(name)
    mask = torch.ones_like(x)
    mask[0, :4] = 0
    batch = {"input_ids": x, "attention_mask": mask}
    own = own_outputs(eager(net), x, attention_mask=mask, output_attentions=True).attentions
    found = net.record(batch, "blocks.1.attn.pattern")["blocks.1.attn.pattern"]
    assert_close(found, own[1])
    assert found[0, :, 4:, :4].abs().max() == 0


@pytest.mark.parametrize("name", EXPERTS)
def test_the_router_site_is_transformers_router_logits(name: str) -> None:
    net, x = network(name), example(name)
    own = own_outputs(net, x, output_router_logits=True).router_logits
    seen = net.record(x, "blocks.*.mlp.router")
    assert len(seen) == len(own) == (N_BLOCKS - 1 if name == "qwen2-moe" else N_BLOCKS)
    for found, logits in zip(seen.values(), own, strict=True):
        assert found.shape == (*x.shape, 4)
        assert_close(found.flatten(0, 1), logits, rtol=0, atol=0)


@pytest.mark.parametrize("name", EXPERTS)
def test_closing_an_expert_takes_away_what_it_adds(name: str) -> None:
    net, x, block = network(name), example(name), 1
    site, mlp = net.site(f"blocks.{block}.mlp.experts"), f"blocks.{block}.mlp"
    seen: dict[str, Tensor] = {}
    with net.watched({site: lambda w, at: seen.update(weights=site.cut.split(w, at)[0])}):
        plain = net.record(x, [mlp, f"{net.site(site).path.rpartition('.')[0]}:in"])
    hidden = plain[f"{site.path.rpartition('.')[0]}:in"]
    experts, weights = net.module.get_submodule(site.path), seen["weights"]

    logits = net.record(x, f"blocks.{block}.mlp.router")[f"blocks.{block}.mlp.router"]
    chosen = logits.softmax(-1) * (logits >= logits.topk(2).values[..., -1:])
    if getattr(net.config, "norm_topk_prob", True):
        chosen = chosen / chosen.sum(-1, keepdim=True)
    assert_close(weights, chosen)

    for e in range(site.n):
        gate, up = (hidden @ experts.gate_up_proj[e].T).chunk(2, dim=-1)
        adds = (nn.functional.silu(gate) * up) @ experts.down_proj[e].T * weights[..., e:e + 1]
        one_closed = torch.ones(site.n).index_fill(0, torch.tensor(e), 0.0)
        with net.edited(cw.Edit(site, gate=one_closed, over="u")):
            without = net.record(x, mlp)[mlp]
        assert adds.abs().max() > 1e-2
        assert_close(without, plain[mlp] - adds, rtol=1e-4, atol=1e-5)


def test_the_image_and_sentence_ends() -> None:
    vit, x = network("vit"), example("vit")
    assert vit.site("logits").n == 5 and vit.record(x, "logits")["logits"].shape == (2, 5)
    net = network("sentence")
    seen = net.record(["w3 w4 w5"], ["embedding", "blocks.2"])
    assert_close(seen["embedding"], seen["blocks.2"].mean(1))
    assert_close(seen["embedding"][0], torch.as_tensor(net.module.encode(["w3 w4 w5"])[0]))


# --- names ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "nearest"), [("blocks.1.mpl", "blocks.1.mlp"), ("blocks.7.attn.heads", "attn.heads"),
                                               ("logit", "logits"), ("model.layer.0:out", "model.layers.0:out")])
def test_an_unknown_name_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="no site") as error:
        network("llama").site(name)
    assert nearest in str(error.value) and repr(name) in str(error.value)


def test_paths_show_rows_of_tokens_where_the_network_hands_on_all_tokens_at_once() -> None:
    net, x = network("opt"), example("opt")
    found = net.record(x, ["blocks.0", "model.decoder.layers.0.fc1:in", "model.decoder.layers.0.fc2:out", "blocks.0.mlp"])
    assert {seen.shape[:2] for seen in found.values()} == {x.shape}


def test_wildcards_stand_for_one_part_of_a_name() -> None:
    net = network("llama")
    found = {pattern: [site.name for site in net.sites(pattern)] for pattern in (
        "blocks.*", "blocks.*.mlp", "model.layers.*.mlp.down_proj:weight", "model.layers.*.mlp:in", "model.layers.1.*")}
    assert found["blocks.*"] == ["blocks.0", "blocks.1", "blocks.2"]
    assert found["blocks.*.mlp"] == ["blocks.0.mlp", "blocks.1.mlp", "blocks.2.mlp"]
    assert found["model.layers.*.mlp.down_proj:weight"] == [f"model.layers.{i}.mlp.down_proj:weight" for i in range(3)]
    assert found["model.layers.*.mlp:in"] == [f"model.layers.{i}.mlp:in" for i in range(3)]
    assert "model.layers.1.self_attn:out" in found["model.layers.1.*"]
    assert [site.name for site in net.sites(["norm", "blocks.*", "norm"])] == ["norm", *found["blocks.*"]]
    for nothing in ("blocks.*.nothing", "model.layers.*.mlp:weight"):
        with pytest.raises(ValueError, match="no site .* matches"):
            net.sites(nothing)


def test_paths_give_inputs_outputs_and_weights() -> None:
    net, x = network("llama"), example("llama")
    path = "model.layers.1.mlp.down_proj"
    seen = net.record(x, [f"{path}:in", f"{path}:out", f"{path}:weight", path])
    down = net.module.get_submodule(path)
    assert torch.equal(seen[f"{path}:weight"], down.weight)
    assert torch.equal(down(seen[f"{path}:in"]), seen[f"{path}:out"])
    assert torch.equal(seen[path], seen[f"{path}:out"])
    with pytest.raises(ValueError, match="has no 'bias'; a site there can be in, out, weight"):
        net.site(f"{path}:bias")


@pytest.mark.parametrize(("name", "site", "n"), [
    ("llama", "model.embed_tokens:out", D_MODEL), ("llama", "model.embed_tokens:weight", VOCAB),
    ("llama", "model.norm:in", D_MODEL), ("llama", "model.layers.0.mlp.gate_proj:weight", 48),
    ("gpt2", "transformer.h.0.mlp.c_fc:in", D_MODEL), ("gpt2", "transformer.h.0.mlp.c_fc:out", 4 * D_MODEL),
    ("gpt2", "transformer.h.0.mlp.c_fc:weight", 4 * D_MODEL),
    ("mixtral", "model.layers.0.mlp.experts:down_proj", D_MODEL), ("cnn", "conv2:in", 6), ("cnn", "conv2:out", 8),
    ("cnn", "conv2:weight", 8), ("cnn", "bn1:out", 6),
    ("cnn", "act:out", None), ("mlp", "2:out", 12)])
def test_a_path_site_knows_its_units(name: str, site: str, n: int | None) -> None:
    assert network(name).site(site).n == n


def test_a_record_is_not_changed_by_what_the_network_does_in_place() -> None:
    net, x = network("cnn"), example("cnn")
    seen = net.record(x, ["bn1:out", "conv2:out", "head:in"])
    assert_close(seen["bn1:out"], net.module.bn1(net.module.conv1(x)))
    assert seen["bn1:out"].min() < 0 and seen["conv2:out"].min() < 0


def test_a_pass_stops_after_the_last_site_that_is_asked_for() -> None:
    net, x, reached = network("llama"), example("llama"), []
    with net.watched({f"blocks.{i}": lambda z, at, i=i: reached.append(i) for i in range(N_BLOCKS)}):
        net.record(x, "blocks.1.attn")
    assert reached == [0]


# --- families that are not in the table -------------------------------------------------------------------------------

@pytest.mark.parametrize("config", [
    hf.SmolLM3Config(**GROUPED), hf.OlmoConfig(**GROUPED), hf.Olmo2Config(**GROUPED),
    hf.OlmoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2)], ids=lambda config: config.model_type)
def test_a_type_that_is_not_listed_opens_by_its_structure(config: hf.PretrainedConfig) -> None:
    net = cw.open(hf.AutoModelForCausalLM.from_config(config))
    assert net.family is not None and net.config.model_type not in net.family.types
    x = example("llama")
    hidden = own_outputs(net, x, output_hidden_states=True).hidden_states
    seen = net.record(x, ["embed", "blocks.*", "blocks.*.attn", "blocks.*.mlp", "norm"])
    assert_close(seen["norm"], hidden[-1])
    for i in range(N_BLOCKS):
        before = seen[f"blocks.{i - 1}"] if i else seen["embed"]
        assert_close(before, hidden[i])
        assert_close(before + seen[f"blocks.{i}.attn"] + seen[f"blocks.{i}.mlp"], seen[f"blocks.{i}"])


def test_a_model_that_fits_no_row_works_by_module_paths() -> None:
    net = cw.open(hf.DistilBertForMaskedLM(hf.DistilBertConfig(
        dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=VOCAB, max_position_embeddings=64)))
    assert net.family is None and net.n_blocks == 0 and net.kind == "masked"
    path, x = "distilbert.transformer.layer.0.ffn.lin2", example("bert")
    seen = net.record(x, [f"{path}:in", f"{path}:out", "logits"])
    assert_close(net.module.get_submodule(path)(seen[f"{path}:in"]), seen[f"{path}:out"])
    with net.edited(cw.Edit(f"{path}:in")), torch.no_grad():
        assert not torch.equal(net.logits(x), seen["logits"])


def test_a_plain_module_may_have_a_config_of_its_own() -> None:
    plain = nn.Sequential(nn.Linear(4, 3))
    plain.config = SimpleNamespace(n_layer=1)
    net = cw.open(plain)
    assert net.kind == "module" and net.family is None
    assert net.logits(torch.ones(2, 4)).shape == (2, 3)


def test_every_family_is_open() -> None:
    for name in BUILD:
        net = network(name)
        assert (net.family is None) == (name in ("cnn", "mlp"))
        assert (net.kind == "causal") == (name in CAUSAL)
        assert net.name in repr(net)


def test_the_table_is_checked_against_shapes() -> None:
    broken = module("llama")
    broken.config.num_attention_heads = 5
    with pytest.raises(ValueError, match="5 heads cannot share"):
        cw.open(broken)
