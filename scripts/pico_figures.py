"""Measure pico: bits a byte beside a trigram model and xz, and statistics of its ten checkpoints.

    python scripts/pico_figures.py --checkpoints runs/pico/checkpoints --out src/cutaway/models/pico

Held-out text is the test split of Python's standard library, of which no file was trained on. Writes figures.json and
training.json into the output folder.
"""

from __future__ import annotations

import argparse
import json
import lzma
from pathlib import Path

import numpy as np
import torch
from train_pico import training_documents

import cutaway as cw
from cutaway.data import stdlib


class Trigram:
    """An interpolated Kneser-Ney trigram model over tokens (Chen and Goodman 1999, equation 28; one discount an order)."""

    def __init__(self, tokens: np.ndarray, vocabulary: int):
        self.v = vocabulary
        t = tokens.astype(np.int64)
        pairs, triples = t[:-1] * self.v + t[1:], (t[:-2] * self.v + t[1:-1]) * self.v + t[2:]
        self.triple = _Table(triples)
        self.pair_total = _Table(pairs[:-1])                               # how often each context of two is seen
        self.pair_kinds = _Table(self.triple.keys // self.v)               # by how many tokens it is followed
        self.second = _Table(self.triple.keys % self.v**2)                 # before how many tokens each pair is seen
        self.second_total = _Table(self.second.keys // self.v, self.second.counts)
        self.second_kinds = _Table(self.second.keys // self.v)
        self.first = _Table(self.second.keys % self.v)
        self.first_total = float(self.first.counts.sum())

    def bits(self, tokens: np.ndarray) -> np.ndarray:
        """Bits of each token from the third on."""
        t = tokens.astype(np.int64)
        a, b, c = t[:-2], t[1:-1], t[2:]
        d1, d2, d3 = self.first.discount, self.second.discount, self.triple.discount
        p = np.maximum(self.first(c) - d1, 0) / self.first_total + d1 * len(self.first.keys) / self.first_total / self.v
        total = self.second_total(b)
        seen = np.maximum(self.second(b * self.v + c) - d2, 0) + d2 * self.second_kinds(b) * p
        p = np.where(total > 0, seen / np.maximum(total, 1), p)
        context = a * self.v + b
        total = self.pair_total(context)
        seen = np.maximum(self.triple(context * self.v + c) - d3, 0) + d3 * self.pair_kinds(context) * p
        return -np.log2(np.where(total > 0, seen / np.maximum(total, 1), p))


class _Table:
    """Counts of integer keys, looked up by bisection."""

    def __init__(self, keys: np.ndarray, weights: np.ndarray | None = None):
        self.keys, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        self.counts = counts if weights is None else np.bincount(inverse, weights)

    @property
    def discount(self) -> float:
        once, twice = (self.counts == 1).sum(), (self.counts == 2).sum()
        return float(once / (once + 2 * twice)) if once else 0.5

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.counts[place], 0).astype(np.float64)


def xz_bytes(text: bytes) -> int:
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


@torch.no_grad()
def checkpoint_statistics(folder: Path, tokenizer_from: Path) -> dict:
    """Held-out loss, norms, attention habits and stable ranks of one checkpoint."""
    net = cw.open(folder, tokenizer=cw.open(tokenizer_from).tokenizer)
    text = cw.stdlib(net, "validation").take(16_384)
    moments = [cw.Moments(site.name) for site in net.sites("blocks.*")]
    cw.observe(net, text, moments)
    generator = torch.Generator().manual_seed(0)
    half = torch.randint(2, 4096, (8, 100), generator=generator)
    repeated = torch.cat([torch.zeros(8, 1, dtype=torch.long), half, half], 1)
    patterns = net.record(repeated, "blocks.*.attn.pattern")
    here = torch.arange(101, 201)
    real = net.record(next(text.batches(8)), "blocks.*.attn.pattern")
    later = torch.arange(1, net.context)
    ranks = {name: float(p.norm() ** 2 / torch.linalg.matrix_norm(p, 2) ** 2)
             for name, p in net.module.named_parameters() if p.ndim == 2}
    return {
        "loss": cw.measure(net, text, "loss")["loss"].json(),
        "residual_norm": [float(np.mean(m.norms)) for m in moments],
        "residual_largest_over_median": [float(m.maximum.max() / m.maximum.median()) for m in moments],
        "residual_kurtosis_mean": [float(m.kurtosis.mean()) for m in moments],
        "head_attends_to_begin": [p[:, :, 1:, 0].mean((0, 2)).tolist() for p in real.values()],
        "head_attends_to_previous": [p[:, :, later, later - 1].mean((0, 2)).tolist() for p in real.values()],
        "head_induction": [p[:, :, here, here - 99].mean((0, 2)).tolist() for p in patterns.values()],
        "weight_stable_rank": ranks,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--checkpoints", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    args = arguments.parse_args()
    net = cw.open(args.out)
    test = cw.stdlib(net, "test")
    held_out = list(stdlib.documents("test"))
    measured = cw.measure(net, test, ["bits_per_byte", "loss"], progress=True)
    documents = training_documents()
    train, ids = ([np.asarray(i) for i in net.tokenizer(texts)["input_ids"]] for texts in (documents, held_out))
    trigram, stream = Trigram(np.concatenate(train), len(net.tokenizer)), np.concatenate(ids)
    text = "".join(held_out).encode()
    trigram_bits = trigram.bits(stream)[stream[2:] != net.tokenizer.bos_token_id].sum() / len(text)
    before = "".join(documents).encode()
    figures = {
        "held_out": f"test split of Python's standard library, {len(held_out)} files, {len(text):,} bytes",
        "pico_bits_per_byte": measured["bits_per_byte"].json(),
        "trigram_bits_per_byte": float(trigram_bits),
        "xz_bits_per_byte": 8 * xz_bytes(text) / len(text),
        "xz_after_training_text_bits_per_byte": 8 * (xz_bytes(before + text) - xz_bytes(before)) / len(text),
        "pico_loss": measured["loss"].json(),
        "training_files": len(documents), "training_tokens_in_text": int(sum(map(len, train))),
    }
    print(json.dumps(figures, indent=2))
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    folders = sorted(args.checkpoints.glob("step-*"))
    training = {folder.name: checkpoint_statistics(folder, args.out) for folder in folders}
    (args.out / "training.json").write_text(json.dumps(training) + "\n")
    print(f"statistics of {len(training)} checkpoints in {args.out / 'training.json'}")


if __name__ == "__main__":
    main()
