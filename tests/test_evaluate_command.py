"""`cutaway evaluate` as a user runs it: what is finished stays, and what is stopped goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.cli import main
from cutaway.dictionaries import Dictionary, Facts
from cutaway.dictionaries.parts import TopK
from cutaway.dictionaries.quality import METRICS
from cutaway.files import write_json


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run on pico with two dictionaries, of random weights."""
    for block in (0, 1):
        save(tmp_path, block, block)
    write_json(tmp_path / "config.json", {"command": "learn", "arguments": {"model": "pico", "data": "stdlib"}})
    write_json(tmp_path / "history.json", {})
    write_json(tmp_path / "learning.json", {})
    return tmp_path


def save(run: Path, block: int, seed: int) -> None:
    made = Dictionary(256, 64, TopK(4), Facts(site=f"blocks.{block}"))
    for weight in (made.W_enc, made.W_dec):
        weight.data = torch.randn(64, 256, generator=torch.Generator().manual_seed(seed))
    made.save(run / "dictionaries" / f"blocks.{block}.safetensors")


def profiled(run: Path, *words: str, metrics: tuple[str, ...] = ("reconstruction", "firing")) -> dict[str, Any]:
    main(["evaluate", str(run), "--profile", "--tokens", "1k", *words, "--metrics", *metrics])
    return json.loads((run / "profile.json").read_text())


def test_a_stopped_profile_goes_on_and_loses_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, before, own = profiled(run), set(run.iterdir()), METRICS["firing"].measure
    measured: list[str] = []

    def once(dictionary: Any, bench: Any) -> Any:
        measured.append(dictionary.site)
        if dictionary.site == "blocks.1":
            raise KeyboardInterrupt
        return own(dictionary, bench)
    monkeypatch.setitem(METRICS, "firing", replace(METRICS["firing"], measure=once))
    with pytest.raises(SystemExit) as stop:
        profiled(run)
    assert stop.value.code == "cutaway: stopped; run the same command again to go on after the last finished metric"
    kept = json.loads((run / "profile.json").read_text())
    assert [kept[key]["lines"] for key in kept] == [whole[key]["lines"] for key in kept] and set(kept) == set(whole)
    assert {path.name for path in set(run.iterdir()) - before} == {"profile.unfinished.json"}

    def again(dictionary: Any, bench: Any) -> Any:
        assert dictionary.site == "blocks.1", "what was finished is not measured again"
        return own(dictionary, bench)
    monkeypatch.setitem(METRICS, "firing", replace(METRICS["firing"], measure=again))
    monkeypatch.setitem(METRICS, "reconstruction", replace(METRICS["reconstruction"], measure=again))
    assert {key: made["lines"] for key, made in profiled(run).items()} == {key: made["lines"] for key, made in whole.items()}
    assert set(run.iterdir()) == before and measured


def test_one_metric_does_not_take_the_place_of_all(run: Path, capsys: pytest.CaptureFixture) -> None:
    whole = profiled(run, "--site", "blocks.0")["blocks.0"]
    again = profiled(run, "--site", "blocks.0", metrics=("firing",))["blocks.0"]
    assert {line["name"] for line in again["lines"]} == {line["name"] for line in whole["lines"]}
    capsys.readouterr()
    main(["evaluate", str(run), "--profile", "--site", "blocks.0", "--tokens", "2k", "--metrics", "firing"])
    assert "Not kept: " in " ".join(capsys.readouterr().out.split()) + " "
    assert json.loads((run / "profile.json").read_text())["blocks.0"] == again


def test_figures_of_one_site_stand_beside_the_others_and_are_json(run: Path) -> None:
    main(["evaluate", str(run), "--tokens", "1k"])
    main(["evaluate", str(run), "--tokens", "1k", "--site", "blocks.1"])

    def no_number(name: str) -> None:
        pytest.fail(f"{name} is not JSON")
    found = json.loads((run / "figures.json").read_text(), parse_constant=no_number)
    assert set(found) == {"blocks.0", "blocks.1"} and found["blocks.0"]["dead"]["low"] is None


def test_figures_on_the_training_text_say_so(run: Path, capsys: pytest.CaptureFixture) -> None:
    asked = {"command": "learn", "arguments": {"model": "pico", "data": "stdlib:validation"}}
    write_json(run / "config.json", asked)
    main(["evaluate", str(run), "--tokens", "1k", "--site", "blocks.0"])
    assert "It learned from stdlib:validation itself" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(SystemExit) as stop:
        profiled(run, "--site", "blocks.0")
    assert "need text that it has not seen" in str(stop.value.code)
    write_json(run / "learning.json", {"converted": "elsewhere"})      # what another program learned from is not known
    main(["evaluate", str(run), "--tokens", "1k", "--site", "blocks.0"])
    assert "It learned from" not in capsys.readouterr().out
    assert "is not known" in profiled(run, "--site", "blocks.0")["blocks.0"]["held_out"]
