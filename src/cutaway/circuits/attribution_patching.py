"""Attribution patching: the first-order estimate of every patch."""

from __future__ import annotations

from collections.abc import Iterable

from ..catalogue import method
from ..network import Network, Site
from .derivatives import first_order
from .effects import Effects
from .task import Task


@method("attribution-patching", family="circuit", title="First-order estimate of activation patching",
        paper="Nanda 2023, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching; arXiv:2310.10348")
def attribution_patching(net: Network, task: Task, sites: str | Site | Iterable[str | Site] = "blocks.*.attn.heads",
                         over: str = "u", direction: str = "denoising", batch_size: int = 16) -> Effects:
    """(clean - corrupted) . gradient of the measure, for all places from two forward passes and one backward pass.

    sites, over, direction: as in activation patching; the gradient is that of the run that is patched: the corrupted one for
    `denoising`, the clean one for `noising`.
    """
    return first_order(net, task, sites, over, direction, batch_size, "attribution-patching")
