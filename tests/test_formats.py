"""Other projects' files: read as the projects themselves read them, with nothing guessed, and written back."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cutaway.dictionaries import Dictionary, Facts
from cutaway.dictionaries.abs_topk import LargestMagnitude
from cutaway.dictionaries.anchored import Normed
from cutaway.dictionaries.batch_topk import BatchLargest
from cutaway.dictionaries.gated import Gate
from cutaway.dictionaries.group_max import GroupLargest
from cutaway.dictionaries.jump import Jump
from cutaway.dictionaries.mp_sae import Pursuit
from cutaway.dictionaries.parts import ReLU, TopK
from cutaway.dictionaries.transcoder import Transcoder
from cutaway.formats import FORMATS, load_dictionaries, load_dictionary, save_dictionary
from cutaway.formats.tensors import tensors

FILES = Path(__file__).parent / "peers" / "files"
MANIFEST = json.loads((FILES / "manifest.json").read_text())
# What these files do not say, and a user must.
SAID: dict[str, dict[str, Any]] = {
    "sparsify/old/layers.3": {"center": True},
    "dictionary_learning/BatchTopKSAE_unmeasured": {"activation": "topk"}}
REFUSED = ("dictionary_learning/BatchTopKSAE_unmeasured", "saelens/temporal")     # read otherwise, and not at all
CROSS = [case for case in MANIFEST["cases"] if case.startswith("circuit_tracer/clt")]
PLAIN = [case for case in MANIFEST["cases"] if case not in (*REFUSED, *CROSS)]
D, WIDTH = 16, 64


def read(case: str, **said: Any) -> Any:
    inside = next((name for name in ("layer_3.safetensors", "7.pt") if (FILES / case / name).is_file()), "")
    return load_dictionary(FILES / case / inside, pickle=True, **SAID.get(case, {}), **said)


def expected(case: str) -> dict[str, Tensor]:
    return load_file(FILES / case / "expected.safetensors")


def codes_of(dictionary: Any, x: Tensor) -> Tensor:
    """Codes [n, width] in the units of the file."""
    codes = dictionary.encode(x)
    values = codes.values / getattr(codes, "scale", 1.0)
    return values.new_zeros(len(x), dictionary.width).scatter_add(-1, codes.indices, values)


def network() -> Any:
    """A Llama of four blocks and of these dictionaries' width."""
    import transformers as hf

    import cutaway as cw
    return cw.open(hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=8, hidden_size=D, intermediate_size=8, num_hidden_layers=4, num_attention_heads=2)))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def example(sparsify: Any = None, kind: type = Dictionary, **settings: Any) -> Any:
    torch.manual_seed(0)
    made = kind(D, WIDTH, sparsify or TopK(4), Facts(site="blocks.3", path="model.layers.3", network="tiny"), **settings)
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(0, 0.3)
        if "threshold" in made.extra:
            made.extra["threshold"].abs_()
    return made.requires_grad_(False)


def inputs(n: int = 8) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(1)) + torch.linspace(-1, 2, D)


# --- what the libraries themselves wrote ------------------------------------------------------------------------------

@pytest.mark.parametrize("case", PLAIN)
def test_codes_and_reconstructions_are_the_librarys_own(case: str):
    own = expected(case)
    made = read(case)
    close(codes_of(made, own["x"]), own["codes"])
    close(made(own["x"]), own["reconstruction"])


@pytest.mark.parametrize("case", PLAIN)
def test_a_saved_copy_computes_the_same(case: str, tmp_path: Path):
    made, x = read(case), expected(case)["x"]
    again = load_dictionary(made.save(tmp_path / "one.safetensors"))
    assert type(again) is type(made) and again.facts == made.facts and again.settings == made.settings
    assert torch.equal(again(x), made(x)) and torch.equal(codes_of(again, x), codes_of(made, x))


@pytest.mark.parametrize("case", CROSS)
def test_layers_of_a_cross_layer_transcoder_are_the_librarys_own(case: str):
    own, made = expected(case), read(case)
    for theirs, code in zip(own["codes"], made.encode(own["x"].unbind()), strict=True):
        close(code.dense(WIDTH), theirs)
    close(torch.stack(made(own["x"].unbind())), own["reconstruction"])


def test_codes_that_depend_on_earlier_tokens_are_refused():
    with pytest.raises(ValueError, match="architecture temporal, which cannot be read; standard, topk"):
        read("saelens/temporal")


def test_a_run_of_several_sites_is_read_whole(tmp_path: Path):
    for i in (0, 3):
        save_dictionary(example(), tmp_path / f"layers.{i}", "sparsify")
    (tmp_path / "config.json").write_text(json.dumps({"model": "tiny"}))
    made = load_dictionaries(tmp_path)
    assert list(made) == ["blocks.0", "blocks.3"] and made["blocks.3"].facts.network == "tiny"
    assert torch.equal(made["blocks.0"](inputs()), example()(inputs()))
    with pytest.raises(ValueError, match="no dictionaries that are known"):
        load_dictionaries(tmp_path / "layers.0" / "none")


def test_no_library_of_theirs_is_imported():
    read("saelens/topk"), read("sparsify/topk/layers.3"), read("dictionary_learning/AutoEncoder")
    assert not {"sae_lens", "sparsify", "dictionary_learning", "transformer_lens"} & set(sys.modules)


