"""One pass over data for many scores: all that look at the network look at the same pass.

A score that shares passes says which collector it needs (gates, inputs of linear maps, gradients of weights, the residual
stream) and what to make of what that collector hands to it. One backward pass a batch serves all of them; without a
score that needs one, the pass is a forward pass that stops after the last site.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..metrics import row_loss
from ..network import At, Enough, Network, Site
from ..network.edit import Touch
from .column import Column, facts
from .reading import Limits, Metric, Part, Reader, measured, metric_name

if TYPE_CHECKING:
    from ..units import Units


class Collector(Protocol):
    """What looks at a pass for the scores of its kind; options of its constructor are options of the scores.

    backward: whether it needs the metric's gradient; leaves: the tensors of this pass to take it in. reference: the name of
    what stands in for a closed unit, if anything does.
    """

    @property
    def backward(self) -> bool: ...
    @property
    def leaves(self) -> list[Tensor]: ...
    @property
    def reference(self) -> str | None: ...

    def watching(self, part: Part) -> dict[Site, Touch]:
        """What to call at which sites in the pass over one batch."""

    def passed(self, part: Part) -> None:
        """The pass over one batch is over."""

    def columns(self) -> list[np.ndarray]:
        """The values of all units, for each score in the order given."""


class Shared:
    """A score that shares its pass: `each` makes a unit's numbers of what the collector hands to it.

    how: what the collector has to know about the score; `backward`, whether it needs the metric's gradient; `within`, a
    context `(network) -> with` that the pass runs in, where it is not the network as it is. options: those of the score's own.
    """

    __name__: str

    def __init__(self, collector: Callable[..., Collector], each: Callable[..., Any], how: dict[str, Any]):
        update_wrapper(self, each)
        self.collector, self.each, self.how, self.sweep = collector, each, how, sweep
        self.options: dict[str, Any] = {}
        own = _options(each)
        shared = [p for p in _options(sweep).values() if p.name != "metric" or how.get("backward")]
        taken = {p.name: p for p in [*_options(collector).values(), *own.values(), *shared]}
        first = list(inspect.signature(sweep).parameters.values())[:2]
        self.__signature__ = inspect.Signature([*first, *taken.values()], return_annotation="Column")

    def __call__(self, units: Units, data: Any, **options: Any) -> Column:
        return sweep(units, data, [self], **options)[0]

    @property
    def within(self) -> Callable[[Network], AbstractContextManager]:
        """What the pass runs in; scores that agree in it share one."""
        return self.how.get("within", nullcontext)

    def bound(self, options: dict[str, Any]) -> Shared:
        """The same score with its own options filled in."""
        made = copy.copy(self)
        made.options = {name: options[name] for name in _options(self.each) if name in options}
        made.each = partial(self.each, **made.options)
        return made


def _options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a function or of a class's constructor."""
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def shared(collector: Callable[..., Collector], **how: Any) -> Callable[[Callable[..., Any]], Shared]:
    """Make a score of a function of what a collector sees."""
    return lambda each: Shared(collector, each, how)


def sweep(units: Units, data: Any, scores: Sequence[Shared], *, metric: Metric = row_loss, tokens: int | None = None,
          batch_size: int = 16, seed: int | None = None, progress: bool = False, **options: Any) -> list[Column]:
    """Several scores that run in the same from one pass over the data, in the order given.

    metric: `(network, batch) -> [b]`, lower is better; a row's metric may depend on that row alone.
    ref: what stands in for a closed unit: `zero`, `mean`, `skip`, a function, or none for the usual one of the kind.
    tokens: use the first so many tokens of the data, or, with a seed, as many from rows drawn by it.
    """
    known = {name for score in scores for name in (*_options(score.collector), *_options(score.each))}
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"there is no option {unknown[0]!r} of {', '.join(score.__name__ for score in scores)}.")
    limits = Limits(tokens, batch_size, seed)
    bound = [score.bound(options) for score in scores]
    kinds = list(dict.fromkeys(score.collector for score in bound))
    groups = {kind: [score for score in bound if score.collector is kind] for kind in kinds}
    looking = {kind: kind(units, data, limits, group, **{name: options[name] for name in _options(kind) if name in options})
               for kind, group in groups.items()}
    reader = Reader(units, data, limits, progress)
    for part in reader:
        with scores[0].within(units.net):
            _one(units.net, metric, list(looking.values()), part)
        reader.passed(len(part.batch.rows))
    values = {id(score): column for kind, group in groups.items()
              for score, column in zip(group, looking[kind].columns(), strict=True)}
    return [Column(values[id(score)], facts(score.__name__, reader, looking[score.collector].reference,
                                            metric if score.how.get("backward") else None, **score.options))
            for score in bound]


def _one(net: Network, metric: Metric, looking: list[Collector], part: Part) -> None:
    """One batch."""
    backward = any(collector.backward for collector in looking)
    todo: dict[tuple[int, str], None] = {}
    with ExitStack() as watches:
        for number, collector in enumerate(looking):
            touches = {site: _ticked(fn, todo, (number, site.name), stop=not backward)
                       for site, fn in collector.watching(part).items()}
            watches.enter_context(net.watched(touches))
        if backward:
            _gradients(net, metric, looking, part, todo)
        else:
            with torch.no_grad():
                net.run_until_enough(part.batch)
        _all_reached(todo)
    for collector in looking:
        collector.passed(part)


def _ticked(fn: Touch, todo: dict[tuple[int, str], None], key: tuple[int, str], stop: bool) -> Touch:
    """The same touch, ticked off when it is called; the last of a forward pass ends it."""
    todo[key] = None

    def touch(x: Tensor, at: At) -> Tensor | None:
        new = fn(x, at)
        todo.pop(key, None)
        if stop and not todo:
            raise Enough
        return new
    return touch


def _all_reached(todo: dict[tuple[int, str], None]) -> None:
    if todo:
        names = dict.fromkeys(name for _, name in todo)
        raise ValueError(f"the network's pass did not reach {', '.join(names)}.")


def _gradients(net: Network, metric: Metric, looking: list[Collector], part: Part, todo: dict[tuple[int, str], None]) -> None:
    with torch.enable_grad():
        values = measured(metric, net, part.batch)
        _all_reached(todo)
        if not values.requires_grad:
            raise ValueError(without_gradient(metric))
        values.sum().backward(inputs=[leaf for collector in looking for leaf in collector.leaves])


def without_gradient(metric: Metric) -> str:
    """What to say of a metric that cannot be differentiated."""
    return (f"the metric {metric_name(metric)} has no gradient: it is computed without one, or by steps that have none. "
            "Give a metric that has, or use the exact score.")
