"""Gradient maps of a vision transformer's layers, at several scales and weighted by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..catalogue import method
from ..network import At, Network
from .inputs import Inputs
from .target import Target

OUTPUTS = ("out_proj", "o_proj")     # what transformers call the projection after the heads
TINY = 1e-12


@method("mmel", family="attribute", title="Multi-modal interpretability for enhanced localization in vision-language models",
        paper="arXiv 2509.15243", roster="067")
def mmel(inputs: Inputs, target: Target, *, weights: Sequence[float] | Tensor | None = None,
         scales: Sequence[int] = (1, 2, 4)) -> Tensor:
    """Where in an image a vision transformer finds a class or a text: gradient maps of its layers, put together.

    Each layer's map is that of Grad-ECLIP (Zhao et al., ICML 2024), averaged over patches at several scales and weighted by
    layer. weights: one for each layer, none for equal ones; `layer_weights` learns them. scales: sides of the squares of
    patches that are averaged over. For text-image models, make the texts classes with `ImageText`.

    The paper's equations and code are not public: this is its idea in our terms, with heads kept apart in each layer.
    """
    maps = layer_maps(inputs, target)
    found = spread(weighted(multiscale(maps, scales), _weights(weights, len(maps))), inputs.x)
    return inputs.units.gather(found)


def layer_maps(inputs: Inputs, target: Target) -> Tensor:
    """The gradient map of each attention layer, from 0 to 1: [layers, rows, patches down, patches across].

    For the class token's query q, a patch's key k and value v, and the gradient g of the target in the class token's heads'
    output, a patch counts ReLU(sum over heads of g v times the cosine of q and k, scaled from 0 to 1 over patches).
    """
    net, seen = inputs.net, {}
    if inputs.pixels is None:
        raise ValueError("mmel explains images; give images, with over='pixels' or over='patches'.")
    layers = attentions(net)

    def keeper(name: str) -> Callable[[Tensor, At], Tensor]:
        def keep(x: Tensor, at: At) -> Tensor:
            seen[name] = x if x.requires_grad else x.detach().requires_grad_()
            return seen[name]
        return keep

    sites = [f"{path}.{part}:{'in' if part in OUTPUTS else 'out'}" for path, out in layers for part in (*QKV, out)]
    with torch.enable_grad(), net.watched({site: keeper(site) for site in sites}):
        values = inputs.values(inputs.x, target)
        outputs = [seen[f"{path}.{out}:in"] for path, out in layers]
        gradients = torch.autograd.grad(values.sum(), outputs, allow_unused=True)
    height, across = grid(net, inputs.x)
    first = outputs[0].shape[1] - height * across
    if first < 1:
        raise ValueError(f"mmel reads the class token, and {net.name} has none: {outputs[0].shape[1]} tokens for "
                         f"{height} x {across} patches.")
    found = []
    for (path, _), gradient in zip(layers, gradients, strict=True):
        heads = _heads(net.module.get_submodule(path))
        q, k, v = (seen[f"{path}.{part}:out"].detach().unflatten(-1, (heads, -1)) for part in QKV)
        g = torch.zeros_like(v) if gradient is None else gradient.unflatten(-1, (heads, -1))
        near = _from_0_to_1(F.cosine_similarity(q[:, :1], k[:, first:], dim=-1), 1)
        found.append((g[:, :1] * v[:, first:]).sum(-1).mul(near).sum(-1).clamp(min=0))
    return _from_0_to_1(torch.stack(found), 2).unflatten(2, (height, across))


def multiscale(maps: Tensor, scales: Sequence[int]) -> Tensor:
    """The mean over scales of maps [..., h, w] that are averaged over squares of patches and brought back to size."""
    flat = maps.flatten(0, -3)[:, None]
    size = (flat.shape[-2], flat.shape[-1])
    wrong = [s for s in scales if not 1 <= s <= min(size)]
    if wrong or not scales:
        raise ValueError(f"scales are sides of 1 to {min(size)} patches; found {list(scales)}.")
    parts = [F.interpolate(F.avg_pool2d(flat, s), size, mode="bilinear", align_corners=False) for s in scales]
    return torch.stack(parts).mean(0).view_as(maps)


def weighted(maps: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of layers' maps [layers, rows, h, w], from 0 to 1: [rows, h, w]."""
    return _from_0_to_1(torch.einsum("l,lrhw->rhw", weights.to(maps), maps).flatten(1), 1).view(maps.shape[1:])


def layer_weights(inputs: Inputs, target: Target, *, scales: Sequence[int] = (1, 2, 4), steps: int = 60,
                  rate: float = 0.1) -> Tensor:
    """Weights of the layers [layers] that find what the network itself answers to, without labels of places.

    They maximise the target's mean value on images kept in proportion to the map, less that on images that lose as much,
    both mixed with the inputs' baseline: insertion less deletion, softly. steps, rate: of Adam on the weights' logits.
    """
    maps, apart = multiscale(layer_maps(inputs, target), scales), inputs.x - inputs.baseline
    logits = torch.zeros(len(maps), requires_grad=True)
    optimizer = torch.optim.Adam([logits], rate)
    with torch.enable_grad():
        for _ in range(steps):
            gate = spread(weighted(maps, logits.softmax(0)), inputs.x)
            kept, lost = (inputs.values(inputs.baseline + g * apart, target) for g in (gate, 1 - gate))
            optimizer.zero_grad()
            (logits.grad,) = torch.autograd.grad((lost - kept).mean(), [logits])
            optimizer.step()
    return logits.detach().softmax(0)


# --- the network's parts ---------------------------------------------------------------------------------------------------

QKV = ("q_proj", "k_proj", "v_proj")


def attentions(net: Network) -> list[tuple[str, str]]:
    """The attention modules of the image tower, with the name of what follows their heads."""
    found = []
    for path, module in net.module.named_modules():
        parts = dict(module.named_children())
        out = next((name for name in OUTPUTS if name in parts), None)
        if out is not None and all(name in parts for name in QKV):
            found.append((path, out))
    if not found or not any(isinstance(m, nn.Conv2d) for m in net.module.modules()):
        raise ValueError(f"mmel explains vision transformers, and {net.name} has no image tower of attention with "
                         f"{', '.join(QKV)}; use another method, such as rise.")
    return found


def _heads(module: Any) -> int:
    return int(getattr(module, "num_attention_heads", None) or module.num_heads)


def grid(net: Network, x: Tensor) -> tuple[int, int]:
    """How many patches images [rows, channels, h, w] have, down and across."""
    patch = next(module for module in net.module.modules() if isinstance(module, nn.Conv2d))
    return x.shape[2] // int(patch.stride[0]), x.shape[3] // int(patch.stride[1])


def spread(maps: Tensor, x: Tensor) -> Tensor:
    """Maps of patches [rows, h, w] over the pixels of images: [rows, 1, height, width]."""
    return F.interpolate(maps[:, None], (x.shape[2], x.shape[3]), mode="bilinear", align_corners=False)


def _weights(weights: Sequence[float] | Tensor | None, layers: int) -> Tensor:
    found = torch.full((layers,), 1 / layers) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
    if found.shape != (layers,) or not bool(torch.isfinite(found).all()):
        raise ValueError(f"the network has {layers} layers, each of which takes one weight; found {list(found.shape)}.")
    return found


def _from_0_to_1(x: Tensor, dim: int) -> Tensor:
    low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    return (x - low) / (high - low).clamp(min=TINY)
