"""A dictionary of an attention layer: sparse, with induction latents that come from where induction looks, and causal."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import proof
from ..data.corpora import stdlib
from ..dictionaries import Dictionary, Facts, TopK, evaluate
from ..dictionaries.attention_sae import attention_sources, head_shares
from ..dictionaries.quality.controls import random_initial
from ..network import Edit, Network, open
from ..observe import Sample, observe
from .proof import Comparison, Proof, compare, say_rows
from .repeats import repeated, second_half_loss
from .scores import slices
from .topk import train

SITE, WIDTH, K = "blocks.4.attn.heads", 1024, 32
SEEDS = (0, 1, 2)
HARVEST, TEST = 70_000, 6_144            # activations to train on; tokens of test text for every seed
ROWS, LENGTH = 16, 40                    # random sequences, which are repeated once
CHOSEN, ASKED = 16, 6                    # induction latents, and firings of each whose sources are asked for
TOP, GROUPS = 10, 3                      # latents of a head, and how many unrelated ones make it polysemantic
JACCARD, COSINE, LEAST = 0.1, 0.5, 10    # below which two latents are unrelated; firings that a latent needs
LOOKS = 0.8                              # share of firings whose first source must be the token after the last occurrence
Figures = dict[str, float]


@torch.no_grad()
def codes_on(net: Network, dictionary: Dictionary, ids: Tensor) -> Tensor:
    """The latents of each token: [rows, tokens, width]."""
    x = net.record({"input_ids": ids}, SITE)[SITE]
    return dictionary.encode(x).dense(dictionary.width)


def induction_latents(net: Network, dictionary: Dictionary, seed: int) -> Tensor:
    """The latents that fire most on repetition: in the second half of repeated sequences less in that of unrepeated ones."""
    half = LENGTH + 2
    again, never = (codes_on(net, dictionary, repeated(net, ROWS, LENGTH, 1000 + seed, repeat))[:, half:].mean((0, 1))
                    for repeat in (True, False))
    return (again - never).topk(CHOSEN).indices


def matched(total: Tensor, chosen: Tensor, seed: int) -> Tensor:
    """For each chosen latent another one at random, of the 16 that are nearest to it in total activation."""
    random, free = np.random.default_rng(seed), torch.ones(len(total), dtype=torch.bool)
    free[chosen] = False
    found = []
    for latent in chosen.tolist():
        gap = torch.where(free, (total - total[latent]).abs(), torch.inf)
        found.append(int(gap.topk(16, largest=False).indices[random.integers(16)]))
        free[found[-1]] = False
    return torch.tensor(found)


def looks_back(net: Network, dictionary: Dictionary, latents: Tensor, ids: Tensor, codes: Tensor,
               seed: int) -> tuple[float, float]:
    """The share of firings in the second half whose first source is the token after the last occurrence of the present one.

    And the largest error of the sum of all sources against the pre-activation.
    """
    random, right, error = np.random.default_rng(seed), [], 0.0
    for latent in latents.tolist():
        fires = (codes[:, LENGTH + 2:, latent] > 0).nonzero()
        for i in random.permutation(len(fires))[:ASKED].tolist():
            row, position = int(fires[i, 0]), int(fires[i, 1]) + LENGTH + 2
            found = attention_sources(net, dictionary, {"input_ids": ids[row: row + 1]}, latent, position)
            right.append(int(found.by_source.argmax()) == position - LENGTH + 1)
            error = max(error, abs(float(found.parts.sum()) + found.constant - float(codes[row, position, latent])))
    return (float(np.mean(right)) if right else 0.0), error


def rise(net: Network, dictionary: Dictionary, latents: Tensor, ids: Tensor, plain: Tensor) -> float:
    """How much the loss in the second half rises when some latents are cut and the error of reconstruction stays."""
    gate = torch.ones(dictionary.width)
    gate[latents] = 0
    with net.edited(Edit(dictionary.features(net), gate=gate, over="u")):
        return float((second_half_loss(net, ids) - plain).mean())


@torch.no_grad()
def polysemantic(net: Network, dictionary: Dictionary, text: Any) -> float:
    """The share of heads of whose ten strongest latents three or more are unrelated to each other.

    Unrelated: they share less than a tenth of their tokens, and their directions in the head have a cosine below a half.
    """
    sample = Sample(SITE, TEST)
    observe(net, text, [sample])
    fires = dictionary.encode(sample.x).dense(dictionary.width).ne(0).float()
    shares = head_shares(dictionary, net.n_heads or 1)
    shares[fires.sum(0) < LEAST] = 0
    counts = []
    for head in range(shares.shape[1]):
        top = shares[:, head].topk(TOP).indices
        both = fires[:, top].T @ fires[:, top]
        jaccard = both / (both.diagonal()[:, None] + both.diagonal() - both).clamp(min=1)
        rows = torch.nn.functional.normalize(dictionary.W_dec[top].unflatten(1, (shares.shape[1], -1))[:, head], dim=1)
        related = (jaccard >= JACCARD) | ((rows @ rows.T).abs() >= COSINE)
        apart: list[int] = []
        for i in range(TOP):
            if not related[i, apart].any():
                apart.append(i)
        counts.append(len(apart))
    return float(np.mean(np.array(counts) >= GROUPS))


def one(net: Network, x: Tensor, text: Any, seed: int) -> dict[str, Figures]:
    """All figures of one seed, of ours and of the controls."""
    facts = Facts(site=SITE, path=net.site(SITE).path, network=net.name, skip_tokens=tuple(text.special_ids))
    ours = train(TopK(WIDTH, K), x, seed).export(facts)
    random = random_initial(ours, x[:16_384], seed)
    found: dict[str, Figures] = {}
    for name, dictionary in (("ours", ours), ("random", random)):
        made = evaluate(net, dictionary, text)
        found[name] = {figure: made[figure].value for figure in ("fvu", "l0", "dead", "loss_recovered_mean")}
    ids = repeated(net, ROWS, LENGTH, 2000 + seed)
    codes, plain = codes_on(net, ours, ids), second_half_loss(net, ids)
    chosen = induction_latents(net, ours, seed)
    others = matched(codes[:, LENGTH + 2:].sum((0, 1)), chosen, seed)
    found["induction"], found["matched"] = {}, {}
    for name, latents in (("induction", chosen), ("matched", others)):
        share, error = looks_back(net, ours, latents, ids, codes, seed)
        found[name] = {"looks back": share, "error of the sum": error, "loss rise": rise(net, ours, latents, ids, plain)}
    found["heads"] = {"polysemantic": polysemantic(net, ours, text)}
    return found


@proof("attention-sae")
def attention_sae() -> Proof:
    """Sparse latents of an attention layer, induction latents among them, whose ablation is felt."""
    net = open("pico")
    sample = Sample(SITE, HARVEST)
    observe(net, stdlib(net), [sample], seed=0)
    found = []
    for seed, text in zip(SEEDS, slices(stdlib(net, "test"), TEST, len(SEEDS)), strict=True):
        found.append(one(net, sample.x, text, seed))
        say_rows(seed, found[-1])
    return concluded(found, net)


def concluded(found: list[dict[str, Figures]], net: Network) -> Proof:
    """The proof from each seed's figures."""
    def of(who: str, figure: str) -> list[float]:
        return [row[who][figure] for row in found]

    def against(figure: str, ours: str, theirs: str, better: str, said: str, baseline: str) -> Comparison:
        return compare(said, baseline, figure, of(ours, figure), of(theirs, figure), better)

    induction, others = f"{CHOSEN} induction latents", "as many others that fire as much"
    back, heads = float(np.mean(of("induction", "looks back"))), float(np.mean(of("heads", "polysemantic")))
    error = max(max(of("induction", "error of the sum")), max(of("matched", "error of the sum")))
    return Proof(
        "attention-sae", "A dictionary of a small GPT's attention outputs gives sparse latents, induction ones among them; "
        "most heads write several unrelated latents; ablations are causal.",
        comparisons=(against("fvu", "ours", "random", "lower", f"TopK {WIDTH}, k {K}", "random dictionary of the same L0"),
                     against("looks back", "induction", "matched", "higher", induction, others),
                     against("loss rise", "induction", "matched", "higher", induction, others)),
        checks={f"induction latents look at the token after the last occurrence in over {LOOKS:.0%} of firings": back > LOOKS,
                "the sources of a pre-activation add up to it within 0.001": error < 1e-3,
                f"more than half of the heads write {GROUPS} or more unrelated latents among their ten strongest": heads > 0.5},
        beside=(against("loss_recovered_mean", "ours", "random", "higher", f"TopK {WIDTH}, k {K}",
                        "random dictionary of the same L0"),),
        figures={"by_seed": found, "looks back": back, "polysemantic heads": heads, "largest error of the sum": error},
        n={"training activations of each dictionary": 65_536, "test tokens of each seed": TEST, "heads": net.n_heads or 0,
           "repeated sequences of each seed": ROWS, "latents": CHOSEN,
           "firings of each latent whose sources are asked for": ASKED},
        seeds=SEEDS,
        notes=(f"At {SITE} of {net.name}, where induction heads are, on the standard library's source. Induction latents are "
               "those that fire most on repeated random tokens less unrepeated ones; they are chosen on other sequences "
               "than those measured. The others are matched in total activation on the repeated half.",
               "Where a source is `right`: the token after the present token's last occurrence adds most to the "
               "pre-activation. Unrelated latents of a head share under a tenth of their tokens (Jaccard) and have a "
               "cosine under a half in the head's own dimensions; the paper's authors judged this by reading.",
               "A seed is an initialisation, its own order of the activations, test text and sequences. Loss rise is in nats a "
               "token. One layer of 8 heads; the paper studied all 144 heads of GPT-2 small with 24,576 latents and more."))
