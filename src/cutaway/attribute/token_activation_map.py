"""Token activation maps: where in an image a generated token is seen, with what other tokens lend it taken away."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import method
from .inputs import Inputs, with_numbers
from .target import Target

SIDE = 3          # of the window of the rank filter


@method("token-activation-map", family="attribute", title="Token activation map", paper="arXiv 2506.23270", roster="166")
@torch.no_grad()
def token_activation_map(inputs: Inputs, target: Target, *, image: tuple[int, int] = (0, 0), interference: bool = True,
                         smooth: bool = True) -> Tensor:
    """The token's logit at every patch of the image, less what the tokens before it explain of that map.

    The network reads an image as tokens among its text and gives logits for all of them [rows, tokens, vocabulary]; the units
    are the patches, and the target is a token at a position. image: the first of the image's tokens, and the one after the
    last; their number is that of the patches. interference: take away what the tokens before lend the map. smooth: rank-filter
    it.

    The raw map is the logit, or 0 where that is negative. The tokens before it, other than itself, have raw maps of their own;
    their mean, weighted by the token's logit at their place, times the scale that fits the raw map best (least squares), is
    taken away, and what is below 0 cut off (the paper's estimated causal inference). The rank filter is a mean over 3 x 3
    patches, sorted, with Gaussian weights over the rank whose width is their coefficient of variation. Differs: the map is not
    rounded to 8 bits nor scaled together with the text's scores; a flat window keeps its value.
    """
    start, end = image
    ids = inputs.batch.inputs.get("input_ids") if isinstance(inputs.batch.inputs, dict) else None
    if inputs.over != "patches" or ids is None or target.position is None or target.index is None:
        raise ValueError("a token activation map needs a network that reads an image and text (`input_ids`), over='patches', "
                         "and a token at a position as its target.")
    patches = inputs.shape[0] * inputs.shape[1]
    if end - start != patches:
        raise ValueError(f"the image has {patches} patches, but image={image} are {end - start} tokens.")
    logits = inputs.net.logits(replace(inputs.batch, inputs=with_numbers(inputs.batch.inputs, inputs.x))).float()
    inputs.passed += len(logits)
    index, position = target.index.to(logits.device), target.position.to(logits.device)
    places = text_places(logits.shape[1], start, end, ids.shape[1]).to(logits.device)
    maps = torch.stack([one(row, ids[i].to(row.device), places, int(index[i]), int(position[i]), (start, end), interference)
                        for i, row in enumerate(logits)]).view(-1, *inputs.shape)
    return rank_filtered(maps) if smooth else maps


def text_places(length: int, start: int, end: int, n_ids: int) -> Tensor:
    """At which token of the network each id stands: ids of the text alone, or ids with placeholders for the image."""
    everywhere = torch.arange(length)
    places = everywhere if n_ids == length else everywhere[(everywhere < start) | (everywhere >= end)]
    if len(places) != n_ids:
        raise ValueError(f"the network has {length} tokens, {end - start} of them the image's, but the text has {n_ids} ids.")
    return places


def one(logits: Tensor, ids: Tensor, places: Tensor, token: int, position: int, image: tuple[int, int],
        interference: bool) -> Tensor:
    """The map of one row [patches]. logits: [tokens, vocabulary]; ids, places: of its text."""
    positive = logits.clamp(min=0)
    seen = positive[image[0]: image[1]]
    raw = seen[:, token]
    text = (places < image[0]) | (places >= image[1])
    before = text & (places <= position) & (ids != token)
    if not interference or not bool(before.any()):
        return raw
    weights = positive[places[before], token]
    context = seen[:, ids[before]] @ (weights / (weights.sum() + 1e-8))
    scale = (raw @ context) / (context @ context).clamp(min=1e-12)
    return (raw - scale * context).clamp(min=0)


def rank_filtered(maps: Tensor) -> Tensor:
    """Maps [n, h, w], each place a mean of the window around it by rank."""
    n, height, width = maps.shape
    half = SIDE // 2
    windows = F.unfold(F.pad(maps[:, None], [half] * 4, mode="reflect"), SIDE).sort(1).values       # [n, 9, h w]
    mean = windows.mean(1, keepdim=True)
    sigma = windows.std(1, correction=0, keepdim=True) / mean.clamp(min=1e-12)
    rank = torch.arange(SIDE**2, device=maps.device, dtype=maps.dtype)[:, None] - SIDE**2 // 2
    weights = torch.exp(-rank**2 / (2 * sigma.clamp(min=1e-3) ** 2))
    filtered = (windows * weights).sum(1) / weights.sum(1)
    return torch.where(mean[:, 0] > 0, filtered, 0).view(n, height, width)
