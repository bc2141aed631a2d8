"""Attribution patching with integrated gradients."""

from __future__ import annotations

from collections.abc import Iterable

from ..catalogue import method
from ..network import Network, Site
from .derivatives import first_order, midpoints
from .effects import Effects
from .task import Task


@method("attribution-patching-ig", family="circuit", title="Attribution patching with gradients along the way between prompts",
        paper="Hanna et al. 2024, arXiv:2403.17806, eq. 3, for nodes; Marks et al. 2024, arXiv:2403.19647")
def attribution_patching_ig(net: Network, task: Task, sites: str | Site | Iterable[str | Site] = "blocks.*.attn.heads",
                            over: str = "u", direction: str = "denoising", steps: int = 5, batch_size: int = 16) -> Effects:
    """(clean - corrupted) . mean gradient while the embeddings go from one prompt to the other in some steps.

    sites, over, direction: as in activation patching. steps: runs on the way, at its midpoints; the paper's code takes the
    left or right ends. At `embed` the effects sum to the gap as the steps grow.
    """
    return first_order(net, task, sites, over, direction, batch_size, "attribution-patching-ig", midpoints(steps),
                       options={"steps": steps})
