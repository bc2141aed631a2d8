"""How the largest activations of small GPTs grow in training: does the five-parameter curve describe it?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..catalogue import proof
from ..data.corpora import stdlib
from ..network import Network, open
from ..network.opening import BUNDLED
from ..scores.findings.massive_dynamics import FORMS, Curve, Dynamics, fit_curve, massive_dynamics
from .proof import Comparison, Proof, compare, say
from .training import follow

SEEDS = (0, 1, 2)
BLOCKS, WIDTH, CONTEXT = 4, 64, 64
BATCH, STEPS, RATE = 16, 500, 3e-3
CHECKPOINTS, MEASURED = 30, 10                 # log-spaced; sequences, as in the paper
HELD = 0.2                                     # the share of last checkpoints that a fit has not seen
FITS = 0.9                                     # r2 that counts as a good fit


def checkpoints(seed: int, tokenizer: Any) -> Iterator[tuple[int, Network]]:
    """A Llama-style network at log-spaced steps of its training on source text, one after the other."""
    import transformers as hf
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = open(hf.LlamaForCausalLM(hf.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=BLOCKS,
            num_attention_heads=4, max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=0, eos_token_id=None,
            pad_token_id=None)), tokenizer)
    optimizer = torch.optim.AdamW(net.module.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (0.02 * STEPS)))
    marks = set(steps_of())
    batch: Any
    for step, batch in enumerate(stdlib(net, "train").batches(BATCH, stop=STEPS * BATCH, seed=seed), 1):
        ids = batch.inputs["input_ids"]
        loss = torch.nn.functional.cross_entropy(net.logits(batch)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        follow(loss, optimizer, schedule, 1.0)
        if step in marks:
            yield step, net


def steps_of() -> list[int]:
    """About thirty different steps, as evenly spaced by their logarithm as whole steps can be."""
    found: list[int] = []
    for n in range(CHECKPOINTS, 3 * CHECKPOINTS):
        found = sorted({round(step) for step in np.geomspace(1, STEPS, n)})
        if len(found) >= CHECKPOINTS:
            break
    return found


def ahead(dynamics: Dynamics, form: str) -> float:
    """The error of a curve on the last checkpoints, fitted to those before, over the range of the ratios; mean over blocks."""
    steps = np.array(dynamics.steps)
    cut = round((1 - HELD) * len(steps))
    errors = []
    for ratios in dynamics.ratios.T:
        curve = fit_curve(steps[:cut], ratios[:cut], form)
        errors.append(float(np.sqrt(np.mean((curve(steps[cut:]) - ratios[cut:]) ** 2)) / np.ptp(ratios)))
    return float(np.mean(errors))


def one(seed: int, tokenizer: Any) -> dict[str, Any]:
    """The ratios of one training, and the fit of each form: r2, AICc and error ahead, mean over blocks."""
    probe = open("pico")
    data = stdlib(probe, "validation", context=CONTEXT).take(MEASURED * (CONTEXT - 1))
    dynamics = massive_dynamics(checkpoints(seed, tokenizer), data)
    curves = {form: [fit_curve(dynamics.steps, ratios, form) for ratios in dynamics.ratios.T] for form in FORMS}
    return {"steps": dynamics.steps, "ratios": dynamics.ratios.T.tolist(),
            "parameters": [curve.parameters for curve in dynamics.curves], "peaks": [curve.peak for curve in dynamics.curves],
            "r2 by block": {form: [c.r2 for c in fits] for form, fits in curves.items()},
            **{form: {"r2": mean(fits, "r2"), "aicc": mean(fits, "aicc"), "ahead": ahead(dynamics, form)}
               for form, fits in curves.items()}}


def mean(curves: list[Curve], figure: str) -> float:
    return float(np.mean([getattr(curve, figure) for curve in curves]))


def bundled() -> dict[str, Any]:
    """The fit to the ten kept checkpoints of the bundled network, whose training statistics come with it."""
    kept = json.loads((Path(BUNDLED["pico"]) / "training.json").read_text(encoding="utf-8"))
    steps = [int(name.removeprefix("step-")) for name in kept]
    ratios = np.array([row["residual_largest_over_median"] for row in kept.values()])
    return {form: [fit_curve(steps, column, form).r2 for column in ratios.T] for form in FORMS if form != "constant"}


@proof("massive-dynamics")
def fits() -> Proof:
    """The five-parameter curve fits the ratio of largest to median activation over training."""
    tokenizer, found = open("pico").tokenizer, []
    for seed in SEEDS:
        found.append(one(seed, tokenizer))
        say(f"seed {seed}: " + "; ".join(f"{form} " + ", ".join(f"{k} {v:.3g}" for k, v in found[-1][form].items())
                                         for form in FORMS) + f"; last ratios {[round(r[-1], 1) for r in found[-1]['ratios']]}")
    return concluded(found, bundled())


def concluded(found: list[dict[str, Any]], pico: dict[str, Any]) -> Proof:
    """The proof from each seed's fits."""
    def of(form: str, figure: str) -> list[float]:
        return [row[form][figure] for row in found]

    def against(other: str, figure: str, named: str) -> Comparison:
        return compare("five-parameter curve", other, named, of("modulated", figure), of(other, figure))

    aicc, late = "AICc, mean over blocks", f"error on the last {HELD:.0%} of checkpoints over the range of the ratios"
    return Proof(
        "massive-dynamics", "Over a small GPT's training, the ratio of largest to median activation is well fitted by the "
        "five-parameter exponentially modulated logarithm.",
        comparisons=(compare("five-parameter curve", f"an r2 of {FITS}", "r2, mean over blocks", of("modulated", "r2"),
                             [FITS] * len(found), "higher"),
                     against("logarithm", "aicc", aicc), against("saturating", "aicc", aicc)),
        beside=(against("logarithm", "ahead", late), against("saturating", "ahead", late), against("constant", "ahead", late)),
        figures={"by seed": found, "r2 of the bundled network's ten checkpoints, by block": pico},
        n={"checkpoints": len(found[0]["steps"]), "sequences at each": MEASURED, "blocks": len(found[0]["ratios"]),
           "training steps": STEPS},
        seeds=SEEDS,
        notes=(f"Llama-style networks of {BLOCKS} blocks and width {WIDTH}, {STEPS} steps of {BATCH} rows of {CONTEXT} tokens "
               "of the standard library's source, begin token and all. A seed is its own weights and order of the text. The "
               "fit is to steps as they are, and about as many checkpoints are early as late, by their logarithm.",
               "AICc weighs the fit against the number of parameters, 5 against 3; the error ahead is of curves fitted to the "
               "checkpoints before, and decides nothing.",
               f"Smaller than the paper: the ratios end at {np.mean([r[-1] for row in found for r in row['ratios']]):.0f} on "
               "average, where Pythia's are 80 to 3,000, so that no activation here is massive; the parameters are not "
               "predicted from the architecture.")
    ).unless("Likely why: the curve turns once, but here the ratio of the deeper blocks first falls, then rises, and in "
             "part falls again; no activation becomes massive in so short a training, and massive ones are what the curve was "
             "made for. The rivals, which cannot turn at all, fit worse.")
