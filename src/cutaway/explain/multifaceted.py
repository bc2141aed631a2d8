"""The facets of a neuron: one picture for each kind of input that it fires for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..catalogue import method
from ..network import Enough, Network, Site

NEAREST, PARTS = 15, 50         # images that make a starting point; principal components in which facets are looked for
STEPS, STEP, SMOOTH = 50, 0.005, 0.05


@dataclass(frozen=True)
class Facets:
    """pictures [k, channels, height, width], the value that each reaches [k], its starting point [k, ...] and each image's
    facet [n]."""

    pictures: Tensor
    values: Tensor
    starts: Tensor
    of: np.ndarray


@method("multifaceted-viz", family="explain", title="Multifaceted feature visualization", paper="arXiv 1602.03616",
        roster="161")
def multifaceted(net: Network, site: str | Site, unit: int, images: Tensor, codes: str | Site, k: int = 3, seed: int = 0,
                 steps: int = STEPS) -> Facets:
    """Make a picture of each kind of image that a unit fires for, from the mean of images of that kind.

    site, unit: whose activation is raised, the mean over the other axes. images: [n, channels, height, width], those that fire
    it. codes: the site whose activations [n, ...] say which images are alike. k: how many kinds.

    As in the paper: principal components of the codes, k-means in them, the mean of the 15 images nearest to each centre as
    the start, and gradient ascent with steps scaled by the mean size of the gradient, clipped to the range of the images and
    smoothed in each step. Differs: no t-SNE before k-means (50 components, or all), one scale, and a blur of neighbouring
    pixels in the place of the total-variation denoiser.
    """
    if len(images) < k * NEAREST:
        raise ValueError(f"{k} facets of {NEAREST} images need {k * NEAREST} images that fire the unit; found {len(images)}.")
    z = codes_of(net, codes, images)
    of, starts = facets(z, images, k, seed)
    pictures = ascend(net, site, unit, starts, (float(images.min()), float(images.max())), steps)
    with torch.no_grad():
        values = activation(net, site, unit, pictures)
    return Facets(pictures, values, starts, of)


@torch.no_grad()
def codes_of(net: Network, site: str | Site, images: Tensor) -> Tensor:
    """The activations at a site, flat: [n, d]."""
    name = net.site(site).name
    return torch.cat([net.record(part, site)[name].flatten(1) for part in images.split(256)]).float()


def facets(z: Tensor, images: Tensor, k: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """Which kind each image is [n], and the mean of the images nearest to each kind's centre [k, ...]."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    parts = PCA(min(PARTS, z.shape[1], len(z) - 1), random_state=seed).fit_transform(z.numpy())
    found = KMeans(k, n_init=10, random_state=seed).fit(parts)
    near = [np.argsort(((parts - centre) ** 2).sum(1), kind="stable")[:NEAREST] for centre in found.cluster_centers_]
    return found.labels_, torch.stack([images[torch.from_numpy(chosen)].mean(0) for chosen in near])


def activation(net: Network, site: str | Site, unit: int, images: Tensor) -> Tensor:
    """The unit's activation for each image, the mean over all axes but the first two: [n], differentiable."""
    kept: list[Tensor] = []

    def keep(x: Tensor, at: object) -> None:
        kept.append(x)
        raise Enough

    with net.watched({net.site(site): keep}):
        net.run_until_enough(images)
    x = kept[0]
    return x[:, unit].flatten(1).mean(1) if x.ndim > 2 else x[:, unit]


def ascend(net: Network, site: str | Site, unit: int, starts: Tensor, limits: tuple[float, float],
           steps: int = STEPS) -> Tensor:
    """Raise a unit's activation by changing pictures within limits: [k, ...]."""
    x, blur = starts.clone(), _blur(starts.shape[1])
    for step in range(steps):
        x.requires_grad_()
        with torch.enable_grad():
            slope = torch.autograd.grad(activation(net, site, unit, x).sum(), x)[0]
        size = slope.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        with torch.no_grad():
            x = x + STEP * (1 - step / steps) * (limits[1] - limits[0]) * slope / size
            x = ((1 - SMOOTH) * x + SMOOTH * blur(x)).clamp(*limits)
    return x.detach()


def _blur(channels: int) -> Callable[[Tensor], Tensor]:
    weight = torch.full((channels, 1, 3, 3), 1 / 9)
    return lambda x: torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1, 1, 1, 1), "replicate"), weight, groups=channels)
