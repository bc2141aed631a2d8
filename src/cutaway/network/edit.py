"""The gate: what an edit is, and the only code that touches a network.

An edit says where, what instead, and how much: `x' = ref(x) + gate * (x - ref(x))`. Gate 1 is the network as it is,
bit for bit; gate 0 puts the reference in its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from . import attention
from .site import Site


class At:
    """What an edit may know about the pass that it is part of: positions, tokens and the inputs of its module."""

    def __init__(self, base: nn.Module | None = None, args: tuple = (), kwargs: dict[str, Any] | None = None):
        kwargs = kwargs or {}
        names = list(inspect.signature(base.forward).parameters) if base is not None else []
        self.inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(args) == 1 and isinstance(args[0], dict):
            self.inputs = args[0]
        self.module_args: tuple = ()
        # How many tokens are already in the cache: read now, because the pass itself will add its own.
        cache: Any = self.inputs.get("past_key_values")
        self.past = int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0

    @property
    def module_input(self) -> Tensor | None:
        """What the site's module itself was given: the residual stream before a block, at the site after it."""
        return self.module_args[0] if self.module_args else None

    @cached_property
    def _main(self) -> Tensor | None:
        for name in ("input_ids", "inputs_embeds", "pixel_values"):
            if isinstance(self.inputs.get(name), Tensor):
                return self.inputs[name]
        return next((value for value in self.inputs.values() if isinstance(value, Tensor)), None)

    @property
    def rows(self) -> int:
        """The number of rows of the batch."""
        return 1 if self._main is None else self._main.shape[0]

    @property
    def reads_images(self) -> bool:
        """Whether the network reads images [b, channels, height, width]."""
        return self._main is not None and self._main.ndim == 4

    @property
    def tokens(self) -> Tensor | None:
        """The token ids [b, t] of this pass, where the network reads tokens."""
        return self.inputs.get("input_ids")

    @cached_property
    def left_padding(self) -> Tensor | None:
        """Padding tokens before each row's first real one [b], or none."""
        mask = self.inputs.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.ndim != 2 or bool(mask[:, 0].all()):
            return None
        return mask.long().argmax(dim=1)

    @cached_property
    def positions(self) -> Tensor:
        """Absolute positions of this pass's tokens, counted from each row's first real token: [t], or [b, t]."""
        main = self._main
        if main is None or not self.has_positions:
            raise ValueError("an edit by token position needs an input with a token axis, [b, t] or [b, t, d].")
        positions = self.past + torch.arange(main.shape[1], device=main.device)
        if self.left_padding is not None:
            positions = (positions[None] - self.left_padding[:, None]).clamp(min=0)
        return positions

    def whole(self, length: int) -> bool:
        """Whether this pass holds exactly the positions 0 to length - 1, or its token axis is not the input's."""
        if not self.has_positions:
            return True
        return self.past == 0 and self.left_padding is None and self._main.shape[1] == length  # type: ignore[union-attr]

    @property
    def has_positions(self) -> bool:
        """Whether the input has a token axis: [b, t] or [b, t, d]."""
        return self._main is not None and self._main.ndim in (2, 3)


Reference = Callable[[Tensor, At], Tensor]
Touch = Callable[[Tensor, At], "Tensor | None"]
Hook = Callable[..., Any]


def zero(z: Tensor, at: At) -> Tensor:
    """The reference of zero ablation."""
    return torch.zeros_like(z)


def same(z: Tensor, at: At) -> Tensor:
    """The reference that changes nothing."""
    return z


@dataclass(frozen=True)
class Edit:
    """A change at a site: where, what instead, how much.

    ref: `(z, at) -> finite tensor or number` that broadcasts against z, the site's tensor cut into units.
    gate: 1 keeps z, 0 puts ref(z) in its place; a number, or a tensor over the axes that `over` names
        (`"u"` one value a unit, `"t"` one an absolute position, `"b t u"` one for each).
    """

    site: Site | str
    ref: Reference = zero
    gate: Tensor | float = 0.0
    over: str = ""

    def __call__(self, x: Tensor, at: At) -> Tensor:
        cut = self.site.cut  # type: ignore[union-attr]
        if not x.is_floating_point():
            raise ValueError(f"{self.site} holds {x.dtype} values, which no gate can scale; edit what they lead to.")
        z, rest = cut.split(x, at)
        try:
            gate = cut.spread(torch.as_tensor(self.gate, dtype=z.dtype, device=z.device), self.over, z, rest, at)
        except ValueError as error:
            raise ValueError(f"the edit at {self.site}: {error}") from error
        ref = torch.as_tensor(self.ref(z, at)).to(z)
        if not _fits(ref, z):
            raise ValueError(f"the reference at {self.site} has the shape {tuple(ref.shape)}, which does not broadcast "
                             f"to the site's {tuple(z.shape)}.")
        # lerp is exact at both ends: gate 1 returns z and gate 0 returns ref, bit for bit.
        return cut.join(torch.lerp(ref.expand_as(z), z, gate), rest)


