"""The second half of pico's blocks: does it add less, and do later blocks and the output rest less on it?"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..catalogue import proof
from ..data.corpora import stdlib
from ..network import Network, open
from ..scores.findings.depth_use import DepthUse, depth_use
from .concept_depth import untrained
from .proof import Comparison, Proof, compare, say
from .scores import slices

SEEDS = (0, 1, 2)
TOKENS, CUTS, BATCH = 1_530, 2, 6       # of text a seed; places at which each row is cut
FIRST, SECOND = "first half of the blocks", "second half of the blocks"


def halves(values: Tensor, n_blocks: int) -> tuple[float, float]:
    """The means of a figure over the first and the second half of the blocks; values may lack the last block."""
    return float(values[: n_blocks // 2].mean()), float(values[n_blocks // 2:].mean())


def figures(found: DepthUse) -> dict[str, tuple[float, float]]:
    """Each figure of the claim for both halves."""
    n = len(found.whole.output)
    return {"size of what a block adds, relative to the residual stream": halves(found.contribution["block"], n),
            "effect on later blocks": halves(found.whole.on_later, n),
            "effect on later blocks at future tokens": halves(found.future.on_later, n),
            "effect on the output": halves(found.whole.output, n),
            "effect on the output at future tokens": halves(found.future.output, n),
            "greatest effect on later blocks": halves(found.whole.later_max[:-1].nanmean(1), n),
            "greatest effect on the output": halves(found.whole.output_max, n)}


JUDGED = ("size of what a block adds, relative to the residual stream", "effect on later blocks",
          "effect on later blocks at future tokens", "effect on the output", "effect on the output at future tokens")


@proof("depth-use")
def second_half() -> Proof:
    """What blocks of the second half add, and what rests on them, is less than in the first half."""
    net = open("pico")
    found = []
    for seed, text in zip(SEEDS, slices(stdlib(net, "test"), TOKENS, len(SEEDS)), strict=True):
        blank = untrained(net, seed)
        found.append({name: depth_use(one, text, cuts=CUTS, batch_size=BATCH, seed=seed)
                      for name, one in (("trained", net), ("untrained", blank))})
        say(f"seed {seed}: " + "; ".join(f"{name}, {what} {a:.3f} {b:.3f}" for name, use in found[-1].items()
                                         for what, (a, b) in figures(use).items()))
    return concluded(found, net)


def concluded(found: list[dict[str, DepthUse]], net: Network) -> Proof:
    """The proof from each seed's figures."""
    def against(which: str, what: str) -> Comparison:
        pairs = [figures(row[which])[what] for row in found]
        return compare(f"{SECOND}, {which}", FIRST, what, [b for _, b in pairs], [a for a, _ in pairs])

    def table(use: DepthUse) -> dict[str, Any]:
        return {"contribution": {part: values.tolist() for part, values in use.contribution.items()},
                "cosine": {part: values.tolist() for part, values in use.cosine.items()},
                "effect on each later block": use.whole.later.tolist(), "and at future tokens": use.future.later.tolist(),
                "effect on the output": use.whole.output.tolist(), "and of future tokens": use.future.output.tolist(),
                "depth": use.depth}

    everything = tuple(figures(found[0]["trained"]))
    return Proof(
        "depth-use", "In a small GPT, what a block adds to the residual stream, relative to it, and the effect of leaving the "
        "block out on later blocks and on the output, are lower in the second half of the blocks.",
        comparisons=tuple(against("trained", what) for what in JUDGED),
        beside=(*(against("trained", what) for what in everything if what not in JUDGED),
                *(against("untrained", what) for what in JUDGED)),
        figures={"by seed": [{name: table(use) for name, use in row.items()} for row in found]},
        n={"tokens of each seed": found[0]["trained"].n, "rows of each seed": found[0]["trained"].rows,
           "blocks": net.n_blocks, "cuts of each row": CUTS},
        seeds=SEEDS,
        notes=(f"On {net.name}, {net.n_blocks} blocks, the standard library's source. A seed is its own text, and for the "
               "network without training its own weights; the trained network is one, so that the intervals say how the "
               "figures change with the text and not with the training.",
               "Effects are means over tokens; the paper's maxima stand beside, and so does the network without training, "
               "whose blocks add equally, so that its relative additions fall as the stream grows.",
               "The last block has no later one, so that for the effect on later blocks the second half has one fewer. "
               "Smaller than the paper: 6 blocks in place of 32 to 80, and source text in place of GSM8K.")
    ).unless("Likely why: with 6 blocks the last ones still turn the stream into the next token, which deep networks do in "
             "a small share of their blocks; the figures by block are beside.")
