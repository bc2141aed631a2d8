"""Proofs about attributions: what they measure, on small stand-ins, and what they conclude from figures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import cutaway as cw
from cutaway.attribute import Target, inputs_of
from cutaway.catalogue import find
from cutaway.data import Batch
from cutaway.proofs import deeplift, reagent, rise
from cutaway.proofs import token_activation_map as tam
from cutaway.proofs.digit_nets import cnn
from cutaway.proofs.digit_scenes import Scenes, scenes, split

SPREAD = (0.0, 0.001, 0.002, 0.001, 0.0)


def small_inputs(n: int = 6) -> tuple[cw.Network, torch.Tensor]:
    return cw.open(cnn(10, 0)), split(0).test[0][:n]


# --- rise ---------------------------------------------------------------------------------------------------------------


def test_the_rise_proof_reads_pixels_as_its_network_does():
    x = split(0).train[0]
    made = rise.normalised(x, x)
    assert float(made.mean()) == pytest.approx(0, abs=1e-5) and float(made.std()) == pytest.approx(1, abs=1e-4)


def test_an_oracle_beats_its_opposite_by_deletion_and_insertion():
    net, x = small_inputs()
    batch = Batch(x, None, None, torch.arange(len(x)))
    asked = {rise.REFERENCES["mean"]: 0.3, rise.INSERTION: "blur"}
    inputs = {name: inputs_of(net, batch, baseline=base) for name, base in asked.items()}
    target = Target("probability", net.logits(x).argmax(1))
    for each in inputs.values():
        exact = find("leave-one-out", "attribute").object(each, target).flatten(1)
        found = rise.areas(inputs, target, {"best": exact, "worst": -exact})
        assert found[rise.INSERTION]["best"] > found[rise.INSERTION]["worst"]
        assert found[rise.REFERENCES["mean"]]["best"] < found[rise.REFERENCES["mean"]]["worst"]


@pytest.mark.parametrize(("gradient", "holds"), [(0.30, True), (0.15, False)])
def test_what_the_rise_proof_concludes(gradient, holds):
    def row(e):
        of = dict.fromkeys(rise.OPTIONS, 0.4) | {"rise": 0.2 + e, "saliency": gradient, "random": 0.5}
        up = {name: 1 - value for name, value in of.items()}
        return {**dict.fromkeys(rise.REFERENCES.values(), of), rise.INSERTION: up, "network": {"accuracy": 0.97 + e}}
    proven = rise.concluded([row(e) for e in SPREAD])
    assert proven.holds is holds and json.dumps(proven.json(), allow_nan=False)


# --- deeplift -----------------------------------------------------------------------------------------------------------


def test_contributions_and_what_erasing_them_does():
    net, x = small_inputs()
    first, second = net.logits(x).detach().topk(2, 1).indices.T
    inputs = inputs_of(net, Batch(x, None, None, torch.arange(len(x))), baseline="zero")
    target = Target("logit", first, second)
    found = deeplift.contributions(inputs, target, 0)
    assert set(found) == set(deeplift.WAYS) and all(values.shape == (6, 64) for values in found.values())
    assert deeplift.captum_s(net, inputs, target, found["rescale"]) < 1e-4
    nothing = deeplift.erased(inputs, target, -torch.ones(6, 64))
    assert nothing.abs().max() < 1e-5, "only pixels with positive values are erased"
    n = round(deeplift.SHARE * 64)
    one_pixel = torch.zeros(6, 64)
    one_pixel[:, 20] = 1
    gone = x.clone()
    gone.view(6, 64)[:, 20] = 0
    with torch.no_grad():
        wanted = inputs.values(x, target) - inputs.values(gone, target)
    torch.testing.assert_close(deeplift.erased(inputs, target, one_pixel), wanted, rtol=1e-3, atol=1e-5)
    assert n == 13


@pytest.mark.parametrize(("gradient", "gap", "holds"), [(3.0, 1e-6, True), (6.0, 1e-6, False), (3.0, 1e-2, False)])
def test_what_the_deeplift_proof_concludes(gradient, gap, holds):
    rows = [{"fall": dict.fromkeys(deeplift.WAYS, 4.0) | {"reveal-cancel": 5 + e, "gradient": gradient},
             "gap": {"reveal-cancel": gap, "rescale": gap}, "network": {"accuracy": 0.97, "rescale less captum's": 1e-6}}
            for e in SPREAD]
    proven = deeplift.concluded(rows)
    assert proven.holds is holds and json.dumps(proven.json(), allow_nan=False)


# --- reagent ------------------------------------------------------------------------------------------------------------


def test_contexts_are_those_that_the_network_is_sure_of(monkeypatch):
    monkeypatch.setattr(reagent, "ROWS", 3)
    net = cw.open("pico")
    batch, target = reagent.contexts(net, 0)
    with torch.no_grad():
        p = net.logits(batch)[:, -1].softmax(-1)
    assert batch.inputs["input_ids"].shape == (3, reagent.TOKENS) and not batch.keep[:, 0].any()
    assert torch.equal(p.argmax(1), target.index) and (p.amax(1) >= reagent.SURE).all()
    again, _ = reagent.contexts(net, 0)
    other, _ = reagent.contexts(net, 1)
    assert torch.equal(again.inputs["input_ids"], batch.inputs["input_ids"])
    assert not torch.equal(other.inputs["input_ids"], batch.inputs["input_ids"])


@pytest.mark.parametrize(("attention", "holds"), [(0.2, True), (0.5, False)])
def test_what_the_reagent_proof_concludes(attention, holds):
    def row(e):
        figures = [f"{measure}, {scaling}" for measure in reagent.MEASURES for scaling in ("rank", "min-max")]
        return {name: dict.fromkeys(figures, {"reagent": 0.4 + e, "attention": attention}.get(name, 0.1))
                | {"deletion": 0.3 + e, "insertion": 0.3, "passes": 10.0} for name in reagent.METHODS}
    proven = reagent.concluded([row(e) for e in SPREAD[:3]])
    assert proven.holds is holds and json.dumps(proven.json(), allow_nan=False)


# --- token activation maps ----------------------------------------------------------------------------------------------


def test_captions_are_in_reading_order_and_know_their_places():
    data = scenes(*split(0).train, 40, 3, pairs=True)
    ids, objects = tam.captions(data)
    assert ids.shape == (40, 5) and objects.shape == (40, 2, 8, 8)
    assert (ids[:, 0] == tam.BEGIN).all() and (ids[:, 2] == tam.AND).all() and (ids[:, 4] == tam.END).all()
    first = [tuple(map(int, place.nonzero()[0])) for place in objects[:, 0]]
    second = [tuple(map(int, place.nonzero()[0])) for place in objects[:, 1]]
    assert all((a[0] // 4, a[1] // 4) < (b[0] // 4, b[1] // 4) for a, b in zip(first, second, strict=True))
    assert not (objects[:, 0] & objects[:, 1]).any()
    either = torch.stack([data.y, data.other], 1)
    same = torch.where((ids[:, 1] == data.y)[:, None], either, either.flip(1))
    assert torch.equal(ids[:, [1, 3]], same)


def test_otsu_and_overlap():
    values = np.array([0.0, 0.1, 0.05, 0.9, 1.0, 0.95])
    assert 0.1 < tam.otsu(values) < 0.9
    place = torch.zeros(1, 8, 8, dtype=torch.bool)
    place[0, :4, :4] = True
    right, _ = tam.overlap(place.float(), place)
    half, _ = tam.overlap((place & (torch.arange(8) < 2)).float(), place)
    assert right[0] == 1 and half[0] == 0.5


def test_maps_of_an_untrained_captioner(monkeypatch):
    torch.manual_seed(0)
    net = cw.open(tam.Captioner().eval())
    data = scenes(*split(0).train, 4, 0, pairs=True)
    ids, _ = tam.captions(data)
    batch = Batch({"pixel_values": data.x, "input_ids": ids[:, :-1]}, None, None, torch.arange(4))
    inputs = inputs_of(net, batch, "patches", patch=tam.PATCH)
    found = {way: tam.maps_of(inputs, way, ids[:, 3], 2, 0) for way in tam.WAYS}
    assert all(each.shape == (4, 8, 8) and (each >= 0).all() for each in found.values())
    plain = net.logits(batch)[:, :64].gather(2, ids[:, 3][:, None, None].expand(-1, 64, 1)).clamp(min=0).view(4, 8, 8)
    torch.testing.assert_close(found["plain map"], plain.detach(), rtol=1e-4, atol=1e-5)
    assert (found["interference removed"] <= found["plain map"] + 1e-6).all()
    monkeypatch.setattr(tam, "ALIGNING", (2, 4))
    monkeypatch.setattr(tam, "CAPTIONING", (2, 4))
    assert tam.trained(data, 0).module.training is False
    assert isinstance(replace(data, y=data.y), Scenes)


@pytest.mark.parametrize(("plain", "holds"), [(0.3, True), (0.6, False)])
def test_what_the_map_proof_concludes(plain, holds):
    def row(e):
        figures = dict.fromkeys(("Obj-IoU", "Func-IoU", "F1-IoU", "first digit", "second digit"), 0.2)
        ways = {way: dict(figures) for way in tam.WAYS}
        for way, value in (("token activation map", 0.5 + e), ("interference removed", 0.45 + e), ("plain map", plain)):
            ways[way]["Obj-IoU"] = value
        return ways | {"captioner": {"right captions": 0.9, "n": 100.0}}
    proven = tam.concluded([row(e) for e in SPREAD[:3]])
    assert proven.holds is holds and json.dumps(proven.json(), allow_nan=False)
