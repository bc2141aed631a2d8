"""One dictionary split over ranks by width: each holds an equal part of its latents, and every row of each batch.

The largest k pre-activations of a row are found from the k largest of each rank: every rank looks after an equal part of the
rows, is sent the candidates of those, and answers with the k-th largest. Partial reconstructions are summed. The weights'
gradients and their optimizer never leave their rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import kernels
from ...dictionaries import Dictionary, Recipe
from ...dictionaries.codes import Codes
from ...dictionaries.parts import AuxK, ReLU, SquaredError, TopK, falling
from ..adam import Adam
from .alone import Plan
from .group import Group
from .joined import Joined

SPLIT = ("W_enc", "W_dec", "b_enc", "silent")   # what has a row for each latent
TERMS = (SquaredError, AuxK)


class Width(Joined):
    """Ranks that hold different latents, and all rows of a batch."""

    split = "width"

    def own(self, plan: Plan, batch: int) -> Plan:
        for key, (_, recipe) in plan.items():
            if type(recipe.sparsify) not in (TopK, ReLU) or recipe.tied or any(type(t) not in TERMS for t in recipe.losses):
                raise ValueError(f"a dictionary is split by width for TopK recipes; {key} is to be learned with "
                                 f"{recipe.name}, which takes split='data' or 'sites'.")
            if recipe.width % self.group.size:
                raise ValueError(f"the {recipe.width:,} latents of {key} cannot be split evenly over {self.group.size} ranks; "
                                 f"give a width that {self.group.size} divides.")
        return super().own(plan, batch)

    def over_latents(self, total: Tensor) -> Tensor:
        return self.group.total(total)

    def build(self, recipe: Recipe, sample: Tensor, generator: Any) -> Dictionary:
        def make(*given: Any) -> Dictionary:
            return Part(self.group, *given)
        return recipe.build(sample, generator, make, self.group.share(recipe.width))

    def exchange(self, dictionary: Dictionary, optimizer: Adam) -> None:
        assert isinstance(dictionary, Part)
        dictionary.center_gradient()

    def whole(self, dictionary: Dictionary) -> dict[str, Tensor] | None:
        found: dict[str, Tensor] = {}
        for name, value in dictionary.state_dict().items():
            value = self.group.joined(value) if name in SPLIT else value
            if value is not None:
                found[name] = value
        return found if self.group.rank == 0 else None

    def placed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.group.size == 1:
            return tensors
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor, Shard
        found = dict(tensors)
        for name, value in tensors.items():
            if name.rpartition(".")[2] in SPLIT:
                mesh = init_device_mesh(value.device.type, (self.group.size,))
                found[name] = DTensor.from_local(value.detach(), mesh, [Shard(0)], run_check=False)
        return found

    def cut(self, name: str, value: Tensor) -> Tensor:
        if name.rpartition(".")[2] not in SPLIT:
            return value
        mine = self.group.share(len(value))
        return value[mine.start: mine.stop]


class Part(Dictionary):
    """The latents of a dictionary that one rank holds; its codes name them by their places in it."""

    def __init__(self, group: Group, d: int, width: int, sparsify: Any, facts: Any, tied: bool):
        super().__init__(d, width, sparsify, facts, tied)
        self.group, self.centers = group, list[Tensor]()
        self.sparsify = TopKOfAll(sparsify, group) if isinstance(sparsify, TopK) else sparsify

    def encode(self, x: Tensor, progress: float = 1.0) -> Codes:
        return self.sparsify(x, self._center(), self.W_enc, self.b_enc, progress)

    def directions(self, codes: Codes) -> Tensor:
        return _Summed.apply(super().directions(codes), self.group)

    def among(self, latents: Tensor, x: Tensor, k: int) -> Tensor:
        if len(latents) == 0:   # the other ranks' largest are found with this one's help
            kept(self.group, x.new_empty(len(x), 0), latents.expand(len(x), 0), k)
            return _Summed.apply(torch.zeros_like(x), self.group)
        weight = kernels.take(self.W_enc, latents)
        values, chosen = largest(self.group, x, weight, self.b_enc[latents], k, self._center())
        return _Summed.apply(kernels.decode(values.relu(), chosen, kernels.take(self.W_dec, latents)), self.group)

    def _center(self) -> Tensor:
        """The decoder's bias as the encoder takes it, with a gradient of its own: this rank knows only a part of that."""
        if not torch.is_grad_enabled():
            return self.b_dec
        self.centers.append(self.b_dec.detach().requires_grad_())
        return self.centers[-1]

    def center_gradient(self) -> None:
        """Add up what all ranks know of the gradient for the decoder's bias through the encoder."""
        known = [center.grad for center in self.centers if center.grad is not None]
        total = self.group.total(torch.stack(known).sum(0) if known else torch.zeros_like(self.b_dec))
        self.b_dec.grad = total if self.b_dec.grad is None else self.b_dec.grad + total
        self.centers = []


class _Summed(torch.autograd.Function):
    """The sum over ranks. Each computes the same loss from it, so that its gradient is each summand's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return group.total(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


@dataclass(frozen=True)
class TopKOfAll:
    """`TopK` over the latents of all ranks; gives those that are this rank's."""

    part: TopK
    group: Group

    def __call__(self, x: Tensor, center: Tensor, weight: Tensor, bias: Tensor, progress: float = 1.0) -> Codes:
        k = falling(self.part.k, self.part.first, progress)
        values, indices = largest(self.group, x, weight, bias, min(k, self.group.size * len(weight)), center)
        return Codes(values.relu(), indices)


def largest(group: Group, x: Tensor, weight: Tensor, bias: Tensor, k: int, center: Tensor) -> tuple[Tensor, Tensor]:
    """Of the k largest pre-activations of each row over all ranks, this rank's: values and indices [n, most]."""
    def choose(on: ModuleType, x: Tensor, weight: Tensor, bias: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        return kept(group, *on.largest(x, weight, bias, min(k, len(weight)), False, low), k)

    values, indices = kernels.encode_by(x, weight, bias, choose, center)
    return torch.where(values != 0, values, 0), indices   # entries that only fill a row up pass no gradient


def kept(group: Group, values: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What is among the k largest of all ranks, of each rank's own largest [n, at most k]: values and indices [n, most].

    Where entries equal the k-th largest exactly, all of them are kept.
    """
    if group.size == 1:
        return values, indices
    n, m = values.shape
    share = -(-n // group.size)
    candidates = F.pad(values, (0, k - m, 0, share * group.size - n), value=float("-inf"))
    theirs = group.swapped(candidates).view(group.size, share, k).transpose(0, 1).reshape(share, group.size * k)
    least = group.stacked(theirs.topk(k, dim=-1, sorted=False).values.amin(-1))[:n, None]
    chosen = values >= least
    most = max(1, int(chosen.sum(-1).max())) if values.numel() else 0
    order = chosen.to(torch.int8).topk(most, dim=-1, sorted=False).indices
    return torch.where(chosen, values, 0).gather(-1, order), indices.gather(-1, order)
