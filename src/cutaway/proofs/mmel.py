"""A small text-image network of digits and their names: layer-weighted multi-scale gradient maps against the last layer's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..attribute import Inputs, inputs_of
from ..attribute.attribute import as_batch
from ..attribute.image_text import ImageText
from ..attribute.mmel import layer_maps, layer_weights, multiscale, weighted
from ..attribute.robust_explain import places
from ..attribute.target import Target
from ..catalogue import proof
from ..network import Network, open
from .digit_scenes import SIDE, Scenes, scenes, split
from .proof import Comparison, Proof, compare, say

SEEDS = (0, 1, 2)
CANVASES, CHOSEN, SHOWN = 3_000, 100, 200      # to train on, to learn layers' weights on, to explain
EPOCHS, RATE, BATCH, PATCH = 30, 2e-3, 64, 4
BEGIN, END = 10, 11                            # tokens before and after a digit's name
SCALES = (1, 2)
VISION: dict[str, Any] = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
                              patch_size=PATCH, num_channels=1)
TEXT: dict[str, Any] = dict(vocab_size=12, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                            max_position_embeddings=3, bos_token_id=BEGIN, eos_token_id=END, pad_token_id=END)
OURS, LAST = "weighted layers, several scales", "last layer, one scale"


def texts() -> dict[str, Tensor]:
    """The names of the ten digits, each between a begin and an end token: [10, 3]."""
    names = torch.arange(10)
    return {"input_ids": torch.stack([torch.full_like(names, BEGIN), names, torch.full_like(names, END)], 1)}


def text_image(data: Scenes, seed: int) -> Network:
    """A CLIP of three vision layers, trained from scratch to bring canvases near the names of both of their digits."""
    import transformers as hf
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip: Any = hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=32,
                                               logit_scale_init_value=2.0))
        optimizer = torch.optim.AdamW(clip.parameters(), RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * (len(data.y) // BATCH))
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(data.y))[: len(data.y) // BATCH * BATCH].split(BATCH):
                said = clip(pixel_values=data.x[chosen], **texts()).logits_per_image
                loss = torch.stack([nn.functional.cross_entropy(said, names[chosen]) for names in (data.y, data.other)]).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return open(ImageText(clip.eval(), texts()))


def asked(net: Network, data: Scenes) -> tuple[Inputs, Target, Tensor]:
    """Each canvas twice, once for the name of each digit, and the digit's quadrant."""
    x, names = data.x.repeat(2, 1, 1, 1), torch.cat([data.y, data.other])
    return inputs_of(net, as_batch(net, x), "pixels"), Target(index=names), torch.cat([data.place, data.other_place])


def known(net: Network, data: Scenes, n: int) -> Scenes:
    """The first n canvases for which the two likeliest names are the right ones."""
    with torch.no_grad():
        said = torch.cat([net.logits(part) for part in data.x.split(256)]).topk(2).indices.sort(1).values
    right = (said == torch.stack([data.y, data.other], 1).sort(1).values).all(1)
    return Scenes(*(getattr(data, name)[right][:n] for name in data.__dataclass_fields__))


def one(seed: int) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """The figures of each way of putting maps together, and what the network and its weights are like."""
    parts = split(seed)
    net = text_image(scenes(*parts.train, CANVASES, seed, pairs=True), seed)
    validation = scenes(*parts.validation, CHOSEN, seed + 1000, pairs=True)
    test = scenes(*parts.test, 2 * SHOWN, seed + 2000, pairs=True)
    shown = known(net, test, SHOWN)
    share = len(known(net, test, len(test.y)).y) / len(test.y)
    weights = layer_weights(*asked(net, validation)[:2], scales=SCALES)
    inputs, target, objects = asked(net, shown)
    maps = layer_maps(inputs, target)
    layers, scaled = len(maps), multiscale(maps, SCALES)
    last, equal = torch.eye(layers)[-1], torch.full((layers,), 1 / layers)
    ways = {OURS: (scaled, weights), LAST: (maps, last), "last layer, several scales": (scaled, last),
            "weighted layers, one scale": (maps, weights), "equal layers, several scales": (scaled, equal),
            **{f"layer {i}, one scale": (maps, torch.eye(layers)[i]) for i in range(layers - 1)}}
    patches = objects[:, ::PATCH, ::PATCH]
    found = {name: {figure: float(values.mean()) for figure, values in places(weighted(*way), patches).items()}
             for name, way in ways.items()}
    about = {"canvases with both names": share, "weights": weights.tolist(), "canvases explained": len(shown.y)}
    say(f"seed {seed}: both names found {share:.3f}, weights {[round(w, 2) for w in weights.tolist()]}; mass " + ", ".join(
        f"{name} {row['mass']:.3f}" for name, row in found.items()))
    return found, about


@proof("mmel")
def weighted_maps() -> Proof:
    """Layer-weighted multi-scale gradient maps put more mass on planted digits than the last layer's map."""
    return concluded([one(seed) for seed in SEEDS])


def concluded(found: list[tuple[dict[str, dict[str, float]], dict[str, Any]]]) -> Proof:
    """The proof from each seed's figures."""
    def against(way: str, figure: str, ours: str = OURS) -> Comparison:
        said = {"mass": "share of the map on the named digit", "pointing": "share of maps whose largest value lies on it"}
        return compare(ours, way, said[figure], [row[ours][figure] for row, _ in found], [row[way][figure] for row, _ in found],
                       "higher")

    def value(way: str, figure: str) -> float:
        return sum(row[way][figure] for row, _ in found) / len(found)

    others = [name for name in found[0][0] if name not in (OURS, LAST)]
    return Proof(
        "mmel", "On a small text-image vision transformer, layer-weighted multi-scale gradient maps put more mass on the "
        "planted digit that a text names than the last layer's gradient map.",
        comparisons=(against(LAST, "mass"),),
        beside=(against(LAST, "pointing"), *(against(name, "mass") for name in others),
                against(LAST, "mass", "last layer, several scales")),
        figures={"by_seed": [row for row, _ in found], "networks": [about for _, about in found]},
        n={"training canvases": CANVASES, "canvases of the weights": CHOSEN,
           "maps of each seed": 2 * min(about["canvases explained"] for _, about in found)},
        seeds=SEEDS,
        notes=("Canvases of 16 x 16 pixels with two of scikit-learn's digits in two of four quadrants; a CLIP of three vision "
               f"layers with patches of 4 x 4 pixels, trained from scratch on digits and their names for {EPOCHS} epochs. Maps "
               "are made for each digit's name; a quarter of the canvas is the digit's, so chance is 0.25, and a map that "
               "cannot tell the two digits apart reaches 0.5 at best. A seed is a split, canvases and a network.",
               "Layers' weights are learned on validation canvases from the network's answers alone: what is kept in "
               "proportion to the map less what is lost. The paper's equations and code are not public; this is its idea in "
               "our terms, and a layer's map is that of Grad-ECLIP with heads kept apart.",
               "Smaller than the paper: CLIP on photographs there.")
    ).unless(
        "Likely why: the last layer's map is the one that tells the named digit from the other (mass "
        f"{value(LAST, 'mass'):.2f}, against {value('layer 0, one scale', 'mass'):.2f} and "
        f"{value('layer 1, one scale', 'mass'):.2f} of the first and second layer's), and a sum of layers has something "
        "everywhere, so that mass is lost even where the map's peak is placed better: the weighted map's largest value lies on "
        f"the digit in {value(OURS, 'pointing'):.0%} of maps, the last layer's in {value(LAST, 'pointing'):.0%}.")
