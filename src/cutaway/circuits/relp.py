"""Relevance patching: attribution patching with LRP's coefficients in the place of gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..catalogue import method
from ..network import Network, Site
from ..network.relevance import RELP
from .derivatives import first_order
from .effects import Effects
from .task import Task


@method("relp", family="circuit", title="RelP: faithful and efficient circuit discovery via relevance patching",
        paper="arXiv:2508.21258, eq. 5", roster="185")
def relp(net: Network, task: Task, sites: str | Site | Iterable[str | Site] = "blocks.*.attn.heads", over: str = "u",
         direction: str = "denoising", rules: Sequence[str] = RELP, batch_size: int = 16) -> Effects:
    """(clean - corrupted) . LRP's coefficient for the measure, at the price of attribution patching.

    sites, over, direction: as in activation patching. rules: of relevance: norms' scales are held, activations hand on all
    relevance, products of gated MLPs share it in halves; attention keeps its gradient unless `pattern` is among them.
    """
    return first_order(net, task, sites, over, direction, batch_size, "relp", rules=rules,
                       options={"rules": list(rules)})
