"""CLIP as a classifier of images by texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ImageText(nn.Module):
    """The similarity of images with texts: pixel values [b, c, h, w] -> [b, texts], the cosine times CLIP's scale.

    clip: a transformers `CLIPModel`; texts: the text tower's inputs, as its processor gives them. The texts are embedded
    once, and a class is a text.
    """

    texts: Tensor
    scale: Tensor

    def __init__(self, clip: Any, texts: dict[str, Tensor]):
        super().__init__()
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection
        with torch.no_grad():
            found = clip.text_projection(clip.text_model(**texts).pooler_output)
            self.register_buffer("texts", F.normalize(found, dim=-1))
            self.register_buffer("scale", clip.logit_scale.exp().clone())

    def forward(self, pixel_values: Tensor) -> Tensor:
        images = self.visual_projection(self.vision_model(pixel_values=pixel_values).pooler_output)
        return self.scale * F.normalize(images, dim=-1) @ self.texts.T
