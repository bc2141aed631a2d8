"""Analyses as a user runs them: by one call and one command, with words, whole figures and a picture."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import example, module, network
from test_edits import traces

import cutaway as cw
from cutaway import Edit
from cutaway.analyses import ANALYSES, Finding, Spread, read_options
from cutaway.analyses.iscs import FIRST, LAST, RANDOM, WHOLE, pairs_of
from cutaway.analyses.layer_transfer import trained
from cutaway.catalogue import methods
from cutaway.cli import main
from cutaway.cli.analysing import analyse as command
from cutaway.metrics.intervals import interval

QUICK: dict[str, dict[str, Any]] = {
    "depth-use": {"cuts": 1}, "essential-sparsity": {"grid": (0.5,)}, "iscs": {"draws": 1}, "lac-voids": {"draws": 1},
    "layer-transfer": {"cuts": 2, "steps": 2, "batch_size": 2}, "neuron-path": {"steps": 2, "draws": 2},
    "sink-decorrelation": {}}
ON = [("llama", name) for name in QUICK] + [
    (net, name) for net in ("gpt2", "bert", "vit") for name in ("depth-use", "essential-sparsity", "iscs", "lac-voids",
                                                                "sink-decorrelation")] + [("vit", "neuron-path")]


def data(name: str, rows: int = 8, tokens: int = 10) -> Any:
    x = example(name, rows=rows, tokens=tokens)
    if name == "vit":
        return cw.arrays(x, torch.arange(rows) % 5)
    if name == "bert":
        return cw.arrays({"input_ids": x}, torch.where(x % 3 == 0, x, -100).index_fill(1, torch.tensor(0), 7))
    return cw.arrays({"input_ids": x}, name="random")


def run(net: str, name: str, **options: Any) -> Finding:
    rows = 4 if net == "vit" and name == "sink-decorrelation" else 8
    return cw.analyse(network(net), data(net, rows), name, parts=2, **{**QUICK.get(name, {}), **options})


def test_every_analysis_has_a_command_that_names_it():
    assert set(ANALYSES) == set(methods("analysis")) and all(name in command.__doc__ for name in ANALYSES)
    assert all(one.summary.endswith(".") for one in ANALYSES.values())
    for name, one in ANALYSES.items():
        assert all(f"{option}" in one.found.__doc__ for option in one.options), name


@pytest.mark.parametrize(("net", "name"), ON)
def test_an_analysis_gives_words_figures_and_a_picture_and_leaves_the_network_alone(net: str, name: str, tmp_path: Path):
    if (net, name) == ("vit", "sink-decorrelation"):
        with pytest.raises(ValueError, match="rows of 8 or more"):
            run(net, name)
        return
    one, before = network(net), traces(network(net))
    state = copy.deepcopy(one.module.state_dict())
    found = run(net, name)
    assert found.sentences and not any("nan" in sentence.split() for sentence in found.sentences), found.sentences
    said = json.loads(json.dumps(found.json(), allow_nan=False))
    assert said["method"] == name and said["about"]["rows"] == 8 and said["about"]["network"] == one.name and said["figures"]
    assert set(said["about"]["options"]) == set(ANALYSES[name].options)
    assert len(found.table.rows) >= 1 and all(len(row) == len(found.table.columns) for row in found.table.rows)
    found.plot(tmp_path / "figures.png")
    assert (tmp_path / "figures.png").read_bytes()[:4] == b"\x89PNG" and name in str(found)
    assert traces(one) == before and all(torch.equal(x, state[key]) for key, x in one.module.state_dict().items())
    assert all(p.requires_grad for p in one.module.parameters())


@pytest.mark.parametrize("name", ["essential-sparsity", "lac-voids", "neuron-path", "layer-transfer"])
def test_what_is_drawn_hangs_on_the_seed_alone(name: str):
    assert run("llama", name).json() == run("llama", name).json()


def test_a_spread_is_the_mean_and_the_interval_over_parts():
    parts = [np.array([1.0, 5.0]), np.array([2.0, 5.0]), np.array([4.0, 5.0])]
    found = Spread.of(parts)
    assert found.mean.tolist() == pytest.approx([7 / 3, 5]) and (found.low[0], found.high[0]) == interval([1, 2, 4])
    assert found.at(1) == "5 [5, 5]" and Spread.of([3.0]).at() == "3"


def test_parts_are_disjoint_and_no_more_than_rows():
    from cutaway.analyses.finding import Asked
    of = data("llama", 5)
    parts = Asked(network("llama"), of, 4).slices
    assert sorted(i for part in parts for i in part.index.tolist()) == list(range(5)) and len(parts) == 4
    assert len(Asked(network("llama"), data("llama", 2), 4).slices) == 2


def test_losses_without_channels_are_those_of_the_edits():
    net, of = network("llama"), data("llama")
    assert pairs_of(net)[1] == ("model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj")
    assert [pairs_of(network(name))[0][0].rpartition(".")[2] for name in ("gpt2", "bert", "vit")] == ["c_fc", "dense", "fc1"]
    found = cw.analyse(net, of, "iscs", parts=1, draws=1)
    edits = []
    for i in range(3):
        order = found.figures["latents"][f"model.layers.{i}.mlp.up_proj to model.layers.{i}.mlp.down_proj"]["order"]
        gate = torch.ones(48).index_fill(0, torch.tensor(order[24:]), 0.0)
        edits.append(Edit(f"blocks.{i}.mlp.neurons", gate=gate, over="u"))
    loss = {name: figure["mean"] for name, figure in found.figures["loss"].items()}
    with net.edited(edits):
        assert loss[LAST] == pytest.approx(cw.measure(net, of)["loss"].value)
    assert loss[WHOLE] == pytest.approx(cw.measure(net, of)["loss"].value) and len({loss[RANDOM], loss[FIRST], loss[LAST]}) == 3


def test_a_path_is_checked_on_other_rows_than_it_was_found_on():
    net, of = network("vit"), data("vit")
    found = run("vit", "neuron-path").figures
    check, gate = of.rows([1, 3, 5, 7]), torch.ones(3, 5, 48)
    for block, unit in enumerate(found["path"]):
        gate[block, 0, unit] = 0
    with torch.no_grad():
        plain = net.logits(check).softmax(-1).gather(1, check.labels[:, None])
        with net.edited([Edit(f"blocks.{i}.mlp.neurons", gate=gate[i], over="t u") for i in range(3)]):
            removed = net.logits(check).softmax(-1).gather(1, check.labels[:, None])
    assert found["probability"]["rows"] == 4 and found["probability"]["mean"] == pytest.approx(float(plain.mean()), rel=1e-5)
    change = found["change"]["removed"]["path of influence"]
    assert change["mean"] == pytest.approx(float((removed - plain).mean()), abs=1e-6)
    with pytest.raises(ValueError, match="takes at least 4; .* has 2"):
        cw.analyse(net, data("vit", 2), "neuron-path")


def test_the_dense_network_is_measured_once_for_both_curves():
    found = run("llama", "essential-sparsity").figures
    assert found["values"].keys() == {"global", "random"} and found["sparsity"]["global"] == pytest.approx([0.5], abs=0.01)
    net, of = network("llama"), data("llama")
    from dataclasses import replace
    dense = [cw.measure(net, replace(of, index=of.index[i::2]))["loss"].value for i in (0, 1)]
    assert found["dense"]["mean"] == pytest.approx(np.mean(dense), rel=1e-5)


def test_transfer_trains_the_rest_on_the_data(tmp_path: Path):
    net, of = cw.open(module("llama")), data("llama")
    before = float(cw.measure(net, of)["loss"].value)
    assert cw.measure(trained(net, of, 12, 1e-2, 8, 0), of)["loss"].value < before
    found = run("llama", "layer-transfer", arms=("transfer", "random"))
    assert set(found.figures["by arm"]) == {"transfer", "random"} and len(found.figures["by arm"]["random"]) == 2
    network("llama").module.save_pretrained(tmp_path)
    given = run("llama", "layer-transfer", other=str(tmp_path), arms=("selffer",))
    assert given.figures["base"]["mean"] == pytest.approx(given.figures["by arm"]["selffer"][0]["mean"], rel=0.5)
    assert "the network that was given" in given.sentences[0]
    with pytest.raises(ValueError, match="trains causal language models, and .* is of kind 'image'"):
        cw.analyse(network("vit"), data("vit"), "layer-transfer")


def test_dynamics_are_read_from_a_folder_of_checkpoints(tmp_path: Path):
    for step in (1, 2, 4, 8, 16, 32):
        module("llama", seed=step).save_pretrained(tmp_path / f"step-{step:03d}")
    found = cw.analyse(network("llama"), data("llama"), "massive-dynamics", checkpoints=str(tmp_path))
    from cutaway.scores.findings import massive_ratio
    assert found.figures["steps"] == [1, 2, 4, 8, 16, 32]
    expected = massive_ratio(cw.open(module("llama", seed=8)), data("llama"))
    assert found.figures["ratios"][3] == pytest.approx(expected.tolist(), rel=1e-4)
    assert set(found.figures["curves"]) == {"modulated", "logarithm", "saturating", "constant"}
    with pytest.raises(ValueError, match="6 checkpoints or more; found 1"):
        (tmp_path / "few").mkdir()
        module("llama").save_pretrained(tmp_path / "few" / "step-1")
        cw.analyse(network("llama"), data("llama"), "massive-dynamics", checkpoints=str(tmp_path / "few"))
    with pytest.raises(ValueError, match="says nothing of its training; give checkpoints="):
        cw.analyse(network("llama"), data("llama"), "massive-dynamics")


@pytest.mark.parametrize(("name", "options", "says"), [
    ("depth-uses", {}, "the nearest are depth-use"), ("depth-use", {"colour": 1}, "no option 'colour' of depth-use; there are"),
    ("depth-use", {"parts": 0}, "at least one part"), ("iscs", {"producer": "lm_head"}, "give both producer= and consumer="),
    ("massive-dynamics", {"form": "line"}, "a curve is modulated"),
    ("massive-dynamics", {"checkpoints": "nowhere"}, "no subfolders"),
    ("layer-transfer", {"cuts": 9}, "1 to 3 cuts"), ("essential-sparsity", {"how": "best"}, "chosen by global"),
    ("sink-decorrelation", {"threshold": 0.3, "beginning": 1}, "no option 'beginning'")])
def test_bad_input_is_a_sentence(name: str, options: dict[str, Any], says: str):
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        cw.analyse(network("llama"), data("llama"), name, **options)


def test_networks_without_blocks_and_data_without_rows_are_refused():
    from dataclasses import replace
    of = data("llama")
    for name in set(ANALYSES) - {"massive-dynamics", "layer-transfer", "essential-sparsity"}:
        with pytest.raises(ValueError, match="no residual stream|no MLP"):
            cw.analyse(network("mlp"), cw.arrays(example("mlp")), name)
        with pytest.raises(ValueError, match="nothing to analyse"):
            cw.analyse(network("llama"), replace(of, index=of.index[:0]), name)


@pytest.mark.parametrize(("pairs", "wanted"), [
    (("cuts=2", "batch-size=3"), {"cuts": 2, "batch_size": 3}), ((), {})])
def test_options_are_read_as_the_analysis_takes_them(pairs: tuple[str, ...], wanted: dict[str, Any]):
    assert read_options("depth-use", pairs) == wanted
    assert read_options("essential-sparsity", ("grid=0.2,0.5", "sites=blocks.*.mlp", "epsilon=0.1")) == {
        "grid": (0.2, 0.5), "sites": ("blocks.*.mlp",), "epsilon": 0.1}
    assert read_options("lac-voids", ("prompt=9",)) == {"prompt": 9}
    for name, pair, says in (("depth-use", "cuts=two", "cuts is a whole number; found 'two'"),
                             ("depth-use", "cuts", "NAME=VALUE"), ("essential-sparsity", "grid=a,b", "numbers such as"),
                             ("iscs", "size=3", "there are producer")):
        with pytest.raises(ValueError, match=says):
            read_options(name, (pair,))


def test_the_command_writes_a_folder_that_can_be_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["analyse", "pico", "lac-voids", "--tokens", "500", "--parts", "2", "--set", "draws=1", "alpha=0.2", "--out",
          str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "void for a token" in said and "lac-voids of pico" in said
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "figures.json", "figures.png"}
    config, figures = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("config", "figures"))
    assert config["command"] == "analyse" and config["arguments"]["set"] == ["draws=1", "alpha=0.2"]
    assert figures["about"]["options"]["alpha"] == 0.2 and len(figures["figures"]["active"]["text as it is"]["mean"]) == 6
    main(["rerun", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run-again" / "figures.json").read_text()) == figures


def test_the_command_lists_what_there_is_and_refuses_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                             monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    main(["analyse"])
    said = capsys.readouterr().out
    assert all(name in said for name in ANALYSES) and "cuts=4" in said and "arXiv:2505.13898" in said
    for words, says in ((("depth-uses",), "depth-use"), (("depth-use", "--set", "cuts=x"), "whole number"),
                        (("depth-use", "--tokens", "lots"), "500k"), (("depth-use", "--data", "nothing/*.txt"), "nothing")):
        with pytest.raises(SystemExit) as stop:
            main(["analyse", "pico", *words])
        said = str(stop.value.code)
        assert said.startswith("cutaway: ") and says in said and "\n" not in said
    assert not list(tmp_path.iterdir())


def test_pico_says_how_its_largest_activations_came_about():
    net = cw.open("pico")
    found = cw.analyse(net, cw.stdlib(net, "test").take(200), "massive-dynamics")
    assert found.figures["steps"][0] == 2 and len(found.figures["ratios"]) == 10 and found.about["rows"] == 0
    assert "From step 2 to 2,929" in found.sentences[0]
