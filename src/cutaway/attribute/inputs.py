"""The units of an input and the gates on them, through which every method asks its questions.

Whatever the units are (tokens, words, pixels, patches, plain inputs, a dictionary's features), the network reads a tensor x
of real numbers: embeddings at a site, pixels, or a code's values. A unit's gate mixes its part of x with a baseline:
x' = baseline + gate * (x - baseline). Gate 1 is the input as it is, gate 0 the unit taken away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..data import Batch
from ..dictionaries import Dictionary
from ..dictionaries.codes import Codes
from ..network import At, Enough, Network, Site
from .baselines import baseline_of, checked
from .target import Target
from .words import word_groups, word_texts

OVER = ("tokens", "words", "pixels", "patches", "inputs", "features")


@dataclass(frozen=True, eq=False, repr=False)
class Units:
    """How the numbers of x [rows, ...] belong to units.

    spread: gates [n, *units] of the rows [n] -> a tensor that broadcasts against x[rows]; gather: a tensor like x -> its sums
    within units [rows, *units]. Both are linear, and gather is the transpose of spread.
    """

    spread: Callable[[Tensor, Tensor], Tensor]
    gather: Callable[[Tensor], Tensor]


@dataclass(eq=False, repr=False)
class Inputs:
    """The input of a batch as real numbers, cut into units.

    x, baseline: [rows, ...]; both are the same where a unit does not count. keep: bool [rows, *units], the units that count.
    put: from x' [n, ...] and the rows [n] that they stand for to the tensor that the network is given at `site`, or, where
    that is none, as its input. names, features, pixels: as in `Attribution`. said: the baseline in words.
    passed: rows that went through the network so far. limit: rows that go through it at a time. notes: figures that a method
    gives of itself besides its values, for `about`.
    """

    net: Network
    batch: Batch
    over: str
    x: Tensor
    baseline: Tensor
    keep: Tensor
    units: Units
    site: Site | None
    put: Callable[[Tensor, Tensor], Tensor]
    said: str
    names: list[list[str]] | None = None
    features: Tensor | None = None
    pixels: Tensor | None = None
    limit: int = 64
    progress: bool = False
    passed: int = field(default=0)
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> Tensor:
        """The number of each row: int64 [rows]."""
        return torch.arange(len(self.x), device=self.x.device)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a row's units."""
        return tuple(self.keep.shape[1:])

    def values(self, x: Tensor, target: Target, rows: Tensor | None = None) -> Tensor:
        """The target with x [n, ...] in the place of the input of `rows` [n] (left out: each row once): [n], differentiable."""
        rows = self.rows if rows is None else rows.to(self.x.device)
        self.passed += len(rows)
        batch, new = self.batch.select(rows), self.put(x, rows)
        if self.site is None:
            found = target.select(rows).values(self.net, replace(batch, inputs=with_numbers(batch.inputs, new)))
        else:
            with self.net.watched({self.site: lambda old, at: new.to(old)}):
                found = target.select(rows).values(self.net, batch)
        if torch.is_grad_enabled() and x.requires_grad and not found.requires_grad:
            raise ValueError(f"{self.net.name} has no gradient from its input to the target: it is computed without one, or by "
                             "steps that have none. Use a method without gradients, such as leave-one-out or rise.")
        return found

    def mixed(self, gate: Tensor, rows: Tensor | None = None) -> Tensor:
        """x with the gates [n, *units] of `rows` [n] on it: [n, ...]."""
        rows = self.rows if rows is None else rows.to(self.x.device)
        return self.baseline[rows] + self.units.spread(gate, rows) * (self.x - self.baseline)[rows]

    def gated(self, gate: Tensor, target: Target, rows: Tensor | None = None) -> Tensor:
        """The target with gates [n, *units] on the units of `rows` [n]: [n], differentiable in the gates."""
        return self.values(self.mixed(gate, rows), target, rows)

    @torch.no_grad()
    def sweep(self, gates: Tensor, target: Target, rows: Tensor) -> Tensor:
        """The target under many gates [n, *units], a few at a time and without gradients: [n]."""
        parts, bar = [], tqdm(total=len(gates), desc="attribute", unit="pass", leave=False,
                              disable=None if self.progress else True)
        with bar:
            for gate, row in zip(gates.split(self.limit), rows.split(self.limit), strict=True):
                parts.append(self.gated(gate, target, row))
                bar.update(len(gate))
        return torch.cat(parts)

    def gradient(self, target: Target) -> tuple[Tensor, Tensor]:
        """The target of each row [rows] and its gradient in x [rows, ...]."""
        x = self.x.detach().clone().requires_grad_()
        with torch.enable_grad():
            values = self.values(x, target)
            return values.detach(), torch.autograd.grad(values.sum(), x)[0]


