"""What training asks of the processes that share it. This is the answer of a process that is alone; the others build on it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...dictionaries import Dictionary, Recipe
from ...dictionaries.ranks import Ranks
from ...dictionaries.wiring import Row
from .. import checkpoint
from ..adam import Adam
from ..sources import Source, source_of
from . import states
from .group import Group

if TYPE_CHECKING:
    from ...network import Network
    from ..learner import Learner
    from ..run import Run

Plan = Mapping[str, tuple[str, Recipe]]


class Alone(Ranks):
    """One process: it reads all rows, and holds all dictionaries whole."""

    group, stripes = Group(), 1   # stripes: how many ranks read rows of their own
    signals: tuple[signal.Signals, ...] = (signal.SIGINT,)   # what asks training to save and stop

    def own(self, plan: Plan, batch: int) -> Plan:
        """The dictionaries that this rank trains, by key."""
        return plan

    def source(self, net: Network, data: Any, sites: list[str], every: list[str], total: int, batch: int,
               seed: int) -> Source:
        """Where this rank's batches come from; sites: its own, every: those of all ranks."""
        return source_of(net, data, sites, total, batch, seed)

    def build(self, recipe: Recipe, row: Row, sample: Tensor, generator: Any) -> Dictionary:
        """A dictionary at the start of training, or what this rank holds of it."""
        return recipe.wiring.build(recipe, row, sample, generator)

    def rows(self, n: int) -> int:
        """How many rows a batch has of which this rank has n; all have equally many."""
        return n

    def seen(self, fvu: float, fired: Tensor) -> tuple[float, Tensor]:
        """The FVU of a batch and how often each latent fired, from what was summed over this rank's rows."""
        return fvu, fired

    def terms(self, losses: tuple[Any, ...]) -> tuple[Any, ...]:
        """The loss terms, as they are where what they read is held by several ranks."""
        return losses

    def exchange(self, dictionary: Dictionary, optimizer: Adam) -> None:
        """Make the gradients that a backward pass has left those of the whole batch."""

    def whole(self, dictionary: Dictionary) -> dict[str, Tensor] | None:
        """All tensors of a dictionary; None on a rank that is not given them."""
        return dictionary.state_dict()

    def agree(self, *asked: bool) -> list[bool]:
        """Each question's answer for all ranks: yes where any of them says yes."""
        return list(asked)

    def cut(self, name: str, value: Tensor) -> Tensor:
        """What this rank holds of a learner's whole tensor."""
        return value

    def save(self, out: Path, config: dict[str, Any], learners: Mapping[str, Learner], source: Source) -> None:
        """Save everything that the training depends on."""
        states.save_alone(out, config, learners, source)

    def resume(self, out: Path, config: dict[str, Any], learners: Mapping[str, Learner], source: Source) -> None:
        """Go on from the newest whole checkpoint in a folder, if there is one."""
        states.resume_alone(self, out, config, learners, source)

    def finish(self, run: Run, out: Path | None) -> None:
        """Put what all ranks have learned into one folder, and into the first rank's run."""
        if out is not None:
            run.save(out)
            checkpoint.remove(out)
