"""Images of which only a part is there, in every layer of a convolutional network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FILL = 1e-5        # added to the number of neighbours, as in the authors' code
AREA = 1e-8        # added to the area that a global average is taken over


class Masked(Tensor):
    """A tensor [n, c, h, w] with the part of it that is there: a mask [n, 1, h, w], 1 where it is.

    Operations change the mask by their row in `RULES`, those of `POINTWISE` leave it, and any other is refused, so that
    no mask is lost silently.
    """

    mask: Tensor

    @staticmethod
    def of(values: Tensor, mask: Tensor) -> Masked:
        made = values.as_subclass(Masked)
        made.mask = mask
        return made

    @property
    def plain(self) -> Tensor:
        return self.as_subclass(Tensor)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        name = name if name.startswith("__") else name.removesuffix("_")      # relu_ as relu
        with torch._C.DisableTorchFunctionSubclass():
            if name in RULES:
                return RULES[name](*args, **kwargs)
            found = func(*(x.plain * x.mask if isinstance(x, Masked) else x for x in args), **kwargs)
            if not isinstance(found, Tensor):
                return found
            if name in POINTWISE:
                return Masked.of(found * args[0].mask, args[0].mask)
        raise ValueError(f"layer masking does not know what {name!r} does to a mask; it is made for convolutional networks of "
                         "convolutions, batch norms, pooling, sums, products and pointwise functions.")


def masked(x: Tensor, keep: Tensor) -> Tensor:
    """Images [n, c, h, w] of which only some pixels [n, h, w] (true or 1) are there, as a convolutional network takes them.

    Give them to a network in the images' place: each layer then sees only what is there (Balasubramanian and Feizi 2022).
    """
    if x.ndim != 4 or keep.shape != (len(x), *x.shape[2:]):
        raise ValueError(f"images [n, c, h, w] are masked by pixels [n, h, w]; found {list(x.shape)} and {list(keep.shape)}.")
    mask = keep.to(x)[:, None]
    return Masked.of(x * mask, mask)


# --- what each operation does to values and mask ---------------------------------------------------------------------------

def _neighbours(h: Tensor, mask: Tensor, times: int) -> Tensor:
    """Values with the places that are not there filled from those beside them, ring by ring."""
    ones = h.new_ones(1, 1, 3, 3)
    for _ in range(times):
        if bool(mask.all()):
            break
        h = h * mask
        count = F.conv2d(mask, ones, padding=1)
        sums = F.conv2d(h.flatten(0, 1)[:, None], ones, padding=1).view_as(h)
        h = h + (1 - mask) * sums / (count + FILL)
        mask = (mask + count).clamp(0, 1)
    return h


def _conv2d(x: Masked, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
            groups: int = 1) -> Tensor:
    """A convolution of the filled values; what comes out is there where any of its inputs was."""
    h, mask = x.plain, x.mask
    size, step, spread = weight.shape[-2:], _pair(stride), _pair(dilation)
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for k, d in zip(size, spread, strict=True))
    around = (0, 0) if padding == "valid" else _pair(padding)
    out = F.conv2d(_neighbours(h, mask, max(size)), weight, bias, step, around, spread, groups)
    seen = F.max_pool2d(F.pad(mask, (around[1], around[1], around[0], around[0])), tuple(size), step, 0, spread)
    return Masked.of(out * seen, seen)


def _max_pool2d(x: Masked, *args: Any, **kwargs: Any) -> Tensor:
    kwargs.pop("return_indices", None)
    mask = F.max_pool2d(x.mask, *args, **kwargs)
    return Masked.of(F.max_pool2d(x.plain * x.mask, *args, **kwargs) * mask, mask)


def _avg_pool2d(x: Masked, *args: Any, **kwargs: Any) -> Tensor:
    mask = (F.avg_pool2d(x.mask, *args, **kwargs) > 0).to(x.mask)
    return Masked.of(F.avg_pool2d(x.plain * x.mask, *args, **kwargs) * mask, mask)


def _global_mean(x: Masked) -> Tensor:
    """The mean over what is there: [n, c, 1, 1], without a mask."""
    return (x.plain * x.mask).mean((2, 3), keepdim=True) / (x.mask.mean((2, 3), keepdim=True) + AREA)


def _adaptive(x: Masked, size: Any) -> Tensor:
    if _pair(size) == (1, 1):
        return _global_mean(x)
    mask = (F.adaptive_avg_pool2d(x.mask, size) > 0).to(x.mask)
    return Masked.of(F.adaptive_avg_pool2d(x.plain * x.mask, size) * mask, mask)


def _mean(x: Masked, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    axes = (dim,) if isinstance(dim, int) else tuple(dim or ())
    if sorted(d % 4 for d in axes) != [2, 3]:
        raise ValueError(f"layer masking takes means over height and width together; found the axes {dim}.")
    return _global_mean(x) if keepdim else _global_mean(x).flatten(1)


def _both(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A sum or product of two branches, which is there where both are; a plain number or tensor is everywhere."""
    def run(x: Any, y: Any, **kwargs: Any) -> Tensor:
        values = [v.plain * v.mask if isinstance(v, Masked) else v for v in (x, y)]
        mask = torch.stack([v.mask for v in (x, y) if isinstance(v, Masked)]).prod(0)
        return Masked.of(op(*values, **kwargs) * mask, mask)
    return run


def _flatten(x: Masked, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Rows of values for a linear layer, zero where nothing is there; the mask ends here."""
    if (start_dim, end_dim) not in ((1, -1), (1, 3)):
        raise ValueError("layer masking flattens images to rows for a linear layer; this network flattens them in another way, "
                         "as vision transformers do, which see no mask.")
    return (x.plain * x.mask).flatten(1)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value) if len(value) == 2 else (value[0], value[0])


def _rows(x: Masked, *shape: Any) -> Tensor:
    found = x.plain.reshape(*shape)
    if found.ndim != 2 or len(found) != len(x):
        raise ValueError(f"layer masking knows no reshaping of images to {list(found.shape)}; only to rows for a linear layer.")
    return _flatten(x, 1)


RULES: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d, "max_pool2d": _max_pool2d, "avg_pool2d": _avg_pool2d, "adaptive_avg_pool2d": _adaptive, "mean": _mean,
    "flatten": _flatten, "view": _rows, "reshape": _rows,
    **{name: _both(torch.add) for name in ("add", "__add__", "__radd__", "__iadd__")},
    **{name: _both(torch.mul) for name in ("mul", "__mul__", "__rmul__", "__imul__")},
}
POINTWISE = {"relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "sigmoid", "tanh", "softplus", "hardtanh",
             "hardswish", "hardsigmoid", "batch_norm", "dropout", "dropout2d", "clone", "contiguous", "to", "float", "double",
             "detach", "requires_grad"}