def test_sites_are_named_as_cutaway_names_them():
    assert read("saelens/topk").site == "blocks.3" and read("saelens/old_standard").site == "blocks.2"
    assert read("saelens/old_topk").site == "blocks.3.mlp" and read("sparsify/topk/layers.3").site == "blocks.3"
    one = read("saelens/skip_transcoder")
    assert (one.site, one.target, one.facts.network) == ("blocks.2", "blocks.3.mlp", "tiny")
    assert read("dictionary_learning/AutoEncoder").site == "blocks.3"
    assert (read("circuit_tracer/skip").site, read("circuit_tracer/skip").target) == ("blocks.2", "blocks.3.mlp")
    assert read("openai/resid_post_mlp_v5_32k/autoencoders").site == "blocks.7"


def test_one_heads_part_of_a_site_is_not_taken_for_the_site(tmp_path: Path):
    case = FILES / "saelens/topk"
    said = json.loads((case / "cfg.json").read_text())
    said["metadata"].update(hook_name="blocks.3.attn.hook_z", hook_head_index=1)
    (tmp_path / "cfg.json").write_text(json.dumps(said))
    (tmp_path / "sae_weights.safetensors").write_bytes((case / "sae_weights.safetensors").read_bytes())
    assert load_dictionary(tmp_path).site == "" and load_dictionary(tmp_path).facts.recipe["hook_head_index"] == 1


def test_the_models_own_name_is_believed_before_a_hooks(tmp_path: Path):
    """sae-lens calls the input of Gemma 3's MLPs hook_mlp_in, which is the stream before the norm."""
    case = FILES / "saelens/skip_transcoder"
    said = json.loads((case / "cfg.json").read_text())
    said["metadata"].update(hook_name="blocks.2.hook_mlp_in", hf_hook_name="model.layers.2.mlp.input")
    (tmp_path / "cfg.json").write_text(json.dumps(said))
    (tmp_path / "sae_weights.safetensors").write_bytes((case / "sae_weights.safetensors").read_bytes())
    assert load_dictionary(tmp_path).site == "" and load_dictionary(tmp_path, net=network()).site == "model.layers.2.mlp:in"


# --- known defects of readers and files ---------------------------------------------------------------------------------

def test_a_sparsify_mlp_is_not_taken_for_the_residual_stream():
    assert read("sparsify/skip/layers.3.mlp").site == "" and read("sparsify/skip/layers.3.mlp").facts.path == "layers.3.mlp"


def test_bfloat16_is_read_exactly_and_kept_only_when_asked():
    raw = tensors(FILES / "sparsify/bfloat16/layers.3/sae.safetensors")
    assert read("sparsify/bfloat16/layers.3").W_dec.dtype == torch.float32
    assert torch.equal(read("sparsify/bfloat16/layers.3").W_dec, raw["W_dec"].float())
    assert read("sparsify/bfloat16/layers.3", dtype=None).W_dec.dtype == torch.bfloat16


def test_a_sparsify_file_that_does_not_say_whether_it_is_a_transcoder_asks():
    with pytest.raises(ValueError, match="center=True or center=False"):
        load_dictionary(FILES / "sparsify/old/layers.3")
    plain, moved = (load_dictionary(FILES / "sparsify/old/layers.3", center=c) for c in (True, False))
    x = inputs()
    assert float((plain(x) - moved(x)).abs().max()) > 0.1


