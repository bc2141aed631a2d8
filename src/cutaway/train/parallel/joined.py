"""Several ranks that train together: what all ways to split the work have in common."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..sources import Source
from . import folders, states
from .alone import Alone, Plan
from .group import Group
from .sources import striped_source

if TYPE_CHECKING:
    from ...network import Network
    from ..learner import Learner
    from ..run import Run


class Joined(Alone):
    """One rank of a group; `split` says what the ranks divide among them."""

    split = ""
    signals = (signal.SIGINT, signal.SIGTERM)   # the second is torchrun's

    def __init__(self, group: Group):
        self.group, self.stripes = group, group.size

    def own(self, plan: Plan, batch: int) -> Plan:
        if batch % self.group.size:
            raise ValueError(f"a batch of {batch:,} cannot be split evenly over {self.group.size} ranks; give a batch that "
                             f"{self.group.size} divides.")
        return plan

    def source(self, net: Network, data: Any, sites: list[str], every: list[str], total: int, batch: int,
               seed: int) -> Source:
        return striped_source(net, data, sites, total, batch, seed, self.group, self.split == "width")

    def agree(self, *asked: bool) -> list[bool]:
        return [answer > 0 for answer in self.group.most([int(question) for question in asked])]

    def placed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A learner's tensors as a checkpoint takes them, so that it knows which are parts of larger ones."""
        return tensors

    def save(self, out: Path, config: dict[str, Any], learners: Mapping[str, Learner], source: Source) -> None:
        states.save(self, out, config, learners, source)

    def resume(self, out: Path, config: dict[str, Any], learners: Mapping[str, Learner], source: Source) -> None:
        states.resume(self, out, config, learners, source)

    def finish(self, run: Run, out: Path | None) -> None:
        if out is not None and self.group.rank == 0:
            super().finish(run, out)
            folders.remove(out)
        self.group.objects(None)


