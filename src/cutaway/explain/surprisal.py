"""Surprisal: does a language model expect the texts in which the feature fires more, once it was told the name?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ..catalogue import method
from ..network import Network
from .guess import Guess
from .outcome import Outcome, separated
from .windows import Examples, Unmeasurable

TOLD, NEUTRAL = "# Text with {}:\n", "# Text:\n"
BATCH = 16


@method("surprisal", family="explain", title="Surprisal score of a name", paper="arXiv 2410.13928, section 3")
@torch.no_grad()
def surprisal(guesses: Sequence[Guess], examples: Examples, reader: Network) -> list[Outcome]:
    """Rank windows by how much more likely a language model finds them after the name than after a neutral line: AUROC.

    guesses: the name, and names of other features that are asked about on the same windows. reader: a causal language model
    with a tokenizer; the better it reads, the better the score, and a small one mostly tells whether the name's own tokens
    return. The paper gives an 8B model nine worked examples first; here there is none.
    """
    if reader.kind != "causal" or reader.tokenizer is None:
        raise Unmeasurable(f"surprisal needs a causal language model with a tokenizer; {reader.name} is none")
    windows = examples.all
    texts = [str(window) for window in windows]
    truth = [window.active for window in windows]
    plain = _losses(reader, NEUTRAL, texts)
    told = [_losses(reader, TOLD.format(guess.text), texts) for guess in guesses]
    return [separated(plain - losses, truth, windows) for losses in told]


def _losses(reader: Network, before: str, texts: Sequence[str]) -> np.ndarray:
    """Summed cross-entropy in nats of each text after the same words: [n]."""
    tokenizer, context = reader.tokenizer, reader.context or 1 << 30
    lead = ([tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []) + \
        tokenizer(before, add_special_tokens=False)["input_ids"]
    made = []
    for start in range(0, len(texts), BATCH):
        part = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts[start: start + BATCH]]
        longest = min(max(map(len, part)), context - 1)
        head = lead[: context - longest]
        ids = torch.zeros(len(part), len(head) + longest, dtype=torch.int64)
        counts = torch.zeros(len(part), len(head) + longest, dtype=torch.bool)
        ids[:, : len(head)] = torch.tensor(head)
        for row, text in enumerate(part):
            text = text[:longest]
            ids[row, len(head): len(head) + len(text)] = torch.tensor(text)
            counts[row, len(head): len(head) + len(text)] = True
        logits = reader.logits(ids)[:, :-1].float()   # padding stands on the right, where a causal model does not see it
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten().to(logits.device), reduction="none")
        made.append((losses.view(len(part), -1).cpu() * counts[:, 1:]).sum(1))
    return torch.cat(made).double().numpy()
