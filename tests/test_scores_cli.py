"""`cutaway score`, and the pictures of how scores agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_scores import data, double

from cutaway import Units, open, units
from cutaway.cli import main
from cutaway.scores import defined
from cutaway.scores.trust import load_trusts


def test_every_defined_score_is_judged_and_one_is_advised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["score", "pico", "--which-to-trust", "--kind", "heads", "--sites", "blocks.4.attn.heads", "--tokens", "300",
          "--sample", "6", "--top", "3", "--out", str(tmp_path / "run")])
    said, table = capsys.readouterr().out, Units.load(tmp_path / "run" / "units.parquet", open("pico"))
    assert set(table.scores) == set(defined(table)) >= {"wanda", "head_channels", "attention_rank", "path"} and len(table) == 8
    found = load_trusts(tmp_path / "run" / "trust.json")
    assert set(found) == set(table.scores) and found["fisher"].n == 6 and found["frequency"].why
    assert "For heads " in said and "The 3 that matter most by" in said and "whether frequency agrees with the exact" in said
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "For heads " in page and "<script" not in page
    assert page.count("<svg") == 4 + 1 + 1     # maps, scatter, agreement
    assert "fisher and wanda: " in page and "block 4, head" in page and "frequency" in page
    assert "nan" not in page.lower().split()
    for picture in ("units.png", "exact.png", "agreement.png"):
        assert (tmp_path / "run" / picture).read_bytes()[:4] == b"\x89PNG"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["arguments"]["kind"] == ["heads"]


def test_several_kinds_have_a_folder_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["score", "pico", "--kind", "sublayers", "layers", "--by", "activation", "--tokens", "300", "--sample", "5", "--out",
          str(tmp_path)])
    said = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index('<section id="sublayers">') < page.index('<section id="layers">') and "blocks.3.mlp" in page
    assert "12 sublayers of pico" in said and "6 layers of pico" in said and "activation over layers" in said
    for kind in ("sublayers", "layers"):
        assert {"units.parquet", "trust.json", "units.png", "exact.png"} == {p.name for p in (tmp_path / kind).iterdir()}


def test_an_encoder_is_judged_by_how_far_its_output_moves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from helpers import PLAIN, tiny_bert
    net = tiny_bert("BertModel")
    net.module.save_pretrained(tmp_path / "model"), net.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(PLAIN, encoding="utf-8")
    main(["score", str(tmp_path / "model"), "--kind", "neurons", "--by", "activation", "wanda", "--tokens", "360", "--sample",
          "8", "--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run")])
    said, found = capsys.readouterr().out, load_trusts(tmp_path / "run" / "trust.json")
    assert found["wanda"].metric == "moved" and not found["wanda"].same_data and "moved on other data" in " ".join(said.split())
    assert found["wanda"].rows == 6     # half of twelve rows of thirty tokens


def test_scores_agree_with_themselves_and_the_picture_shows_how_far(tmp_path: Path) -> None:
    heads = units(double("llama"), "heads").score(["fisher", "gradient", "activation", "frequency"], data("llama"))
    table = heads.agreement()
    assert list(table) == list(table.index) == heads.scores and np.allclose(table, table.T, equal_nan=True)
    from scipy.stats import spearmanr
    wanted = spearmanr(heads.column("fisher"), heads.column("activation")).statistic
    assert table.loc["fisher", "activation"] == pytest.approx(wanted) and table.loc["fisher", "fisher"] == pytest.approx(1)
    assert table["frequency"].isna().all() and list(heads.agreement(["gradient", "fisher"])) == ["gradient", "fisher"]
    figure = heads.plot(heads.scores, tmp_path / "agreement.png")
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.ma.filled(drawn, np.nan), table.to_numpy())
    assert {text.get_text() for text in figure.axes[0].texts} >= {"1.00", "–", f"{wanted:.2f}"}
    with pytest.raises(ValueError, match="at least one column; found none"):
        heads.plot([])
