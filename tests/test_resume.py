"""Passes that begin at a block: they give what whole passes give, and exact effects notice where they cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import ATTENTION, example, module, network
from test_edits import output, traces
from test_scores import data, double, loss
from torch import Tensor, nn
from torch.testing import assert_close

import cutaway
from cutaway import Edit, Network, units
from cutaway.network.resume import Differs, Kept
from cutaway.scores import exact, significance
from cutaway.scores.exact import effects


def inputs(name: str) -> Any:
    x = example(name, rows=3)
    return x if name in ("vit", "clip-vision", "resnet") else {"input_ids": x, "attention_mask": torch.ones_like(x)}


@pytest.mark.parametrize("name", [*ATTENTION, "resnet"])
def test_a_pass_that_begins_at_a_block_is_the_whole_pass(name: str) -> None:
    net, of = network(name), inputs(name)
    before, plain, kept, ran = traces(net), output(net, of), Kept(net), []
    with kept.keeping(), torch.no_grad():
        output(net, of)
    assert kept.whole and list(kept.inputs) == [*range(net.n_blocks)]
    many = {key: x.repeat_interleave(2, 0) for key, x in of.items()} if isinstance(of, dict) else of.repeat_interleave(2, 0)
    inner = [next(m for m in block.modules() if isinstance(m, nn.Linear | nn.Conv2d) or "Norm" in type(m).__name__)
             for block in kept.blocks]
    hooks = [m.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, m in enumerate(inner)]
    for start in range(net.n_blocks):
        ran.clear()
        with kept.resumed(start, 2), torch.no_grad():
            assert_close(output(net, many), plain.repeat_interleave(2, 0), rtol=1e-4, atol=1e-5)
        assert set(ran) == {*range(start, net.n_blocks)}
    for hook in hooks:
        hook.remove()
    assert traces(net) == before and not any("forward" in vars(block) for block in kept.blocks)


def test_other_rows_and_other_levels_are_refused_and_all_is_undone() -> None:
    net, of = network("llama"), inputs("llama")
    kept, before = Kept(net), traces(net)
    with kept.keeping(), torch.no_grad():
        net.logits(of)
    with pytest.raises(Differs), kept.resumed(2):
        net.logits({key: x.flip(0) for key, x in of.items()})
    with pytest.raises(Differs), kept.resumed(2), net.as_it_is():
        net.logits(of)
    assert traces(net) == before and not any("forward" in vars(block) for block in kept.blocks)


def whole_passes(table: cutaway.Units, of: Any, metric: Any, ref: Any = cutaway.network.zero) -> np.ndarray:
    """Effects by whole passes, one unit at a time."""
    batch, found = of.rows(slice(None)), []
    with torch.no_grad():
        plain = metric(table.net, batch)
        for site, unit in zip(table.frame["site"], table.frame["unit"], strict=True):
            gate = torch.ones(table.sizes[site], dtype=torch.float64)
            gate[unit] = 0
            with table.net.edited(Edit(site, ref, *((gate, "u") if table.kind.axis else (0.0, "")))):
                found.append(metric(table.net, batch) - plain)
    return torch.stack(found, 1).numpy()


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "vit", "opt"])
def test_exact_effects_are_those_of_whole_passes(name: str) -> None:
    heads, of = units(double(name), "heads"), data(name)
    wanted = whole_passes(heads, of, loss)
    np.testing.assert_allclose(exact(heads, of, metric=loss, batch_size=4).values, wanted.mean(0), rtol=1e-7, atol=1e-10)
    found, about = effects(heads.pick([11, 0, 5]), of, metric=loss, batch_size=4)
    np.testing.assert_allclose(found, wanted[:, [11, 0, 5]], rtol=1e-7, atol=1e-10)
    assert about["metric"] == "loss" and about["rows"] == 6


def counted(net: Network, block: int) -> list[int]:
    """How many rows go through a block's first norm."""
    rows: list[int] = []
    net.module.model.layers[block].input_layernorm.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    return rows


def test_exact_begins_at_the_block_of_its_unit() -> None:
    net, of = cutaway.open(module("llama")), data("llama")
    first, last = counted(net, 0), counted(net, 2)
    exact(units(net, "heads"), of)
    # The whole pass (6 rows), the four heads of block 0 (24), and for each later block one row as a check.
    assert sum(first) == 6 + 24 and sum(last) == 6 + 72 + 2


def test_a_metric_that_looks_inside_or_runs_twice_gets_whole_passes() -> None:
    net, of = double("llama"), data("llama")
    heads = units(net, "heads").pick([1, 6, 10])

    def twice(net: Network, batch: Any) -> Tensor:
        with net.as_it_is():
            plain = net.logits(batch)
        return (net.logits(batch) - plain).square().sum((1, 2))

    def inside(net: Network, batch: Any) -> Tensor:
        return net.record(batch, "blocks.0.mlp", grad=False)["blocks.0.mlp"].square().sum((1, 2))

    def early(net: Network, batch: Any) -> Tensor:
        found = {}
        with net.watched({"blocks.0": lambda x, at: found.update(x=x)}):
            net.logits(batch)
        return found["x"].square().sum((1, 2))

    def flipped(net: Network, batch: Any) -> Tensor:
        return net.logits({"input_ids": batch.inputs["input_ids"].flip(1)}).square().mean((1, 2))

    for metric in (twice, inside, early, flipped):
        found, wanted = exact(heads, of, metric=metric, batch_size=6).values, whole_passes(heads, of, metric).mean(0)
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9, err_msg=metric.__name__)
        assert metric in (twice, flipped) or (found[0] != 0 and found[1] == found[2] == 0)


