"""Attention patterns, opened through transformers' own attention interface.

While a pattern is looked at, the network uses the attention function below, which computes what transformers' eager
attention computes and hands the pattern [b, head, query, key] to whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NAME = "cutaway"
_touches: dict[int, list[Callable[[Tensor], Tensor]]] = {}


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
           scaling: float | None = None, dropout: float = 0.0, softcap: float | None = None, **_) -> tuple:
    """query [b, h, q, d], key and value [b, h_kv, k, d], an additive mask: output [b, q, h, d] and pattern [b, h, q, k]."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask[..., : scores.shape[-1]]
    pattern = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    for touch in _touches.get(id(module), ()):
        pattern = touch(pattern)
    pattern = nn.functional.dropout(pattern, p=dropout, training=module.training)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def touching(root: nn.Module, module: nn.Module, fn: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Hand the attention pattern of `module` to `fn` in every pass, and use what it returns."""
    _register()
    configs = {id(m.config): m.config for m in root.modules() if hasattr(m, "config")}
    before = [(config, getattr(config, "_attn_implementation", None)) for config in configs.values()]
    _touches.setdefault(id(module), []).append(fn)
    try:
        for config, implementation in before:
            if implementation is not None:
                config._attn_implementation = NAME
        yield
    finally:
        for config, implementation in before:
            if implementation is not None:
                config._attn_implementation = implementation
        _touches[id(module)].remove(fn)
        if not _touches[id(module)]:
            del _touches[id(module)]
