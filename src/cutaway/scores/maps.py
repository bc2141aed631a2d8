"""The linear maps that units belong to: a unit is a row of a weight, or one or more of its columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kinds import is_map

if TYPE_CHECKING:
    from ..units import Units


@dataclass(frozen=True)
class Map:
    """A linear map or a convolution, its weight [out, in], and how a site's units lie in it.

    Inputs of a convolution are its channels times the places of its kernel. rows: whether a unit is a row (an output) and
    not some columns (an input, or the inputs that are a head's); size: how many units there are.
    """

    path: str
    module: Any
    rows: bool
    size: int

    @property
    def weight(self) -> Tensor:
        return _weight(self.module, self.module.weight)

    def like_weight(self, parameter: Tensor) -> Tensor:
        """A tensor in the shape of the module's own parameter -> [out, in]."""
        return _weight(self.module, parameter)

    def inputs(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """What the map multiplies, at kept positions only: [n, in].

        x: the module's input; keep: bool [b, t] or [b], none where all count.
        """
        if isinstance(self.module, nn.Conv2d):
            x = F.unfold(x, self.module.kernel_size, self.module.dilation, self.module.padding,  # type: ignore[arg-type]
                         self.module.stride).transpose(1, 2)
        if keep is not None and x.ndim == 2 and keep.ndim == 2 and len(x) == keep.numel():
            x = x.reshape(*keep.shape, -1)  # some networks hand all tokens of a batch to a map as if they were rows
        if keep is not None and x.shape[: keep.ndim] == keep.shape:
            x = x[keep.to(x.device)]
        return x.reshape(-1, x.shape[-1])

    def units(self, saliency: Tensor) -> Tensor:
        """Numbers of weights [out, in] -> their sums over the weights of each unit, [units]."""
        if self.rows:
            return saliency.sum(1, dtype=torch.float64)
        return saliency.sum(0, dtype=torch.float64).reshape(self.size, -1).sum(1)


def _weight(module: nn.Module, parameter: Tensor) -> Tensor:
    return parameter.detach().T if type(module).__name__ == "Conv1D" else parameter.detach().flatten(1)


def maps_of(units: Units) -> dict[str, Map]:
    """The linear maps that the units of a table belong to, by the name of their site."""
    why = without_weights(units)
    if why:
        raise ValueError(why)
    found = {}
    for name, site in units.sites.items():
        found[name] = Map(site.path, units.net.module.get_submodule(site.path), site.io != "in", units.sizes[name])
    return found


def by_site(units: Units, each: Callable[[str], Tensor]) -> np.ndarray:
    """The column of a table from the numbers of all units of each site, by the site's name."""
    column = np.zeros(len(units.frame))
    sites, numbers = units.frame["site"].to_numpy(), units.frame["unit"].to_numpy()
    for name in units.sites:
        here = sites == name
        column[here] = each(name).double().cpu().numpy()[numbers[here]]
    return column


def without_weights(units: Units) -> str:
    """Why no weight belongs to the units of a table; empty where one does."""
    if units.kind.axis != "u":
        return f"weights belong to rows, neurons, heads and channels, and these are {units.kind.name}."
    for name, site in units.sites.items():
        module = units.net.module.get_submodule(site.path)
        if not is_map(module) or site.io not in ("in", "out", "weight"):
            return f"{name} is neither what a linear map is given nor what it gives, so no weights belong to its units."
        if isinstance(module, nn.Conv2d) and (module.groups > 1 or isinstance(module.padding, str)
                                              or module.padding_mode != "zeros"):
            return f"{name} is at a convolution in groups or with another padding than zeros, whose inputs are not taken apart."
    return ""
