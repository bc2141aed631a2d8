"""What patching does to a behaviour, place by place, and how far an estimate agrees with the measured effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics import bootstrap
from ..network import At, Network, Site, View

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

AXES = {"": "whole sites", "u": "units", "t": "positions", "t u": "units at positions"}
DIRECTIONS = ("denoising", "noising")


@dataclass(frozen=True)
class Effects:
    """The effect of a patch at every place, row by row.

    values: by site, [rows, *places], in the unit of the task's measure; positive where the place carries the behaviour:
        for denoising what a clean activation brings to a corrupted run, for noising what a corrupted one takes from a clean
        run. over: which places, of `t u`: positions and units; "" for whole sites.
    clean, corrupted: the measure of each row as the network is, [rows].
    """

    values: dict[str, np.ndarray]
    clean: np.ndarray
    corrupted: np.ndarray
    over: str
    about: dict[str, Any]

    @property
    def gap(self) -> float:
        """The mean measure on clean prompts less that on corrupted ones."""
        return float(self.clean.mean() - self.corrupted.mean())

    def share(self, site: str) -> np.ndarray:
        """The mean effect at a site's places over the gap, [*places]: 0 nothing, 1 the whole behaviour."""
        return self.values[site].mean(0) / self.gap

    def frame(self) -> pd.DataFrame:
        """One row a place: its site, position and unit where they are told apart, and its effect as a share of the gap."""
        import pandas as pd
        parts = []
        for site in self.values:
            share = self.share(site)
            places = np.indices(share.shape).reshape(share.ndim, share.size)
            names = [{"t": "position", "u": "unit"}[axis] for axis in self.over.split()]
            parts.append(pd.DataFrame({"site": site, **dict(zip(names, places, strict=True)), "effect": share.ravel()}))
        return pd.concat(parts, ignore_index=True)

    def top(self, n: int = 10) -> pd.DataFrame:
        """The n places with the largest effects by size, each with its 95% bootstrap interval over rows of the task."""
        frame = self.frame()
        chosen = frame.loc[frame["effect"].abs().sort_values(ascending=False, kind="stable").index[:n]]
        bounds = [self._interval(row) for row in chosen.to_dict("records")]
        return chosen.assign(low=[low for low, _ in bounds], high=[high for _, high in bounds]).reset_index(drop=True)

    def _interval(self, place: Mapping[Any, Any]) -> tuple[float, float]:
        values = self.values[place["site"]]
        for axis in self.over.split():
            values = values[:, int(place[{"t": "position", "u": "unit"}[axis]])]
        parts = np.stack([values, self.clean - self.corrupted], 1)
        return bootstrap(parts, lambda sums: sums[..., 0] / sums[..., 1])

    def __repr__(self) -> str:
        a = self.about
        return (f"{a['method']} of {a['task']} in {a['network']}: {a['direction']} {AXES[self.over]} at {len(self.values)} "
                f"sites, {len(self.clean)} pairs of prompts, shares of a gap of {self.gap:.3g} {a['unit']}\n"
                f"{self.top(8).to_string(index=False, float_format='{:.3f}'.format)}")


def checked(net: Network, sites: Any, over: str, direction: str) -> list[Site]:
    """The sites of a patch, with clear words about what cannot be patched."""
    if over not in AXES:
        raise ValueError(f"a patch is over one of {', '.join(map(repr, AXES))}; found {over!r}.")
    if direction not in DIRECTIONS:
        raise ValueError(f"a patch goes in one of the directions {', '.join(DIRECTIONS)}; found {direction!r}.")
    places = net.sites(sites)
    for site in places:
        if site.is_weight or not site.editable or type(site.cut) is not View:
            raise ValueError(f"{site} holds no activation that can be patched; give sites such as blocks.*.mlp.")
    return places


def cut(site: Site, x: Tensor) -> tuple[Tensor, list[str]]:
    """A site's tensor cut into units, and the names of its axes."""
    z, _ = site.cut.split(x, At())
    return z, site.cut.names(z)  # type: ignore[attr-defined]


def kept_axes(site: Site, names: Sequence[str], over: str) -> list[int]:
    """The axes of a cut tensor that count rows and places."""
    lacks = [axis for axis in over.split() if axis not in names]
    if lacks:
        said = {"t": "positions", "u": "units"}[lacks[0]]
        raise ValueError(f"{site} has no axis of {said}; it has the axes {' '.join(filter(None, names))!r}.")
    return [names.index(axis) for axis in ("b", *over.split())]


# --- agreement --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How far an estimate agrees with the measured effect over n places: Pearson, Spearman, and the share of equal signs.

    Pearson is what the papers give; a few large effects decide it, which is why the others stand beside. nan where the
    effects do not differ.
    """

    pearson: float
    spearman: float
    signs: float
    n: int


KINDS = {"heads": "heads", "attn": "attention", "mlp": "MLP", "neurons": "neurons", "embed": "embedding", "norm": "norm",
         "features": "features", "error": "errors"}


def kind_of_site(name: str) -> str:
    """`residual`, `attention`, `MLP`, ... of a site's name; the name itself where it is none of these."""
    parts = name.split(".")
    residual = parts[0] == "blocks" and len(parts) == 2
    return "residual" if residual else KINDS.get(parts[-1], name)


def agreement(estimate: Effects, measured: Effects) -> dict[str, Agreement]:
    """The agreement of an estimate with measured effects by kind of site, over all places of all sites of the kind."""
    if estimate.over != measured.over or estimate.values.keys() != measured.values.keys():
        raise ValueError("only effects of the same patches agree or not; found other sites or other axes.")
    found: dict[str, Agreement] = {}
    for kind in dict.fromkeys(map(kind_of_site, measured.values)):
        sites = [site for site in measured.values if kind_of_site(site) == kind]
        x, y = (np.concatenate([effects.share(site).ravel() for site in sites]) for effects in (estimate, measured))
        found[kind] = alike(x, y)
    return found


def alike(x: np.ndarray, y: np.ndarray) -> Agreement:
    """The agreement of two series of effects."""
    from scipy.stats import pearsonr, spearmanr
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(nan, nan, nan, len(x))
    moved = np.abs(y) > 1e-9 * np.abs(y).max()
    signs = float((np.sign(x) == np.sign(y))[moved].mean())
    return Agreement(float(pearsonr(x, y)[0]), float(spearmanr(x, y)[0]), signs, len(x))
