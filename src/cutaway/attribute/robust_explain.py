"""Networks compared by how well each can be explained: where maps point, and what inserting and deleting by them does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import find, method
from ..metrics import faithfulness as measures
from ..network import Network
from .attribute import as_batch
from .inputs import inputs_of
from .target import Target

if TYPE_CHECKING:
    import pandas as pd

RANDOM = "random"
FIGURES = ("pointing", "localisation", "mass", "insertion", "deletion", "insertion_share", "deletion_share")


@dataclass(frozen=True)
class Explained:
    """How well networks are explained by attribution methods.

    frame: one row a network and method; means over images of `pointing` (the map's largest value lies in the object),
    `localisation` (the box of the largest part above half of the maximum overlaps the object's box by more than one half),
    `mass` (the share of the map's positive values in the object), `insertion` and `deletion` (areas under the probability's
    curve, from a blurred image and to zero), and both as a share of the probability of the whole image.
    values: the same by image, [images] for each (network, method, figure). accuracy, confidence: of each network.
    """

    frame: pd.DataFrame
    values: dict[tuple[str, str, str], np.ndarray]
    accuracy: dict[str, float]
    confidence: dict[str, float]
    n: int
    seed: int

    def mean(self, net: str, method: str, figure: str) -> float:
        """The mean of one figure."""
        return float(self.values[net, method, figure].mean())

    def __str__(self) -> str:
        sure = ", ".join(f"{name} {self.accuracy[name]:.3f} ({self.confidence[name]:.3f})" for name in self.accuracy)
        return (f"{self.frame.to_string(index=False, float_format='{:.3f}'.format)}\n{self.n} images that every network gets "
                f"right, seed {self.seed}; accuracy (mean probability of the class): {sure}")


@method("robust-explain", family="attribute", title="How explainable are adversarially-robust CNNs?", paper="arXiv 2205.13042",
        roster="035")
def robust_explain(nets: Mapping[str, Network], x: Tensor, y: Tensor, objects: Tensor,
                   methods: Sequence[str] | Mapping[str, Mapping[str, Any]], *, most: int = 200, seed: int = 0,
                   batch_size: int = 64) -> Explained:
    """Compare networks by how well attribution methods explain them, on the images that all of them get right.

    nets: by name, such as one as usual and one trained on `adversarial` images. x: [n, c, h, w]; y: [n], the class, which is
    the target of all maps; objects: bool [n, h, w], where the object of the class is. methods: of the family `attribute`, or
    name -> options; random maps are added. most: images at most. seed: of random maps and of the methods that draw.
    batch_size: rows at a time.

    Insertion and deletion follow a network's confidence, so that they are also given as shares of it.
    """
    if objects.shape != (len(x), *x.shape[2:]) or y.shape != (len(x),):
        raise ValueError(f"each of {len(x)} images needs a class and the pixels of its object {list(x.shape[2:])}; found "
                         f"{list(y.shape)} classes and objects {list(objects.shape)}.")
    with torch.no_grad():
        right = {name: _probabilities(net, x, batch_size).argmax(1) == y for name, net in nets.items()}
    chosen = torch.stack(list(right.values())).all(0).nonzero()[:most, 0]
    if not len(chosen):
        raise ValueError("no image is told right by all of the networks, so there is nothing to compare; train them further.")
    named = dict(methods) if isinstance(methods, Mapping) else {name: {} for name in methods}
    named.setdefault(RANDOM, {})
    values: dict[tuple[str, str, str], np.ndarray] = {}
    sure: dict[str, float] = {}
    for name, net in nets.items():
        own = _figures(net, x[chosen], y[chosen], objects[chosen], named, seed, batch_size)
        values.update({(name, way, figure): found for (way, figure), found in own.items()})
        with torch.no_grad():
            sure[name] = float(_probabilities(net, x[chosen], batch_size).gather(1, y[chosen, None]).mean())
    import pandas as pd
    frame = pd.DataFrame([{"network": net, "method": way, **{f: values[net, way, f].mean() for f in FIGURES}}
                          for net in nets for way in named])
    accuracy = {name: float(found.float().mean()) for name, found in right.items()}
    return Explained(frame, values, accuracy, sure, len(chosen), seed)


def _figures(net: Network, x: Tensor, y: Tensor, objects: Tensor, methods: Mapping[str, Mapping[str, Any]], seed: int,
             batch_size: int) -> dict[tuple[str, str], np.ndarray]:
    batch, target = as_batch(net, x), Target(index=y)
    zero, blurred = (inputs_of(net, batch, "pixels", reference) for reference in ("zero", "blur"))
    zero.limit = blurred.limit = batch_size
    answer, counts = target.read_as("probability"), torch.ones(len(x), x[0, 0].numel(), dtype=torch.bool)
    found: dict[tuple[str, str], np.ndarray] = {}
    for name, options in methods.items():
        way = find(name, "attribute")
        drawn = {"seed": seed} if "seed" in way.signature.parameters else {}
        maps = way.object(zero, target, **{**drawn, **options}).detach().float().cpu()
        flat = maps.flatten(1)

        def asked(inputs: Any) -> measures.Value:
            return lambda rows, gates: inputs.sweep(gates.unflatten(1, inputs.shape), answer, rows).float().cpu()

        curves = {"insertion": measures.insertion(asked(blurred), flat, counts),
                  "deletion": measures.deletion(asked(zero), flat, counts)}
        areas = {figure: measures.area(curve) for figure, curve in curves.items()}
        full = curves["deletion"][:, 0].clamp(min=1e-6)
        for figure, values in {**places(maps, objects), **areas,
                               **{f"{figure}_share": area / full for figure, area in areas.items()}}.items():
            found[name, figure] = values.double().numpy()
    return found


def places(maps: Tensor, objects: Tensor) -> dict[str, Tensor]:
    """Whether maps [n, h, w] find objects (bool [n, h, w]): `pointing`, `localisation` and `mass`, [n] each."""
    flat, inside = maps.flatten(1), objects.flatten(1)
    pointing = inside.gather(1, flat.argmax(1, keepdim=True))[:, 0].float()
    positive = flat.clamp(min=0)
    total = positive.sum(1)
    mass = torch.where(total > 0, (positive * inside).sum(1) / total.clamp(min=1e-12), inside.float().mean(1))
    overlaps = torch.tensor([_overlap(one, thing) for one, thing in zip(maps.numpy(), objects.numpy(), strict=True)])
    return {"pointing": pointing, "localisation": (overlaps > 0.5).float(), "mass": mass}


def _overlap(one: np.ndarray, thing: np.ndarray) -> float:
    """How far the box around a map's largest part above half of its maximum overlaps the box around an object (IoU)."""
    from scipy.ndimage import label
    parts, n = label(one > one.max() / 2) if one.max() > 0 else (np.zeros(one.shape, int), 0)
    if n == 0 or not thing.any():
        return 0.0
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    ours, theirs = _box(largest), _box(thing)
    return float((ours & theirs).sum() / (ours | theirs).sum())


def _box(mask: np.ndarray) -> np.ndarray:
    down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.zeros_like(mask, bool)
    box[down[0]: down[-1] + 1, across[0]: across[-1] + 1] = True
    return box


def _probabilities(net: Network, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([net.logits(part).softmax(-1).cpu() for part in x.split(batch_size)])


def adversarial(net: Network, x: Tensor, y: Tensor, *, eps: float = 0.1, step: float = 0.03, steps: int = 7,
                low: float = 0.0, high: float = 1.0, seed: int = 0) -> Tensor:
    """Images [n, c, h, w] changed by at most `eps` a pixel so that a network gets their classes y [n] wrong.

    Projected gradient ascent on the loss (Madry et al. 2018): `steps` steps of the gradient's sign, of length `step`, from a
    random start. low, high: the range of pixels. Train on these images for an adversarially robust network.
    """
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    found = (x + eps * (2 * noise - 1)).clamp(low, high)
    for _ in range(steps):
        found.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(F.cross_entropy(net.logits(found), y), found)
        found = (found.detach() + step * gradient.sign()).clamp(x - eps, x + eps).clamp(low, high)
    return found.detach()
