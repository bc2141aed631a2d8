"""Edge attribution patching with integrated gradients."""

from __future__ import annotations

from ..catalogue import method
from ..network import Network
from .derivatives import midpoints
from .edge_scores import EdgeScores, by_derivative, facts
from .task import Task


@method("eap-ig", family="circuit", title="Edge attribution patching with integrated gradients",
        paper="Hanna et al. 2024, arXiv:2403.17806, eq. 3")
def eap_ig(net: Network, task: Task, steps: int = 5, batch_size: int = 16) -> EdgeScores:
    """The derivative in each edge's gate, averaged while the embeddings go from the clean to the corrupted prompts.

    steps: runs on the way, at its midpoints (the authors' code takes the corrupted end and leaves the clean one out). The
    difference of what senders write stays that between the two prompts.
    """
    return by_derivative(net, task, facts("eap-ig", net, task, steps=steps), midpoints(steps), batch_size=batch_size)
