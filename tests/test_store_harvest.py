"""A store from a harvest says what a store from the text says, and the network is not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_llama
from test_store import WIDTH, K, a_run, dictionary

import cutaway as cw
from cutaway.cli import main
from cutaway.dictionaries import Dictionary, Facts
from cutaway.dictionaries.parts import TopK
from cutaway.files import write_json
from cutaway.store import FeatureStore, store
from cutaway.store.harvested import rows_of
from cutaway.train import Run


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> cw.Harvest:
    run = a_run()
    return cw.harvest(run.net, run.data, "blocks.0", tmp_path_factory.mktemp("harvest") / "h", dtype="float32",
                      shard_tokens=1000, progress=False)


def firings(found: FeatureStore, rows: np.ndarray) -> dict[tuple[int, int, int], float]:
    """Every firing by the data's row, its place and the latent."""
    made = {}
    for latent in range(found.width):
        for value, row, place in zip(*found.postings(latent), strict=True):
            made[int(rows[row]), int(place), latent] = float(value)
    return made


def test_it_says_what_the_store_of_the_text_says(cached: cw.Harvest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run()
    of_text = store(run, tokens=None, out=tmp_path / "text", progress=False)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was run")

    with monkeypatch.context() as patch:
        for name in ("run_until_enough", "record"):
            patch.setattr(type(run.net), name, never)
        made = store(run, cached, tokens=None, out=tmp_path / "harvest", progress=False)
    rows, every = rows_of(cached).rows, np.arange(of_text.manifest["n_rows"])
    ours, theirs = firings(made, rows), firings(of_text, every)
    scale = max(of_text.summary(latent)["scale"] or 0.0 for latent in range(WIDTH))
    assert ours.keys() == theirs.keys() and len(ours) == of_text.manifest["n_entries"]
    assert max(abs(ours[key] - theirs[key]) for key in ours) <= 1.01 * scale
    assert made.n_tokens == of_text.n_tokens and sorted(rows) == every.tolist()
    for i in (0, len(rows) - 1):
        assert "".join(made.text_of(i)) == run.data.text(int(rows[i]))
    latent = int(made.counts.argmax())
    assert made.page(latent)["feature"]["count"] == of_text.summary(latent)["count"] and made.verify() == []
    assert made.data.n_rows == len(rows) and made.document_of(3, 1) == rows[3]
    again = store(run, cached, tokens=None, out=tmp_path / "harvest", progress=False)
    assert again.manifest["finished"] == made.manifest["finished"], "a finished store is opened, not built again"


def test_some_of_a_harvest_is_another_store(cached: cw.Harvest, tmp_path: Path) -> None:
    made = store(a_run(), cached, tokens=300, out=tmp_path / "s", progress=False)
    whole = rows_of(cached)
    assert made.manifest["n_rows"] == int(np.searchsorted(whole.starts, 300)) < len(whole.rows)
    assert made.manifest["data"]["fingerprint"] != cached.fingerprint
    with pytest.raises(ValueError, match="store of other data"):
        store(a_run(), cached, tokens=None, out=tmp_path / "s", progress=False)


def test_a_last_row_that_was_cut_short_has_gaps_without_text(tmp_path: Path) -> None:
    run = a_run()
    cut = cw.harvest(run.net, run.data, "blocks.0", tmp_path / "h", tokens=100, dtype="float32", progress=False)
    made = store(run, cut, tokens=None, out=tmp_path / "s", progress=False)
    last = made.manifest["n_rows"] - 1
    missing = ~made.files.kept.reshape(last + 1, -1)[last]
    assert made.n_tokens == cut.n == 100 and missing.sum() > 1
    assert all(not text for text, gone in zip(made.text_of(last), missing, strict=True) if gone)


def test_images_and_arrays_have_a_store_from_their_harvest(tmp_path: Path) -> None:
    net = cw.open(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU()))
    data = cw.arrays(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    made = Dictionary(16, 12, TopK(2), Facts(site="0:out"))
    for weight in (made.W_enc, made.W_dec):
        weight.data = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))
    cached = cw.harvest(net, data, "0:out", tmp_path / "h", dtype="float32", progress=False)
    found = store(Run(net, None, {"0:out": made.requires_grad_(False)}, {}, {}), cached, out=tmp_path / "s", progress=False)
    assert found.n_tokens == 50 and not found.has_text and found.manifest["row_length"] == 1
    assert found.manifest["n_entries"] <= 100 and found.page(int(found.counts.argmax()))["logits"] is None


def test_the_command_takes_a_harvest(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    net = cw.open("pico")
    made = Dictionary(256, 64, TopK(K), Facts(site="blocks.0"))
    for weight in (made.W_enc, made.W_dec):
        weight.data = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    made.save(tmp_path / "run" / "dictionaries" / "blocks.0.safetensors")
    write_json(tmp_path / "run" / "config.json", {"command": "learn", "arguments": {"model": "pico", "data": "stdlib"}})
    for name in ("history", "learning"):
        write_json(tmp_path / "run" / f"{name}.json", {})
    cw.harvest(net, cw.stdlib(net), ["blocks.0"], tmp_path / "h", tokens=3000, dtype="int8", progress=False)
    main(["store", str(tmp_path / "run"), "--data", str(tmp_path / "h"), "--tokens", "2k"])
    assert "harvest of 3,000 tokens" in " ".join(capsys.readouterr().out.split())
    with FeatureStore(cw.stores(tmp_path / "run")["blocks.0"]) as found:
        assert found.by_text("import")["matches"] > 0 and 2000 <= found.n_tokens < 3000
    with pytest.raises(SystemExit) as stop:
        main(["explain", str(tmp_path / "run"), "--data", str(tmp_path / "h")])
    assert "holds activations; give --data" in str(stop.value.code)


def test_bad_harvests_get_one_sentence(cached: cw.Harvest, tmp_path: Path) -> None:
    elsewhere = a_run(made=Dictionary(16, 8, TopK(2), Facts(site="blocks.1")), key="blocks.1")
    with pytest.raises(ValueError, match="holds blocks.0; found the site 'blocks.1'"):
        store(elsewhere, cached, out=tmp_path / "s", progress=False)
    narrow = a_run(made=Dictionary(8, 8, TopK(2), Facts(site="blocks.0")))
    with pytest.raises(ValueError, match="activations of width 16 at blocks.0, and the dictionary reads 8"):
        store(narrow, cached, out=tmp_path / "s", progress=False)
    other = tiny_llama()
    with torch.no_grad():
        next(other.module.parameters())[0, 0] += 1
    with pytest.raises(ValueError, match="whose weights, or their type, differ"):
        store(Run(other, None, {"blocks.0": dictionary()}, {}, {}), cached, out=tmp_path / "s", progress=False)
    assert not (tmp_path / "s" / "manifest.json").exists()
