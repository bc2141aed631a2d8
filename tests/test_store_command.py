"""`cutaway store` as a user runs it, and `run.features` after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import cutaway as cw
from cutaway.cli import main
from cutaway.dictionaries import Dictionary, Facts
from cutaway.dictionaries.parts import TopK
from cutaway.files import write_json
from cutaway.store import FeatureStore, profiles


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on pico with two dictionaries, of random weights."""
    folder = tmp_path_factory.mktemp("runs") / "learn"
    for block in (0, 1):
        generator = torch.Generator().manual_seed(block)
        made = Dictionary(256, 64, TopK(4), Facts(site=f"blocks.{block}"))
        for weight in (made.W_enc, made.W_dec):
            weight.data = torch.randn(64, 256, generator=generator)
        made.save(folder / "dictionaries" / f"blocks.{block}.safetensors")
    write_json(folder / "config.json", {"command": "learn", "arguments": {"model": "pico", "data": "stdlib"}})
    write_json(folder / "history.json", {})
    write_json(folder / "learning.json", {})
    main(["store", str(folder), "--tokens", "2k"])
    return folder


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["store", *words])
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


def test_every_dictionary_of_a_run_gets_a_store(run: Path, capsys: pytest.CaptureFixture) -> None:
    found = cw.stores(run)
    assert list(found) == ["blocks.0", "blocks.1"]
    assert json.loads((found["blocks.0"] / "config.json").read_text())["arguments"]["tokens"] == "2k"
    main(["store", str(run), "--tokens", "2k", "--site", "blocks.1"])
    assert "firings of 64 features" in " ".join(capsys.readouterr().out.split())
    main(["store", str(run), "--verify"])
    assert "2 stores are whole" in capsys.readouterr().out


def test_the_profile_is_kept_in_the_store(run: Path, capsys: pytest.CaptureFixture) -> None:
    main(["evaluate", str(run), "--profile", "--site", "blocks.1", "--tokens", "1k", "--metrics", "reconstruction", "firing"])
    assert "in its store" in " ".join(capsys.readouterr().out.split())
    kept = json.loads((run / "profile.json").read_text())
    assert list(kept) == ["blocks.1"]
    with FeatureStore(cw.stores(run)["blocks.1"]) as store, FeatureStore(cw.stores(run)["blocks.0"]) as other:
        assert store.profile == kept["blocks.1"] and other.profile is None
        (store.folder / "profile.json").unlink()
        profiles.take_in(store, run)
        assert store.profile == kept["blocks.1"]
        kept["blocks.1"]["dictionary"]["checksum"] = "of another"
        write_json(run / "profile.json", kept)
        (store.folder / "profile.json").unlink()
        profiles.take_in(store, run)
        assert store.profile is None, "the profile of another dictionary is not taken"
        (store.folder / "profile.json").write_text("{")
        with pytest.raises(ValueError, match="holds no profiles"):
            store.profile  # noqa: B018
        (store.folder / "profile.json").unlink()
    main(["evaluate", str(run), "--profile", "--site", "blocks.0", "--tokens", "1k", "--metrics", "firing"])
    assert set(json.loads((run / "profile.json").read_text())) == {"blocks.0"}, "that of another dictionary is dropped"
    main(["evaluate", str(run), "--profile", "--site", "blocks.1", "--tokens", "1k", "--metrics", "firing"])
    assert set(json.loads((run / "profile.json").read_text())) == {"blocks.0", "blocks.1"}


def test_one_of_several_dictionaries_is_asked_for(run: Path) -> None:
    for words, says in ((["features", str(run)], "blocks.0, blocks.1; choose one with --site"),
                        (["explain", str(run)], "blocks.0, blocks.1; choose one with --site"),
                        (["features", str(run), "--site", "blocks.9"], "no dictionary at blocks.9; it has blocks.0, blocks.1"),
                        (["evaluate", str(run), "--site", "blocks.9"], "no dictionary at blocks.9; it has blocks.0, blocks.1"),
                        (["evaluate", str(run), "--metrics", "firing"], "give --profile too")):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert isinstance(stop.value.code, str) and says in stop.value.code and "\n" not in stop.value.code


def test_pages_show_real_text(run: Path) -> None:
    with FeatureStore(cw.stores(run)["blocks.1"]) as store:
        latent = int(store.counts.argmax())
        page = store.page(latent)
        text = "".join(store.text_of(0))
        assert text == cw.stdlib(cw.open("pico")).text(0)
        assert page["logits"]["final_norm"] and all(row["text"] for row in page["logits"]["raised"])
        assert page["tokens"][0]["share"] <= 1 and page["feature"]["top_token"] == page["tokens"][0]["text"]
        assert store.by_text("import")["matches"] > 0


def test_features_of_a_run_come_from_its_store(tmp_path: Path) -> None:
    net = cw.open("pico")
    made = Dictionary(256, 64, TopK(4), Facts(site="blocks.0"))
    made.W_enc.data, made.W_dec.data = torch.randn(64, 256), torch.randn(64, 256)
    made.save(tmp_path / "dictionaries" / "blocks.0.safetensors")
    for name in ("history", "learning"):
        write_json(tmp_path / f"{name}.json", {})
    learned = cw.load(tmp_path, net, cw.stdlib(net))
    cw.store(learned, tokens="1k", progress=False)
    features = learned.features
    assert isinstance(features, FeatureStore) and features.net is net
    assert features.data.n_rows == features.manifest["n_rows"] and "stdlib" in features.data.name
    some = features[int(features.counts.argmax())]
    assert len(some.contexts(3)) == 3 and some.logits(2)[0][0][1] > 0
    made.W_dec.data += 1
    made.save(tmp_path / "dictionaries" / "blocks.0.safetensors")
    with pytest.raises(ValueError, match="made from another dictionary"):
        cw.load(tmp_path, net).features  # noqa: B018


def test_bad_input_is_one_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    before = (cw.stores(run)["blocks.0"] / "config.json").read_text()
    assert "store of other data; give another folder" in refused(capsys, str(run), "--tokens", "1k", "--site", "blocks.0")
    assert (cw.stores(run)["blocks.0"] / "config.json").read_text() == before
    assert "give --site" in refused(capsys, str(run), "--out", str(tmp_path / "s"))
    assert "it has blocks.0, blocks.1" in refused(capsys, str(run), "--site", "blocks.7")
    assert "config.json" in refused(capsys, str(tmp_path))
    assert "2M" in refused(capsys, str(run), "--tokens", "many")
    assert "no finished store" in refused(capsys, str(tmp_path), "--verify")
    path = cw.stores(run)["blocks.0"] / "tokens.npy"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert "tokens.npy has been changed" in refused(capsys, str(run), "--verify")
    path.write_bytes(raw)


def test_a_store_made_again_beside_the_first_does_not_stand_in_its_place(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    first = cw.stores(tmp_path / "run")["blocks.0"]
    main(["rerun", str(first)])
    assert (first.parent / "blocks.0-again" / "manifest.json").exists()
    assert cw.stores(tmp_path / "run")["blocks.0"] == first
