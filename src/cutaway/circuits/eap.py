"""Edge attribution patching."""

from __future__ import annotations

from collections.abc import Sequence

from ..catalogue import method
from ..network import Network
from .edge_scores import EdgeScores, by_derivative, facts
from .task import Task


@method("eap", family="circuit", title="Edge attribution patching", paper="Syed et al. 2023, arXiv:2310.10348, section 3")
def eap(net: Network, task: Task, rules: Sequence[str] = (), batch_size: int = 16) -> EdgeScores:
    """The derivative of the measure in each edge's gate on the clean prompts, for all edges at once.

    That is (clean - corrupted) . gradient, over the gap.

    rules: of relevance, for edge scores by LRP's coefficients in the place of gradients. Keys and values that heads share
    are one receiver; the sign is that of a loss: positive edges carry the behaviour.
    """
    return by_derivative(net, task, facts("eap", net, task, rules=list(rules)), rules=rules, batch_size=batch_size)
