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
from ...dictionaries.parts import AuxK, SquaredError, TopK, falling
from ...dictionaries.wiring import Row, Wiring
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
            plain = type(recipe.sparsify) is TopK and type(recipe.wiring) is Wiring and not recipe.tied
            if not plain or any(type(term) not in TERMS for term in recipe.losses):
                raise ValueError(f"split='width' is for TopK dictionaries; {key} is to be learned with {recipe.name}, which "
                                 "takes split='data' or 'sites'.")
            if recipe.width % self.group.size:
                raise ValueError(f"the {recipe.width:,} latents of {key} cannot be split evenly over {self.group.size} ranks; "
                                 f"give a width that {self.group.size} divides.")
        return super().own(plan, batch)

    def over_latents(self, total: Tensor) -> Tensor:
        return self.group.total(total)

    def build(self, recipe: Recipe, row: Row, sample: Tensor, generator: Any) -> Dictionary:
        def make(*given: Any) -> Dictionary:
            return Part(self.group, *given)
        return recipe.build(sample, generator, make, self.group.share(recipe.width))

    def terms(self, losses: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(AuxKOfAll(**vars(term), group=self.group) if type(term) is AuxK else term for term in losses)

    def exchange(self, dictionary: Dictionary, optimizer: Adam) -> None:
        if dictionary.b_dec.grad is not None:
            dictionary.b_dec.grad = self.group.total(dictionary.b_dec.grad)

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
    """The latents of a dictionary that one rank holds; its codes name them by their places in it.

    b_dec is everywhere the same. Of its gradient each rank knows what comes through its own latents; what comes straight
    from the reconstruction all know, and each counts an equal share of it, so that the sum over ranks is the gradient.
    """

    def __init__(self, group: Group, d: int, width: int, sparsify: Any, facts: Any, tied: bool):
        super().__init__(d, width, sparsify, facts, tied)
        self.group = group
        self.sparsify = TopKOfAll(sparsify, group)

    def decode(self, codes: Codes) -> Tensor:
        return self.directions(codes) + _Shared.apply(self.b_dec, self.group.size)

    def directions(self, codes: Codes) -> Tensor:
        return _Summed.apply(super().directions(codes), self.group)


class _Summed(torch.autograd.Function):
    """The sum over ranks. Each computes the same loss from it, so that its gradient is each summand's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return group.total(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


class _Shared(torch.autograd.Function):
    """x as it is; of its gradient, a rank's equal share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        ctx.size = size
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] / ctx.size, None


@dataclass(frozen=True)
class TopKOfAll:
    """`TopK` over the latents of all ranks; gives those that are this rank's."""

    part: TopK
    group: Group

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        k = min(falling(self.part.k, self.part.first, progress), self.group.size * d.width)
        values, indices = largest(self.group, x, d.W_enc, d.b_enc, k, d.b_dec)
        return Codes(values.relu(), indices)


@dataclass(frozen=True)
class AuxKOfAll(AuxK):
    """`AuxK` over the dead latents of all ranks."""

    group: Group = Group()

    def _reconstruction(self, x: Tensor, encoder: Tensor, bias: Tensor, decoder: Tensor, k: int) -> Tensor:
        if len(encoder) == 0:   # the other ranks' largest are found with this one's help
            kept(self.group, x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.int64, device=x.device), k)
            return _Summed.apply(torch.zeros_like(x), self.group)
        values, chosen = largest(self.group, x, encoder, bias, k)
        return _Summed.apply(kernels.decode(values.relu(), chosen, decoder), self.group)


def largest(group: Group, x: Tensor, weight: Tensor, bias: Tensor, k: int,
            center: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of the k largest pre-activations of each row over all ranks, this rank's: values and indices [n, most]."""
    def choose(on: ModuleType, x: Tensor, weight: Tensor, bias: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        values, indices = on.largest(x, weight, bias, min(k, len(weight)), False, low)
        return kept(group, values, indices, k)

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
