"""One dictionary at many sizes: prefixes of a Matryoshka autoencoder against the sorted latents of a plain one."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..catalogue import proof
from ..data import norm_limit
from ..data.corpora import stdlib
from ..dictionaries import Dictionary, Facts, TopK, evaluate
from ..dictionaries.codes import Codes
from ..dictionaries.progressive import Progressive, importance, prefix, sorted_by
from ..metrics import Reconstruction, fidelity
from ..network import open
from .planted import against, by_name, finished
from .proof import Proof, say
from .topk import SITE, harvest, train

SEEDS, WIDTH, K, SIZES = (0, 1, 2), 512, 32, (128, 256)
TRAIN, TEST, TOKENS = 16_384, 2048, 1000
LAW = 0.9                                    # the R^2 from which a power law describes the importances
NESTED, BY_ENERGY, BY_FREQUENCY, BY_CHANCE = "Matryoshka", "TopK, by energy", "TopK, by frequency", "TopK, at random"


@torch.no_grad()
def once(dictionary: Dictionary, size: int, x: Tensor) -> float:
    """FVU where all latents are encoded once and only those of the prefix are decoded."""
    seen = Reconstruction(dictionary.width)
    for part in x.split(1024):
        codes = dictionary.encode(part)
        kept = Codes(torch.where(codes.indices < size, codes.values, 0), codes.indices)
        seen.update(part, dictionary.decode(kept), kept)
    return seen.figures()["fvu"].value


def power_law(energy: Tensor) -> tuple[float, float]:
    """The exponent of C * rank^-alpha and its R^2 in logarithms, from the fifth latent to four fifths of the live ones.

    Points are evenly spread over the logarithm of the rank.
    """
    live = energy.sort(descending=True).values
    live = live[live > 0]
    ranks = np.unique(np.geomspace(5, 0.8 * len(live), 60).astype(int))
    x, y = np.log(ranks), np.log(live.numpy()[ranks - 1])
    slope, start = np.polyfit(x, y, 1)
    return -float(slope), float(1 - ((y - start - slope * x) ** 2).sum() / ((y - y.mean()) ** 2).sum())


@proof("progressive-sae")
def sizes() -> Proof:
    """Importance follows a power law; Matryoshka prefixes beat sorted plain latents in error and recovered loss."""
    net = open("pico")
    x, text = harvest(net, TRAIN, TEST, TEST), stdlib(net, "test")
    facts = Facts(site=SITE, max_norm=norm_limit(x.train), skip_tokens=tuple(text.special_ids))
    found, laws = [], []
    for seed, test in zip(SEEDS, x.test, strict=True):
        plain = finished(train(TopK(WIDTH, K), x.train, seed), facts)
        ranks = importance(plain, x.validation)
        laws.append(power_law(ranks["energy"]))
        chance = torch.rand(WIDTH, generator=torch.Generator().manual_seed(seed))
        arms = {NESTED: finished(train(Progressive(WIDTH, K), x.train, seed), facts),
                BY_ENERGY: sorted_by(plain, ranks["energy"]), BY_FREQUENCY: sorted_by(plain, ranks["frequency"]),
                BY_CHANCE: sorted_by(plain, chance)}
        rows: dict[str, dict[str, float]] = {name: {} for name in arms}
        for size in SIZES:
            for name, d in arms.items():
                rows[name] |= {f"FVU of {size}, encoded once": once(d, size, test),
                               f"FVU of {size}": fidelity(prefix(d, size), test)["fvu"]}
                if name in (NESTED, BY_ENERGY):
                    spliced = evaluate(net, prefix(d, size), text, TOKENS)
                    rows[name][f"loss recovered of {size}"] = spliced["loss_recovered_zero"].value
            alone = finished(train(TopK(size, K), x.train, seed), facts)
            rows.setdefault("TopK of that size", {})[f"FVU of {size}"] = fidelity(alone, test)["fvu"]
        for name, d in arms.items():
            rows[name]["FVU of all"] = fidelity(d, test)["fvu"]
        found.append(rows)
        for name, row in rows.items():
            say(f"seed {seed}, {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    by_arm = by_name(found)
    than = partial(against, by_arm)
    return Proof(
        "progressive-sae", "On a small GPT the importance of a plain autoencoder's latents follows a power law, and Matryoshka "
        "prefixes beat the plain autoencoder's most important latents in NMSE and recovered loss.",
        comparisons=(*(than(NESTED, BY_ENERGY, f"FVU of {size}") for size in SIZES),
                     *(than(NESTED, BY_ENERGY, f"FVU of {size}, encoded once") for size in SIZES),
                     *(than(NESTED, BY_ENERGY, f"loss recovered of {size}", "higher") for size in SIZES)),
        checks={f"the R^2 of the power law is at least {LAW} for every seed": min(r2 for _, r2 in laws) >= LAW},
        beside=(*(than(BY_ENERGY, other, f"FVU of {size}, encoded once") for size in SIZES
                  for other in (BY_FREQUENCY, BY_CHANCE)),
                *(than(NESTED, "TopK of that size", f"FVU of {size}") for size in SIZES),
                than(NESTED, BY_ENERGY, "FVU of all")),
        figures={"by_seed": by_arm, "power_law": [{"exponent": a, "r2": r2} for a, r2 in laws]},
        n={"training activations of each dictionary": len(x.train), "activations that rank latents": len(x.validation),
           "test activations of each seed": min(map(len, x.test)), "tokens of recovered loss": TOKENS, "latents": WIDTH,
           "k": K},
        seeds=SEEDS,
        notes=(f"{SITE} of {net.name} on the standard library's source. A seed is an initialisation, an order of the training "
               "activations and a slice of the test text; recovered loss is on the same text for all. Importance is the mean "
               "of z^2 on other text. Both have TopK's own learning rate.",
               "The paper's description leaves open whether latents are selected before or after pruning: both are shown, "
               "encoded once (fewer than k fire) and selected anew within the prefix.",
               "The paper's last claim, that pruned latents are more interpretable, needs a judge of explanations and is not "
               "asked here. Smaller: Gemma-2-2B, 65,536 latents and 50 million tokens there.")
    ).unless(
        "Likely why, where the power law is what fails: the importances of a few hundred latents fall faster at the end than a "
        "power law does, and after so short a training many of the last ones are half learned.")
