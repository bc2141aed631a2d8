"""The first thing a user meets: help, names that are nearly right, and output that fits the terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import cutaway as cw
from cutaway import api
from cutaway.cli import commands, main, screen


def said(capsys: pytest.CaptureFixture, *words: str) -> str:
    """What a command prints, its status aside."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    caught = capsys.readouterr()
    return caught.out + caught.err + (stop.value.code if isinstance(stop.value.code, str) else "")


def test_help_and_version_do_not_wait_for_torch(tmp_path: Path):
    asked = ("import sys; from cutaway.cli import main; main([{!r}]); "
             "print(sorted({{'torch', 'transformers', 'numpy', 'pandas', 'rich'}} & {{*sys.modules}}))")
    for word in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", asked.format(word)], capture_output=True, text=True, timeout=60)
        assert done.stdout.rstrip().endswith("[]"), done.stdout + done.stderr
    module = subprocess.run([sys.executable, "-m", "cutaway", "--version"], capture_output=True, text=True, timeout=60)
    assert module.stdout == f"cutaway {cw.__version__}\n"


def test_the_package_offers_functions_where_rooms_have_the_same_name():
    rooms = {path.stem if path.is_file() else path.name for path in Path(api.__file__).parent.iterdir()}
    assert {name for name in api.__all__ if name in rooms} == cw.ROOMS_TOO
    fresh = ("import cutaway.store, cutaway.units, cutaway as cw; from cutaway.store import FeatureStore; "
             "print(all(callable(getattr(cw, n)) for n in cw.__all__), 'learn' in dir(cw), hasattr(cw, 'nothing'), "
             "cw.network.Edit.__name__)")
    done = subprocess.run([sys.executable, "-c", fresh], capture_output=True, text=True, timeout=120)
    assert done.stdout == "True True False Edit\n", done.stderr


@pytest.mark.parametrize("name", commands.MODULES)
def test_every_option_says_what_it_is_and_fits(name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    function = commands.command(name)
    assert set(commands.explained(function)) == set(commands.inspect.signature(function).parameters), "each is explained"
    help = said(capsys, name, "--help")
    usage = re.search(r"usage: .*", help)
    assert usage is not None and len(usage[0]) <= 100
    assert max(map(len, help.replace(usage[0], "").splitlines())) <= 80
    assert "None" not in help.replace("{None,True,False}", "") and "(default: )" not in help and "''" not in help


def test_help_has_no_colours_where_none_are_wanted():
    """NO_COLOR in a terminal, where there would be some."""
    import pty
    shown = []
    for wanted in ({}, {"NO_COLOR": "1"}):
        ours, theirs = pty.openpty()
        subprocess.run([sys.executable, "-m", "cutaway", "sites", "--help"], stdout=theirs, check=True, timeout=60,
                       env={name: v for name, v in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | wanted)
        shown.append(os.read(ours, 1 << 16))
        os.close(ours)
        os.close(theirs)
    assert b"\x1b[" in shown[0] and b"\x1b[" not in shown[1] and b"MODEL" in shown[1]


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    main([])
    shown = capsys.readouterr().out
    assert re.findall(r"^  (\w+)  +\w", shown, re.M) == list(commands.MODULES)
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(("words", "near"), [
    (("lern", "pico"), "did you mean 'learn'?"), (("frobnicate",), "`cutaway --help` lists them all"),
    (("learn", "--toknes", "5"), "--tokens"), (("edit", "pico", "--zero", "blocks.3.atn", "--tokens", "500"), "blocks.3.attn"),
    (("score", "pico", "--seed", "-1"), "--seed is a whole number from 0"),
    (("edit", "pico", "--zero", "blocks.0.mlp", "--seed", "99999999999"), "--seed is a whole number from 0"),
    (("score", "pico", "--site", "blocks.9.attn.heads"), "blocks.5.attn.heads"),      # what it calls --sites
    (("learn", "pico", "--batch-size", "0"), "at least one activation"),
    (("circuit", "pico", "--level", "edge"), "edges"), (("attribute", "pico", "--text", "def f", "--method", "lime", "--set",
                                                         "n_samples=0"), "n_samples of lime is at least 1")])
def test_what_is_nearly_right_gets_the_near_one(words: tuple[str, ...], near: str, tmp_path: Path,
                                                capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert near in said(capsys, *words)
    assert not [*tmp_path.rglob("*")]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
        tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("cutaway.cli.inputs.network", lambda *_: pytest.fail("a network was opened"))
    told = said(capsys, "score", "pico", "--out", str(tmp_path / "file" / "in"))
    assert f"{tmp_path / 'file'} is a file" in told and "--out" in told
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "not open to you" in said(capsys, "analyse", "pico", "depth-use", "--out", str(tmp_path / "new"))


def test_a_model_without_a_tokenizer_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture):
    cw.open("pico").module.save_pretrained(tmp_path / "model")
    for words in (("learn", "--data", "stdlib"), ("attribute", "--text", "def f")):
        told = said(capsys, words[0], str(tmp_path / "model"), *words[1:], "--out", str(tmp_path / "out"))
        assert "without a tokenizer" in told and "save its tokenizer in its folder" in told
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_importing_is_one_line(tmp_path: Path):
    slow = "import sys, time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    (tmp_path / "torch.py").write_text(slow)          # what is imported first when a command begins
    started = subprocess.Popen([sys.executable, "-m", "cutaway", "sites", "pico"], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert started.stdout is not None and started.stdout.readline() == "importing\n"
    time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=60)
    assert told == "cutaway: stopped.\n" and started.returncode


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    words = f"{sys.executable} -m cutaway --help | head -1"
    done = subprocess.run(words, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("usage: cutaway") and not done.stderr


def test_sentences_fold_between_words_and_paths_stay_whole(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "40")
    path = "/a/rather/long/path/that/is/wider/than/the/terminal-is/itself"
    screen.say(f"- The figures are in {path}, and there are some more words after it.\n  detection 0.5 [0.4, 0.6], " * 2)
    lines = capsys.readouterr().out.splitlines()
    assert any(path in line for line in lines) and all(len(line) <= 40 or path in line for line in lines)
    assert lines[0].startswith("- The") and all(line.startswith("  ") for line in lines[1:2])


def test_a_table_that_is_too_wide_goes_on_below_without_losing_a_figure(
        capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    table = pd.DataFrame({"site": [f"blocks.{i}.attn.heads:{i}" for i in range(4)]}
                         | {f"effect_{i}_of_{i}": [i + row / 10 + 0.0004 for row in range(4)] for i in range(12)})
    for columns in (50, 80, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        screen.frame(table)
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= columns
        assert shown.count("blocks.3.attn.heads:3") >= 2 and "…" not in shown
        for i in range(12):
            for row in range(4):
                assert f"{i + row / 10:.3f}" in shown


def test_a_map_shows_its_figures_where_there_are_no_colours(monkeypatch: pytest.MonkeyPatch):
    from rich.console import Console

    from cutaway.report import terminal
    from cutaway.report.contents import ScoreMap
    drawn = terminal.heat(ScoreMap("fisher", ((1.0, -0.5), (0.0, float("nan")))))
    plain = Console(width=80, no_color=True, record=True, file=open(os.devnull, "w"))   # noqa: SIM115
    plain.print(drawn)
    text = plain.export_text()
    assert "+9-5" in text and "+0–" in text
