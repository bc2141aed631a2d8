"""ReAGent: a token matters if the prediction changes when other tokens stand in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..catalogue import method
from ..data import Batch
from .attribute import of_tokens, reads
from .inputs import Inputs
from .target import Target

Sampler = Callable[[Tensor, torch.Generator], Tensor]     # (ids [n, t], generator) -> other ids [n, t]
NEAR = 1e-6                                               # how near to 1 a change of probability may come


@method("reagent", family="attribute", title="Recursive attribution generator", paper="arXiv 2402.00794", roster="004")
@reads("probability")
@of_tokens
@torch.no_grad()
def reagent(inputs: Inputs, target: Target, *, share: float = 0.3, keep: float = 0.3, top: int = 3, runs: int = 5,
            steps: int = 200, substitutes: Tensor | Sampler | None = None, seed: int = 0) -> Tensor:
    """Replace random tokens again and again, and let the change of the predicted token's probability move their scores.

    share: of tokens that are replaced in a step. keep, top: a run stops once the target is among the `top` likeliest with
    all but the best `keep` of the tokens replaced. runs: how many, over which importances are averaged. steps: at most, in a
    run. substitutes: token ids from which replacements are drawn, or a function (ids, generator) -> ids; left out, every
    token of the vocabulary but special ones. seed: of all draws.

    A step's delta = p(y | x) - p(y | x') moves the score of a replaced token by logit((1 + delta) / 2), that of the others by
    its opposite (equations 4 to 6); the importance is a softmax over tokens. Differs: scores start at 0 rather than at random
    (where few steps are made, the start is most of what is left); replacements are drawn at random rather than filled in by
    RoBERTa (the authors' released configuration draws them too, from words of the same part of speech); a run that does not
    stop counts as it is after its last step.
    """
    if not 0 < share < 1 or not 0 < keep < 1 or min(top, runs, steps) < 1:
        raise ValueError("reagent replaces and keeps shares between 0 and 1, and makes at least 1 run of 1 step; found "
                         f"share {share}, keep {keep}, top {top}, runs {runs} and steps {steps}.")
    ids = inputs.batch.inputs.get("input_ids") if isinstance(inputs.batch.inputs, dict) else None
    if inputs.over != "tokens" or ids is None or target.index is None or target.position is None:
        raise ValueError("reagent replaces tokens and watches a token's probability; give text, over='tokens' (and .words() of "
                         "what it gives), and a token as the target.")
    target, generator = target.read_as("probability"), torch.Generator().manual_seed(seed)
    draw = substitutes if callable(substitutes) else drawn_from(_ids(inputs, substitutes))
    rows = inputs.rows.repeat_interleave(runs)
    asked = _Asked(inputs, target, ids[rows], _before(inputs, target)[rows], rows, draw, generator)
    whole = target.values(inputs.net, inputs.batch)[rows]
    inputs.passed += len(inputs.rows)
    scores = torch.zeros(asked.ids.shape, device=ids.device)
    running = torch.ones(len(rows), dtype=torch.bool, device=ids.device)
    for _ in tqdm(range(steps), desc="reagent", leave=False, disable=None if inputs.progress else True):
        at = running.nonzero()[:, 0]
        if not len(at):
            break
        replaced = (torch.rand(len(at), ids.shape[1], generator=generator).to(ids.device) < share) & asked.free[at]
        delta = (whole[at] - asked.said(at, replaced)).clamp(NEAR - 1, 1 - NEAR)[:, None]
        scores[at] += torch.where(replaced, 1, -1) * torch.log((1 + delta) / (1 - delta))
        running[at] = ~asked.found(at, _lowest(scores[at], asked.free[at], keep), top)
    importance = scores.masked_fill(~asked.free, float("-inf")).softmax(1)
    return importance.view(len(inputs.rows), runs, -1).mean(1)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What all steps share: one entry for each run of each row. free: the tokens that may be replaced."""

    inputs: Inputs
    target: Target
    ids: Tensor
    free: Tensor
    rows: Tensor
    draw: Sampler
    generator: torch.Generator

    def _batch(self, at: Tensor, replaced: Tensor) -> tuple[Batch, Target]:
        ids, rows = self.ids[at], self.rows[at]
        batch, self.inputs.passed = self.inputs.batch.select(rows), self.inputs.passed + len(rows)
        new = torch.where(replaced, self.draw(ids, self.generator).to(ids), ids)
        return replace(batch, inputs={**batch.inputs, "input_ids": new}), self.target.select(rows)  # type: ignore[dict-item]

    def said(self, at: Tensor, replaced: Tensor) -> Tensor:
        """The target's probability with tokens replaced."""
        batch, target = self._batch(at, replaced)
        return target.values(self.inputs.net, batch)

    def found(self, at: Tensor, replaced: Tensor, top: int) -> Tensor:
        """Whether the target is among the likeliest with tokens replaced."""
        batch, target = self._batch(at, replaced)
        logits = self.inputs.net.logits(batch)
        here = logits[torch.arange(len(logits)), target.position]
        return (here.topk(top).indices == target.index.to(here.device)[:, None]).any(1)  # type: ignore[union-attr]


def _before(inputs: Inputs, target: Target) -> Tensor:
    """The tokens that count and that the predicting position can see: bool [rows, tokens]."""
    seen = torch.arange(inputs.keep.shape[1], device=inputs.keep.device)[None] <= target.position.to(  # type: ignore[union-attr]
        inputs.keep.device)[:, None]
    free = inputs.keep & seen if inputs.net.kind == "causal" else inputs.keep
    if bool((free.sum(1) < 2).any()):
        raise ValueError("reagent compares tokens, so each row needs at least 2 that count up to where the target is "
                         "predicted.")
    return free


def _lowest(scores: Tensor, free: Tensor, keep: float) -> Tensor:
    """All free tokens but the best `keep` of them, at least one."""
    n = (free.sum(1) * keep).round().clamp(min=1)
    rank = scores.masked_fill(~free, float("-inf")).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return free & (rank >= n[:, None])


def drawn_from(ids: Tensor) -> Sampler:
    """Replacements drawn from a list of token ids; one that is there more often is drawn more often."""
    return lambda like, generator: ids[torch.randint(len(ids), like.shape, generator=generator)]


def _ids(inputs: Inputs, given: Tensor | None) -> Tensor:
    if given is not None:
        return given.flatten().cpu()
    special = set(getattr(inputs.net.tokenizer, "all_special_ids", None) or [])
    return torch.tensor([i for i in range(inputs.net.config.vocab_size) if i not in special])  # type: ignore[union-attr]