def test_edits_that_are_in_force_stay_in_force_once() -> None:
    net, of = double("llama"), data("llama")
    heads = units(net, "heads").pick([5, 10])
    outer = [Edit("blocks.0", lambda z, at: z + 0.5), Edit("blocks.1", lambda z, at: 2 * z),
             Edit("embed", lambda z, at: z + 0.1), Edit("blocks.0.attn.heads", gate=torch.tensor([1.0, 0, 1, 1]), over="u")]
    with net.edited(outer):
        found = exact(heads, of, metric=loss).values
        np.testing.assert_allclose(found, whole_passes(heads, of, loss).mean(0), rtol=1e-7, atol=1e-9)


def test_a_reference_that_runs_the_network_itself_sees_it_whole() -> None:
    net, of = double("llama"), data("llama")
    heads = units(net, "heads", sites="blocks.2.attn.heads")

    def other(z: Tensor, at: Any) -> Tensor:
        with net.as_it_is(), torch.no_grad():
            found = net.record({"input_ids": at.tokens.flip(1)}, "blocks.2.attn.heads")["blocks.2.attn.heads"]
        return found.view(z.shape)

    found = exact(heads, of, metric=loss, ref=other).values
    np.testing.assert_allclose(found, whole_passes(heads, of, loss, other).mean(0), rtol=1e-7, atol=1e-9)


# --- significance -----------------------------------------------------------------------------------------------------

def test_effects_are_tested_by_student_and_adjusted_for_their_number() -> None:
    from scipy.stats import false_discovery_control, ttest_1samp, ttest_rel
    heads, of = units(double("llama"), "heads"), data("llama", rows=12)
    rows, _ = effects(heads, of)
    found = significance(heads, of).sort_values(["site", "unit"], ignore_index=True)
    tested = ttest_1samp(rows, 0)
    np.testing.assert_allclose(found["p"], tested.pvalue, rtol=1e-9)
    np.testing.assert_allclose(found["effect"], rows.mean(0), rtol=1e-9)
    interval = tested.confidence_interval()
    np.testing.assert_allclose(found[["low", "high"]].T, [interval.low, interval.high], rtol=1e-9)
    np.testing.assert_allclose(found["adjusted"], false_discovery_control(tested.pvalue), rtol=1e-9)
    by = significance(heads, of, control="by").sort_values(["site", "unit"], ignore_index=True)
    np.testing.assert_allclose(by["adjusted"], false_discovery_control(tested.pvalue, method="by"), rtol=1e-9)
    pair = significance(heads.pick([4, 9]), of, against=1)
    assert len(pair) == 1 and pair["p"][0] == pytest.approx(ttest_rel(rows[:, 4], rows[:, 9]).pvalue)
    assert pair.attrs["about"]["against"] == 1 and found["adjusted"].notna().all()


def test_units_without_an_effect_are_no_discovery_and_bad_questions_are_refused() -> None:
    heads, of = units(double("llama"), "heads"), data("llama")

    def first_block(net: Network, batch: Any) -> Tensor:
        return net.record(batch, "blocks.0")["blocks.0"].square().mean((1, 2))

    found = significance(heads, of, metric=first_block).set_index("site")
    assert (found.loc[["blocks.1.attn.heads", "blocks.2.attn.heads"], "p"] == 1).all()
    for options, words in (({"control": "holm"}, "by bh or by; found 'holm'"),
                           ({"against": 12}, "the rows 0 to 11; found against=12")):
        with pytest.raises(ValueError, match=words):
            significance(heads, of, **options)
    with pytest.raises(ValueError, match="takes at least two; random has 1"):
        significance(heads, data("llama", rows=1))
    with pytest.raises(ValueError, match="each token stands in one row"):
        significance(units(double("llama"), "tokens", data=of), of)


def test_false_discoveries_stay_below_their_share() -> None:
    from scipy.stats import norm

    from cutaway.metrics.discovery import benjamini_hochberg, benjamini_yekutieli
    np.testing.assert_allclose(benjamini_hochberg([0.01, 0.04, 0.03, 0.005]), [0.02, 0.04, 0.04, 0.02])
    np.testing.assert_allclose(benjamini_yekutieli([0.01, 0.9]), [0.03, 1.0])
    assert len(benjamini_hochberg([])) == 0
    with pytest.raises(ValueError, match="p-values are a list of numbers from 0 to 1; found \\[0.2, 1.2\\]"):
        benjamini_hochberg([0.2, 1.2])
    random, shares, power = np.random.default_rng(0), [], []
    for _ in range(400):
        z = random.normal(size=100) + np.repeat([3.0, 0.0], [20, 80])
        called = benjamini_hochberg(2 * norm.sf(np.abs(z))) <= 0.1
        shares.append(called[20:].sum() / max(called.sum(), 1))
        power.append(called[:20].mean())
    assert np.mean(shares) < 0.09 and np.mean(power) > 0.5  # 0.1 times the share of true nulls, 0.8
