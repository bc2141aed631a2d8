"""Layer-wise relevance propagation (LRP): rules for the backward pass, put in force from outside.

While the rules are in force a pass gives the same values, and its gradients become LRP's propagation coefficients: the
relevance of a tensor is its value times its coefficient. Whatever no rule speaks of keeps its gradient, which for linear
maps is the 0-rule. A bias has the relevance bias times coefficient, so that inputs and biases together hold the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .edit import At, Touch
from .network import Network
from .site import Site, View

STABILISER = 1e-6  # added to inputs of activations, away from zero, before they divide
# Modules among torch's and transformers' activations that do not act on each entry alone.
NOT_ELEMENTWISE = {"MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU"}
# Ends of the names of parameters that are added to what a network is given; batch norms' biases are counted by themselves.
ADDED = ("bias", "cls_token", "class_embedding", "position_embeddings", "position_embedding.weight")
GATED = ("gate_proj", "gate_up_proj")  # in an MLP whose neurons are an activation times another map


def through(value: Tensor, path: Tensor) -> Tensor:
    """The value of one tensor, bit for bit, with the gradient of another that equals it."""
    return value.detach() + (path - path.detach())


def layer_norm(y: Tensor, at: At, norm: Any) -> Tensor:
    """LN-rule: the scale 1 / std is a constant; the mean stays part of the pass."""
    x = _input(at)
    x = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps).detach()
    scale = scale if norm.weight is None else scale * norm.weight.detach()
    return through(y, x * scale if norm.bias is None else x * scale + norm.bias)


def rms_norm(y: Tensor, at: At, norm: Any) -> Tensor:
    """LN-rule for a norm without a mean: y = c x with c held."""
    x = _input(at)
    # What the norm makes of ones is its weight, up to a factor; the token's own scale is what is left of y.
    weight = type(norm).forward(norm, torch.ones_like(x[(0,) * (x.ndim - 1)])).detach()
    along = (weight * x).detach()
    scale = (y * along).sum(-1, keepdim=True) / along.pow(2).sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return through(y, x * (scale * weight).detach())


def identity(y: Tensor, at: At) -> Tensor:
    """Identity rule: an activation y = f(x) hands on all of its relevance, as the product of x and a constant f(x) / x."""
    x = _input(at)
    return through(y, x * (y / (x + torch.where(x < 0, -STABILISER, STABILISER).to(x))).detach())


def half(x: Tensor, at: At) -> Tensor:
    """Half rule: each factor of a product takes half of its relevance, by half the gradient behind the product."""
    return through(x, x / 2)


def held(x: Tensor, at: At) -> Tensor:
    """The tensor as a constant."""
    return x.detach()


def _input(at: At) -> Tensor:
    x = at.module_input
    if x is None:
        raise ValueError("a rule of relevance needs the input of its module, which this pass does not show.")
    return x


def _norms(net: Network) -> dict[Site, Touch]:
    rules: dict[Site, Touch] = {}
    for path, module in net.module.named_modules():
        if isinstance(module, nn.LayerNorm):
            rules[_output(path)] = partial(layer_norm, norm=module)
        elif type(module).__name__.endswith("RMSNorm"):
            rules[_output(path)] = partial(rms_norm, norm=module)
    return rules


def _activations(net: Network) -> dict[Site, Touch]:
    def acts(module: nn.Module) -> bool:
        home = type(module).__module__
        return home in ("torch.nn.modules.activation", "transformers.activations") and (
            type(module).__name__ not in NOT_ELEMENTWISE)
    return {_output(path): identity for path, module in net.module.named_modules() if acts(module)}


def _products(net: Network) -> dict[Site, Touch]:
    if any(name.endswith(".experts") for name in net.named):
        raise ValueError(f"{net.name} multiplies inside its experts, where the half rule cannot be put from outside; leave "
                         "'product' out of rules=.")
    rules: dict[Site, Touch] = {}
    for name, site in net.named.items():
        mlp = net.module.get_submodule(site.path.rpartition(".")[0]) if name.endswith(".neurons") else nn.Module()
        if any(hasattr(mlp, gate) for gate in GATED):
            rules[site] = half
    return rules


def _patterns(net: Network) -> dict[Site, Touch]:
    return {site: held for name, site in net.named.items() if name.endswith(".attn.pattern")}


def _attention(net: Network) -> dict[Site, Touch]:
    return {site: half for name, site in net.named.items() if name.endswith((".attn.pattern", ".attn.heads"))}


def _output(path: str) -> Site:
    return Site(f"{path}:out", path, "out", View())


# name -> where the rule goes in a network, and what it does there
RULES: dict[str, Callable[[Network], dict[Site, Touch]]] = {
    "norm": _norms,              # LN-rule
    "activation": _activations,  # identity rule
    "product": _products,        # half rule, for gated MLPs
    "pattern": _patterns,        # AH-rule: attention patterns are constants, all relevance goes through the values
    "attention": _attention,     # uniform rule: half to the values, a quarter each to queries and keys through the softmax
}
RELP = ("norm", "activation", "product")  # arXiv 2508.21258
CP_LRP = (*RELP, "pattern")               # conserves relevance: arXiv 2202.07304
ATTN_LRP = (*RELP, "attention")           # arXiv 2402.05602; its softmax rule does not conserve


@contextmanager
def relevance(net: Network, rules: Sequence[str] = CP_LRP) -> Iterator[Network]:
    """Give passes LRP's propagation coefficients as gradients for the length of a `with` block; the network is not changed.

    rules: of `norm`, `activation`, `product`, `pattern`, `attention`. Whoever looks at a tensor inside the block sees it
    after the rule, so that open this block first. Rules reach modules; what a network computes between them, such as a
    soft cap on logits or an activation called as a function, keeps its gradient.
    """
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise ValueError(f"there is no rule {unknown[0]!r} of relevance; there are {', '.join(RULES)}.")
    if {"pattern", "attention"} <= set(rules):
        raise ValueError("attention patterns are either constants ('pattern') or take their half ('attention'); give one rule.")
    placed: dict[Site, Touch] = {}
    for rule in rules:
        placed.update(RULES[rule](net))
    with net.watched(placed):
        yield net


@contextmanager
def constants(net: Network) -> Iterator[Callable[[Tensor], float]]:
    """Inside the block, the relevance of all constants can be asked of an output: biases, and what is added like them."""
    norms = {path: module for path, module in net.module.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    biases = [p for name, p in net.module.named_parameters()
              if name.endswith(ADDED) and name.rpartition(".")[0] not in norms and p.is_floating_point()]
    frozen = [p for p in biases if not p.requires_grad]
    seen: dict[str, Tensor] = {}

    def keeper(path: str) -> Touch:
        def keep(y: Tensor, at: At) -> Tensor:
            seen[path] = y
            return y.clone()  # what comes after it may act in place
        return keep

    def of(output: Tensor) -> float:
        held = [*biases, *seen.values()]
        if not held:
            return 0.0
        found = torch.autograd.grad(output.sum(), held, retain_graph=True, allow_unused=True, materialize_grads=True)
        own = [bias.detach() for bias in biases]
        own += [_added(norms[path]).view(1, -1, *[1] * (y.ndim - 2)) for path, y in seen.items()]
        return sum(float((value * grad).double().sum()) for value, grad in zip(own, found, strict=True))

    try:
        for p in frozen:  # a flag for autograd alone, taken back below
            p.requires_grad_(True)
        with net.watched({_output(path): keeper(path) for path in norms}):
            yield of
    finally:
        for p in frozen:
            p.requires_grad_(False)


def _added(norm: Any) -> Tensor:
    """What a batch norm adds to each channel of its scaled input."""
    scale = torch.rsqrt(norm.running_var + norm.eps) * (1 if norm.weight is None else norm.weight.detach())
    return (0 if norm.bias is None else norm.bias.detach()) - norm.running_mean * scale


@dataclass(frozen=True)
class Relevance:
    """Where the relevance of an output lies.

    values: value times coefficient, in the shape of the site's tensor. output: what was explained, [rows]. biases: the
    relevance of all biases after the site, summed over the rows.
    """

    values: Tensor
    output: Tensor
    biases: float

    @property
    def leak(self) -> float:
        """What relevance was lost (below 0) or made: values and biases less the output, over the output's size."""
        total = float(self.values.double().sum()) + self.biases - float(self.output.double().sum())
        return total / max(float(self.output.double().abs().sum()), 1e-300)


def relevance_at(net: Network, inputs: Any, target: Callable[[Tensor], Tensor], site: str | Site = "embed",
                 rules: Sequence[str] = CP_LRP) -> Relevance:
    """The relevance of an output at a site, from one pass and one backward pass.

    target: logits -> [rows], what is explained, such as the logit of one class. At a site through which all of the input
    goes, the values and the biases after it sum to the output, up to the stabiliser, under `CP_LRP` and for networks
    without attention.
    """
    place, leaves = net.site(site), list[Tensor]()

    def opened(x: Tensor, at: At) -> Tensor:
        leaves.append(x.detach().requires_grad_())  # cut off from what is before it, whose biases are no part of this
        return leaves[-1]

    with torch.enable_grad(), relevance(net, rules), constants(net) as held, net.watched({place: opened}):
        output = target(net.logits(inputs))
        if not leaves or not output.requires_grad:
            raise ValueError(f"the network's pass did not reach {place}." if not leaves else
                             "what is to be explained has no gradient; give a differentiable target of the logits.")
        biases = held(output)
    found = torch.autograd.grad(output.sum(), leaves[-1], allow_unused=True, materialize_grads=True)[0]
    return Relevance(leaves[-1].detach() * found, output.detach(), biases)