def inputs_of(net: Network, batch: Batch, over: str | Dictionary | None = None, baseline: Any = None,
              site: str | Site | None = None, patch: int | None = None) -> Inputs:
    """The input of a batch, cut into units.

    over: see `OVER`, or a dictionary, whose features are then the units; none for what fits the input. baseline: `zero`,
    `mean`, `blur` (images), a number or a tensor; none for `mean` with text and `zero` otherwise. site: where a text's
    embeddings are (left out, `embed`). patch: the side of a patch in pixels.
    """
    if isinstance(over, Dictionary):
        return _features(net, batch, over, baseline)
    plain = _numbers(batch.inputs)
    if over is None:
        over = "tokens" if plain is None or site is not None else "pixels" if plain.ndim == 4 else "inputs"
    if over not in OVER:
        raise ValueError(f"an attribution is over {', '.join(OVER)}; found {over!r}.")
    if over == "features":
        raise ValueError("an attribution over features needs the dictionary that they belong to; give it as over=.")
    if over in ("tokens", "words"):
        return _text(net, batch, over, baseline, site)
    if plain is None:
        raise ValueError(f"{net.name} reads tokens, which are no numbers; give over='tokens' or over='words'.")
    if not bool(torch.isfinite(plain).all()):
        raise ValueError("the input holds NaN or infinity; leave those rows out.")
    if over != "inputs" and plain.ndim != 4:
        raise ValueError(f"{over} belong to images [rows, channels, height, width]; found an input of {list(plain.shape)}.")
    x = plain.to(net.device)
    units, keep = _plain_units(net, x, over, patch)
    value, said = baseline_of("zero" if baseline is None else baseline, x, None)
    return Inputs(net, batch, over, x, checked(value, x), keep, units, None, lambda new, rows: new, said,
                  pixels=x if x.ndim == 4 else None)


