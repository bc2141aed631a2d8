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
    (("learn", "pico", "--tokens", "inf"), "500k"),
    (("learn", "pico", "--tokens", "5kk"), "500k"),
    (("learn", "pico", "--batch", "0"), "at least one activation"),
    (("learn", "pico", "--seed", "-1"), "a whole number from 0"),
    (("learn", "pico", "--set", "width=0"), "the width 0"),
    (("learn", "pico", "--set", "width=16", "k=17"), "the width 16; found 17"),
    (("learn", "pico", "--method", "relu-l1", "--set", "width=0"), "the width 0"),
    (("learn", "pico", "--method", "jumprelu", "--set", "l0=-4"), "found l0=-4"),
    (("learn", "pico", "--set", "lr=nan"), "learning rate"),
    (("sites", "pico", "--device", "banana"), "there is no device 'banana' here"),
    (("bench", "dictionaries", "--quick", "--seeds", "5"), "--quick has seeds"),
    (("bench", "dictionaries", "--seeds", "0"), "at least one seed"),
    (("learn", "./nowhere"), "no folder"),
    (("sites", "piko"), "did you mean 'pico'?"),
    (("learn", "pico", "--data", "nothing/*.txt"), "nothing"),
    (("evaluate", "nowhere"), "config.json"),
    (("score", "pico", "--kind", "haeds"), "heads"),
    (("edit", "pico"), "--zero"),
    (("edit", "pico", "--zero", "blocks.0.mlp", "--tokens", "500", "--prompt", "x", "--temperature", "-1"), "temperature of 0"),
    (("score", "pico", "--sample", "0"), "two units"),
    (("features", "nowhere", "--n", "0"), "at least one context"),
    (("explain", "nowhere", "--n", "0"), "at least two windows"),
    (("explain", "nowhere", "--by", "rules"), "no explainer called 'rules'"),
    (("explain", "nowhere", "--scorers", "detectoin"), "no scorer called 'detectoin'"),
    (("attribute", "pico", "--text", "x", "--batch-size", "0"), "--batch-size is at least 1"),
    (("faithfulness", "pico", "--rows", "0"), "at least one row"),
    (("circuit", "pico", "--n", "0"), "at least two pairs"),
    (("edit", "pico", "--zero", "blocks.0.attn.heads:99"), "0 to 7"),
    (("edit", "pico", "--steer", "runs/learn"), "RUN:FEATURE:NUMBER"),
    (("catalogue", "nothing"), "dictionary"),
])
def test_bad_input_is_one_sentence(words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *words)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing half-written stays behind"


def test_a_run_with_other_settings_is_not_written_over(learned: Path, capsys: pytest.CaptureFixture):
    before = {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()}
    for words in (("--site", "blocks.2"), ("--site", "blocks.1", "--seed", "3")):
        said = refused(capsys, "learn", "pico", *words, "--tokens", "20k", "--set", "width=128", "k=8", "--out", str(learned))
        assert "learned with other settings" in said and "another folder" in said
    assert {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()} == before


def test_what_python_learned_is_evaluated_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    import cutaway as cw
    net = cw.open("pico")
    cw.learn(net, cw.stdlib(net), {"blocks.0": cw.TopK(64, 4)}, tokens="4k", out=tmp_path / "first", progress=False)
    run("evaluate", str(tmp_path / "first"), "--tokens", "1k")
    assert "stdlib test" in capsys.readouterr().out, "the usual text for runs that learned from the standard library"


