"""The units table: what its rows are, and that choosing, acting, keeping and showing mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import D_FF, D_MODEL, N_BLOCKS, N_HEADS, VOCAB, example, module, network
from torch import Tensor

import cutaway
from cutaway import Units, units
from cutaway.dictionaries.dictionary import Dictionary, Facts
from cutaway.dictionaries.parts import TopK


def text(name: str = "llama", rows: int = 4, tokens: int = 8) -> Any:
    return cutaway.arrays({"input_ids": example(name, rows, tokens)}, name="random")


def scored(kind: str, values: Any = None, **options: Any) -> Units:
    """A table with a made-up score."""
    table = units(network("llama"), kind, **options)
    values = np.random.default_rng(0).permutation(len(table)).astype(float) if values is None else np.asarray(values, float)
    return replace(table, frame=table.frame.assign(made=values), about={"made": FACTS})


FACTS = {"method": "made", "metric": "row_loss", "data": "random", "fingerprint": "0", "rows": 4, "tokens": 32,
         "reference": "zero", "seed": None, "network": "llama", "options": {}}


def logits(net: cutaway.Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.logits(x)


# --- what is in it ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("kind", "each"), [
    ("layers", 1), ("sublayers", 2), ("heads", N_HEADS), ("neurons", D_FF), ("channels", D_MODEL),
    ("rows", D_MODEL * 2 + 16 * 2 + D_FF * 2 + D_MODEL)])
def test_a_table_has_a_row_for_each_unit(kind: str, each: int) -> None:
    table = units(network("llama"), kind)
    assert len(table) == each * N_BLOCKS
    assert table.frame["block"].value_counts().to_dict() == dict.fromkeys(range(N_BLOCKS), each)
    assert not table.frame[["site", "unit"]].duplicated().any()


def test_experts_are_units_of_mixtures_of_experts() -> None:
    assert len(units(network("mixtral"), "experts")) == 4 * N_BLOCKS
    with pytest.raises(ValueError, match="has no experts that Cutaway knows by name; only mixtures"):
        units(network("llama"), "experts")


def test_sites_may_be_given_by_name_pattern_and_path() -> None:
    net = network("llama")
    assert list(units(net, "neurons", sites="blocks.1.mlp.neurons").sites) == ["blocks.1.mlp.neurons"]
    assert len(units(net, "heads", sites=["blocks.0.attn.heads", "blocks.2.attn.heads"])) == 2 * N_HEADS
    assert len(units(net, "rows", sites="model.layers.*.mlp.down_proj:weight")) == N_BLOCKS * D_MODEL
    assert len(units(net, "rows", sites="blocks.1.mlp")) == 2 * D_FF + D_MODEL
    conv1d = units(network("gpt2"), "rows", sites="transformer.h.0.mlp.c_fc:weight")
    assert len(conv1d) == 4 * D_MODEL and set(conv1d.frame["block"]) == {0}


def test_a_site_that_does_not_say_how_many_units_it_has_is_counted_on_data() -> None:
    net, of = network("mlp"), cutaway.arrays(example("mlp"))
    with pytest.raises(ValueError, match="how many units there are at 1:out is known only in a pass; give data="):
        units(net, "neurons", sites="1:out")
    assert len(units(net, "neurons", sites="1:out", data=of)) == 16
    images = cutaway.arrays(example("cnn"))
    assert len(units(network("cnn"), "channels", sites="act:out", data=images)) in (6, 8)


def test_features_are_units_of_a_dictionary() -> None:
    made = dictionary()
    table = units(network("llama"), "features", dictionary=made)
    assert len(table) == 40 and set(table.frame["block"]) == {1} and list(table.sites) == ["blocks.1.features"]
    with pytest.raises(ValueError, match="give dictionary="):
        units(network("llama"), "features")
    with pytest.raises(ValueError, match="belong to one site"):
        units(network("llama"), "features", dictionary=[made, made])


def dictionary() -> Dictionary:
    made = Dictionary(D_MODEL, 40, TopK(4), Facts(site="blocks.1"))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    return made.requires_grad_(False)


def test_tokens_are_the_kept_positions_of_rows_of_data() -> None:
    of = text(rows=5)
    table = units(network("llama"), "tokens", data=of, rows=[3, 1])
    assert table.frame["row"].tolist() == [3] * 8 + [1] * 8 and table.frame["unit"].tolist() == [*range(8)] * 2
    assert table.frame["token"][0] == f"w{int(of.x['input_ids'][3, 0])}"
    from helpers import PLAIN, tiny_llama
    net = tiny_llama()
    real = cutaway.corpus([PLAIN], net)
    kept = units(net, "tokens", data=real).frame["unit"].tolist()
    assert kept == real.rows([0]).keep[0].nonzero().flatten().tolist() and 0 not in kept  # without the begin token
    with pytest.raises(ValueError, match="has the rows 0 to 4; found"):
        units(network("llama"), "tokens", data=of, rows=[5])
    with pytest.raises(ValueError, match="give data= and rows="):
        units(network("llama"), "tokens")


@pytest.mark.parametrize(("kind", "said"), [("head", "the nearest is 'heads'"), ("qqq", "The kinds are layers, sublayers")])
def test_an_unknown_kind_names_the_nearest(kind: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        units(network("llama"), kind)


@pytest.mark.parametrize("kind", ["layers", "heads", "neurons", "channels", "rows"])
def test_a_network_that_lacks_a_kind_says_how_to_name_it(kind: str) -> None:
    with pytest.raises(ValueError, match=f"has no {kind} that Cutaway knows by name; give sites= by module path"):
        units(network("mlp"), kind)


def test_sites_that_hold_no_such_units_are_refused() -> None:
    net = network("llama")
    with pytest.raises(ValueError, match="there is no site 'blocks.9.mlp'"):
        units(net, "neurons", sites="blocks.9.mlp")
    with pytest.raises(ValueError, match="is a weight, whose units are its rows"):
        units(net, "neurons", sites="model.layers.0.mlp.up_proj:weight")
    with pytest.raises(ValueError, match="its rows are not units"):
        units(net, "rows", sites="model.norm:weight")
    with pytest.raises(ValueError, match="its rows are not units"):
        units(net, "rows", sites="model.embed_tokens:weight")


# --- choosing and acting ----------------------------------------------------------------------------------------------

def test_keep_takes_the_best_share_in_all_or_in_each_group() -> None:
    table = scored("heads", range(12))
    assert table.keep("made", 0.25).frame["keep"].tolist() == [False] * 9 + [True] * 3
    assert table.keep("made", 0.25, per="block").frame["keep"].tolist() == [False, False, False, True] * 3
    tied = scored("heads", [1.0] * 12).keep("made", 0.5)
    assert tied.frame["keep"].sum() == 6
    assert "keep" not in table.frame


@pytest.mark.parametrize("kind", ["layers", "sublayers", "heads", "neurons", "channels", "rows", "features"])
def test_keep_all_changes_nothing_and_keep_none_closes_every_unit(kind: str) -> None:
    net, x = network("llama"), example("llama")
    table = scored(kind, **({"dictionary": dictionary()} if kind == "features" else {}))
    before = logits(net, x)
    assert table.keep("made", 1).edits() == []
    with net.edited(table.keep("made", 1).edits()):
        assert torch.equal(logits(net, x), before)
    closed = table.keep("made", 0).edits()
    assert [edit.site for edit in closed] == list(table.sites.values())
    with net.edited(closed):
        after = logits(net, x)
        inside = net.record(x, list(table.sites)) if kind in ("sublayers", "heads", "neurons", "channels") else {}
    assert not torch.allclose(after, before, atol=1e-3) and not any(bool(z.any()) for z in inside.values())
    if kind == "layers":
        embedded = net.module.get_submodule("model.norm")(net.module.get_submodule("model.embed_tokens")(x))
        assert torch.allclose(after, embedded @ net.module.get_submodule("lm_head").weight.T, atol=1e-4)


def test_edits_close_exactly_what_was_not_kept() -> None:
    net, x = network("llama"), example("llama")
    table = scored("neurons").pick(np.arange(10, 100))  # units outside the table stay open
    kept = table.keep("made", 0.5)
    with net.edited(kept.edits()):
        z = net.record(x, "blocks.0.mlp.neurons")["blocks.0.mlp.neurons"]
    off = kept.frame[~kept.frame["keep"] & (kept.frame["site"] == "blocks.0.mlp.neurons")]["unit"].tolist()
    assert [i for i in range(D_FF) if not bool(z[..., i].any())] == off and 0 < len(off) < D_FF - 10


def test_edits_with_a_mean_put_the_mean_there() -> None:
    net, of = network("llama"), text()
    closed = scored("heads").keep("made", 0).edits("mean", data=of)
    name = "blocks.0.attn.heads"  # the first, so nothing before it is changed
    with torch.no_grad():
        mean = net.record(of.rows(slice(None)), name)[name].mean((0, 1))
        with net.edited(closed):
            inside = net.record(of.rows([0]), name)[name]
    assert torch.allclose(inside, mean.expand_as(inside), atol=1e-5)
    with pytest.raises(ValueError, match="needs data="):
        scored("heads").keep("made", 0).edits("mean")


def test_edits_of_tokens_are_by_row_and_position() -> None:
    net, of = network("llama"), text()
    table = units(net, "tokens", data=of, rows=[2, 0])
    kept = replace(table, frame=table.frame.assign(keep=~table.frame.index.isin([1, 10])))  # row 2 position 1, row 0 position 2
    with net.edited(kept.edits("zero")):
        z = net.record(of.rows([2, 0]), "embed")["embed"]
    assert (~z.any(-1)).nonzero().tolist() == [[0, 1], [1, 2]]


def test_acting_without_choosing_and_choosing_without_numbers_say_so() -> None:
    table = scored("heads")
    with pytest.raises(ValueError, match="nothing has been chosen"):
        table.edits()
    with pytest.raises(ValueError, match="from 0 to 1; found 25"):
        table.keep("made", 25)
    with pytest.raises(ValueError, match="no column 'mode'; the nearest are made"):
        table.keep("mode", 0.5)
    with pytest.raises(ValueError, match="it has no score yet"):
        units(network("llama"), "heads").top("fisher")
    with pytest.raises(ValueError, match="not a number for every unit"):
        scored("heads", [float("nan")] * 12).keep("made", 0.5)


def test_top_and_bottom_are_sorted() -> None:
    table = scored("heads", [3, 1, 2, 0] * 3)
    assert table.top("made", 4).column("made").tolist() == [3, 3, 3, 2]
    assert table.bottom("made", 4).column("made").tolist() == [0, 0, 0, 1]
    assert len(table.pick(table.column("made") == 2)) == 3


def test_join_puts_columns_side_by_side() -> None:
    first, second = scored("heads"), scored("heads", range(12))
    other = replace(second.pick([5, 2]), frame=second.pick([5, 2]).frame.rename(columns={"made": "second"}),
                    about={"second": FACTS})
    both = first.join(other)
    assert both.frame["second"].notna().to_numpy().nonzero()[0].tolist() == [2, 5] and both.scores == ["made", "second"]
    assert both.column("second")[[2, 5]].tolist() == [2, 5]
    with pytest.raises(ValueError, match="both tables have the column 'made'"):
        first.join(second)
    with pytest.raises(ValueError, match="of one kind"):
        first.join(scored("neurons"))


# --- keeping and showing ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["layers", "heads", "rows", "features", "tokens"])
def test_a_saved_table_is_the_same_table(kind: str, tmp_path: Path) -> None:
    net, made = network("llama"), dictionary()
    more = {"features": {"dictionary": made}, "tokens": {"data": text(), "rows": [1]}}.get(kind, {})
    table = scored(kind, **more).keep("made", 0.5)
    read = Units.load(table.save(tmp_path / "units.parquet"), net, [made])
    assert read.frame.equals(table.frame) and read.about == table.about and read.sizes == table.sizes
    assert [str(site) for site in read.sites] == [str(site) for site in table.sites] and read.kind == table.kind
    first, second = (t.edits("zero" if kind == "tokens" else None) for t in (read, table))
    x = text().rows([1])
    with net.edited(first):
        expected = logits(net, x)
    with net.edited(second):
        assert torch.equal(logits(net, x), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["units.parquet"]


def test_files_that_are_no_tables_and_tables_of_other_networks_are_refused(tmp_path: Path) -> None:
    import pandas as pd
    net, path = network("llama"), tmp_path / "units.parquet"
    with pytest.raises(FileNotFoundError, match="no units table at"):
        Units.load(path, net)
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match="is not a whole parquet file"):
        Units.load(path, net)
    pd.DataFrame({"x": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match="not a units table"):
        Units.load(path, net)
    units(network("gpt2"), "neurons").save(path)
    with pytest.raises(ValueError, match=f"with {4 * D_MODEL} units at blocks.0.mlp.neurons; .* has {D_FF} there"):
        Units.load(path, net)
    scored("features", dictionary=dictionary()).save(path)
    with pytest.raises(ValueError, match="give dictionaries="):
        Units.load(path, net)


def test_one_large_value_does_not_press_the_others_into_a_line() -> None:
    table = scored("neurons")
    table.frame["made"] = np.linspace(-1, 1, len(table))
    table.frame.loc[0, "made"] = 1000.0
    figure = table.plot(("unit", "made"))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    (_, low), (_, high), (_, top) = axes.transData.transform([(0, -0.5), (0, 0.5), (0, 1000)])
    assert high - low > 0.1 * axes.bbox.height, "small values can be told apart"
    assert top < axes.bbox.y1, "the large one is seen"


@pytest.mark.parametrize(("kind", "by", "shows"), [
    ("heads", "made", "image"), ("layers", "made", "bar"), ("neurons", "made", "bar"), ("tokens", "made", "line"),
    ("neurons", ("made", "unit"), "points")])
def test_plots_show_the_column(kind: str, by: Any, shows: str, tmp_path: Path) -> None:
    more = {"data": text(), "rows": [0, 1]} if kind == "tokens" else {}
    table = scored(kind, **more)
    figure = table.plot(by, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    axes = figure.axes[0]
    assert "random (4 rows, 32 tokens)" in axes.get_title("left")
    if shows == "image":
        assert axes.images[0].get_array().tolist() == table.column("made").reshape(N_BLOCKS, N_HEADS).tolist()
    if shows == "bar":
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == table.column("made").tolist() if kind == "layers" else sum(heights) == len(table)
    if shows == "line":
        assert len([line for line in axes.lines if len(line.get_xdata()) == 8]) == 2
    if shows == "points":
        assert axes.collections[0].get_offsets().tolist() == np.stack(
            [table.column("made"), table.column("unit")], axis=1).tolist()


def test_a_table_shows_what_its_scores_rest_on() -> None:
    table = scored("heads")
    for shown in (repr(table), table._repr_html_()):
        assert "12 heads of LlamaForCausalLM at 3 sites" in shown
        assert "made: row_loss, random (4 rows, 32 tokens), closed to zero" in shown
    assert len(table) == 12 and VOCAB == 64


def test_scoring_makes_a_new_table() -> None:
    net, of = cutaway.open(module("llama")), text()
    table = units(net, "heads")
    first = table.score("gradient", of)
    second = first.score("gradient", of, column="by_mean", ref="mean")
    assert table.scores == [] and first.scores == ["gradient"] and second.scores == ["gradient", "by_mean"]
    assert list(table.frame) == ["site", "unit", "block"]
    assert second.about["by_mean"]["reference"] == "mean"
    assert not np.allclose(second.column("by_mean"), first.column("gradient"))
    with pytest.raises(ValueError, match="column= names the column of one score"):
        table.score(["gradient", "abs"], of, column="both")
