"""Attention patterns, opened through transformers' own attention interface.

While a pattern is looked at, the network uses the attention function below, which computes what transformers' eager
attention computes and hands the pattern [b, head, query, key] to whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NAME = "cutaway"
_touches: dict[int, list[Callable[[Tensor], Tensor | None]]] = {}
_before: dict[int, str] = {}  # what each configuration that is opened now asked for, by the configuration's id


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
           scaling: float | None = None, dropout: float = 0.0, softcap: float | None = None,
           s_aux: Tensor | None = None, **_: Any) -> tuple[Tensor, Tensor]:
    """query [b, h, q, d], key and value [b, h_kv, k, d], an additive mask: output [b, q, h, d], pattern [b, h, q, k].

    It raises a ValueError for attention with learned sinks, whose pattern does not sum to 1.
    """
    if s_aux is not None:
        raise ValueError(f"{type(module).__name__} has learned attention sinks, and its pattern cannot be opened yet.")
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask[..., : scores.shape[-1]]
    pattern = torch.softmax(scores, dim=-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    for touch in _touches.get(id(module), ()):
        new = touch(pattern)
        pattern = pattern if new is None else new
    pattern = nn.functional.dropout(pattern, p=dropout, training=module.training)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)


def _implementations(root: nn.Module) -> list[tuple[Any, str]]:
    """The configurations of a network and its parts, with the attention function that each of them chooses."""
    configs = {id(m.config): m.config for m in root.modules() if hasattr(m, "config")}
    chosen = [(config, getattr(config, "_attn_implementation", None)) for config in configs.values()]
    return [(config, name) for config, name in chosen if name is not None]


@contextmanager
def touching(root: nn.Module, module: nn.Module, fn: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Hand the attention pattern of `module` to `fn` in every pass, and use what it returns, if anything."""
    _register()
    opened = [(config, name) for config, name in _implementations(root) if name != NAME]
    _touches.setdefault(id(module), []).append(fn)
    try:
        for config, name in opened:
            _before[id(config)] = name
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in opened:
            del _before[id(config)]
            config._attn_implementation = name
        _touches[id(module)].remove(fn)
        if not _touches[id(module)]:
            del _touches[id(module)]


@contextmanager
def closed(root: nn.Module) -> Iterator[None]:
    """Give the network its own attention functions back for the length of a `with` block."""
    own = [(config, _before.pop(id(config))) for config, _ in _implementations(root) if id(config) in _before]
    try:
        for config, name in own:
            config._attn_implementation = name
        yield
    finally:
        for config, name in own:
            _before[id(config)] = name
            config._attn_implementation = NAME
