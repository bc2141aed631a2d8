"""CSR codes of sentence embeddings against shortened embeddings of the same size, judged by their nearest neighbours."""

from __future__ import annotations

import ast
import math
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import proof
from ..dictionaries.csr import CSR
from ..explain.embedding import minilm
from ..train.learner import Learner
from .planted import RATES, against, by_name, finished
from .proof import Proof, say

SEEDS, KS, WIDTH, STEPS, BATCH = (0, 1, 2), (4, 16), 1024, 80, 128
EACH, TEST, MODULES, LETTERS = 24, 6, 20, 120    # docstrings of a module, of which for test; modules; letters of each
DEAD, CONTRAST = 2048, 0.1                                      # a latent is dead when silent for so many texts
OURS, PLAIN = "CSR", "CSR without the contrastive term"


def docstrings() -> tuple[list[str], np.ndarray]:
    """The first letters of docstrings of functions and classes of Python's standard library, and each one's module."""
    found: list[list[str]] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        nodes = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))
        texts = dict.fromkeys(" ".join(text.split())[:LETTERS] for node in nodes if (text := ast.get_docstring(node)))
        long = [text for text in texts if len(text) >= 40]
        if len(long) >= EACH:
            found.append(long[:EACH])
    return [text for texts in found[:MODULES] for text in texts], np.repeat(np.arange(len(found[:MODULES])), EACH)


def embedded(texts: list[str]) -> Tensor:
    """Unit embeddings [n, 384]."""
    net = minilm()
    with torch.no_grad():
        parts = [net.logits(texts[i: i + 32]) for i in range(0, len(texts), 32)]
    return F.normalize(torch.cat(parts).float(), dim=-1)


def nearest(train: Tensor, test: Tensor, y: np.ndarray, wanted: np.ndarray) -> float:
    """The share of test vectors whose nearest training vector, by cosine, is of the same class."""
    best = (F.normalize(test, dim=1) @ F.normalize(train, dim=1).T).argmax(1).numpy()
    return float((y[best] == wanted).mean())


def codes(x: Tensor, seed: int, k: int, contrast: float, lr: float) -> tuple[Callable[[Tensor], Tensor], float]:
    """An encoder to dense codes [n, width] from CSR trained on x, and its share of dead latents."""
    recipe = replace(CSR(WIDTH, k, contrast, dead_after=DEAD), lr=lr)
    learner, generator = Learner(recipe, x, STEPS, BATCH, seed), torch.Generator().manual_seed(seed)
    while not learner.done:
        learner.step(x[torch.randperm(len(x), generator=generator)[:BATCH]])
    made = finished(learner)
    return lambda z: made.encode(z).dense(WIDTH), float((made.encode(x).counts(WIDTH) == 0).float().mean())


def principal(x: Tensor, k: int) -> Tensor:
    """The first k principal directions [d, k] of x."""
    return torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:k].T


@proof("csr")
def retrieval() -> Proof:
    """Codes with k active units keep higher 1-NN accuracy than embeddings shortened to k numbers."""
    texts, labels = docstrings()
    x = embedded(texts)
    say(f"{len(texts)} docstrings of {len(set(labels))} modules")
    found: list[dict[str, dict[str, float]]] = []
    rates: dict[int, float] = {}
    for seed in SEEDS:
        order = np.argsort(np.random.default_rng(seed).random(x.shape[0]) + labels * 2).reshape(-1, EACH)
        test, train = order[:, :TEST].ravel(), order[:, TEST:].ravel()
        held, fit = order[:, TEST: 2 * TEST].ravel(), order[:, 2 * TEST:].ravel()
        rows: dict[str, dict[str, float]] = {name: {} for name in (OURS, PLAIN, "principal components", "random dimensions",
                                                                   "principal components of as many bits")}
        tried = {}
        for rate in RATES:
            encode, _ = codes(x[fit], seed, KS[0], CONTRAST, rate)
            tried[rate] = nearest(encode(x[fit]), encode(x[held]), labels[fit], labels[held])
        rates[seed] = max(tried, key=tried.__getitem__)
        whole = nearest(x[train], x[test], labels[train], labels[test])
        for k in KS:
            key = f"1-NN accuracy at {k}"
            for name, contrast in ((OURS, CONTRAST), (PLAIN, 0.0)):
                encode, dead = codes(x[train], seed, k, contrast, rates[seed])
                rows[name] |= {key: nearest(encode(x[train]), encode(x[test]), labels[train], labels[test]),
                               f"dead at {k}": dead}
            bits = math.ceil(k * (32 + math.log2(WIDTH)) / 32)
            for name, size in (("principal components", k), ("principal components of as many bits", bits)):
                turn = principal(x[train], size)
                rows[name][key] = nearest((x[train] - x[train].mean(0)) @ turn, (x[test] - x[train].mean(0)) @ turn,
                                          labels[train], labels[test])
            chosen = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed))[:k]
            rows["random dimensions"][key] = nearest(x[train][:, chosen], x[test][:, chosen], labels[train], labels[test])
        found.append({**rows, "all dimensions": {f"1-NN accuracy at {k}": whole for k in KS}})
        for name, row in found[-1].items():
            say(f"seed {seed}, {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    arms = by_name(found)
    accuracy = [f"1-NN accuracy at {k}" for k in KS]
    return Proof(
        "csr", "Of MiniLM embeddings, CSR codes with k active units keep higher 1-NN accuracy than embeddings shortened to k "
        "numbers.",
        comparisons=tuple(against(arms, OURS, "principal components", key, "higher") for key in accuracy),
        beside=(*(against(arms, OURS, other, key, "higher") for key in accuracy
                  for other in ("principal components of as many bits", PLAIN, "random dimensions", "all dimensions")),
                *(against(arms, OURS, PLAIN, f"dead at {k}") for k in KS)),
        figures={"by_seed": arms, "learning_rates": rates},
        n={"texts": len(texts), "modules": len(set(labels)), "test texts": TEST * len(set(labels)), "latents": WIDTH,
           "dimensions": x.shape[1], "training texts read": STEPS * BATCH},
        seeds=SEEDS,
        notes=("Docstrings of Python's standard library, the first 120 letters; a neighbour is right when it is of the same "
               "module. A seed is a split of each module's docstrings and an initialisation. The learning rate is chosen "
               "on a part of each split's training texts, at the smallest k.",
               "Shortened embeddings are the first k principal components: what a linear map that is trained to reconstruct "
               "from nested prefixes becomes. The paper's Matryoshka vectors come from embedders that were trained for it with "
               "labels, which are not at hand. k active of 1,024 units also take 10 bits each to say which; see beside.",
               "Smaller than the paper: 384 dimensions and hundreds of texts here, 4,096 and benchmarks there.")
    ).unless(
        "Likely why: with a few hundred texts to learn from and 120 to judge by, a difference of a few percent at the larger k "
        "cannot be told from chance, and most latents stay dead.")
