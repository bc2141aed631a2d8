"""Attribution of images: layer masking, maps of vision transformers, remove and retrain, networks compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf
from helpers import tiny_vit
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

import cutaway as cw
from cutaway.attribute import Target, attribute, inputs_of
from cutaway.attribute.attribute import as_batch
from cutaway.attribute.image_text import ImageText
from cutaway.attribute.layer_masking import lime
from cutaway.attribute.masked import masked
from cutaway.attribute.mmel import layer_maps, layer_weights, multiscale, weighted
from cutaway.attribute.roar import EDGES, INTENSITY, RANDOM, Labelled, roar
from cutaway.attribute.robust_explain import adversarial, places, robust_explain

# --- layer masking ------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A network with all that layer masking has rules for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8)
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding="same"), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1))
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.avg_pool2d(self.pool(x + 0.5 * self.branch(x)), 2)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1) + x.mean((2, 3)))


@pytest.fixture(scope="module", params=["residual", "plain"])
def cnn(request) -> cw.Network:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3), nn.GELU(),
                          nn.Flatten(), nn.Linear(6 * 36, 4))
    return cw.open(Residual() if request.param == "residual" else plain)


def images(n: int = 4, side: int = 16) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def holes(n: int = 4, side: int = 16) -> Tensor:
    keep = torch.ones(n, side, side)
    keep[:, 4:12, 2:9] = 0
    return keep


@torch.no_grad()
def test_a_mask_that_keeps_all_changes_nothing(cnn):
    x = images()
    assert_close(cnn.logits(masked(x, torch.ones(4, 16, 16))), cnn.logits(x))


@torch.no_grad()
def test_what_is_removed_has_no_colour(cnn):
    """Whatever stood in the hole, the answer is the same, and another one than with the hole left in."""
    x, keep = images(), holes()
    other = torch.where(keep[:, None] > 0, x, 5 * torch.rand_like(x))
    assert_close(cnn.logits(masked(other, keep)), cnn.logits(masked(x, keep)), rtol=0, atol=0)
    assert not torch.allclose(cnn.logits(masked(x, keep)), cnn.logits(x), atol=1e-3)
    assert not torch.allclose(cnn.logits(masked(x, keep)), cnn.logits(x * keep[:, None]), atol=1e-3)


@torch.no_grad()
def test_flat_images_stay_flat_under_removal():
    """Neighbours fill a hole with the image's own colour, so that a convolution sees no edge in it."""
    torch.manual_seed(0)
    net = cw.open(nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    flat, keep = torch.full((1, 3, 16, 16), 0.7), torch.ones(1, 16, 16)
    keep[:, 6:8, 6:8] = 0
    assert_close(net.logits(masked(flat, keep)), net.logits(flat), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(net.logits(flat * keep[:, None]), net.logits(flat), atol=1e-3)


def test_operations_that_would_lose_the_mask_are_refused():
    x, keep = images(1), holes(1)
    for layer in (nn.Softmax(1), nn.GroupNorm(1, 3), nn.Upsample(scale_factor=2)):
        with pytest.raises(ValueError, match="layer masking does not know"):
            layer(masked(x, keep))
    with pytest.raises(ValueError, match="height and width together"):
        masked(x, keep).mean(1)
    with pytest.raises(ValueError, match=r"only to rows"):
        masked(x, keep).view(1, 3, 8, 32)
    with pytest.raises(ValueError, match=r"found \[1, 3, 16, 16\] and \[1, 4, 4\]"):
        masked(x, torch.ones(1, 4, 4))
    with pytest.raises(ValueError, match="as vision transformers do"):
        attribute(tiny_vit(), torch.rand(1, 3, 8, 8), "layer-masking", over="patches", patch=4, samples=4)


def test_lime_finds_the_weights_of_a_sum():
    w = torch.tensor([[3.0, -1.0, 0.0, 2.0], [0.0, 0.0, 5.0, 0.0]])
    found = lime(lambda rows, gates: (w[rows] * gates).sum(1) + 7, 2, 4, samples=4000, ridge=1e-6)
    assert_close(found, w, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        lime(lambda rows, gates: gates.sum(1), 2, 4, stay=1.0)


def test_layer_masking_points_at_the_patch_that_matters():
    net = cw.open(nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(64, 2)))
    with torch.no_grad():
        net.module[0].weight.fill_(1.0)
        net.module[2].weight.zero_()
        net.module[2].weight[1, [18, 19, 26, 27]] = 1.0        # the patch at 1, 1
    found = attribute(net, 0.5 + torch.rand(2, 1, 8, 8), "layer-masking", target=1, over="patches", patch=2, samples=200)
    assert found.values.shape == (2, 4, 4) and (found.values.flatten(1).argmax(1) == 5).all()
    with pytest.raises(ValueError, match="removes parts of images"):
        attribute(cw.open(nn.Linear(4, 2)), torch.rand(2, 4), "layer-masking")


# --- maps of vision transformers ----------------------------------------------------------------------------------------


def tiny_clip() -> tuple[hf.CLIPModel, dict[str, Tensor]]:
    torch.manual_seed(0)
    own = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    model = hf.CLIPModel(hf.CLIPConfig(
        text_config=dict(**own, vocab_size=12, max_position_embeddings=3, eos_token_id=11, bos_token_id=10, pad_token_id=11),
        vision_config=dict(**own, image_size=8, patch_size=2), projection_dim=8))
    names = torch.arange(5)
    return model.eval(), {"input_ids": torch.stack([torch.full_like(names, 10), names, torch.full_like(names, 11)], 1)}


@torch.no_grad()
def test_texts_as_classes_are_clips_own_similarities():
    clip, texts = tiny_clip()
    x = torch.rand(3, 3, 8, 8)
    assert_close(cw.open(ImageText(clip, texts)).logits(x), clip(pixel_values=x, **texts).logits_per_image)


@pytest.mark.parametrize("make", [tiny_vit, lambda: cw.open(ImageText(*tiny_clip()))], ids=["vit", "clip"])
def test_mmel_maps(make):
    net, x = make(), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = attribute(net, x, "mmel", target=1, over="pixels", scales=(1, 2))
    assert found.values.shape == (3, 8, 8) and found.values.min() >= 0 and found.values.max() <= 1
    assert not torch.equal(found.values, attribute(net, x, "mmel", target=2, over="pixels", scales=(1, 2)).values)
    inputs, target = inputs_of(net, as_batch(net, x), "pixels"), Target(index=torch.ones(3, dtype=torch.int64))
    maps = layer_maps(inputs, target)
    side = 2 if net.kind == "image" else 4
    assert maps.shape == (2, 3, side, side) and ((maps.flatten(2).amax(2) == 1) | (maps.flatten(2).amax(2) == 0)).all()
    one = attribute(net, x, "mmel", target=1, over="patches", patch=8 // side, scales=(1,), weights=[0.0, 1.0]).values
    large = F.interpolate(maps[1][:, None], (8, 8), mode="bilinear")[:, 0]
    assert_close(one, F.avg_pool2d(large, 8 // side) * (8 // side) ** 2), "all the weight on a layer gives its map"


def test_a_layers_map_is_gradient_times_value_times_nearness():
    net, x = tiny_vit(), torch.rand(1, 3, 8, 8)
    inputs, target = inputs_of(net, as_batch(net, x), "pixels"), Target(index=torch.tensor([2]))
    path = "vit.layers.1.attention"
    seen = net.record(x, [f"{path}.{p}:out" for p in ("q_proj", "k_proj", "v_proj")])
    q, k, v = (seen[f"{path}.{p}:out"][0].unflatten(-1, (2, 8)) for p in ("q_proj", "k_proj", "v_proj"))

    def answer(step: Tensor) -> Tensor:
        with net.watched({f"{path}.o_proj:in": lambda o, at: o + F.pad(step, (0, 0, 0, o.shape[1] - 1))[None]}):
            return net.logits(x)[0, 2]
    g = torch.autograd.functional.jacobian(answer, torch.zeros(1, 16))[0].unflatten(-1, (2, 8))
    near = F.cosine_similarity(q[:1], k[1:], dim=-1)
    near = (near - near.amin(0)) / (near.amax(0) - near.amin(0))
    raw = ((g * v[1:]).sum(-1) * near).sum(-1).clamp(min=0)
    expected = (raw - raw.min()) / (raw.max() - raw.min())
    assert_close(layer_maps(inputs, target)[1, 0].flatten(), expected, atol=1e-4, rtol=1e-4)


def test_scales_and_weights():
    maps = torch.rand(2, 3, 4, 4)
    assert_close(multiscale(maps, [1]), maps)
    assert_close(multiscale(torch.full((2, 3, 4, 4), 0.3), [1, 2, 4]), torch.full((2, 3, 4, 4), 0.3))
    assert multiscale(maps, [4]).flatten(2).std(2).max() < 1e-6
    with pytest.raises(ValueError, match="1 to 4 patches; found"):
        multiscale(maps, [5])
    both = weighted(maps, torch.tensor([0.0, 1.0]))
    assert both.amin() == 0 and both.amax() == 1 and (both.flatten(1).argmax(1) == maps[1].flatten(1).argmax(1)).all()


def test_learned_weights_raise_what_they_are_learned_for():
    net = tiny_vit()
    for p in net.module.parameters():
        p.data.mul_(4)      # a random network answers nearly the same to all images otherwise
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs, target = inputs_of(net, as_batch(net, x), "pixels"), Target(index=torch.zeros(6, dtype=torch.int64))
    found = layer_weights(inputs, target, scales=[1], steps=30)
    assert found.shape == (2,) and found.sum() == pytest.approx(1) and (found > 0).all()

    @torch.no_grad()
    def gain(weights: Tensor) -> float:
        gate = F.interpolate(weighted(layer_maps(inputs, target), weights)[:, None], (8, 8), mode="bilinear")
        return float((inputs.values(gate * x, target) - inputs.values((1 - gate) * x, target)).mean())
    assert gain(found) > gain(torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(("net", "x", "options", "said"), [
    (lambda: cw.open(nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten())), torch.rand(1, 3, 8, 8), {}, "no image tower"),
    (tiny_vit, torch.rand(1, 3, 8, 8), {"weights": [1.0]}, "has 2 layers"),
    (tiny_vit, torch.rand(1, 3, 8, 8), {"scales": (3,)}, "1 to 2 patches"),
    (lambda: cw.open(nn.Linear(4, 2)), torch.rand(1, 4), {}, "mmel explains images")])
def test_what_mmel_cannot_explain_is_named(net, x, options, said):
    with pytest.raises(ValueError, match=said):
        attribute(net(), x, "mmel", **{"scales": (1,), **options})


# --- remove and retrain -------------------------------------------------------------------------------------------------


def signs(n: int, seed: int) -> Labelled:
    """Noise in which the pixels of the first row say the class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=generator)
    x = 0.3 * torch.randn(n, 1, 6, 6, generator=generator)
    x[:, 0, 0] += (2 * y - 1)[:, None]
    return Labelled(x, y)


def learn(x: Tensor, y: Tensor, seed: int):
    means = torch.stack([x[y == c].mean(0) for c in (0, 1)]).flatten(1)
    return lambda new: -torch.cdist(new.flatten(1), means)


def test_roar_tells_a_right_map_from_a_wrong_one():
    train, test = signs(300, 0), signs(200, 1)

    def rows(first: float) -> tuple[Tensor, Tensor]:
        maps = [torch.rand(len(part.y), 6, 6, generator=torch.Generator().manual_seed(5)) for part in (train, test)]
        for one in maps:
            one[:, 0] = first
        return maps[0], maps[1]
    found = roar(learn, train, test, {"right": rows(2.0), "wrong": rows(-1.0)}, shares=[0.17, 0.5], progress=False)
    assert found.ways == [RANDOM, "right", "wrong", EDGES, INTENSITY] and found.accuracy.shape == (5, 2, 3)
    assert found.untouched.min() > 0.95 and found.mean("wrong").min() > 0.95
    assert found.mean("right").max() < 0.65 < found.mean(RANDOM).min()
    right = found.frame.query("way == 'right'")
    assert (right["high"] < 0).all() and (right["from_masks_alone"] < 0.65).all() and len(found.frame) == 10
    assert "300 training and 200 test images, 3 seeds" in str(found)
    again = roar(learn, train, test, {"right": rows(2.0), "wrong": rows(-1.0)}, shares=[0.17, 0.5], progress=False)
    assert np.array_equal(again.accuracy, found.accuracy)


def test_a_map_that_tells_the_class_by_its_shape_is_caught(tmp_path):
    train, test = signs(300, 0), signs(200, 1)

    def telling(part: Labelled) -> Tensor:
        maps = torch.zeros(len(part.y), 6, 6)
        maps[:, 3][part.y == 0] = 1.0
        maps[:, 5][part.y == 1] = 1.0
        return maps
    found = roar(learn, train, test, {"telling": (telling(train), telling(test))}, shares=[1 / 6], seeds=[0], progress=False)
    assert found.from_masks[1].min() > 0.95 > 0.7 > found.from_masks[0].max()
    assert found.frame["low"].isna().all(), "one seed has no interval"
    found.plot().savefig(tmp_path / "roar.png")
    silent = roar(learn, train, test, {}, shares=[0.5], seeds=[0], masks=[], progress=False)
    assert np.isnan(silent.from_masks).all()


@pytest.mark.parametrize(("maps", "options", "said"), [
    ({"a": (torch.zeros(9, 6, 6), torch.zeros(20, 6, 6))}, {}, "map 'a' must hold"),
    ({"a": (torch.full((30, 6, 6), torch.nan), torch.zeros(20, 6, 6))}, {}, "NaN"),
    ({}, {"shares": [1.0]}, "between 0 and 1"), ({}, {"seeds": []}, "one seed")])
def test_what_roar_cannot_use_is_named(maps, options, said):
    with pytest.raises(ValueError, match=said):
        roar(learn, signs(30, 0), signs(20, 1), maps, progress=False, **options)


# --- networks compared --------------------------------------------------------------------------------------------------


def test_places():
    objects = torch.zeros(4, 8, 8, dtype=torch.bool)
    objects[:, :4, :4] = True
    maps = torch.zeros(4, 8, 8)
    maps[0, :4, :4] = 1.0
    maps[1, 4:, 4:] = 1.0
    maps[2, 0, 0] = 2.0
    maps[2, 4, 4] = 1.0
    found = places(maps, objects)
    assert found["pointing"].tolist()[:3] == [1, 0, 1] and found["localisation"].tolist() == [1, 0, 0, 0]
    assert_close(found["mass"], torch.tensor([1.0, 0.0, 2 / 3, 0.25]))


def classifier(scale: float) -> cw.Network:
    """A network that reads the ink of the left and of the right half."""
    net = cw.open(nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(64, 2, bias=False)))
    left = torch.zeros(8, 8)
    left[:, :4] = 1.0
    with torch.no_grad():
        net.module[0].weight.fill_(1.0)
        net.module[2].weight.copy_(scale * torch.stack([left.flatten(), 1 - left.flatten()]))
    return net


def halves(n: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.arange(n) % 2
    objects = torch.zeros(n, 8, 8, dtype=torch.bool)
    objects[y == 0, 2:5, :3] = True
    objects[y == 1, 2:5, 5:] = True
    return objects[:, None].float() * 0.8 + 0.1 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)), y, objects


def test_networks_are_compared_on_what_all_get_right():
    x, y, objects = halves()
    nets = {"sure": classifier(1.0), "unsure": classifier(0.1)}
    found = robust_explain(nets, x, y, objects, {"input-x-gradient": {}, "rise": {"n_masks": 60}}, most=10)
    assert found.n == 10 and set(found.frame["method"]) == {"input-x-gradient", "rise", "random"} and len(found.frame) == 6
    assert found.mean("sure", "input-x-gradient", "pointing") == 1
    assert found.mean("sure", "input-x-gradient", "mass") > found.mean("sure", "random", "mass")
    assert found.confidence["sure"] > found.confidence["unsure"] and found.accuracy == {"sure": 1.0, "unsure": 1.0}
    assert found.mean("sure", "input-x-gradient", "deletion") < found.mean("sure", "random", "deletion")
    assert "10 images that every network gets right" in str(found)
    with pytest.raises(ValueError, match="no image is told right"):
        robust_explain(nets, x, 1 - y, objects, ["saliency"])
    with pytest.raises(ValueError, match="each of 12 images needs"):
        robust_explain(nets, x, y, objects[:3], ["saliency"])


def test_adversarial_images_stay_near_and_cost_the_network_its_answer():
    x, y, _ = halves()
    net = classifier(3.0)
    found = adversarial(net, x, y, eps=0.1)
    assert (found - x).abs().max() <= 0.1 + 1e-6 and found.min() >= 0 and found.max() <= 1 and not found.requires_grad
    with torch.no_grad():
        before, after = (F.cross_entropy(net.logits(images_), y) for images_ in (x, found))
    assert after > before
    assert torch.equal(found, adversarial(net, x, y, eps=0.1)) and torch.equal(adversarial(net, x, y, eps=0.0), x)
