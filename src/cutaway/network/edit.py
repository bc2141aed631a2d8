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
    def tokens(self) -> Tensor | None:
        """The token ids [b, t] of this pass, where the network reads tokens."""
        return self.inputs.get("input_ids")

    @cached_property
    def past(self) -> int:
        """How many tokens are already in the cache."""
        cache = self.inputs.get("past_key_values")
        return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0

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
        if main is None or main.ndim < 2:
            raise ValueError("an edit by token position needs an input with a token axis.")
        positions = self.past + torch.arange(main.shape[1], device=main.device)
        if self.left_padding is not None:
            positions = (positions[None] - self.left_padding[:, None]).clamp(min=0)
        return positions

    def whole(self, length: int) -> bool:
        """Whether this pass holds exactly the positions 0 to length - 1, or its token axis is not the input's."""
        main = self._main
        if main is None or main.ndim < 2 or main.ndim > 3:
            return True
        return self.past == 0 and self.left_padding is None and main.shape[1] == length


Reference = Callable[[Tensor, At], Tensor]
Touch = Callable[[Tensor, At], "Tensor | None"]


def zero(z: Tensor, at: At) -> Tensor:
    """The reference of zero ablation."""
    return torch.zeros_like(z)


def same(z: Tensor, at: At) -> Tensor:
    """The reference that changes nothing."""
    return z


@dataclass(frozen=True)
class Edit:
    """A change at a site: where, what instead, how much.

    ref: `(z, at) -> tensor` that broadcasts against z, the site's tensor cut into units.
    gate: 1 keeps z, 0 puts ref(z) in its place; a number, or a tensor over the axes that `over` names
        (`"u"` one value a unit, `"t"` one an absolute position, `"b t u"` one for each).
    """

    site: Site | str
    ref: Reference = zero
    gate: Tensor | float = 0.0
    over: str = ""

    def __call__(self, x: Tensor, at: At) -> Tensor:
        cut = self.site.cut  # type: ignore[union-attr]
        z, rest = cut.split(x, at)
        gate = torch.as_tensor(self.gate, dtype=z.dtype, device=z.device)
        ref = self.ref(z, at).to(z.dtype).expand_as(z)
        # lerp is exact at both ends: gate 1 returns z and gate 0 returns ref, bit for bit.
        return cut.join(torch.lerp(ref, z, cut.spread(gate, self.over, z, rest, at)), rest)


@dataclass
class Touches:
    """The hooks of one network while somebody looks at it or edits it."""

    base: nn.Module
    at: At = field(default_factory=At)
    suspended: bool = False


@contextmanager
def touching(root: nn.Module, state: Touches, touches: Sequence[tuple[Site, Touch]]) -> Iterator[None]:
    """Call `fn(x, at)` on the tensor of each site in every pass, and put what it returns in the tensor's place.

    The network's parameters, class and attributes are left alone, and every hook is removed at the end, also after
    an error.
    """
    with ExitStack() as undo:
        def begin(module: nn.Module, args: tuple, kwargs: dict) -> None:
            state.at = At(module, args, kwargs)

        # Most networks pass through their base model, and people call it alone; OPT's goes round it.
        for module in {root, state.base}:
            undo.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for site, fn in touches:
            fn = _unflattened(fn) if site.flat else fn
            module = root.get_submodule(site.path)
            if site.io == "pattern":
                undo.enter_context(attention.touching(root, module, _when_active(fn, state)))
            elif site.io == "in":
                hook = _input_hook(fn, state, site.pick)
                undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            elif site.io == "out":
                hook = _output_hook(fn, state, site.pick)
                undo.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            else:
                before, after = _weight_hooks(fn, state, site.io)
                undo.callback(module.register_forward_pre_hook(before).remove)
                undo.callback(module.register_forward_hook(after, always_call=True).remove)
        yield


def _when_active(fn: Touch, state: Touches) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        new = None if state.suspended else fn(x, state.at)
        return x if new is None else new
    return call


def _unflattened(fn: Touch) -> Touch:
    def call(x: Tensor, at: At) -> Tensor | None:
        new = fn(x.view(at.rows, -1, *x.shape[1:]), at)
        return None if new is None else new.reshape(x.shape)
    return call


def _input_hook(fn: Touch, state: Touches, pick: int | str):
    def hook(module: nn.Module, args: tuple, kwargs: dict):
        if state.suspended:
            return None
        state.at.module_args = args or tuple(kwargs.values())
        if isinstance(pick, str) or not args:
            name = pick if isinstance(pick, str) else next(iter(kwargs))
            new = fn(kwargs[name], state.at)
            return None if new is None else (args, {**kwargs, name: new})
        new = fn(args[pick], state.at)
        return None if new is None else ((*args[:pick], new, *args[pick + 1:]), kwargs)
    return hook


def _output_hook(fn: Touch, state: Touches, pick: int | str):
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any):
        if state.suspended:
            return None
        state.at.module_args = args or tuple(kwargs.values())
        if isinstance(output, Tensor):
            return fn(output, state.at)
        if isinstance(output, tuple):
            new = fn(output[pick], state.at)
            return None if new is None else (*output[:pick], new, *output[pick + 1:])
        key = next(iter(output)) if pick == 0 else pick
        new = fn(output[key], state.at)
        if new is not None:
            output[key] = new
        return output
    return hook


def _weight_hooks(fn: Touch, state: Touches, name: str):
    """Shadow a parameter by an edited tensor for the length of its module's forward pass."""
    cache: dict[str, Any] = {}

    def before(module: nn.Module, args: tuple) -> None:
        if state.suspended:
            return
        weight = getattr(module, name)
        key = (id(weight), weight._version)
        if torch.is_grad_enabled() or cache.get("key") != key:
            cache.update(key=key, edited=fn(weight, state.at), weight=weight)
        if cache["edited"] is not None:
            module.__dict__[name] = cache["edited"]

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        module.__dict__.pop(name, None)

    return before, after
