"""How strong the strongest channel is through which a head writes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..catalogue import method
from .inputs import Inputs, Moments
from .maps import Map, without_weights
from .running import only
from .sweep import shared

of_heads = only("heads")


@method("head_channels", family="score", title="Strength of a head's strongest channel",
        refuses=lambda units: of_heads(units) or without_weights(units),
        paper="after Merullo et al. 2024, arXiv:2406.09519, whose channels are singular directions of a head's weights")
@shared(Inputs, keeps="blocks")
def head_channels(map: Map, moments: Moments) -> Tensor:
    """Root mean square, over kept tokens, of what a head writes along the direction along which it writes most: [heads].

    It is the greatest singular value of X_h W_h over the root of the number of tokens, with X_h what the head gives and W_h
    its columns of the output projection. The paper takes singular directions of W_V W_O alone; here the inputs that occur
    weigh them, and only the output projection has to be known.
    """
    each = map.weight.T.reshape(map.size, -1, map.weight.shape[0]).double()  # [heads, d_head, d_model]
    values, vectors = torch.linalg.eigh(moments.blocks.double())
    root = vectors * values.clamp(min=0).sqrt()[:, None, :]  # X_h = root^T in second moments
    return torch.linalg.svdvals(root.transpose(1, 2) @ each)[:, 0]