def _fits(x: Tensor, z: Tensor) -> bool:
    """Whether x broadcasts to the shape of z."""
    return x.ndim <= z.ndim and all(n in (1, m) for n, m in zip(x.shape[::-1], z.shape[::-1], strict=False))


@dataclass
class Touches:
    """What a network's hooks share while somebody looks at it or edits it.

    level: how many `as_it_is` blocks are open; a touch acts only in the level in which it was put in force.
    """

    base: nn.Module
    at: At = field(default_factory=At)
    level: int = 0


@contextmanager
def touching(root: nn.Module, state: Touches, touches: Sequence[tuple[Site, Touch]]) -> Iterator[None]:
    """Call `fn(x, at)` on the tensor of each site in every pass, and put what it returns in the tensor's place.

    The network's parameters, class and attributes are left alone, and every hook is removed at the end, also after
    an error.
    """
    with ExitStack() as undo:
        undo.callback(setattr, state, "at", state.at)
        # Some networks are called by their root and some by their base; what begins first ends last.
        passes = [(module, *_pass_hooks(state)) for module in dict.fromkeys((root, state.base))]
        for module, begin, _ in passes:
            undo.callback(module.register_forward_pre_hook(begin, with_kwargs=True, prepend=True).remove)
        for site, fn in touches:
            module = root.get_submodule(site.path)
            touch = _at_its_level(_unflattened(fn) if site.flat else fn, state)
            if site.io == "pattern":
                undo.enter_context(attention.touching(root, module, touch))
            elif site.io == "in":
                hook = _input_hook(touch, state, site.pick)
                undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            elif site.io == "out":
                hook = _output_hook(touch, state, site.pick)
                undo.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            else:
                before, after = _weight_hooks(touch, site.io)
                undo.callback(after, module)
                undo.callback(module.register_forward_pre_hook(before).remove)
                undo.callback(module.register_forward_hook(after, always_call=True).remove)
        for module, _, end in passes:
            undo.callback(module.register_forward_hook(end, always_call=True).remove)
        yield


def _pass_hooks(state: Touches) -> tuple[Hook, Hook]:
    """Know the pass that is running; a pass inside another, such as one that a reference makes, is undone after it."""
    outer: list[At] = []

    def begin(module: nn.Module, args: tuple, kwargs: dict) -> None:
        outer.append(state.at)
        state.at = At(module, args, kwargs)

    def end(module: nn.Module, *_: Any) -> None:
        state.at = outer.pop()

    return begin, end


def _at_its_level(fn: Touch, state: Touches) -> Callable[[Tensor], Tensor | None]:
    level = state.level
    return lambda x: fn(x, state.at) if state.level == level else None


def _unflattened(fn: Touch) -> Touch:
    def call(x: Tensor, at: At) -> Tensor | None:
        new = fn(x.reshape(at.rows, -1, *x.shape[1:]), at)
        return None if new is None else new.reshape(x.shape)
    return call


def _input_hook(touch: Callable[[Tensor], Tensor | None], state: Touches, pick: Any) -> Hook:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple | None:
        state.at.module_args = args or tuple(kwargs.values())
        if isinstance(pick, str) or not args:
            name = pick if isinstance(pick, str) else next(iter(kwargs))
            new = touch(kwargs[name])
            return None if new is None else (args, {**kwargs, name: new})
        new = touch(args[pick])
        return None if new is None else ((*args[:pick], new, *args[pick + 1:]), kwargs)
    return hook


def _output_hook(touch: Callable[[Tensor], Tensor | None], state: Touches, pick: Any) -> Hook:
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        state.at.module_args = args or tuple(kwargs.values())
        if isinstance(output, Tensor):
            return touch(output)
        if isinstance(output, tuple):
            new = touch(output[pick])
            return None if new is None else (*output[:pick], new, *output[pick + 1:])
        key = next(iter(output)) if pick == 0 else pick
        new = touch(output[key])
        if new is not None:
            output[key] = new
        return output
    return hook


def _weight_hooks(touch: Callable[[Tensor], Tensor | None], name: str) -> tuple[Hook, Hook]:
    """Shadow a parameter by an edited tensor for the length of its module's forward pass."""
    def before(module: nn.Module, args: tuple) -> None:
        edited = touch(getattr(module, name))
        if edited is not None:
            module.__dict__[name] = edited

    def after(module: nn.Module, *_: Any) -> None:
        module.__dict__.pop(name, None)

    return before, after