def test_the_scale_that_training_removed_is_not_needed_twice():
    """config.json lost its norm_factor, but the biases of a finished file are in the site's units."""
    own, made = expected("dictionary_learning/trained_scaled"), read("dictionary_learning/trained_scaled")
    config = json.loads((FILES / "dictionary_learning/trained_scaled/config.json").read_text())
    assert "norm_factor" not in json.dumps(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dictionary(FILES / "dictionary_learning/trained_scaled", pickle=True, sample=own["x"])
    shifted = own["x"] / 50
    assert float((made(shifted) - shifted).pow(2).sum() / shifted.pow(2).sum()) > 1


def test_a_threshold_that_was_never_measured_is_not_used():
    path = FILES / "dictionary_learning/BatchTopKSAE_unmeasured"
    with pytest.raises(ValueError, match=r"never measured: activation='topk' \(the k=4 .* threshold="):
        load_dictionary(path, pickle=True)
    own = expected("dictionary_learning/BatchTopKSAE_unmeasured")
    assert float((own["codes"] > 0).float().sum(1).mean()) > 20        # what the library itself gives for k = 4
    made = load_dictionary(path, pickle=True, activation="topk")
    assert made.encode(own["x"]).l0.max() <= 4
    higher = load_dictionary(path, pickle=True, activation="jumprelu", threshold=0.5)
    dense = codes_of(higher, own["x"])
    close(dense, torch.where(own["codes"] > 0.5, own["codes"], 0))


def test_a_backup_under_the_name_of_what_is_finished_is_seen(tmp_path: Path):
    case = FILES / "dictionary_learning/AutoEncoder"
    weights, x = tensors(case / "ae.pt", True), expected("dictionary_learning/AutoEncoder")["x"]
    scaled = {**weights, "encoder.bias": weights["encoder.bias"] / 2, "bias": weights["bias"] / 2}
    torch.save({"step": 5, "ae": scaled, "config": {}, "norm_factor": 2.0}, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match="scale=1.0 if so, otherwise scale=0.5"):
        load_dictionary(tmp_path, pickle=True)
    made = load_dictionary(tmp_path, pickle=True, scale=0.5)
    close(made(x), expected("dictionary_learning/AutoEncoder")["reconstruction"])


def test_classes_with_the_same_tensors_are_asked_for(tmp_path: Path):
    weights = (FILES / "dictionary_learning/BatchTopKSAE/ae.pt").read_bytes()
    (tmp_path / "ae.pt").write_bytes(weights)
    with pytest.raises(ValueError, match="activation='topk' .* or 'jumprelu'"):
        load_dictionary(tmp_path, pickle=True)
    x = expected("dictionary_learning/BatchTopKSAE")["x"]
    close(load_dictionary(tmp_path, pickle=True, activation="jumprelu")(x),
          expected("dictionary_learning/BatchTopKSAE")["reconstruction"])
    jump = tmp_path / "jump"
    jump.mkdir()
    (jump / "ae.pt").write_bytes((FILES / "dictionary_learning/JumpReluAutoEncoder/ae.pt").read_bytes())
    with pytest.raises(ValueError, match="center=False .* or center=True"):
        load_dictionary(jump, pickle=True)


def test_a_scale_kept_outside_the_file_is_asked_for(tmp_path: Path):
    case = FILES / "saelens/scale_beside"
    for name in ("cfg.json", "sae_weights.safetensors"):
        (tmp_path / name).write_bytes((case / name).read_bytes())
    with pytest.raises(ValueError, match="normalize_activations='expected_average_only_in'"):
        load_dictionary(tmp_path)
    own = expected("saelens/scale_beside")
    close(load_dictionary(tmp_path, scale=0.4)(own["x"]), own["reconstruction"])


def test_older_saelens_settings_are_honoured(tmp_path: Path):
    t, x = load_file(FILES / "saelens/old_standard/sae_weights.safetensors"), inputs()
    said = json.loads((FILES / "saelens/old_standard/cfg.json").read_text())

    def made(tensors: dict[str, Tensor], **settings: Any) -> Any:
        save_file(tensors, tmp_path / "sae_weights.safetensors")
        (tmp_path / "cfg.json").write_text(json.dumps({**said, **settings}))
        return load_dictionary(tmp_path)

    z = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    scaling = torch.rand(WIDTH) + 0.5
    tuned = made({**t, "scaling_factor": scaling}, finetuning_scaling_factor=True)
    close(codes_of(tuned, x), z.relu())
    close(tuned(x), (z.relu() * scaling) @ t["W_dec"] + t["b_dec"])
    close(made({**t, "scaling_factor": scaling}, finetuning_scaling_factor=False)(x), z.relu() @ t["W_dec"] + t["b_dec"])
    low = torch.rand(WIDTH).log()
    close(codes_of(made({**t, "log_threshold": low}, architecture="jumprelu"), x), z.relu() * (z > low.exp()))
    signed = made(t, activation_fn="topk", activation_fn_kwargs={"k": 4, "signed": True})
    assert (codes_of(signed, x) < 0).any() and signed.encode(x).l0.max() == 4
    with pytest.raises(ValueError, match="how many latents fire for each token"):
        made(t, activation_fn="topk")
    with pytest.raises(ValueError, match="activation tanh-relu, which cannot be read"):
        made(t, activation_fn="tanh-relu")
    with pytest.raises(ValueError, match="its inputs, which SAELens"):
        made(t, normalize_activations=True)
    with pytest.raises(ValueError, match="normalize_activations='other'"):
        made(t, normalize_activations="other")


def test_a_norm_of_each_token_is_kept_with_its_codes():
    made, x = read("saelens/layer_norm"), expected("saelens/layer_norm")["x"]
    first = made.encode(x[:3])
    made.encode(x[3:])                       # nothing of this may be left over when the first are decoded
    close(made.decode(first), expected("saelens/layer_norm")["reconstruction"][:3])
    with pytest.raises(ValueError, match="its own encode gave"):
        made.decode(type(read("saelens/topk").encode(x))(first.values, first.indices))


def test_openai_files_layer_normalise_where_they_say_topk(tmp_path: Path):
    made, x = example(kind=Normed, norm="layer_norm"), inputs()
    path = save_dictionary(made, tmp_path / "resid_post_mlp_v5_32k" / "autoencoders" / "7.pt", "openai")
    read_back = load_dictionary(path, pickle=True)
    held = torch.load(path, weights_only=True)
    assert held["activation"] == "TopK" and held["activation_state_dict"] == {"k": 4, "postact_fn": "ReLU"}
    theirs = torch.load(FILES / "openai/resid_post_mlp_v5_32k/autoencoders/7.pt", weights_only=True)
    assert {name: (x.shape, x.dtype) for name, x in theirs.items() if isinstance(x, Tensor)} == {
        name: (x.shape, x.dtype) for name, x in held.items() if isinstance(x, Tensor)}       # their class loads strictly
    assert read_back.site == "blocks.7" and read_back.facts.network == "gpt2"
    mean = x.mean(-1, keepdim=True)
    std = (x - mean).std(-1, keepdim=True)
    z = ((x - mean) / (std + 1e-5) - held["pre_bias"]) @ held["encoder.weight"].T + held["latent_bias"]
    top = z.topk(4, dim=-1)
    codes = torch.zeros_like(z).scatter(-1, top.indices, top.values.relu())
    close(codes_of(read_back, x), codes)
    close(read_back(x), (codes @ held["decoder.weight"].T + held["pre_bias"]) * std + mean)


# --- nothing is guessed, and nothing is run ------------------------------------------------------------------------------

def test_a_pickle_is_read_only_when_asked_and_never_run(tmp_path: Path):
    with pytest.raises(ValueError, match="pickle=True"):
        load_dictionary(FILES / "dictionary_learning/AutoEncoder")

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "run",))

    with open(tmp_path / "ae.pt", "wb") as file:
        pickle.dump({"a": Evil()}, file, protocol=2)
    with pytest.raises(ValueError, match="ae.pt"):
        load_dictionary(tmp_path, pickle=True)
    torch.save({"bias": Evil()}, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match="more in it than weights"):
        load_dictionary(tmp_path, pickle=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("said", "words"), [
    ({"center": False}, "says center=True, but center=False"), ({"activation": "relu"}, "says activation='topk'"),
    ({"k": 5}, "says k=4, but k=5"), ({"threshold": 0.1}, "threshold has no meaning"), ({"site": "blocks.2"}, "says site="),
    ({"dtype": "int8"}, "dtype is one of"), ({"format": "sae-lens"}, "there is no format 'sae-lens'; the formats are cutaway"),
    ({"scale": "batch_norm"}, "scale")])