def _plain_units(net: Network, x: Tensor, over: str, patch: int | None) -> tuple[Units, Tensor]:
    if over == "inputs":
        return Units(lambda gate, rows: gate, lambda x: x), torch.ones_like(x, dtype=torch.bool)
    height, width = x.shape[2:]
    if over == "pixels":
        return (Units(lambda gate, rows: gate[:, None], lambda x: x.sum(1)),
                torch.ones(len(x), height, width, dtype=torch.bool, device=x.device))
    side = patch or getattr(net.config, "patch_size", None)
    if not isinstance(side, int) or side < 1 or height % side or width % side:
        raise ValueError(f"patches need a side that divides the image's {height} x {width} pixels; found {side}. Give patch=.")

    def spread(gate: Tensor, rows: Tensor) -> Tensor:
        return gate.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, None]

    def gather(x: Tensor) -> Tensor:
        return F.avg_pool2d(x.sum(1), side) * side**2
    return Units(spread, gather), torch.ones(len(x), height // side, width // side, dtype=torch.bool, device=x.device)


def _text(net: Network, batch: Batch, over: str, baseline: Any, site: str | Site | None) -> Inputs:
    if site is None and "embed" not in net.named:
        raise ValueError(f"{net.name} has no site 'embed' by name; give site= by the path of the module that embeds its "
                         "tokens, such as 'embedding:out'.")
    place = net.site(site or "embed")
    x = net.record(batch, place)[place.name]
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(f"tokens are explained where each has a vector, [rows, tokens, d]; {place} holds {list(x.shape)}.")
    keep = torch.ones(x.shape[:2], dtype=torch.bool) if batch.keep is None else batch.keep
    if keep.shape != x.shape[:2]:
        raise ValueError(f"{place} has {list(x.shape[:2])} rows and tokens, but the batch's mask is {list(keep.shape)}; give a "
                         "site with a vector for each token.")
    keep = keep.to(x.device)
    if not bool(keep.any(1).all()):
        row = int((~keep.any(1)).nonzero()[0])
        raise ValueError(f"no token of row {row} counts, so there is nothing to attribute to; check the batch's mask, or give "
                         "text with more than special tokens.")
    value, said = baseline_of("mean" if baseline is None else baseline, x, keep)
    value = torch.where(keep[..., None], value, x)
    names, units = pieces_of(net, batch), Units(lambda gate, rows: gate[..., None], lambda x: x.sum(-1))
    made = Inputs(net, batch, over, x, checked(value, x), keep, units, place, lambda new, rows: new, said, names)
    return made if over == "tokens" else _over_words(made)


def _over_words(made: Inputs) -> Inputs:
    """The same text with words as its units."""
    if made.names is None:
        raise ValueError("words are made of tokens with texts, so they need a network with a tokenizer.")
    groups = word_groups(made.names, made.keep).to(made.x.device)
    n = int(groups.max()) + 1

    def sums(x: Tensor) -> Tensor:
        return x.new_zeros(len(x), n).scatter_add(1, groups, x)
    units = Units(lambda gate, rows: gate.gather(1, groups[rows])[..., None], lambda x: sums(x.sum(-1)))
    names = [row + [""] * (n - len(row)) for row in word_texts(made.names, groups.cpu())]
    return replace(made, units=units, keep=sums(made.keep.float()) > 0, names=names)


def _features(net: Network, batch: Batch, dictionary: Dictionary, baseline: Any) -> Inputs:
    if baseline not in (None, "zero"):
        raise ValueError(f"a feature that is taken away is off, so its baseline is 'zero'; found {baseline!r}.")
    cut, plain = dictionary.features(net), dictionary.placed(net)
    kept: dict[str, Any] = {}

    def look(x: Tensor, at: At) -> None:
        kept["z"], (kept["x"], kept["codes"]) = cut.cut.split(x, at)
        raise Enough
    with torch.no_grad(), net.watched({plain: look}):
        net.run_until_enough(batch)
    if "z" not in kept:
        raise ValueError(f"the network's pass did not reach {plain}.")
    z, x, indices = kept["z"], kept["x"], kept["codes"].indices
    keep = z != 0
    if batch.keep is not None and batch.keep.shape == z.shape[:2]:
        keep = keep & batch.keep.to(z.device)[..., None]
    if not bool(keep.flatten(1).any(1).all()):
        row = int((~keep.flatten(1).any(1)).nonzero()[0])
        raise ValueError(f"no feature of the dictionary fires in row {row}, so there is nothing to attribute to.")

    def put(new: Tensor, rows: Tensor) -> Tensor:
        return x[rows] + dictionary.directions(Codes(new - z[rows], indices[rows])).to(x.dtype)
    units = Units(lambda gate, rows: gate, lambda x: x)
    zero = torch.where(keep, 0, z)
    return Inputs(net, batch, "features", z, zero, keep, units, plain, put, "features off", features=indices)


def _numbers(inputs: Any) -> Tensor | None:
    """The one tensor of real numbers that a network reads, or none where it reads tokens."""
    named = {"": inputs} if isinstance(inputs, Tensor) else inputs
    found = [x for name, x in named.items() if x.is_floating_point() and "mask" not in name]
    return found[0] if len(found) == 1 else None


def with_numbers(inputs: Any, new: Tensor) -> Any:
    """A network's inputs with another tensor of real numbers."""
    if isinstance(inputs, Tensor):
        return new
    return {name: new if x.is_floating_point() and "mask" not in name else x for name, x in inputs.items()}


def pieces_of(net: Network, batch: Batch) -> list[list[str]] | None:
    """The text of each token of each row, where the network has a tokenizer; padding has none."""
    ids = batch.inputs.get("input_ids") if isinstance(batch.inputs, dict) else batch.inputs
    if net.tokenizer is None or not isinstance(ids, Tensor) or ids.is_floating_point():
        return None
    from ..report.tokens import spell
    mask = batch.inputs.get("attention_mask") if isinstance(batch.inputs, dict) else None
    real = torch.ones_like(ids) if mask is None else mask
    return [[piece if there else "" for piece, there in zip(spell(net.tokenizer, row.tolist()), here.tolist(), strict=True)]
            for row, here in zip(ids, real, strict=True)]
