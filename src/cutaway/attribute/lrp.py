"""LRP through any network, transformers and text included: its rules in force on the way back."""

from __future__ import annotations

import torch
from torch import Tensor

from ..catalogue import method
from ..network.relevance import ATTN_LRP, CP_LRP, constants, relevance
from .inputs import Inputs
from .target import Target

RULES = {"cp-lrp": CP_LRP, "attn-lrp": ATTN_LRP}


@method("lrp", family="attribute", title="Layer-wise relevance propagation",
        paper="https://doi.org/10.1371/journal.pone.0130140; arXiv 2202.07304; arXiv 2402.05602")
def lrp(inputs: Inputs, target: Target, *, rules: str = "cp-lrp") -> Tensor:
    """The relevance of each unit: its numbers times LRP's coefficients for them, from one pass and one backward pass.

    rules: `cp-lrp` holds attention patterns constant and conserves relevance; `attn-lrp` gives queries and keys their share,
    through a softmax that does not. Both hold the scale of norms, let activations hand on all they have, and share products
    of gated MLPs in halves.

    The output itself is shared out, not its difference from the baseline: what the units do not hold, special tokens, biases
    and other constants of the network do (and for features, what is not reconstructed). `about["notes"]` says how much, and
    the leak: what all of them sum to, less the output, over its size.
    """
    if rules not in RULES:
        raise ValueError(f"LRP goes by the rules {' or '.join(RULES)}; found {rules!r}.")
    x = inputs.x.detach().clone().requires_grad_()
    with torch.enable_grad(), relevance(inputs.net, RULES[rules]), constants(inputs.net) as held:
        output = inputs.values(x, target)
        biases = held(output)
        found = inputs.x * torch.autograd.grad(output.sum(), x)[0]
    values, total = inputs.units.gather(found), float(output.detach().double().sum())
    inputs.notes = _shares(inputs, values, biases, total, max(float(output.detach().abs().sum()), 1e-12))
    return values


def _shares(inputs: Inputs, values: Tensor, biases: float, total: float, size: float) -> dict[str, float]:
    """Who holds how much of the output, summed over rows."""
    held = {"held by units": float(values.masked_fill(~inputs.keep, 0).double().sum())}
    if inputs.over == "features":
        return {**held, "held by all else": total - held["held by units"]}
    held["held by what does not count"] = float(values.masked_fill(inputs.keep, 0).double().sum())
    held["held by constants"] = biases
    return {**held, "leak": (sum(held.values()) - total) / size}
