"""What the codes of image features are good for: classes, inputs from elsewhere, and shifted inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import method
from .dictionary import Dictionary
from .quality.probes import auc

TOP = 20          # images that fire a latent most, whose labels are read
LEAST = 5         # images that a latent must fire for, to have a say


@dataclass(frozen=True)
class Images:
    """Features x [n, d] of images, and their classes y [n]."""

    x: Tensor
    y: np.ndarray


@method("sae-vision-eval", family="dictionary", title="The representational power of sparse autoencoders in vision models",
        paper="arXiv 2508.11277", roster="058")
@torch.no_grad()
def vision_eval(dictionary: Dictionary, train: Images, test: Images, elsewhere: Mapping[str, Tensor],
                shifted: Images) -> dict[str, dict[str, float]]:
    """Judge codes against the features that they are made of: by name of the figure, by way of scoring.

    train, test: of the known classes; elsewhere: features of images of no known class, by name; shifted: of known classes,
    but changed. Gives `purity`, the share of the commonest class among the 20 images that fire a latent most, over latents;
    `ood NAME`, AUC of telling test images (true) from others; and `shifted`, accuracy of the nearest class by the same
    templates, and `linear shifted`, that of a linear classifier.

    Ways: `template` is the largest cosine with a class's mean, `overlap` the share of a code in the predicted class's
    strongest latents, `reconstruction` minus the squared error. `codes` and `raw` say what they are of. The paper's code is
    not public; these are definitions of its ideas.
    """
    spaces: dict[str, Callable[[Tensor], Tensor]] = {"codes": _dense(dictionary), "raw": lambda x: x - train.x.mean(0)}
    found: dict[str, dict[str, float]] = {"purity": {}, "shifted": {}, "linear shifted": {}}
    for name, encode in spaces.items():
        z, classes = encode(train.x), np.unique(train.y)
        means = torch.stack([z[train.y == c].mean(0) for c in classes])
        found["purity"][name] = purity(encode(test.x), test.y)
        cosines = F.normalize(encode(shifted.x), dim=1) @ F.normalize(means, dim=1).T
        found["shifted"][name] = float((classes[cosines.argmax(1).numpy()] == shifted.y).mean())
        found["linear shifted"][name] = _linear(z, train.y, encode(shifted.x), shifted.y)
        for place, x in elsewhere.items():
            both = torch.cat([test.x, x])
            truth = np.arange(len(both)) < len(test.x)
            ways = {"template": template(encode(both), means)}
            if name == "codes":
                ways |= {"overlap": overlap(encode(both), means, int(dictionary.encode(train.x).l0.float().mean().round())),
                         "reconstruction": -(both - dictionary(both)).pow(2).sum(1)}
            for way, score in ways.items():
                found.setdefault(f"ood {place}", {})[f"{way} of {name}"] = auc(score.numpy(), truth)
    return found


def _dense(dictionary: Dictionary) -> Callable[[Tensor], Tensor]:
    return lambda x: dictionary.encode(x).dense(dictionary.width)


def template(z: Tensor, means: Tensor) -> Tensor:
    """The largest cosine with the mean of a class: z [n, u], means [classes, u] -> [n]."""
    return (F.normalize(z, dim=1) @ F.normalize(means, dim=1).T).amax(1)


def overlap(z: Tensor, means: Tensor, k: int) -> Tensor:
    """The share of each code that lies in the k strongest latents of the class whose mean is nearest by cosine: [n]."""
    nearest = (F.normalize(z, dim=1) @ F.normalize(means, dim=1).T).argmax(1)
    own = torch.zeros_like(means).scatter_(1, means.topk(k).indices, 1.0)
    return (z * own[nearest]).sum(1) / z.sum(1).clamp(min=1e-12)


def purity(z: Tensor, y: np.ndarray) -> float:
    """The share of the commonest class among the images of the largest values, at most 20, over units that say something."""
    shares = []
    for values in z.T:
        k = min(TOP, int((values > 0).sum()))
        if k >= LEAST:
            shares.append(np.bincount(y[values.topk(k).indices.numpy()]).max() / k)
    return float(np.mean(shares)) if shares else float("nan")


def _linear(train: Tensor, y: np.ndarray, test: Tensor, truth: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression
    scale = train.std(0).clamp(min=1e-6)
    return float(LogisticRegression(max_iter=1000).fit((train / scale).numpy(), y).score((test / scale).numpy(), truth))
