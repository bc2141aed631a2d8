"""Dictionaries from other projects at work in a network: their sites, what is spliced in, and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from helpers import PLAIN, tiny_llama, tiny_tokenizer
from safetensors.torch import save_file

import cutaway as cw
from cutaway.cli import main
from cutaway.dictionaries import Dictionary, Facts, evaluate
from cutaway.dictionaries.anchored import Normed
from cutaway.dictionaries.cross_layer import CrossLayer
from cutaway.dictionaries.parts import ReLU, TopK
from cutaway.dictionaries.transcoder import Transcoder
from cutaway.formats import load_dictionary, save_dictionary, sites
from cutaway.observe import activations

LENS = ["embed", "blocks.0", "blocks.3", "blocks.3.mlp", "blocks.3.attn", "blocks.3.attn.heads", "blocks.3.mlp.neurons"]
GEMMA = ["blocks.2", "blocks.2.mlp", "blocks.2.attn", "blocks.2.attn.heads", "model.layers.2.mlp:in"]


def tiny_gpt2() -> cw.Network:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    return cw.open(hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=None, eos_token_id=None)),
        tokenizer)


def tiny_gemma() -> cw.Network:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    return cw.open(hf.Gemma2ForCausalLM(hf.Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, bos_token_id=None, eos_token_id=None, pad_token_id=0)), tokenizer)


@pytest.mark.parametrize("site", LENS)
def test_transformer_lens_names_go_there_and_back(site: str):
    assert sites.from_lens(sites.to_lens(site)) == site


@pytest.mark.parametrize("site", GEMMA)
def test_gemma_names_go_there_and_back_and_are_sites_of_a_gemma(site: str):
    assert sites.from_gemma(sites.to_gemma(site))[0] == site
    net = tiny_gemma()
    assert net.site(site)
    if not site.endswith(":in"):
        assert net.site(site).path.startswith("model.layers.2")


def test_module_paths_are_understood_with_their_network():
    llama, gpt2, gemma = tiny_llama(), tiny_gpt2(), tiny_gemma()
    assert sites.from_path("layers.1") == sites.from_path("model.layers.1") == sites.from_path("h.1") == "blocks.1"
    assert sites.from_path("layers.1.mlp") == "" == sites.from_path("sparsify", net=llama)
    assert sites.from_path("layers.1.mlp", net=llama) == sites.from_path("h.1.mlp", net=gpt2) == "blocks.1.mlp"
    # In Gemma a norm comes after the MLP, so that its module is not what it adds to the stream.
    assert sites.from_path("layers.1.mlp", net=gemma) == "model.layers.1.mlp:out"
    assert sites.from_path("layers.1.mlp", "in", llama) == "model.layers.1.mlp:in"
    for net, norm in ((llama, "post_attention_layernorm"), (gemma, "pre_feedforward_layernorm"), (gpt2, "ln_2")):
        block = "transformer.h.1" if net is gpt2 else "model.layers.1"
        assert sites.from_lens("blocks.1.hook_resid_mid", net) == f"{block}.{norm}:in"
        assert sites.from_lens("blocks.1.mlp.hook_in", net) == f"{block}.mlp:in"
        assert net.site(f"{block}.{norm}:in") and net.site(f"{block}.mlp:in")
        assert sites.from_lens("blocks.1.hook_mlp_in", net) == f"{block}.{norm}:in"     # the stream, before the norm
    assert sites.from_lens("blocks.1.hook_resid_mid") == "" == sites.from_lens("blocks.1.hook_nothing", llama)
    assert sites.from_lens("blocks.1.mlp.hook_out", llama) == "blocks.1.mlp" and sites.from_lens("blocks.1.mlp.hook_out") == ""
    assert sites.from_lens("blocks.1.mlp.hook_out", gemma) == "model.layers.1.mlp:out"  # before the norm that follows it


def test_the_residual_stream_before_the_mlp_is_what_the_name_says():
    net = tiny_llama()
    seen = net.record(PLAIN[:60], ["embed", "blocks.0.attn", sites.from_lens("blocks.0.hook_resid_mid", net)])
    embed, attn, middle = seen.values()
    torch.testing.assert_close(embed + attn, middle)


# --- before a norm's gain ---------------------------------------------------------------------------------------------------

def with_gains(net: cw.Network) -> cw.Network:
    """Gains and biases of norms that are not what they begin as."""
    with torch.no_grad():
        for name, p in net.module.named_parameters():
            if "norm" in name or "ln_" in name:
                p.copy_(0.3 * torch.randn(p.shape) + (1 if name.endswith("weight") else 0))
    return net


def normalised(net: cw.Network, norm: str) -> torch.Tensor:
    """The stream as a norm normalises it, before its gain."""
    x = net.record(PLAIN[:60], f"{norm}:in")[f"{norm}:in"]
    module = net.module.get_submodule(norm)
    if isinstance(module, torch.nn.LayerNorm):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=module.eps)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + getattr(module, "eps", getattr(module, "variance_epsilon", 0)))


NORMS = {"llama": (tiny_llama, "model.layers.1.post_attention_layernorm"), "gpt2": (tiny_gpt2, "transformer.h.1.ln_2"),
         "gemma": (tiny_gemma, "model.layers.1.pre_feedforward_layernorm")}


@pytest.mark.parametrize("family", NORMS)
@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_before_a_norms_gain_gives_its_codes_at_the_mlps_input(family: str, skip: bool, tmp_path: Path):
    """Gemma Scope's are learned on what the norm gives before its gain (arXiv 2408.05147v2, page 18)."""
    made, norm = NORMS[family]
    net = with_gains(made())
    theirs = copied(net, skip)
    folder = save_dictionary(theirs, tmp_path / "out", "saelens")
    said = json.loads((folder / "cfg.json").read_text())
    said["metadata"].update(hook_name="blocks.1.ln2.hook_normalized", hf_hook_name=None, hook_name_out="blocks.1.hook_mlp_out")
    (folder / "cfg.json").write_text(json.dumps(said))
    assert load_dictionary(folder).site == ""
    ours = load_dictionary(folder, net=net)
    x = net.record(PLAIN[:60], ours.site)[ours.site]
    before = normalised(net, norm)
    assert float((x - before).abs().max()) > 0.1
    torch.testing.assert_close(ours(x), theirs(before), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.encode(x).dense(64), theirs.encode(before).dense(64), rtol=1e-4, atol=1e-4)


