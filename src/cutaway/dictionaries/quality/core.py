"""Reconstruction, sparsity and what the network loses: the public benchmark's core figures at their right definitions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..dictionary import Dictionary
from ..evaluate import harmless, moved_to, recovered
from ..splicing import losses_under
from .bench import Bench, rows_of, sums_by
from .contract import Metric, Results, Sums, Undefined, mean_of, share
from .wired import alone, in_place

OFFICIAL = {"reconstruction tokens": 409_600, "sparsity tokens": 4_096_000}   # of SAEBench core
SHARES = {"ce_loss_score": "zero", "loss_lost": "zero", "ce_loss_score_mean": "mean"}     # of what an ablation costs
LOSS_TOKENS = 15_000      # of the bench's tokens, spread over all of its rows: each needs two passes of the whole network


def reconstruction(dictionary: Dictionary, bench: Bench) -> Results:
    """Squared error, direction and length of the reconstruction, and how many latents make it."""
    codes, columns, reason = bench.codes(dictionary), [], alone(dictionary)
    y, spread = bench.written, bench.spread
    mean = (y / spread).double().mean(0)
    for i in range(0, bench.n, 4096):
        x, part = (y[i: i + 4096] / spread).double(), slice(i, i + 4096)
        made = torch.zeros_like(x) if reason else (dictionary.decode(rows_of(codes, part)) / spread).double()
        lengths, made_lengths = x.norm(dim=1), made.norm(dim=1)
        both, error = (x * made).sum(1), (x - made).pow(2).sum(1)
        columns.append(torch.stack([
            torch.ones(len(x)), error, lengths**2, both / (lengths * made_lengths).clamp(min=1e-300),
            codes.values[part].ne(0).sum(1), codes.values[part].abs().sum(1), made_lengths / lengths.clamp(min=1e-300),
            made_lengths**2, both, 1 - error / (x - mean).pow(2).sum(1).clamp(min=1e-300)], 1))
    sums = sums_by(bench.group, bench.groups, list(torch.cat(columns).numpy().T))
    mean_square = float(mean.pow(2).sum())

    def explained(sums: np.ndarray) -> np.ndarray:
        return 1 - sums[..., 1] / (sums[..., 2] - sums[..., 0] * mean_square)

    def figure(i: int, better: str, over: int = 0) -> Sums:
        return Sums(sums[:, [i, over]], share, better, "tokens", bench.n)

    found: Results = {
        "explained_variance": Sums(sums[:, :3], explained, "higher", "tokens", bench.n),
        "explained_variance_per_token": figure(9, "higher"), "mse": figure(1, "lower"), "cossim": figure(3, "higher"),
        "l2_ratio": figure(6, ""), "relative_reconstruction_bias": figure(7, "", over=8), "l0": figure(4, ""),
        "l1": figure(5, "")}
    return {name: Undefined(reason) if reason and name not in ("l0", "l1") else each for name, each in found.items()}


def firing(dictionary: Dictionary, bench: Bench) -> Results:
    """How often latents fire, over latents."""
    from scipy.sparse import csc_matrix
    matrix = csc_matrix(bench.matrix(dictionary))
    counts = np.diff(matrix.indptr)
    density = counts / bench.n
    rows = np.array([len(np.unique(bench.row[matrix.indices[lo:hi]])) for lo, hi in
                     zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)])
    often = np.where(rows > 0, counts / np.maximum(rows, 1), np.nan)
    over = f"latents over {bench.n:,} tokens"
    found = {"frac_alive": mean_of(counts > 0, "higher", over), "freq_over_1pct": mean_of(density > 0.01, "", over),
             "freq_over_10pct": mean_of(density > 0.1, "", over),
             "consistent_activation_heuristic": mean_of(often, "", "latents that fire")}
    for name, limit in (("1pct", 0.01), ("10pct", 0.1)):
        found[f"normalized_freq_over_{name}"] = Sums(np.stack([density * (density > limit), density], 1), share, "", over,
                                                     len(counts))
    return found


def weights(dictionary: Dictionary, bench: Bench) -> Results:
    """What the weights alone say: biases, and angles between rows."""
    same, units = in_place(dictionary), dictionary.units()
    read = dictionary.W_enc * units if same else dictionary.W_enc
    encoder, decoder = (F.normalize(rows.detach().float(), dim=1) for rows in (read, dictionary.W_dec / units))
    return {"encoder_bias": mean_of(dictionary.b_enc.detach().numpy(), "", "latents"),
            "encoder_decoder_cosine_sim": mean_of((encoder * decoder).sum(1).numpy(), "", "latents") if same else
            Undefined("what is read at one site and written at another has no angle between the two"),
            "max_encoder_cos": mean_of(_nearest(encoder), "", "latents"),
            "max_decoder_cos": mean_of(_nearest(decoder), "", "latents")}


def _nearest(rows: Tensor) -> np.ndarray:
    """The largest cosine of each unit row with another."""
    found = []
    for i in range(0, len(rows), 1024):
        cosine = rows[i: i + 1024] @ rows.T
        cosine[torch.arange(len(cosine)), torch.arange(i, i + len(cosine))] = -1
        found.append(cosine.amax(1))
    return torch.cat(found).numpy()


def behaviour(dictionary: Dictionary, bench: Bench) -> Results:
    """Cross-entropy and KL with the reconstruction in the place of the activations."""
    names = ("ce_loss_score", "loss_lost", "ce_loss_score_mean", "ce_rise", "kl_div_score", "kl")
    net, data = bench.net, bench.data
    if reason := alone(dictionary):
        return dict.fromkeys(names, Undefined(reason))
    if net is None or net.kind not in ("causal", "masked", "image"):
        return dict.fromkeys(names, Undefined("the network has no loss of its own"))
    if net.kind != "causal" and data.rows([0]).labels is None:
        return dict.fromkeys(names, Undefined("the data has no labels"))
    rows = min(bench.data.n_rows, -(-LOSS_TOKENS // data.row_tokens))
    chosen = np.linspace(0, data.n_rows - 1, rows).round().astype(int)
    fewer, base = replace(data, index=data.index[chosen]), bench.kept
    there = moved_to(dictionary, net.device)
    conditions: dict[str, Any] = {"spliced": (there.splice(net),)}
    if "zero" not in base:
        means = bench.written.mean(0).to(net.device).split(bench.widths or (bench.written.shape[1],))
        conditions |= {"zero": (there.instead(net, [0.0] * len(means)),), "mean": (there.instead(net, means),)}
    found, of = losses_under(net, conditions, fewer, bench.batch_size, divergent=tuple(conditions))
    base.update({name: found[name] for name in ("zero", "mean", "kl zero") if name in found})
    found |= base
    first = np.searchsorted(bench.row, chosen).clip(max=bench.n - 1)
    group, n = bench.group[first], int(found["n"].sum())

    def sums(*columns: str) -> np.ndarray:
        parts = sums_by(group, bench.groups, [found[name] for name in columns])
        return parts[np.unique(group)]

    def lost(sums: np.ndarray) -> np.ndarray:
        return 1 - recovered(sums)

    def rise(sums: np.ndarray) -> np.ndarray:
        return (sums[..., 0] - sums[..., 1]) / sums[..., 2]

    def less(sums: np.ndarray) -> np.ndarray:
        return (sums[..., 0] - sums[..., 1]) / sums[..., 0]

    zero = sums("zero", "spliced", "plain")
    reasons = {name: harmless(np.subtract(*sums(name, "plain").T), sums("n")[:, 0]) for name in ("zero", "mean")}
    figures: Results = {
        "ce_loss_score": Sums(zero, recovered, "higher", of, n), "loss_lost": Sums(zero, lost, "lower", of, n),
        "ce_loss_score_mean": Sums(sums("mean", "spliced", "plain"), recovered, "higher", of, n),
        "ce_rise": Sums(sums("spliced", "plain", "n"), rise, "lower", of, n, "nats a token"),
        "kl_div_score": Sums(sums("kl zero", "kl spliced"), less, "higher", of, n),
        "kl": Sums(sums("kl spliced", "n"), share, "lower", of, n, "nats a token")}
    figures |= {name: Undefined(reasons[ablated]) for name, ablated in SHARES.items() if reasons[ablated]}
    return figures


BESIDE = {"random": "floor", "permuted": "floor", "few components": "beside", "neurons": "ceiling"}
RECONSTRUCTION = Metric(
    "reconstruction", 1, "core",
    "explained variance 1 - E|x - x_hat|^2 / (E|x|^2 - |E x|^2) with sums over dimensions first and means over the whole "
    "sample, in float64; the per-token variant 1 - |r|^2 / |x - mean|^2, averaged over tokens, is for comparison with older "
    "tables only; cosine, E(|x_hat| / |x|), E|x_hat|^2 / E<x, x_hat>, L0 and L1 as they are",
    "SAEBench core, at its corrected definitions; other network and text, attention sinks left out",
    BESIDE, reconstruction)
FIRING = Metric(
    "firing", 1, "core", "shares of latents that fire at all, for more than 1% and 10% of tokens, and activations a row with "
    "at least one", "SAEBench core; the share that is alive depends on the number of tokens", {"random": "floor"}, firing)
WEIGHTS = Metric("weights", 1, "core", "averages over latents of the encoder's bias, of the cosine of encoder and decoder, and "
                 "of the largest cosine with another latent", "SAEBench core", {"random": "floor"}, weights)
BEHAVIOUR = Metric(
    "behaviour", 1, "core",
    "the site's activations replaced by their reconstruction, by zero and by their mean; (ablated - spliced) / (ablated - "
    "as it is) of the cross-entropy, and (ablated - spliced) / ablated of the KL divergence, both in float32 log-softmax",
    "SAEBench core (zero ablation), which replaces attention sinks too; the score saturates, so what is lost stands beside it",
    BESIDE, behaviour)
