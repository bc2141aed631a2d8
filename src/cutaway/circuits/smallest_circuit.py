"""The smallest circuit: few parts by their scores, then fewer by what each one's removal does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..catalogue import find, method
from ..metrics import Figure
from ..network import Network
from .edge_scores import EdgeScores
from .faithfulness import Kept, Level, level_of
from .graph import Graph
from .task import Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Circuit:
    """A set of parts that keeps a behaviour.

    parts: their names, edges as `sender -> receiver`; edges: bool [receivers, senders]. target: the faithfulness that it was
    to keep on the prompts that it was found on; found: what it has there. figures: on other prompts: `faithfulness`,
    `completeness` (what is left without the circuit; 0 is complete), `random` (as many parts by chance).
    drops: of each part, by how much faithfulness falls on other prompts when it alone is taken away.
    """

    graph: Graph
    level: str
    parts: list[str]
    edges: Tensor
    scores: EdgeScores
    target: float
    found: float
    n_parts: int
    figures: dict[str, Figure]
    drops: np.ndarray
    about: dict[str, Any]

    @property
    def nodes(self) -> list[str]:
        """The senders that an edge of the circuit leaves."""
        return [name for name, used in zip(self.graph.senders, self.edges.any(0).tolist(), strict=True) if used]

    def frame(self) -> pd.DataFrame:
        """One row a part, the most needed first."""
        import pandas as pd
        level = level_of(self.graph, self.level)
        scores = dict(zip(level.parts, level.sums(self.scores.values).tolist(), strict=True))
        table = pd.DataFrame({"part": self.parts, "score": [scores[part] for part in self.parts], "drop": self.drops})
        return table.sort_values("drop", ascending=False, ignore_index=True)

    def json(self) -> dict[str, Any]:
        """All of it as data."""
        return {**self.about, "level": self.level, "target": self.target, "found": self.found, "of": self.n_parts,
                "parts": self.frame().to_dict("records"), "edges": self.graph.names(self.edges),
                "figures": {name: figure.json() for name, figure in self.figures.items()}}

    def __repr__(self) -> str:
        said = "\n".join(f"  {figure}" for figure in self.figures.values())
        return (f"Circuit of {self.about['task']} in {self.graph.net.name}: {len(self.parts)} of {self.n_parts:,} "
                f"{self.level}\n{said}\n{self.frame().head(20).to_string(index=False, float_format='{:.3f}'.format)}")


@method("smallest-circuit", family="circuit", title="The smallest set of edges or nodes that keeps a behaviour",
        paper="Conmy et al. 2023, arXiv:2304.14997; Hanna et al. 2024, arXiv:2403.17806")
def smallest_circuit(net: Network, task: Task, level: str = "edges", by: str = "eap-ig", target: float = 0.9,
                     n_random: int = 10, seed: int = 0, batch_size: int = 32, progress: bool = False) -> Circuit:
    """Find a minimal circuit on one half of a task's prompts and measure it on the other.

    level: `edges`, or `nodes` (heads and MLPs, with all edges that leave them). by: the scores of edges that parts are
    chosen by, `eap`, `eap-ig`, `edge-patching` or `information-flow`. target: the faithfulness to keep on the first half.
    n_random: random circuits of the same size for the baseline.

    As many of the best parts as reach the target are kept, by signed scores or by their size, whichever needs fewer; then
    parts are taken away, the smallest scores first, in halves of what is left to try, as long as the target is kept, until
    none can go alone. ACDC goes through edges one by one from the logits back and stops at a threshold for each.
    """
    check_target(target)
    first, second = task.halves()
    scores: EdgeScores = find(by, "circuit").object(net, first, batch_size=min(batch_size, 16))
    if not isinstance(scores, EdgeScores):
        raise ValueError(f"{by} scores no edges; a circuit is found by eap, eap-ig, edge-patching or information-flow.")
    parts, on_first = scores.graph, Kept(scores.graph, first, batch_size)
    chosen = level_of(parts, level)
    values = chosen.sums(scores.values)
    bar = tqdm(desc="circuit", unit="pass", leave=False, disable=None if progress else True)

    def keeps(kept: Tensor) -> bool:
        bar.update()
        return on_first.faithfulness(parts.without_dead_ends(chosen.edges_of(kept))) >= target

    with bar:
        starts = [greedy(order.argsort(descending=True, stable=True), keeps) for order in (values, values.abs())]
        kept = min((_alive(parts, chosen, start) for start in starts), key=lambda start: int(start.sum()))
        kept = pruned(values.abs(), kept, keeps)
    kept = _alive(parts, chosen, kept)
    edges = parts.without_dead_ends(chosen.edges_of(kept))
    on_second = Kept(parts, second, batch_size)
    figures, drops = measured(on_second, chosen, kept, n_random, seed)
    names = [name for name, is_kept in zip(chosen.parts, kept.tolist(), strict=True) if is_kept]
    about = {"method": "smallest-circuit", "by": by, "task": task.name, "network": net.name, "rows to find": len(first),
             "rows to measure": len(second), "seed": seed}
    return Circuit(parts, level, names, edges, scores, target, on_first.faithfulness(edges), len(chosen.parts), figures, drops,
                   about)


def check_target(target: float) -> None:
    """Raise ValueError for a target that is no share."""
    if not 0 < target < 1:
        raise ValueError(f"target is the share of the behaviour to keep, between 0 and 1; found {target}.")


def greedy(order: Tensor, keeps: Callable[[Tensor], bool]) -> Tensor:
    """The least number of the first parts of an order that keeps the target, found by doubling and halving: bool [parts].

    Faithfulness need not rise with every part, so that a smaller number may do as well.
    """
    def best(n: int) -> Tensor:
        chosen = torch.zeros(len(order), dtype=torch.bool)
        chosen[order[:n]] = True
        return chosen

    low, high = 0, 1  # `low` does not do
    while high < len(order) and not keeps(best(high)):
        low, high = high, min(2 * high, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(best(middle)) else (middle, high)
    return best(high)


def pruned(values: Tensor, kept: Tensor, keeps: Callable[[Tensor], bool]) -> Tensor:
    """Fewer parts that keep the target, none of which can be taken away alone: bool [parts].

    The lowest scores go first, in halves of what is left to try; then every part that is left is tried alone, until all of
    them have failed since the last that went.
    """
    kept = kept.clone()

    def take(some: Sequence[int]) -> bool:
        trial = kept.clone()
        trial[list(some)] = False
        if keeps(trial):
            kept[list(some)] = False
            return True
        return False

    def thin(some: Sequence[int]) -> None:
        if some and not take(some) and len(some) > 1:
            thin(some[: len(some) // 2])
            thin(some[len(some) // 2:])

    def left() -> list[int]:
        members = kept.nonzero()[:, 0]
        return members[values[members].argsort(stable=True)].tolist()

    thin(left())
    todo = deque(left())
    failed = 0
    while failed < len(todo):
        part = todo.popleft()
        if take([part]):
            failed = 0
        else:
            todo.append(part)
            failed += 1
    return kept


def _alive(parts: Graph, level: Level, kept: Tensor) -> Tensor:
    """The kept parts less those of which no edge lies on a way from the embedding to the logits."""
    edges = parts.without_dead_ends(level.edges_of(kept))
    used = torch.zeros(len(kept) + 1, dtype=torch.bool)
    used[level.ids[edges]] = True
    return kept & used[:-1]


def measured(kept: Kept, level: Level, chosen: Tensor, n_random: int, seed: int) -> tuple[dict[str, Figure], np.ndarray]:
    """A circuit's figures on some prompts, and the drop of faithfulness without each of its parts [parts of the circuit]."""
    values = kept.values(level.edges_of(chosen))
    figures = {"faithfulness": kept.figure("faithfulness", values, "all parts corrupted"),
               "completeness": kept.figure("completeness", kept.values(level.edges_of(~chosen)), "all parts corrupted")}
    generator, n = torch.Generator().manual_seed(seed), int(chosen.sum())
    random = []
    for _ in range(n_random):
        other = torch.zeros_like(chosen)
        other[torch.randperm(len(chosen), generator=generator)[:n]] = True
        random.append(kept.faithfulness(level.edges_of(other)))
    if random:
        low, high = (float(x) for x in np.percentile(random, [2.5, 97.5]))
        figures["random"] = Figure("random", float(np.mean(random)), low, high, len(random), "random circuits",
                                   baseline="all parts corrupted", data=kept.task.name, seed=seed)
    drops = []
    for part in chosen.nonzero()[:, 0].tolist():
        without = chosen.clone()
        without[part] = False
        drops.append(kept.share(values) - kept.faithfulness(level.edges_of(without)))
    return figures, np.array(drops)
