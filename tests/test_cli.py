"""The command line: what a user types, what is left in the folder, and one sentence for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cutaway.cli import main


def run(*words: str) -> None:
    main(list(words))


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*words)
    assert stop.value.code not in (0, None)
    said = str(stop.value.code)
    assert said.startswith("cutaway: ") and "\n" not in said and "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "learn"
    run("learn", "pico", "--site", "blocks.1", "--tokens", "20k", "--batch", "1024", "--set", "width=128", "k=8",
        "--out", str(out))
    return out


def test_learn_leaves_dictionaries_history_and_configuration(learned: Path):
    config = json.loads((learned / "config.json").read_text())
    assert config["command"] == "learn" and config["arguments"]["set"] == ["width=128", "k=8"]
    assert (learned / "dictionaries" / "blocks.1.safetensors").exists()
    assert json.loads((learned / "history.json").read_text())["blocks.1"][-1]["l0"] <= 8
    assert not list(learned.glob("checkpoint*")) and not list(learned.rglob("*.part"))


def test_evaluate_and_features_read_it(learned: Path, capsys: pytest.CaptureFixture):
    run("evaluate", str(learned), "--tokens", "2k")
    figures = json.loads((learned / "figures.json").read_text())["blocks.1"]
    assert 0 < figures["fvu"]["value"] < 1 and figures["loss_recovered_zero"]["baseline"] == "zero ablation"
    run("features", str(learned), "--tokens", "4k", "--n", "2")
    assert "Feature" in capsys.readouterr().out
    run("features", str(learned), "--tokens", "2k", "--text", "import os")
    assert "import" in capsys.readouterr().out


def test_rerun_gives_the_same_dictionary(learned: Path, tmp_path: Path):
    run("rerun", str(learned), "--out", str(tmp_path / "again"))
    first, again = ((folder / "dictionaries" / "blocks.1.safetensors").read_bytes() for folder in (learned, tmp_path / "again"))
    assert first == again


def test_score_and_edit(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    run("score", "pico", "--kind", "heads", "--by", "fisher", "--tokens", "1k", "--sample", "8",
        "--out", str(tmp_path / "score"))
    assert (tmp_path / "score" / "units.parquet").exists() and (tmp_path / "score" / "units.png").exists()
    assert "rank correlation" in capsys.readouterr().out
    run("edit", "pico", "--zero", "blocks.0.attn.heads:0,1", "--steer", f"{learned}:3:2.0", "--prompt", "def ",
        "--new-tokens", "4", "--tokens", "1k", "--out", str(tmp_path / "edit"))
    figures = json.loads((tmp_path / "edit" / "figures.json").read_text())
    assert figures["after"]["kl"]["value"] > 0 and figures["texts"]["def "]["before"].startswith("def ")


def test_sites_and_catalogue(capsys: pytest.CaptureFixture):
    run("sites", "pico")
    assert "blocks.5.mlp.neurons" in capsys.readouterr().out
    run("catalogue", "dictionary")
    assert "topk" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "says"), [
    (("learn", "pico", "--site", "blocks.9"), "blocks.5"),
    (("learn", "pico", "--method", "top-k"), "topk"),
    (("learn", "pico", "--set", "depth=3"), "width=4096"),
    (("learn", "pico", "--set", "k=many"), "k is a number"),
    (("learn", "pico", "--tokens", "lots"), "500k"),
    (("learn", "./nowhere"), "no folder"),
    (("learn", "pico", "--data", "nothing/*.txt"), "nothing"),
    (("evaluate", "nowhere"), "config.json"),
    (("score", "pico", "--kind", "haeds"), "heads"),
    (("edit", "pico"), "--zero"),
    (("edit", "pico", "--zero", "blocks.0.attn.heads:99"), "0 to 7"),
    (("edit", "pico", "--steer", "runs/learn"), "RUN:FEATURE:NUMBER"),
    (("catalogue", "nothing"), "dictionary"),
])
def test_bad_input_is_one_sentence(words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *words)
    assert not list(tmp_path.rglob("*.safetensors"))