def test_what_contradicts_the_file_or_means_nothing_is_refused(said: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        load_dictionary(FILES / "sparsify/topk/layers.3", **said)


def test_damaged_and_foreign_files_give_one_sentence(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nothing at"):
        load_dictionary(tmp_path / "absent")
    with pytest.raises(ValueError, match="say which it is: format="):
        load_dictionary(tmp_path)
    case = FILES / "saelens/topk"
    (tmp_path / "cfg.json").write_text((case / "cfg.json").read_text())
    (tmp_path / "sae_weights.safetensors").write_bytes((case / "sae_weights.safetensors").read_bytes()[:-200])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_dictionary(tmp_path)
    held = load_file(case / "sae_weights.safetensors")
    save_file({**held, "b_enc": torch.zeros(3)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ValueError, match=r"b_enc should be \[64\] .* found \[3\]"):
        load_dictionary(tmp_path)
    save_file(held, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "temporal", "d_in": 16, "metadata": {}}))
    with pytest.raises(ValueError, match="temporal, which cannot be read"):
        load_dictionary(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match="not whole"):
        load_dictionary(tmp_path)


def test_what_a_file_lacks_is_named(tmp_path: Path):
    case = FILES / "saelens/topk"
    held = load_file(case / "sae_weights.safetensors")
    del held["b_enc"]
    save_file(held, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text((case / "cfg.json").read_text())
    with pytest.raises(ValueError, match=r"sae_weights.safetensors lacks 'b_enc'; it holds W_dec, W_enc, b_dec\.$"):
        load_dictionary(tmp_path)
    own = tmp_path / "layers.3"
    own.mkdir()
    (own / "sae.safetensors").write_bytes((FILES / "sparsify/topk/layers.3/sae.safetensors").read_bytes())
    (own / "cfg.json").write_text("{}")
    with pytest.raises(ValueError, match="cfg.json lacks 'k'; it holds nothing"):
        load_dictionary(own)
    for k in ("many", 0, 65, 1.5):
        (own / "cfg.json").write_text(json.dumps({"k": k, "transcode": False}))
        with pytest.raises(ValueError, match=f"whole number of latents for each token, from 1 to 64; found k={k!r}"):
            load_dictionary(own)


@pytest.mark.parametrize(("format", "words"), [
    ("saelens", "no cfg.json"), ("sparsify", "no cfg.json"), ("dictionary-learning", "no file .*ae.pt"),
    ("openai", "is a folder"), ("gemma-scope", "no file .*params.npz"), ("gemma-scope-2", "no file .*params.safetensors"),
    ("llama-scope", "no hyperparams.json"), ("circuit-tracer", "should be a file layer_<i>.safetensors"),
    ("cross-layer", "no folder of a cross-layer transcoder"), ("cutaway", "no dictionaries of Cutaway")])
def test_the_wrong_folder_for_a_format_is_told_in_one_sentence(format: str, words: str, tmp_path: Path):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        load_dictionary(tmp_path, format, pickle=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(("case", "name", "words"), [
    ("saelens/topk", "sae_weights.safetensors", "not a whole safetensors file"),
    ("dictionary_learning/AutoEncoder", "ae.pt", "not a whole file of torch.save"),
    ("circuit_tracer/relu", "layer_3.safetensors", "not a whole safetensors file")])
@pytest.mark.parametrize("kept", [0, 7, 1000])
def test_part_of_a_file_is_told_in_one_sentence(case: str, name: str, words: str, kept: int, tmp_path: Path):
    for path in (FILES / case).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: kept if path.name == name else None])
    with pytest.raises(ValueError, match=words) as error:
        load_dictionary(tmp_path / (name if "tracer" in case else ""), pickle=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(tmp_path))


def test_negative_thresholds_of_circuit_tracer_are_not_taken_for_others(tmp_path: Path):
    for name in ("config.yaml", "layer_3.safetensors"):
        (tmp_path / name).write_bytes((FILES / "circuit_tracer/jumprelu" / name).read_bytes())
    held, name = load_file(tmp_path / "layer_3.safetensors"), "activation_function.threshold"
    save_file({**held, name: -held[name]}, tmp_path / "layer_3.safetensors")
    with pytest.raises(ValueError, match="thresholds below 0"):
        load_dictionary(tmp_path / "layer_3.safetensors")


def test_dictionaries_of_several_sites_are_not_taken_for_one(tmp_path: Path):
    """A fork of dictionary_learning writes crosscoders with the names of an autoencoder's tensors."""
    weights = {"encoder.weight": torch.zeros(2, D, WIDTH), "encoder.bias": torch.zeros(WIDTH),
               "decoder.weight": torch.zeros(2, WIDTH, D), "decoder.bias": torch.zeros(2, D)}
    torch.save(weights, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match="of two axes; its W_enc is .*dictionaries of several sites"):
        load_dictionary(tmp_path, pickle=True)


def test_sample_activations_show_a_wrong_convention():
    own = expected("dictionary_learning/trained_scaled")["x"]
    with pytest.warns(UserWarning, match="FVU .*or a convention is wrong"):
        load_dictionary(FILES / "dictionary_learning/trained_scaled", pickle=True, sample=own / 50)


# --- formats that say little, by their formulas ---------------------------------------------------------------------------

def gemma(tmp_path: Path, name: str, save: Any = np.savez, d_out: int = D) -> tuple[Path, dict[str, np.ndarray]]:
    draw = np.random.default_rng(0).standard_normal
    arrays = {"W_enc": draw((D, WIDTH)), "W_dec": draw((WIDTH, d_out)), "b_enc": draw(WIDTH), "b_dec": draw(d_out),
              "threshold": np.abs(draw(WIDTH))}
    path = tmp_path / name / "params.npz"
    path.parent.mkdir(parents=True)
    save(path, **{key: value.astype(np.float32) for key, value in arrays.items()})
    return path, {key: value.astype(np.float32) for key, value in arrays.items()}


def jump(x: Tensor, a: dict[str, Any], enc: str = "W_enc") -> Tensor:
    z = x @ torch.as_tensor(a[enc]) + torch.as_tensor(a["b_enc"])
    return z.relu() * (z > torch.as_tensor(a["threshold"]))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_gemma_scope_does_not_subtract_and_its_site_is_in_its_path(tmp_path: Path, save: Any):
    path, a = gemma(tmp_path, "gemma-scope-2b-pt-att/layer_5/width_16k/average_l0_9", save)
    made, x = load_dictionary(path), inputs()
    assert (made.site, made.facts.network) == ("blocks.5.attn.heads", "google/gemma-2-2b")
    close(codes_of(made, x), jump(x, a))
    close(made(x), jump(x, a) @ torch.from_numpy(a["W_dec"]) + torch.from_numpy(a["b_dec"]))


def test_gemma_scope_transcoders_and_embeddings(tmp_path: Path):
    path, a = gemma(tmp_path, "gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_9", d_out=12)
    made, x = load_dictionary(path), inputs()
    assert isinstance(made, Transcoder) and (made.site, made.target) == ("", "blocks.5.mlp")    # before a norm's gain
    with pytest.raises(ValueError, match="before a norm's gain and so no site .* leave out site, and give the network"):
        load_dictionary(path, site="model.layers.5.mlp:in")
    close(made(x), jump(x, a) @ torch.from_numpy(a["W_dec"]) + torch.from_numpy(a["b_dec"]))
    path, a = gemma(tmp_path, "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6")
    with pytest.raises(ValueError, match="scale=1.0 for activations at `embed`, or scale=4 for rows"):
        load_dictionary(path)
    assert load_dictionary(path, scale=1.0).site == "embed"
    close(codes_of(load_dictionary(path, scale=4.0), x), jump(4 * x, a))


def test_gemma_scope_without_a_telling_path_takes_the_users_word(tmp_path: Path):
    path, a = gemma(tmp_path, "somewhere")
    assert load_dictionary(path).site == "" and load_dictionary(path, site="blocks.4").site == "blocks.4"
    both = load_dictionary(path, site="model.layers.4.mlp:in", target="blocks.4.mlp")
    assert isinstance(both, Transcoder) and both.target == "blocks.4.mlp"


def test_gemma_scope_2_reads_hooks_and_an_affine_connection_that_is_not_transposed(tmp_path: Path):
    torch.manual_seed(0)
    t = {"w_enc": torch.randn(D, WIDTH), "w_dec": torch.randn(WIDTH, 12), "b_enc": torch.randn(WIDTH), "b_dec": torch.randn(12),
         "threshold": torch.rand(WIDTH), "affine_skip_connection": torch.randn(D, 12)}
    folder = tmp_path / "transcoder_all" / "layer_7_width_16k_l0_small_affine"
    folder.mkdir(parents=True)
    save_file(t, folder / "params.safetensors")
    made, x = load_dictionary(folder), inputs()      # hooks from the folders' names
    assert (made.site, made.target) == ("model.layers.7.mlp:in", "blocks.7.mlp")
    close(made(x), jump(x, t, "w_enc") @ t["w_dec"] + t["b_dec"] + x @ t["affine_skip_connection"])
    hooks = {"architecture": "jump_relu", "hf_hook_point_in": "model.layers.9.output"}
    (folder / "config.json").write_text(json.dumps(hooks))
    square = {**t, "w_dec": torch.randn(WIDTH, D), "b_dec": torch.randn(D)}
    del square["affine_skip_connection"]
    save_file(square, folder / "params.safetensors")
    assert load_dictionary(folder).site == "blocks.9" and type(load_dictionary(folder)) is Dictionary


def test_llama_scope_scales_its_input_and_compares_in_scaled_units(tmp_path: Path):
    torch.manual_seed(0)
    t = {"encoder.weight": torch.randn(WIDTH, D), "encoder.bias": torch.randn(WIDTH), "decoder.bias": torch.randn(12),
         "decoder.weight": torch.nn.functional.normalize(torch.randn(12, WIDTH), dim=0)}
    said = {"d_model": D, "d_sae": WIDTH, "act_fn": "jumprelu", "jump_relu_threshold": 0.7, "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": {"in": 8.0, "out": 2.0}, "hook_point_in": "blocks.8.ln2.hook_normalized",
            "hook_point_out": "blocks.8.hook_mlp_out", "top_k": 50}
    (tmp_path / "checkpoints").mkdir()
    save_file(t, tmp_path / "checkpoints" / "final.safetensors")
    (tmp_path / "hyperparams.json").write_text(json.dumps(said))
    made, x = load_dictionary(tmp_path), inputs()
    z = (x * D**0.5 / 8) @ t["encoder.weight"].T + t["encoder.bias"]
    codes = z * (z > 0.7)
    close(codes_of(made, x), codes)
    close(made(x), (codes @ t["decoder.weight"].T + t["decoder.bias"]) * 2 / 12**0.5)
    assert made.target == "blocks.8.mlp"
    t["decoder.weight"] *= 1 + torch.rand(WIDTH)
    save_file(t, tmp_path / "checkpoints" / "final.safetensors")
    with pytest.raises(ValueError, match="by_norm=True or False"):
        load_dictionary(tmp_path)
    norms = t["decoder.weight"].norm(dim=0)
    codes = z * (z * norms > 0.7)
    close(load_dictionary(tmp_path, by_norm=True)(x), (codes @ t["decoder.weight"].T + t["decoder.bias"]) * 2 / 12**0.5)
    del said["dataset_average_activation_norm"]
    (tmp_path / "hyperparams.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="by what the input is multiplied first"):
        load_dictionary(tmp_path, by_norm=True)


def test_llama_scopes_later_files_have_a_threshold_for_each_latent(tmp_path: Path):
    torch.manual_seed(0)
    t = {"encoder.weight": torch.randn(WIDTH, D), "encoder.bias": torch.randn(WIDTH), "decoder.bias": torch.randn(D),
         "decoder.weight": torch.nn.functional.normalize(torch.randn(D, WIDTH), dim=0),
         "log_jumprelu_threshold": torch.randn(WIDTH)}
    said = {"d_model": D, "expansion_factor": 4, "act_fn": "jumprelu", "norm_activation": "dataset-wise",
            "hook_point_in": "blocks.8.hook_resid_post", "hook_point_out": "blocks.8.hook_resid_post"}
    save_file(t, tmp_path / "sae_weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="by what the input is multiplied first"):
        load_dictionary(tmp_path)
    made, x = load_dictionary(tmp_path, scale=0.5), inputs()
    z = 0.5 * x @ t["encoder.weight"].T + t["encoder.bias"]
    codes = z * (z > t["log_jumprelu_threshold"].exp())
    close(codes_of(made, x), codes)
    close(made(x), (codes @ t["decoder.weight"].T + t["decoder.bias"]) / 0.5)
    assert made.site == "blocks.8"


def test_a_circuit_tracer_set_is_read_by_layer_in_both_layouts(tmp_path: Path):
    torch.manual_seed(0)
    (tmp_path / "config.yaml").write_text("model_kind: transcoder_set\nmodel_name: tiny\nfeature_input_hook: hook_resid_pre\n"
                                          "feature_output_hook: hook_mlp_out\n")
    t = {"W_enc": torch.randn(WIDTH, D), "W_dec": torch.randn(WIDTH, D), "b_enc": torch.randn(WIDTH), "b_dec": torch.randn(D)}
    skip = {"W_skip": torch.randn(D, D), "activation_function.threshold": torch.rand(WIDTH)}
    save_file(t, tmp_path / "layer_0.safetensors")
    save_file({**t, "W_dec": t["W_dec"].T.contiguous(), **skip}, tmp_path / "layer_1.safetensors")
    with pytest.raises(ValueError, match="several, which load_dictionaries reads"):
        load_dictionary(tmp_path)
    made, x = load_dictionaries(tmp_path), inputs()
    assert list(made) == ["embed", "blocks.0"] and [one.target for one in made.values()] == ["blocks.0.mlp", "blocks.1.mlp"]
    z = x @ t["W_enc"].T + t["b_enc"]
    close(made["embed"](x), z.relu() @ t["W_dec"] + t["b_dec"])
    jumped = z.relu() * (z > skip["activation_function.threshold"])
    close(made["blocks.0"](x), jumped @ t["W_dec"] + t["b_dec"] + x @ skip["W_skip"].T)


@pytest.mark.parametrize("whole", [False, True])
def test_a_cross_layer_transcoder_is_never_summed_over_its_targets(tmp_path: Path, whole: bool):
    """Gemma Scope 2: w_dec [width, targets, d]; the targets are the later layers, or all with zeros for the earlier."""
    torch.manual_seed(0)
    folder, layers, n = tmp_path / "clt" / "width_64", [], 3
    folder.mkdir(parents=True)
    for i in range(n):
        t = {"w_enc": torch.randn(D, WIDTH), "w_dec": torch.randn(WIDTH, n if whole else n - i, D), "b_enc": torch.randn(WIDTH),
             "b_dec": torch.randn(D), "threshold": torch.rand(WIDTH)}
        if whole:
            t["w_dec"][:, :i] = 0
        layers.append(t)
        save_file(t, folder / f"layer_{i}_width_64_l0_small.safetensors")
    made = load_dictionary(folder)
    x = [inputs() + i for i in range(n)]
    codes = [jump(x[i], layers[i], "w_enc") for i in range(n)]
    written = [layers[j]["b_dec"] + sum(codes[i] @ layers[i]["w_dec"][:, j if whole else j - i] for i in range(j + 1))
               for j in range(n)]
    for own, y in zip(made(x), written, strict=True):
        close(own, y)
    assert float((made(x)[0] - (codes[0] @ layers[0]["w_dec"].sum(1) + layers[0]["b_dec"])).abs().max()) > 1
    assert made.sites[1] == "model.layers.1.mlp:in" and made.targets[2] == "blocks.2.mlp"
    (folder / "params.safetensors").write_bytes((folder / "layer_0_width_64_l0_small.safetensors").read_bytes())
    with pytest.raises(ValueError, match="their sum is not what any of them gets"):
        load_dictionary(folder / "params.safetensors")
    (folder / "params.safetensors").unlink()
    (folder / "layer_1_width_64_l0_small.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks layers 1"):
        load_dictionary(folder)


def test_a_set_that_lists_its_files_is_read_from_them(tmp_path: Path):
    path, a = gemma(tmp_path, "layer_0/width_16k/average_l0_9")
    (tmp_path / "config.yaml").write_text("transcoders: [layer_0/width_16k/average_l0_9/params.npz]\n")
    assert torch.equal(load_dictionaries(tmp_path)["0"].W_dec, torch.from_numpy(a["W_dec"]))
    (tmp_path / "config.yaml").write_text("transcoders: ['hf://google/gemma/layer_0/params.npz']\n")
    with pytest.raises(ValueError, match="lists hf:/google/gemma/layer_0/params.npz, which is not in its folder; download"):
        load_dictionaries(tmp_path)
    (tmp_path / "config.yaml").write_text("transcoders: [")
    with pytest.raises(ValueError, match="config.yaml is not whole"):
        load_dictionaries(tmp_path)


def yaml_of(folder: Path) -> tuple[str, str]:
    from cutaway.formats.tensors import config
    said = config(folder / "config.yaml")
    return said["feature_input_hook"], said["feature_output_hook"]


def test_cross_layer_files_of_circuit_tracer_and_cutaway_hold_the_same(tmp_path: Path):
    folder = tmp_path / "set" / "clt"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    (folder / "config.yaml").write_text("feature_input_hook: hook_resid_pre\nfeature_output_hook: hook_mlp_out\n")
    for i in range(3):
        save_file({f"W_enc_{i}": torch.randn(WIDTH, D), f"b_enc_{i}": torch.randn(WIDTH), f"b_dec_{i}": torch.randn(D)},
                  folder / f"W_enc_{i}.safetensors")
        save_file({f"W_dec_{i}": torch.randn(WIDTH, 3 - i, D)}, folder / f"W_dec_{i}.safetensors")
    made, x = load_dictionary(folder), [inputs()] * 3
    assert yaml_of(save_dictionary(made, tmp_path / "again", "cross-layer")) == yaml_of(folder)
    assert made.sites == ("embed", "blocks.0", "blocks.1")
    for name, format in (("own", "cutaway"), ("theirs", "cross-layer")):
        again = load_dictionary(save_dictionary(made, tmp_path / name, format))
        for a, b in zip(again(x), made(x), strict=True):
            assert torch.equal(a, b)


# --- written and read again --------------------------------------------------------------------------------------------

TO = [("saelens", TopK(4)), ("saelens", ReLU()), ("saelens", Jump()), ("saelens", LargestMagnitude(4)),
      ("saelens", Pursuit(4, 0.5, True)), ("sparsify", TopK(4)),
      ("sparsify", GroupLargest(4)), ("dictionary-learning", TopK(4)), ("dictionary-learning", ReLU()),
      ("dictionary-learning", Jump()), ("openai", ReLU()), ("gemma-scope", Jump()), ("gemma-scope", ReLU()),
      ("gemma-scope-2", Jump()), ("llama-scope", TopK(4)), ("llama-scope", ReLU())]


@pytest.mark.parametrize(("format", "sparsify"), TO, ids=[f"{f}-{type(s).__name__}" for f, s in TO])
def test_what_is_written_is_read_as_the_same(tmp_path: Path, format: str, sparsify: Any):
    made, x = example(sparsify), inputs()
    path = save_dictionary(made, tmp_path / "layers.3", format)
    again = load_dictionary(path, format, pickle=True)
    close(codes_of(again, x), codes_of(made, x))
    close(again(x), made(x))
    assert again.site in ("blocks.3", "") and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("sparsify", [Gate(), BatchLargest(4)])
def test_what_only_trains_is_written_as_what_it_is_at_inference(tmp_path: Path, sparsify: Any):
    made, x = example(sparsify), inputs()
    for value in made.extra.values():
        value.abs_()
    again = load_dictionary(save_dictionary(made, tmp_path / "out", "saelens"))
    assert isinstance(again.sparsify, Jump)
    close(codes_of(again, x), codes_of(sparsify.inference(made), x))
    if isinstance(sparsify, Gate):
        close(again(x), made(x))


@pytest.mark.parametrize("format", ["saelens", "gemma-scope-2", "circuit-tracer"])
@pytest.mark.parametrize("sparsify", [ReLU(), Jump()])
@pytest.mark.parametrize("skip", [False, True])
def test_transcoders_are_written_with_their_skip_connection(tmp_path: Path, format: str, sparsify: Any, skip: bool):
    made, x = example(sparsify, Transcoder, d_out=12, skip=skip, target="blocks.3.mlp"), inputs()
    path = save_dictionary(made, tmp_path / "out", format)
    again = load_dictionary(path / "layer_3.safetensors" if format == "circuit-tracer" else path)
    close(again(x), made(x))
    close(codes_of(again, x), codes_of(made, x))
    assert (again.site, again.target) == ("blocks.3", "blocks.3.mlp")


@pytest.mark.parametrize("format", ["saelens", "gemma-scope-2", "circuit-tracer"])
@pytest.mark.parametrize("site", ["blocks.2", "model.layers.3.mlp:in"])
def test_where_a_transcoder_reads_is_not_lost(tmp_path: Path, format: str, site: str):
    made = example(ReLU(), Transcoder, target="blocks.3.mlp")
    made.facts = Facts(site=site, path="model.layers.3.mlp")
    path = save_dictionary(made, tmp_path / "out", format)
    net = network()
    again = load_dictionary(path / "layer_3.safetensors" if format == "circuit-tracer" else path, net=net)
    assert (again.site, again.target) == (site, "blocks.3.mlp")


def test_a_format_that_cannot_hold_a_dictionary_says_so_and_leaves_nothing(tmp_path: Path):
    for format, made, words in (
            ("sparsify", example(Jump()), "topk, groupmax dictionaries; this one is jumprelu"),
            ("gemma-scope", example(TopK(4)), "this one is topk"), ("openai", example(TopK(4)), "topk with no norm"),
            ("llama-scope", example(Jump()), "one threshold for all latents"),
            ("saelens", example(kind=Normed), "normalises each token"),
            ("circuit-tracer", example(ReLU()), "an autoencoder"),
            ("circuit-tracer", example(ReLU(), Transcoder, target="blocks.5.mlp"), "no such name in layer 5"),
            ("cross-layer", example(ReLU()), "cross-layer"),
            ("sae-lens", example(ReLU()), "there is no format")):
        with pytest.raises(ValueError, match=words):
            save_dictionary(made, tmp_path / "out", format)
    assert not list(tmp_path.iterdir())


# --- lazily, and fast -----------------------------------------------------------------------------------------------------

def test_rows_are_mapped_and_not_read(tmp_path: Path):
    path, a = gemma(tmp_path, "x")
    mapped = FORMATS["gemma-scope"].read(path, False, None).W_dec
    assert torch.equal(mapped[[5, 9]], torch.from_numpy(a["W_dec"])[[5, 9]])
    before = path.read_bytes()
    mapped[0] = 0                                   # a copy in memory is changed, and never the file
    assert path.read_bytes() == before
    found = FORMATS["saelens"].read(FILES / "saelens/topk", False, None)
    weights = FILES / "saelens/topk/sae_weights.safetensors"
    held = FORMATS["dictionary-learning"].read(FILES / "dictionary_learning/AutoEncoder", True, None)
    assert found.W_dec.shape == held.W_dec.shape == (WIDTH, D)
    if Path("/proc/self/maps").exists():
        maps = Path("/proc/self/maps").read_text()
        assert all(str(file) in maps for file in (path, weights, FILES / "dictionary_learning/AutoEncoder/ae.pt"))


def test_a_dictionary_is_opened_without_a_copy_and_computes_by_rows_from_then_on():
    """The encoders of SAELens and the decoders of dictionary_learning lie by columns."""
    for case, name in (("saelens/topk", "W_enc"), ("dictionary_learning/AutoEncoderTopK", "W_dec")):
        made, x = read(case), expected(case)["x"]
        row = getattr(made, name)[7].clone()
        assert not getattr(made, name).is_contiguous()
        codes = made.encode(x)
        assert getattr(made, name).is_contiguous() and torch.equal(getattr(made, name)[7], row)
        close(made.decode(codes), expected(case)["reconstruction"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_opening_a_large_file_and_ten_rows_of_it_takes_neither_time_nor_memory(tmp_path: Path):
    """128 MB by columns, in a process of its own."""
    big = np.ones((1024, 16384), np.float32)
    save_file({"W_enc": torch.from_numpy(big), "W_dec": torch.ones(16384, 1024), "b_enc": torch.zeros(16384),
               "b_dec": torch.zeros(1024)}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "topk", "k": 4, "metadata": {}}))
    script = """
import sys, time
from pathlib import Path
from cutaway.formats import load_dictionary
def own():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
before, began = own(), time.process_time()
made = load_dictionary(sys.argv[1])
print(made.W_dec[5:15].sum().item(), made.W_enc[5:15].sum().item(), own() - before, time.process_time() - began)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    rows, encoder, memory, seconds = map(float, done.stdout.split())
    assert rows == encoder == 10 * 1024 and memory < 16_000 and seconds < 0.5
