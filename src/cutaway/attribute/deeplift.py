"""DeepLIFT: how the difference from a reference is made, carried back through a network's operations.

The network is traced into its operations; each follows one of the rules in `deeplift_rules`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..catalogue import method
from .attribute import additive
from .deeplift_rules import Back, Linear, Multipliers, Seen, added, moved, pooled, rescaled, revealed, scaled, start, weighted
from .inputs import Inputs
from .target import Target

KINDS = {"rescale": (), "reveal-cancel": ("dense", "convolution"), "genomics": ("dense",)}

# --- which operation follows which rule ----------------------------------------------------------------------------------

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus)
SHAPING = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((torch.relu, F.relu, F.gelu, F.silu, F.elu, torch.sigmoid, torch.tanh, F.softplus), "activation"),
    **dict.fromkeys((torch.flatten, torch.mean, F.avg_pool2d, F.adaptive_avg_pool2d, F.dropout, torch.reshape), "shaping"),
    **dict.fromkeys((operator.add, torch.add, operator.iadd), "sum"), operator.sub: "difference", torch.sub: "difference",
    **dict.fromkeys(("flatten", "view", "reshape", "mean", "contiguous", "squeeze", "unsqueeze", "permute", "transpose"),
                    "shaping"),
    **dict.fromkeys(("relu", "sigmoid", "tanh", "relu_"), "activation")}


class Lifter:
    """Carries differences forwards through a traced network and multipliers back."""

    def __init__(self, net: nn.Module, reveal: tuple[str, ...]):
        self.net, self.graph, self.reveal = net, fx.symbolic_trace(net).graph, reveal
        self.seen: dict[fx.Node, Seen] = {}
        self.plain: dict[fx.Node, Any] = {}                  # sizes, shapes and other things that carry no difference
        self.kind: dict[fx.Node, str] = {}                   # what an activation stands behind: dense or convolution
        self.back: list[tuple[fx.Node, tuple[fx.Node, ...], Back]] = []

    def forward(self, x: Tensor, reference: Tensor) -> fx.Node:
        """Go through all operations; what is returned is the node of the output."""
        first = True
        for node in self.graph.nodes:
            if node.op == "placeholder":
                if first:
                    self.seen[node] = start(x, reference)
                first = False
            elif node.op == "output":
                found = node.args[0]
                if not isinstance(found, fx.Node) or found not in self.seen:
                    raise ValueError("DeepLIFT follows networks that give one tensor; this one gives something else.")
                return found
            else:
                self._step(node)
        raise ValueError("this network gives no output.")

    def _step(self, node: fx.Node) -> None:
        inputs = tuple(arg for arg in node.all_input_nodes if arg in self.seen)
        if not inputs:
            self.plain[node] = self._run(node, lambda seen: seen.value)
            return
        value, reference = (self._run(node, side) for side in (lambda seen: seen.value, lambda seen: seen.reference))
        if not isinstance(value, Tensor):
            self.plain[node] = value
            return
        self.kind[node] = self.kind.get(inputs[0], "")
        self.seen[node], back = self._rule(node, inputs, value, reference)
        self.back.append((node, inputs, back))

    def _rule(self, node: fx.Node, inputs: tuple[fx.Node, ...], value: Tensor, reference: Tensor) -> tuple[Seen, Back]:
        module = self.net.get_submodule(str(node.target)) if node.op == "call_module" else None
        x = self.seen[inputs[0]]
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d):
            self.kind[node] = "dense" if isinstance(module, nn.Linear) else "convolution"
            return weighted(_linear(module), module.weight, x, value, reference)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            if module.running_var is None:
                raise ValueError("DeepLIFT needs batch norms that keep their statistics, which this network's do not.")
            scale = module.weight / (module.running_var + module.eps).sqrt()
            return scaled(scale.view(1, -1, *[1] * (x.value.ndim - 2)), x, value, reference)
        if isinstance(module, nn.MaxPool2d):
            options: dict[str, Any] = dict(kernel_size=module.kernel_size, stride=module.stride, padding=module.padding,
                                           dilation=module.dilation, ceil_mode=module.ceil_mode)
            return pooled(lambda x: F.max_pool2d(x, return_indices=True, **options), x, value, reference)
        kind = ("activation" if isinstance(module, ACTIVATIONS) else "shaping" if isinstance(module, SHAPING) else
                FUNCTIONS.get(node.target, "") if module is None else "")
        if kind in ("sum", "difference") and len(inputs) == 2:
            return added(1 if kind == "sum" else -1, x, self.seen[inputs[1]], value, reference)
        if kind == "shaping" or (kind in ("sum", "difference") and len(inputs) == 1 and node.args[0] is inputs[0]):
            return moved(lambda z: self._run(node, lambda seen: z), x, value, reference)
        if kind == "activation":
            rule = revealed if self.kind[node] in self.reveal else rescaled
            return rule(lambda z: self._run(node, lambda seen: z), x, value, reference)
        what = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
        raise ValueError(f"DeepLIFT has no rule for {what}: it follows linear maps, convolutions, pooling, sums and "
                         "activations. Use integrated-gradients for networks with products or attention.")

    def _run(self, node: fx.Node, side: Callable[[Seen], Tensor]) -> Any:
        """An operation on one side of what is seen."""
        def load(arg: fx.Node) -> Any:
            return side(self.seen[arg]) if arg in self.seen else self.plain.get(arg)
        args, kwargs = fx.map_arg(node.args, load), fx.map_arg(node.kwargs, load)
        if node.op == "call_module":
            module = self.net.get_submodule(str(node.target))
            args = tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in args)      # some act in place
            return module(*args, **kwargs)
        if node.op == "call_method":
            receiver, *rest = args
            return getattr(receiver.clone() if isinstance(receiver, Tensor) else receiver, str(node.target))(*rest, **kwargs)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.net)
        function: Any = node.target
        return function(*args, **kwargs)

    def backward(self, output: fx.Node, m: Tensor) -> Tensor:
        """From multipliers of the output to contributions of the input, in its shape."""
        held: dict[fx.Node, Multipliers] = {output: (m, m)}
        for node, inputs, back in reversed(self.back):
            if node not in held:
                continue
            for before, found in zip(inputs, back(held.pop(node)), strict=True):
                known = held.get(before)
                held[before] = found if known is None else (known[0] + found[0], known[1] + found[1])
        first = next(node for node in self.graph.nodes if node.op == "placeholder")
        plus, minus = held[first]
        return plus * self.seen[first].plus + minus * self.seen[first].minus


def _linear(module: Any) -> Linear:
    if isinstance(module, nn.Linear):
        return lambda x, weight: F.linear(x, weight)  # type: ignore[arg-type]
    convolve: Any = F.conv2d if isinstance(module, nn.Conv2d) else F.conv1d
    return lambda x, weight: convolve(x, weight, None, module.stride, module.padding, module.dilation, module.groups)


@method("deeplift", family="attribute", title="DeepLIFT", paper="arXiv 1704.02685", roster="273")
@additive
@torch.no_grad()
def deeplift(inputs: Inputs, target: Target, *, rule: str = "reveal-cancel") -> Tensor:
    """What each unit gives to the difference of a logit from that of the baseline; the values sum to it.

    rule: `reveal-cancel` at every activation, `rescale` at every one, or `genomics`, which is reveal-cancel behind dense layers
    and rescale behind convolutions, the default of the authors' code.

    The linear rule, rescale and reveal-cancel follow sections 3.5.1 to 3.5.3 of the paper. The target is a logit or a
    difference of two. Differs: the largest of some numbers (max pooling) gives its change to the number that won, so that
    values sum to the difference there as well, where the authors' code uses the gradient. Raises ValueError for operations
    without a rule, such as products and attention.
    """
    if rule not in KINDS:
        raise ValueError(f"DeepLIFT's rules are {', '.join(KINDS)}; found {rule!r}.")
    if not target.linear:
        raise ValueError(f"DeepLIFT explains a logit, or a difference of two; found {target.of}. Give of='logit'.")
    if inputs.site is not None:
        raise ValueError("DeepLIFT follows a network from its input numbers; it is not for text or features.")
    try:
        lifter = Lifter(inputs.net.module, KINDS[rule])
    except (fx.proxy.TraceError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"DeepLIFT follows a network's operations, and those of {inputs.net.name} depend on its input; use "
                         "captum-deeplift or integrated-gradients.") from error
    output = lifter.forward(inputs.x, inputs.baseline)
    inputs.passed += 2 * len(inputs.x)
    with torch.enable_grad():
        logits = lifter.seen[output].value.detach().requires_grad_()
        m = torch.autograd.grad(target.read(logits).sum(), logits)[0]
    return inputs.units.gather(lifter.backward(output, m))
