"""A small captioner of two digits: does a token's map find its digit better once what the context lends it is taken away?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..attribute import Target, inputs_of
from ..attribute.inputs import Inputs
from ..catalogue import find, proof
from ..data import Batch
from ..network import Network, open
from .digit_scenes import Scenes, scenes, split
from .proof import Comparison, Proof, compare, over_seeds
from .training import follow

SEEDS = (0, 1, 2)
TRAIN, TEST = 4_000, 200
ALIGNING, CAPTIONING = (300, 64), (600, 32)       # steps and canvases a step of the two parts of training
RATE = 3e-3
PATCH, GRID, WIDTH = 2, 8, 64                     # pixels of a patch, patches along a side, width of the decoder
BEGIN, AND, END = 10, 11, 12                      # tokens after the ten digits
NOUNS = (0, 2)                                    # places in the caption whose next token is a digit
WORD = 1                                          # and whose next token is `and`
WAYS: dict[str, tuple[str, dict[str, object]]] = {
    "token activation map": ("token-activation-map", {}),
    "interference removed": ("token-activation-map", {"smooth": False}),
    "smoothed": ("token-activation-map", {"interference": False}),
    "plain map": ("token-activation-map", {"interference": False, "smooth": False}),
    "gradient times input": ("input-x-gradient", {}), "leave-one-out": ("leave-one-out", {}), "random": ("random", {})}


class Captioner(nn.Module):
    """Convolutions that make 64 tokens of a canvas, and a causal decoder of two blocks over them and the caption."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=PATCH), nn.ReLU(),
            nn.Conv2d(32, WIDTH, 3, padding=1))
        self.words = nn.Embedding(END + 1, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(GRID**2 + 5, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)

    def seen(self, pixel_values: Tensor) -> Tensor:
        """The canvas as tokens: [n, patches, d]."""
        return self.stem(pixel_values).flatten(2).transpose(1, 2)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        x = torch.cat([self.seen(pixel_values), self.words(input_ids)], 1)
        x = x + self.places[: x.shape[1]]
        hidden = self.blocks(x, nn.Transformer.generate_square_subsequent_mask(x.shape[1]), is_causal=True)
        return hidden @ self.words.weight.T


def captions(data: Scenes) -> tuple[Tensor, Tensor]:
    """`begin d1 and d2 end` in reading order [n, 5], and the patches of each of the two digits [n, 2, 8, 8]."""
    first, second = (place.flatten(1).float().argmax(1) for place in (data.place, data.other_place))
    swap = (first > second)[:, None]
    pair = torch.stack([data.y, data.other], 1)
    pair = torch.where(swap, pair.flip(1), pair)
    ink = nn.functional.avg_pool2d(data.x, PATCH)[:, 0] > 0.1
    quadrants = torch.stack([data.place, data.other_place], 1)[:, :, ::PATCH, ::PATCH]
    quadrants = torch.where(swap[..., None, None], quadrants.flip(1), quadrants)
    fixed = [torch.full((len(pair),), token) for token in (BEGIN, AND, END)]
    return torch.stack([fixed[0], pair[:, 0], fixed[1], pair[:, 1], fixed[2]], 1), quadrants & ink[:, None]


def aligned(module: Captioner, x: Tensor, ids: Tensor) -> Tensor:
    """How far a canvas's tokens, on average, are from naming the digits on it by the words' own embeddings."""
    said = (module.seen(x) @ module.words.weight[:BEGIN].T).mean(1)
    there = torch.zeros_like(said).scatter_(1, ids[:, [1, 3]], 1.0)
    return nn.functional.binary_cross_entropy_with_logits(said, there)


def captioned(module: Captioner, x: Tensor, ids: Tensor) -> Tensor:
    """The loss of the captions."""
    logits = module(x, ids[:, :-1])[:, GRID**2:]
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def trained(data: Scenes, seed: int) -> Network:
    """A captioner whose image tokens were aligned with its words, and which then learned to write captions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Captioner()
    ids, _ = captions(data)
    generator = torch.Generator().manual_seed(seed)
    for loss, (steps, size) in ((aligned, ALIGNING), (captioned, CAPTIONING)):
        optimizer = torch.optim.AdamW(module.parameters(), RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(len(ids), (size,), generator=generator)
            follow(loss(module, data.x[chosen], ids[chosen]), optimizer, schedule, 1.0)
    return open(module.eval())


def otsu(values: np.ndarray) -> float:
    """Otsu's threshold of some numbers: the one between two of them that leaves least variance on its two sides."""
    ordered = np.sort(values.ravel())
    n, total = np.arange(1, len(ordered)), np.cumsum(ordered)
    low, high = total[:-1] / n, (total[-1] - total[:-1]) / (len(ordered) - n)
    between = n * (len(ordered) - n) * (low - high) ** 2
    best = int(between.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2)


def overlap(maps: Tensor, objects: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The IoU [n] of maps [n, h, w] above their own thresholds with the objects' patches, and the thresholds."""
    thresholds = np.array([otsu(each) for each in maps.numpy()])
    above = maps.numpy() > thresholds[:, None, None]
    both, either = (above & objects.numpy()).sum((1, 2)), (above | objects.numpy()).sum((1, 2))
    return both / np.maximum(either, 1), thresholds


def maps_of(inputs: Inputs, way: str, index: Tensor, position: int, seed: int) -> Tensor:
    """One way's maps [n, 8, 8] for the token predicted at a place of the caption."""
    id, options = WAYS[way]
    at = GRID**2 + position
    own = {"image": (0, GRID**2)} if id == "token-activation-map" else {"seed": seed} if id == "random" else {}
    target = Target("logit", index, None, torch.full((len(index),), at))
    return find(id, "attribute").object(inputs, target, **options, **own).detach().clamp(min=0)


def one(seed: int) -> dict[str, dict[str, float]]:
    """The figures of one seed: a split, canvases and a captioner."""
    parts = split(seed)
    net = trained(scenes(*parts.train, TRAIN, seed, pairs=True), seed)
    data = scenes(*parts.test, TEST, seed + 1000, pairs=True)
    ids, objects = captions(data)
    with torch.no_grad():
        said = net.logits({"pixel_values": data.x, "input_ids": ids[:, :-1]})[:, GRID**2:].argmax(-1)
    right = (said == ids[:, 1:]).all(1)
    ids, objects = ids[right], objects[right]
    batch = Batch({"pixel_values": data.x[right], "input_ids": ids[:, :-1]}, None, None, torch.arange(len(ids)))
    inputs = inputs_of(net, batch, "patches", patch=PATCH)
    inputs.limit = 256
    found: dict[str, dict[str, float]] = {"captioner": {"right captions": float(right.float().mean()), "n": float(right.sum())}}
    for way in WAYS:
        nouns = [overlap(maps_of(inputs, way, ids[:, place + 1], place, seed), objects[:, i]) for i, place in enumerate(NOUNS)]
        iou, threshold = np.mean([each[0] for each in nouns]), np.mean([each[1] for each in nouns])
        word = maps_of(inputs, way, ids[:, WORD + 1], WORD, seed).numpy()
        function = float((word <= threshold).mean())
        found[way] = {"Obj-IoU": float(iou), "Func-IoU": function, "F1-IoU": float(2 * iou * function / (iou + function)),
                      "first digit": float(nouns[0][0].mean()), "second digit": float(nouns[1][0].mean())}
    return found


@proof("token-activation-map")
def maps() -> Proof:
    """Maps of generated tokens with and without the interference of the context, against the digits' places."""
    return concluded(over_seeds(one, SEEDS))


def concluded(found: list[dict[str, dict[str, float]]]) -> Proof:
    """The proof from each seed's figures."""
    def against(way: str, other: str, figure: str = "Obj-IoU") -> Comparison:
        return compare(way, other, figure, [row[way][figure] for row in found], [row[other][figure] for row in found], "higher")

    full, removed, plain = "token activation map", "interference removed", "plain map"
    others = [way for way in WAYS if way not in (full, plain)]
    return Proof(
        "token-activation-map", "On a captioner of canvases with two digits, token activation maps with the estimated "
        "interference of the context removed localise each generated token's digit better than plain activation maps.",
        comparisons=(against(full, plain), against(removed, plain)),
        checks={"the captioner writes half of the test captions or more without an error":
                min(row["captioner"]["right captions"] for row in found) >= 0.5},
        beside=(*(against(full, other) for other in others), against(full, plain, "F1-IoU"), against(removed, plain, "F1-IoU"),
                against(full, plain, "first digit"), against(full, plain, "second digit"), against(plain, "random")),
        figures={"by_seed": found},
        n={"canvases": TEST, "canvases to train on": TRAIN, "patches": GRID**2}, seeds=SEEDS,
        notes=("Canvases of 16 x 16 pixels with two of scikit-learn's digits in two of the four quadrants, and captions "
               "`d1 and d2` in reading order; convolutions give 64 tokens of 2 x 2 pixels, which a causal decoder of two "
               "blocks with tied embeddings reads before the caption. They are first aligned with the words (their mean tells "
               "which digits are there by the words' embeddings), as those of such models are. A seed is a split, the "
               "canvases and a captioner; captions with an error are left out. A digit's place is its patches with ink.",
               "Obj-IoU: of the map above its Otsu threshold with the digit's patches, on average over both digits. "
               "Func-IoU: the share of patches of the word `and` below the digits' mean threshold; F1-IoU: their harmonic "
               "mean.",
               "Smaller than the paper: Qwen2-VL and others on COCO there, whose language models were trained on text before.")
    ).unless("Likely why: at most three words stand before a digit here, and what they lend its map is little or nothing of "
             "its own place, so there is little to take away; and the captioner was never trained on what its logits are at "
             "the image's own tokens, which large language models bring from their training on text.")
