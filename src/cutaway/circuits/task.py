"""A behaviour to be explained: prompts, the same prompts corrupted, and a measure of the behaviour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..metrics import Figure, bootstrap
from ..network import Network

Inputs = dict[str, Tensor]
Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pair:
    """Some rows of a task: inputs of the network for each prompt, and which rows they are."""

    clean: Inputs
    corrupted: Inputs
    rows: Tensor

    def repeat(self, n: int) -> Pair:
        """Each row n times, one after the other."""
        def times(inputs: Inputs) -> Inputs:
            return {name: x.repeat_interleave(n, 0) for name, x in inputs.items()}
        return Pair(times(self.clean), times(self.corrupted), self.rows.repeat_interleave(n))


@dataclass(frozen=True, eq=False)
class Task:
    """Pairs of prompts of one shape, token by token beside each other, and how much of the behaviour an output shows.

    clean: prompts that ask for the behaviour; corrupted: the same prompts with what it depends on changed, so that the
    measure differs. measure: `(logits, rows [b]) -> [b]`, higher for more of the behaviour. unit: of the measure.
    """

    name: str
    clean: Inputs
    corrupted: Inputs
    measure: Measure
    unit: str = "logits"
    index: Tensor | None = None  # which rows of the whole task these are

    def __post_init__(self) -> None:
        if self.clean.keys() != self.corrupted.keys() or not self.clean:
            raise ValueError(f"clean and corrupted prompts have the same inputs; found {', '.join(self.clean) or 'none'} and "
                             f"{', '.join(self.corrupted) or 'none'}.")
        for name, x in self.clean.items():
            if x.shape != self.corrupted[name].shape:
                raise ValueError(f"clean and corrupted prompts lie token by token beside each other; {name} has the shapes "
                                 f"{tuple(x.shape)} and {tuple(self.corrupted[name].shape)}.")
        if len(self) == 0:
            raise ValueError(f"the task {self.name} holds no prompts; give at least one pair.")

    def __len__(self) -> int:
        return len(next(iter(self.clean.values())))

    @property
    def length(self) -> int:
        """Tokens, or whatever the second axis of the inputs counts."""
        return next(iter(self.clean.values())).shape[1]

    def take(self, rows: Sequence[int] | Tensor) -> Task:
        """Some rows of the task, in the order given."""
        chosen = torch.as_tensor(rows, dtype=torch.int64)
        clean, corrupted = ({name: x[chosen] for name, x in part.items()} for part in (self.clean, self.corrupted))
        index = torch.arange(len(self)) if self.index is None else self.index
        return replace(self, clean=clean, corrupted=corrupted, index=index[chosen])

    def halves(self) -> tuple[Task, Task]:
        """Even and odd rows: one half to find a circuit on, the other to measure it on."""
        if len(self) < 2:
            raise ValueError(f"the task {self.name} has one pair of prompts, which cannot be divided; give at least two.")
        rows = torch.arange(len(self))
        return self.take(rows[::2]), self.take(rows[1::2])

    def batches(self, size: int) -> Iterator[Pair]:
        """The rows in order, so many at a time."""
        index = torch.arange(len(self)) if self.index is None else self.index
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            clean, corrupted = ({name: x[part] for name, x in inputs.items()} for inputs in (self.clean, self.corrupted))
            yield Pair(clean, corrupted, index[part])

    def measured(self, net: Network, inputs: Inputs, rows: Tensor) -> Tensor:
        """The measure of a pass over some rows' inputs, checked: [b]."""
        values = self.measure(net.logits(inputs), rows)
        if values.shape != rows.shape:
            raise ValueError(f"the measure of {self.name} must give one number for each of {len(rows)} rows; it gave the "
                             f"shape {tuple(values.shape)}.")
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"the measure of {self.name} is not a number; look for NaN or infinity in the network's weights, "
                             "its inputs or the measure itself.")
        return values