def test_gemma_scopes_transcoders_find_their_gain_by_their_path(tmp_path: Path):
    net = with_gains(tiny_gemma())
    theirs = copied(net, skip=False)
    folder = tmp_path / "gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_9"
    with pytest.raises(ValueError, match="read as what was learned before a norm's gain"):
        save_dictionary(theirs, folder, "gemma-scope")
    path = save_dictionary(theirs, tmp_path / "params.npz", "gemma-scope")
    folder.mkdir(parents=True)
    ours = load_dictionary(path.rename(folder / "params.npz"), net=net)
    assert (ours.site, ours.target) == ("model.layers.1.mlp:in", "blocks.1.mlp") and ours.splice(net)
    x = net.record(PLAIN[:60], ours.site)[ours.site]
    torch.testing.assert_close(ours(x), theirs(normalised(net, NORMS["gemma"][1])), rtol=1e-4, atol=1e-4)


def test_an_autoencoder_before_a_norms_gain_reconstructs_what_comes_after_it(tmp_path: Path):
    net = with_gains(tiny_gpt2())
    torch.manual_seed(0)
    theirs = Dictionary(16, 64, TopK(8), Facts())
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(0, 0.3)
    folder = save_dictionary(theirs, tmp_path / "out", "saelens")
    said = json.loads((folder / "cfg.json").read_text())
    said["metadata"]["hook_name"] = "blocks.1.ln2.hook_normalized"
    (folder / "cfg.json").write_text(json.dumps(said))
    ours = load_dictionary(folder, net=net)
    norm = net.module.get_submodule("transformer.h.1.ln_2")
    x = net.record(PLAIN[:60], ours.site)[ours.site]
    torch.testing.assert_close(ours(x), theirs(normalised(net, "transformer.h.1.ln_2")) * norm.weight + norm.bias,
                               rtol=1e-4, atol=1e-4)


# --- transcoders and normalised dictionaries in a network -----------------------------------------------------------------

def copied(net: cw.Network, skip: bool = True) -> Transcoder:
    """A transcoder whose skip connection is a random linear map, and whose latents add what it lacks."""
    torch.manual_seed(0)
    made = Transcoder(16, 64, ReLU(), Facts(site="model.layers.0.mlp:in"), skip=skip, target="blocks.0.mlp")
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(0, 0.2)
    return made.requires_grad_(False)


