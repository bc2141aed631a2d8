"""Passes that begin at a block: what comes before it is taken from a pass over the same rows that was made already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from .network import Network


class Differs(Exception):
    """Raised in a resumed pass that is not over the rows that were kept, so that all of it has to run."""


class Kept:
    """What each block was given in one pass over some rows.

    Only what the blocks hand to each other is kept, so `checked` has to show once for a network and a metric that no more
    is needed: a network may carry something past its blocks, and a metric may look inside them.
    """

    def __init__(self, net: Network):
        paths = [net.named[f"blocks.{i}"].path for i in range(net.n_blocks)]
        self.net, self.blocks = net, [net.module.get_submodule(path) for path in paths]
        self.inputs: dict[int, Tensor] = {}
        self.others: dict[int, tuple] = {}  # what a block returns beside the stream
        self.whole = len(self.blocks) > 1   # whether later passes can be resumed

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep what the blocks are given in the one pass inside the `with` block."""
        self.inputs.clear()
        self.others.clear()

        def before(number: int) -> Callable[..., None]:
            def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
                self.whole &= number not in self.inputs  # a second pass: nobody knows which is meant later
                self.inputs[number] = _stream(args, kwargs).clone()  # some blocks add to it in place
            return keep

        def after(number: int) -> Callable[..., None]:
            def keep(module: nn.Module, args: tuple, output: Any) -> None:
                self.others[number] = output[1:] if isinstance(output, tuple) else ()
                others_are_plain = not any(isinstance(x, Tensor) for x in self.others[number])
                self.whole &= isinstance(output, Tensor | tuple) and others_are_plain
            return keep

        with ExitStack() as undo:
            for number, block in enumerate(self.blocks if self.whole else []):
                undo.callback(block.register_forward_pre_hook(before(number), with_kwargs=True).remove)
                undo.callback(block.register_forward_hook(after(number)).remove)
            yield
        self.whole &= len(self.inputs) == len(self.blocks)

    @contextmanager
    def resumed(self, block: int, copies: int = 1, rows: int | None = None) -> Iterator[None]:
        """Let passes over the kept rows, each `copies` times one after the other, begin at a block; see `keeping`.

        rows: over the first so many of them only. A pass over anything else raises `Differs`. The network's parameters and
        class are left alone, and the blocks' own forward functions are back at the end, also after an error.
        """
        level = self.net._touches.level

        def kept(number: int) -> Tensor:
            return self.inputs[number][:rows].repeat_interleave(copies, dim=0)

        def passes_on(number: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                x = _stream(args, kwargs)
                if number == 0 and not (self.net._touches.level == level and _same(x, kept(0))):
                    raise Differs
                return (x, *self.others[number]) if self.others[number] else x
            return forward

        def replaced(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if args:
                return (kept(block), *args[1:]), kwargs
            return args, {**kwargs, next(iter(kwargs)): kept(block)}

        with ExitStack() as undo:
            for number in range(block):
                own = self.blocks[number].__dict__
                undo.callback(_put, own, own.get("forward"))
                own["forward"] = passes_on(number)
            if block:
                undo.callback(self.blocks[block].register_forward_pre_hook(replaced, with_kwargs=True).remove)
            yield


def _stream(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else next(iter(kwargs.values()))


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and bool((x - y).abs().max() <= 1e-4 * y.abs().max())


def _put(own: dict[str, Any], forward: Any) -> None:
    """Put back what an object had under `forward` by itself, which is mostly nothing."""
    if forward is None:
        own.pop("forward", None)
    else:
        own["forward"] = forward
