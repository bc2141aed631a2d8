"""How general the first layers are: copy them to another task, freeze them or not, and train the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...catalogue import method
from ...network import Network

FROZEN = {"selffer": "target", "transfer": "source", "random": "none"}     # arms, and where their first layers come from
TUNED = {"selffer+": "target", "transfer+": "source"}
ARMS = (*FROZEN, *TUNED)


@dataclass(frozen=True)
class Transfer:
    """Scores on the target task by how many layers were copied, from 1; higher is better.

    layers: paths of the layers, in order; base: of the network trained on the target from the start.
    scores: for each arm, a score for each cut: `selffer` (BnB in the paper) copies the target network's own first layers and
    freezes them, `transfer` (AnB) the source network's, `random` freezes untrained ones; `selffer+` and `transfer+` go on
    training what they copied.
    """

    layers: tuple[str, ...]
    base: float
    scores: dict[str, tuple[float, ...]]

    def _less(self, arm: str, other: str) -> tuple[float, ...]:
        missing = [name for name in (arm, other) if name not in self.scores]
        if missing:
            raise ValueError(f"the arm {missing[0]} was not run; there are {', '.join(self.scores)}.")
        return tuple(a - b for a, b in zip(self.scores[arm], self.scores[other], strict=True))

    @property
    def lost_together(self) -> tuple[float, ...]:
        """What is lost by freezing the target's own layers at each cut: co-adaptation of layers on both of its sides."""
        return tuple(self.base - value for value in self.scores["selffer"])

    @property
    def specific(self) -> tuple[float, ...]:
        """What is lost because the frozen layers come from the other task, at each cut."""
        return self._less("selffer", "transfer")

    @property
    def gained(self) -> tuple[float, ...]:
        """What layers of the other task give when training goes on in them, beyond the target's own, at each cut."""
        return self._less("transfer+", "selffer+")


@method("layer-transfer", family="analysis", title="How transferable the first layers are (AnB and BnB)",
        paper="Yosinski et al. 2014, arXiv:1411.1792", roster="078")
def layer_transfer(source: Network, target: Network, fresh: Callable[[], nn.Module], train: Callable[[Network], Any],
                   score: Callable[[Network], float], *, layers: Sequence[str] | None = None,
                   arms: Sequence[str] = ARMS) -> Transfer:
    """Copy the first layers of networks of two tasks into untrained ones, train those on the target task, and score them.

    source, target: networks of one architecture, trained on the other task and on the target task.
    fresh: makes a module of that architecture with the initial weights that every arm starts from.
    train: trains a network on the target task in place, the same way in every arm (frozen weights ask for no gradient).
    score: of a network on the target task's test data, higher is better. layers: paths of the modules to cut after, in order;
    left out, the blocks, or the parts of a plain module that have weights but for the last. arms: which of the five to run.
    Raises ValueError where the networks differ in their weights' names or shapes.

    Differs from the paper: one score after training, where its released code averages the ten best of the curve.
    """
    shapes = [{name: x.shape for name, x in module.state_dict().items()} for module in (source.module, target.module, fresh())]
    if shapes[0] != shapes[1] or shapes[1] != shapes[2]:
        raise ValueError("layers go from one network to another of the same architecture; these differ in their weights' names "
                         "or shapes.")
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown or not arms:
        raise ValueError(f"the arms are {', '.join(ARMS)}; found {', '.join(unknown) or 'none'}.")
    chosen = _layers(target) if layers is None else list(layers)
    names = list(target.module.state_dict())
    ends = [_end(names, layer) for layer in chosen]
    if not chosen or ends != sorted(ends):
        raise ValueError(f"layers are given from the first to the last; found {', '.join(chosen) or 'none'}.")
    origins = {"source": source.module, "target": target.module}
    scores: dict[str, tuple[float, ...]] = {}
    for arm in arms:
        found = []
        for cut, end in enumerate(ends, 1):
            module, origin = copy.deepcopy(fresh()), origins.get((FROZEN | TUNED)[arm])
            if origin is not None:
                state = origin.state_dict()
                module.load_state_dict({name: state[name] for name in names[:end]}, strict=False)
            net = Network(module, target.tokenizer, target.processor, target.name)
            if arm in FROZEN:
                freeze(module, names[:end], chosen[:cut])
            train(net)
            module.eval()
            found.append(float(score(net)))
        scores[arm] = tuple(found)
    return Transfer(tuple(chosen), float(score(target)), scores)


def freeze(module: nn.Module, names: Sequence[str], layers: Sequence[str]) -> None:
    """Let some weights ask for no gradient, and hold the layers they are in as they are in evaluation.

    Without the latter, running statistics of normalisation would go on learning and dropout would go on in frozen layers.
    """
    parameters = dict(module.named_parameters())
    for name in names:
        if name in parameters:
            parameters[name].requires_grad_(False)
    for layer in layers:
        for part in module.get_submodule(layer).modules():
            part.eval()
            part.train = _stay(part)  # type: ignore[method-assign]


def _stay(part: nn.Module) -> Callable[..., nn.Module]:
    def train(mode: bool = True) -> nn.Module:
        return part
    return train


def _layers(net: Network) -> list[str]:
    """The blocks' paths, or those of a plain module's children with weights, but for the last."""
    if net.n_blocks:
        return [net.named[f"blocks.{i}"].path for i in range(net.n_blocks)]
    return [name for name, child in net.module.named_children() if any(True for _ in child.parameters())][:-1]


def _end(names: Sequence[str], layer: str) -> int:
    """How many of the weights, in the order in which the module names them, come up to the end of a layer."""
    own = [i for i, name in enumerate(names) if name.startswith(f"{layer}.")]
    if not own:
        raise ValueError(f"the network has no weights in a layer {layer!r}; layers are given by module path.")
    return own[-1] + 1