def test_a_transcoder_is_spliced_in_for_its_mlp():
    net = tiny_llama()
    made = copied(net)
    x = net.record(PLAIN[:60], "model.layers.0.mlp:in")["model.layers.0.mlp:in"]
    with net.edited(made.splice(net)):
        y = net.record(PLAIN[:60], "blocks.0.mlp")["blocks.0.mlp"]
    torch.testing.assert_close(y, made(x))
    z = (x @ made.W_enc.T + made.b_enc).relu()
    torch.testing.assert_close(y, z @ made.W_dec + made.b_dec + x @ made.W_skip.T, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="read at model.layers.0.mlp:in and written at blocks.0.mlp"):
        made.features(net)
    feature = cw.watch(net, made, cw.corpus([PLAIN[:1000]], net))[3]
    assert cw.steer(feature, 1.0).site == "blocks.0.mlp"
    with pytest.raises(ValueError, match="cannot be held at a value"):
        cw.clamp(feature)
    made.target = "embed"
    with pytest.raises(ValueError, match="embed is computed before model.layers.0.mlp:in is"), net.edited(made.splice(net)):
        net.logits(net.tokens(PLAIN[:60]))


def test_a_transcoder_is_evaluated_on_what_it_writes():
    net = tiny_llama()
    data = cw.corpus([PLAIN[:3000]], net)
    made = copied(net)
    figures = evaluate(net, made, data, tokens=None)
    x, y = (torch.cat([seen.kept(site) for seen in activations(net, data, [site])])
            for site in (made.site, made.target))
    fvu = float((made(x) - y).double().pow(2).sum() / (y - y.mean(0)).double().pow(2).sum())
    assert figures["fvu"].value == pytest.approx(fvu, rel=1e-4)
    assert figures["loss_spliced"].value != figures["loss"].value


def test_a_feature_of_a_normalised_dictionary_changes_the_site_by_its_direction():
    net = tiny_llama()
    torch.manual_seed(0)
    made = Normed(16, 64, TopK(8), Facts(site="blocks.0"), norm="layer_norm")
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(0, 0.3)
    x = net.record(PLAIN[:60], "blocks.0")["blocks.0"]
    codes = made.encode(x)
    latent = int(codes.indices[0, 5, int(codes.values[0, 5].argmax())])
    gate = torch.ones(64)
    gate[latent] = 0
    with net.edited(cw.Edit(made.features(net), gate=gate, over="u")):
        changed = net.record(PLAIN[:60], "blocks.0")["blocks.0"]
    torch.testing.assert_close(changed, x - codes.of(latent)[..., None] * made.W_dec[latent], rtol=1e-4, atol=1e-5)
    with net.edited(made.splice(net)):
        torch.testing.assert_close(net.record(PLAIN[:60], "blocks.0")["blocks.0"], made(x))


def test_a_dictionary_of_another_network_is_refused(tmp_path: Path):
    made = Dictionary(24, 64, TopK(4), Facts(site="blocks.1"))
    path = save_dictionary(made, tmp_path / "sae", "saelens")
    with pytest.raises(ValueError, match="width 24, but blocks.1 .* has 16"):
        load_dictionary(path, net=tiny_llama())


def test_a_transcoders_sites_are_found_with_the_network(tmp_path: Path):
    folder = tmp_path / "run" / "layers.1.mlp"
    folder.mkdir(parents=True)
    said = {"activation": "topk", "num_latents": 64, "k": 4, "d_in": 16, "transcode": True, "skip_connection": False}
    (folder / "cfg.json").write_text(json.dumps(said))
    save_file({"encoder.weight": torch.randn(64, 16), "encoder.bias": torch.zeros(64), "W_dec": torch.randn(64, 16),
               "b_dec": torch.zeros(16)}, folder / "sae.safetensors")
    net = tiny_llama()
    made = load_dictionary(folder, net=net)
    assert (made.site, made.target) == ("model.layers.1.mlp:in", "blocks.1.mlp") and made.splice(net)


# --- the command line -------------------------------------------------------------------------------------------------------

