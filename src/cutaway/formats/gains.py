"""Gains of norms: TransformerLens's `ln2.hook_normalized` is what a norm gives before its gain, which is no module's output.

Gemma Scope's transcoders are learned there (arXiv 2408.05147v2, page 18), and others that say so. At the MLP's input, which
has the gain, the same codes come of an encoder that is divided by it.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from ..dictionaries import Dictionary
from ..dictionaries.anchored import Normed
from ..dictionaries.transcoder import Transcoder
from ..network import Network
from .sites import MLP_NORM

HOOK = re.compile(r"blocks\.(\d+)\.ln2\.hook_normalized")


def missing(hook: str) -> bool:
    """Whether a TransformerLens hook is before a norm's gain."""
    return HOOK.fullmatch(hook) is not None


def gain(norm: nn.Module, d: int) -> tuple[Tensor, Tensor]:
    """What a norm multiplies with and adds, [d] each, whichever way it keeps them: measured on an input of mean 0 and its
    negative, so large that the norm's epsilon is nothing beside it."""
    x = torch.ones(d)
    x[1::2] = -1
    if d % 2:
        x[-3:] = torch.tensor([1.0, 1.0, -2.0])
    p = next(norm.parameters())
    with torch.no_grad():
        above, below = (norm((sign * 1e3 * x).to(p)[None, None]).float().flatten().cpu() for sign in (1, -1))
    return (above - below) / 2 / (x / x.pow(2).mean().sqrt()), (above + below) / 2


def at_input(W_enc: Tensor, b_enc: Tensor, hook: str, net: Network) -> tuple[Tensor, Tensor]:
    """An encoder [width, d] of what comes before the gain as one of what comes after it."""
    found = _gain(hook, net, W_enc.shape[1])
    W_enc = W_enc / found[0].to(W_enc)
    return W_enc, b_enc - W_enc @ found[1].to(W_enc)


@torch.no_grad()
def folded(made: Dictionary, hook: str, net: Network) -> None:
    """Change a dictionary of what comes before the gain into one of what comes after it; ValueError where that is none."""
    if isinstance(made, Normed):
        raise ValueError(f"a dictionary that normalises each token cannot be read at {hook}, before a norm's gain.")
    if not isinstance(made, Transcoder):   # it takes b_dec from the input and writes where it reads
        factor, bias = (x.to(made.b_dec) for x in _gain(hook, net, made.d))
        made.W_enc.data, made.W_dec.data = made.W_enc / factor, made.W_dec * factor
        made.b_dec.data = made.b_dec * factor + bias
        return
    made.W_enc.data, made.b_enc.data = at_input(made.W_enc, made.b_enc, hook, net)
    if made.W_skip is not None:
        made.W_skip.data, made.b_dec.data = at_input(made.W_skip, made.b_dec, hook, net)


def _gain(hook: str, net: Network, d: int) -> tuple[Tensor, Tensor]:
    named = HOOK.fullmatch(hook)
    assert named is not None and net.family is not None
    path = f"{net.prefix}{net.family.blocks}.{named[1]}.{MLP_NORM[net.family.name]}"
    try:
        norm = net.module.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"{hook} is in block {named[1]}, which {net.name} does not have.") from error
    found = gain(norm, d)
    if not bool((found[0].abs() > 1e-6).all()):
        raise ValueError(f"the gain of {path} is nothing in some dimension, so what comes before it cannot be told from what "
                         "comes after it.")
    return found
