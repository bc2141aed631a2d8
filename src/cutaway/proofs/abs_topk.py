"""AbsTopK against TopK, on features with two poles, on features with one, and on the activations of a small GPT."""

from __future__ import annotations

from functools import partial

import torch

from ..catalogue import proof
from ..dictionaries import AbsTopK, Dictionary, Recipe, TopK
from ..dictionaries.truth import World, judge, matched
from ..dictionaries.truth.judge import FOUND
from ..dictionaries.truth.worlds import bidirectional, superposed
from ..metrics import fidelity
from ..network import open
from .planted import against, by_name, judged, trained, tuned, unequal
from .proof import Proof, say
from .topk import harvest, straight

SEEDS, STEPS, BATCH, WIDTH, K = (0, 1, 2), 300, 256, 256, 5
BOTH, CLOSE = 0.9, 0.05    # what share of the recovered features one latent should hold whole; what counts as equal L0
TOKENS, GPT_WIDTH, GPT_K = 24_576, 512, 32
OURS, SAME, TWICE = "AbsTopK", "TopK of the same width", "TopK of twice the width"


@torch.no_grad()
def both_poles(dictionary: Dictionary, world: World) -> float:
    """The share of recovered features whose latent fires with one sign for one pole and with the other for the other."""
    pairs = matched(world.cosines(dictionary.W_dec))
    found = pairs.cosines >= FOUND
    latents, features = torch.from_numpy(pairs.latents[found]), torch.from_numpy(pairs.features[found])
    poles = [dictionary.encode(world.bias + sign * 1.5 * world.frames[features, 0]).dense(dictionary.width) for sign in (1, -1)]
    ours = [codes.gather(1, latents[:, None])[:, 0] for codes in poles]
    return float((ours[0] * ours[1] < 0).float().mean()) if len(features) else 0.0


def recipes(width: int, k: int) -> dict[str, Recipe]:
    return {OURS: AbsTopK(width, k), SAME: TopK(width, k), TWICE: TopK(2 * width, k)}


def on_gpt(seeds: tuple[int, ...]) -> list[dict[str, dict[str, float]]]:
    """FVU, L0 and dead share at equal k on a small GPT's activations, at the recipes' own learning rates."""
    x = harvest(open("pico"), TOKENS, 16, 8192 // 3)
    test = torch.cat(x.test)
    found = [{name: fidelity(straight(recipe, x, seed)[1], test) for name, recipe in recipes(GPT_WIDTH, GPT_K).items()}
             for seed in seeds]
    say("pico: " + ", ".join(f"{name} FVU {row['fvu']:.4f}" for name, row in found[0].items()))
    return found


@proof("abstopk")
def poles() -> Proof:
    """At equal L0 lower NMSE than TopK on features with two poles, both of which one latent carries."""
    world, plain = bidirectional(0), superposed(4)
    chosen = {name: tuned(recipe, world, STEPS, BATCH) for name, recipe in recipes(WIDTH, K).items()}
    found, one_sided, whole = [], [], []
    for seed in SEEDS:
        made = {name: trained(recipe, world, seed, STEPS, BATCH) for name, recipe in chosen.items()}
        found.append({name: {**judge(d, world), "both_poles": both_poles(d, world)} for name, d in made.items()})
        for name, row in found[-1].items():
            say(f"seed {seed}, {name}: FVU {row['fvu']:.4f}, L0 {row['l0']:.2f}, recovered {row['recovered']:.1%}, both poles "
                f"{row['both_poles']:.1%}")
        one_sided.append(judged({name: chosen[name] for name in (OURS, SAME)}, plain, seed, STEPS, BATCH))
        whole.append(found[-1][OURS]["both_poles"])
    rows, flat, gpt = by_name(found), by_name(one_sided), by_name(on_gpt(SEEDS))
    than, there = partial(against, rows), partial(against, flat)
    difference = unequal(rows, OURS, SAME)
    return Proof(
        "abstopk", "At equal L0, AbsTopK reconstructs with lower NMSE than TopK on features with two poles, and one latent "
        "carries both poles.",
        comparisons=(than(OURS, SAME, "fvu"),),
        checks={f"for every seed one latent carries both poles of at least {BOTH:.0%} of the recovered features":
                min(whole) >= BOTH,
                f"the L0 of both differs by at most {CLOSE:.0%} for every seed": difference <= CLOSE},
        beside=(than(OURS, TWICE, "fvu"), than(OURS, SAME, "recovered", "higher"), than(OURS, TWICE, "recovered", "higher"),
                there(OURS, SAME, "fvu"), there(OURS, SAME, "recovered", "higher"),
                against(gpt, OURS, SAME, "fvu"), against(gpt, OURS, TWICE, "fvu")),
        figures={"two poles, by_seed": rows, "one pole, by_seed": flat, "pico, by_seed": gpt,
                 "largest_l0_difference": difference, "learning_rates": {name: r.rate for name, r in chosen.items()}},
        n={"training activations of each dictionary": STEPS * BATCH, "validation activations": 4096, "test activations": 8192,
           "features": world.m, "latents": WIDTH, "pico training activations": TOKENS, "pico test activations": 8192},
        seeds=SEEDS,
        notes=("256 features in 64 dimensions, 5 at once on average; with two poles each fires along its direction or against "
               "it. A seed is an initialisation and a stream of activations. Learning rates are chosen on validation "
               "activations with two poles. Carrying both poles is judged on each feature alone, at its mean strength.",
               "Beside, in this order: TopK with twice the latents, which can give each pole one; features with one pole, on "
               "which AbsTopK has nothing to gain; and pico's activations at the recipes' own rates.",
               "The paper also judges by steering and probing of models of up to 4B parameters, which is not done here."))