def run(*words: Any) -> None:
    main([str(word) for word in words])


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary of pico that keeps everything, in the form of eai-sparsify, which does not name its site."""
    made = Dictionary(256, 512, TopK(300), Facts())
    with torch.no_grad():
        made.W_dec.copy_(torch.cat([torch.eye(256), -torch.eye(256)]))
        made.W_enc.copy_(made.W_dec)
    return save_dictionary(made, tmp_path_factory.mktemp("theirs") / "unnamed", "sparsify")


def test_convert_checks_and_leaves_what_evaluate_reads(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="give --site"):
        run("convert", theirs, tmp_path / "out", "--model", "pico")
    assert not (tmp_path / "out").exists()
    run("convert", theirs, tmp_path / "out", "--model", "pico", "--site", "blocks.1")
    assert "FVU 0.0000 on" in capsys.readouterr().out
    run("evaluate", tmp_path / "out", "--tokens", "1k", "--data", "stdlib:test")
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())["blocks.1"]
    assert figures["fvu"]["value"] < 1e-6 and figures["loss_recovered_zero"]["value"] == pytest.approx(1, abs=1e-3)
    run("convert", tmp_path / "out", tmp_path / "lens", "--to", "saelens")
    assert load_dictionary(tmp_path / "lens").site == "blocks.1"
    run("convert", theirs, tmp_path / "skips", "--model", "pico", "--site", "blocks.1", "--skip-special")
    assert 0 in load_dictionary(tmp_path / "skips").facts.skip_tokens      # pico's begin token
    run("convert", tmp_path / "skips", tmp_path / "listed", "--to", "saelens")
    assert load_dictionary(tmp_path / "listed").facts.skip_tokens == load_dictionary(tmp_path / "skips").facts.skip_tokens


def test_convert_needs_no_network_for_a_file(theirs: Path, tmp_path: Path):
    run("convert", theirs, tmp_path / "one.safetensors")
    x = torch.randn(4, 256)
    assert torch.equal(load_dictionary(tmp_path / "one.safetensors")(x), load_dictionary(theirs)(x))
    for words, said in (((tmp_path / "run",), "--model"), ((tmp_path / "x", "--to", "nothing"), "there is no format 'nothing'"),
                        ((tmp_path / "x", "--to", "gemma-scope"), "this one is topk")):
        with pytest.raises(SystemExit, match=said) as stop:
            run("convert", theirs, *words)
        assert "\n" not in str(stop.value.code)
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_a_cross_layer_transcoder_is_checked_and_becomes_a_run(tmp_path: Path, capsys: pytest.CaptureFixture):
    """One that keeps the MLPs' inputs is no good at their outputs, and says so."""
    layers = 4
    torch.manual_seed(0)
    made = CrossLayer(256, 64, layers, ReLU(), 256, [f"model.layers.{i}.mlp:in" for i in range(layers)],
                      [f"blocks.{i}.mlp" for i in range(layers)])
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(0, 1.0)
    theirs = save_dictionary(made, tmp_path / "theirs", "cross-layer")
    with pytest.warns(UserWarning, match=r"explains less of [\d,]+ sample activations than their mean does"):
        run("convert", theirs, tmp_path / "out", "--model", "pico")
    assert "FVU" in capsys.readouterr().out
    run("evaluate", tmp_path / "out", "--tokens", "1k", "--data", "stdlib:test")
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["theirs"]["fvu"]["value"] > 1
    with pytest.raises(SystemExit, match="of width 16, but model.layers.0.mlp:in of pico has 256"):
        narrow = CrossLayer(16, 8, 1, ReLU(), 16, ["model.layers.0.mlp:in"], ["blocks.0.mlp"])
        run("convert", save_dictionary(narrow, tmp_path / "narrow", "cross-layer"), tmp_path / "out2", "--model", "pico")


def test_convert_of_several_leaves_all_or_none(tmp_path: Path):
    run_of = tmp_path / "run"
    for i, sparsify in enumerate((ReLU(), TopK(4))):
        Dictionary(16, 64, sparsify, Facts(site=f"blocks.{i}")).save(run_of / "dictionaries" / f"blocks.{i}.safetensors")
    with pytest.raises(SystemExit, match="gemma-scope-2|Gemma Scope 2"):
        run("convert", run_of, tmp_path / "out", "--to", "gemma-scope-2")
    assert not (tmp_path / "out").exists()
    run("convert", run_of, tmp_path / "out", "--to", "saelens")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["blocks.0", "blocks.1"]
