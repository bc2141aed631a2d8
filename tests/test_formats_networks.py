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
    return cw.open(hf.Gemma2ForCausalLM(hf.Gemma2Config(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, bos_token_id=None, eos_token_id=None)))


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
    assert sites.from_lens("blocks.1.hook_resid_mid") == "" == sites.from_lens("blocks.1.hook_nothing", llama)


def test_the_residual_stream_before_the_mlp_is_what_the_name_says():
    net = tiny_llama()
    seen = net.record(PLAIN[:60], ["embed", "blocks.0.attn", sites.from_lens("blocks.0.hook_resid_mid", net)])
    embed, attn, middle = seen.values()
    torch.testing.assert_close(embed + attn, middle)


# --- transcoders and normalised dictionaries in a network -----------------------------------------------------------------

def copied(net: cw.Network) -> Transcoder:
    """A transcoder whose skip connection is a random linear map, and whose latents add what it lacks."""
    torch.manual_seed(0)
    made = Transcoder(16, 64, ReLU(), Facts(site="model.layers.0.mlp:in"), skip=True, target="blocks.0.mlp")
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
    with pytest.raises(ValueError, match="use evaluate"):
        cw.profile(made, net, cw.corpus([PLAIN[:1000]], net))
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