@torch.no_grad()
def ends(net: Network, task: Task, batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """The measure of every row as the network is, on clean and on corrupted prompts: [rows] each.

    Raises ValueError where their means do not differ, because then there is nothing to explain.
    """
    parts = [(task.measured(net, pair.clean, pair.rows), task.measured(net, pair.corrupted, pair.rows))
             for pair in task.batches(batch_size)]
    clean, corrupted = (torch.cat(side).double().cpu().numpy() for side in zip(*parts, strict=True))
    if abs(clean.mean() - corrupted.mean()) <= 1e-6 * max(1.0, abs(clean.mean())):
        raise ValueError(f"{net.name} shows as much of {task.name} on corrupted as on clean prompts ({clean.mean():.4g}), so "
                         "there is nothing to patch; give pairs whose difference the network notices.")
    return clean, corrupted


def strength(net: Network, task: Task, batch_size: int = 32) -> list[Figure]:
    """How much of the behaviour the network shows on clean and on corrupted prompts, and for what share it is right."""
    clean, corrupted = ends(net, task, batch_size)
    named = {"clean": clean, "corrupted": corrupted, "right": (clean > 0) & (corrupted < 0)}
    return [Figure(name, float(x.mean()), *bootstrap(x[:, None].astype(float) / len(x), lambda sums: sums[..., 0]), len(task),
                   "pairs of prompts", "" if name == "right" else task.unit, data=task.name) for name, x in named.items()]


@dataclass(frozen=True)
class LogitDifference:
    """The logit of the right answer less that of a wrong one: [b].

    position: of the token before the answer, [n]; right, wrong: token ids, [n].
    """

    position: Tensor
    right: Tensor
    wrong: Tensor

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        each, at = torch.arange(len(rows)), self.position[rows]
        return logits[each, at, self.right[rows]] - logits[each, at, self.wrong[rows]]


def pairs(net: Network, clean: Sequence[str], corrupted: Sequence[str], right: Sequence[str], wrong: Sequence[str],
          name: str = "pairs") -> Task:
    """A task from texts for a causal language model: after each clean prompt comes `right`, after the corrupted one `wrong`.

    Answers are one token each, with their leading space. A prompt and its corruption have as many tokens as each other; rows
    may differ, and are filled up behind their ends, where a causal model does not look.
    """
    if net.kind != "causal" or net.tokenizer is None:
        raise ValueError(f"pairs of texts are for causal language models with a tokenizer; {net.name} is of kind {net.kind!r}.")
    if not clean or len({len(clean), len(corrupted), len(right), len(wrong)}) > 1:
        raise ValueError("a task has as many clean prompts as corrupted ones, right answers and wrong ones, and at least one; "
                         f"found {len(clean)}, {len(corrupted)}, {len(right)} and {len(wrong)}.")
    ids = [[net.tokenizer(text)["input_ids"] for text in side] for side in (clean, corrupted)]
    for row, (a, b) in enumerate(zip(*ids, strict=True)):
        if len(a) != len(b) or not a:
            raise ValueError(f"clean and corrupted prompts lie token by token beside each other; row {row} has {len(a)} and "
                             f"{len(b)} tokens.")
    longest = max(map(len, ids[0]))
    if net.context is not None and longest > net.context:
        raise ValueError(f"{net.name} reads {net.context} tokens; the longest prompt has {longest}.")
    filled = [torch.tensor([row + row[-1:] * (longest - len(row)) for row in side]) for side in ids]
    position = torch.tensor([len(row) - 1 for row in ids[0]])
    answers = [torch.tensor([_token(net, text) for text in side]) for side in (right, wrong)]
    return Task(name, {"input_ids": filled[0]}, {"input_ids": filled[1]}, LogitDifference(position, *answers))


def _token(net: Network, text: str) -> int:
    found = net.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(found) != 1:
        parts = [net.tokenizer.decode([i]) for i in found]
        raise ValueError(f"an answer is one token of {net.name}; {text!r} is {len(found)}: {parts}.")
    return int(found[0])