def test_a_run_is_repeated_from_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    Path("text.txt").write_text("x = 1  # a line of code\n" * 400)
    run("learn", "pico", "--data", "text.txt", "--set", "width=32", "k=4", "--tokens", "2k", "--out", "learned")
    run("convert", "learned", "converted", "--model", "pico", "--data", "text.txt")
    monkeypatch.chdir(tmp_path / "b")
    run("rerun", "../a/learned", "--out", "again")
    run("rerun", "../a/converted", "--out", "again-converted")
    made = [tmp_path / place for place in ("a/learned", "b/again", "b/again-converted")]
    tensors = {(folder / "dictionaries" / "blocks.2.safetensors").stat().st_size > 0 for folder in made}
    assert tensors == {True} and Path.cwd() == tmp_path / "b"
    config = json.loads((made[0] / "config.json").read_text())
    (made[0] / "config.json").write_text(json.dumps({**config, "arguments": {**config["arguments"], "colour": "red"}}))
    with pytest.raises(SystemExit, match="no option 'colour'"):
        run("rerun", "../a/learned", "--out", "third")


def test_a_folder_of_another_command_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "config.json").write_text(json.dumps({"command": "store", "arguments": {"run": "x"}}))
    for command in ("evaluate", "features", "explain", "store"):
        assert "no dictionaries that were learned" in refused(capsys, command, str(tmp_path))


@pytest.mark.parametrize(("config", "says"), [('{"model_type": "gpt2"}', "not the configuration of a run"),
                                              ("[]", "not the configuration of a run"), ("{", "is not JSON")])
def test_a_configuration_that_is_none_is_refused(config: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "config.json").write_text(config)
    for command in ("evaluate", "rerun"):
        assert says in refused(capsys, command, str(tmp_path))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "file").write_text("")
    said = refused(capsys, "edit", "pico", "--zero", "blocks.0.mlp", "--tokens", "1k", "--out", str(tmp_path / "file"))
    assert "cannot be written" in said and str(tmp_path / "file") in said


def test_a_failure_leaves_the_configuration_that_was_there(tmp_path: Path):
    from cutaway.cli import folder
    with pytest.raises(ValueError), folder.begun(tmp_path / "new", "learn", {}):
        raise ValueError
    assert not (tmp_path / "new").exists()
    folder.begin(tmp_path / "old", "learn", {"seed": 1})
    kept = (tmp_path / "old" / "config.json").read_text()
    with pytest.raises(ValueError), folder.begun(tmp_path / "old", "learn", {"seed": 2}):
        raise ValueError
    assert (tmp_path / "old" / "config.json").read_text() == kept
    with pytest.raises(KeyboardInterrupt), folder.begun(tmp_path / "old", "learn", {"seed": 2}):
        raise KeyboardInterrupt
    assert json.loads((tmp_path / "old" / "config.json").read_text())["arguments"] == {"seed": 2}


def test_a_network_of_images_goes_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    import numpy as np
    from families import module
    from PIL import Image
    monkeypatch.chdir(tmp_path)
    module("vit").save_pretrained("vit")
    Path("photos").mkdir()
    for i in range(6):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(f"photos/{i}.png")
    assert "give --data a folder of images" in refused(capsys, "learn", "./vit")
    run("learn", "./vit", "--data", "photos", "--site", "blocks.1", "--set", "width=32", "k=4", "--tokens", "256", "--batch",
        "32", "--out", "learned")
    run("evaluate", "learned")
    assert "fvu" in json.loads(Path("learned/figures.json").read_text())["blocks.1"]
    run("features", "learned")
    assert "look in more --tokens" in capsys.readouterr().out
    assert "is not text" in refused(capsys, "features", "learned", "3")


def test_the_catalogue_says_all_about_one_method(capsys: pytest.CaptureFixture) -> None:
    run("catalogue", "topk")
    said = " ".join(capsys.readouterr().out.split())
    for part in ("arXiv 2406.04093", "cutaway.dictionaries.topk.TopK(width=4096, k=32", "section 2.3", "cutaway prove topk"):
        assert part in said
    assert "'top-k'; the nearest are topk" in refused(capsys, "catalogue", "top-k")


def test_what_is_no_recipe_is_not_learned_by(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said = refused(capsys, "learn", "pico", "--method", "attention-sae", "--site", "blocks.2", "--out", str(tmp_path))
    assert "attention-sae is no recipe to learn by: it is called from Python with net, dictionary" in said
