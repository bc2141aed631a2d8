"""The tables that need the dictionary or the network: neighbours, effects on logits, the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from ..dictionaries import Dictionary
    from ..network import Network

NEAREST, TOGETHER, EFFECTS = 12, 12, 15      # neighbours by cosine and by co-activation; tokens raised and lowered
BLOCK = 512                                  # latents at a time
SAMPLED, PAIRS = 200_000, 2e8                # co-activation is counted on so many tokens, or on fewer when codes are dense
LEAST = 5                                    # tokens at which two latents fire together, at least


def nearest(directions: Tensor, n: int = NEAREST) -> dict[str, np.ndarray]:
    """The latents whose decoder rows [width, d] have the greatest cosine with each."""
    import torch
    unit = torch.nn.functional.normalize(directions.float(), dim=1)
    n = min(n, len(unit) - 1)
    rows: dict[str, list[np.ndarray]] = {"other": [], "value": []}
    for i in range(0, len(unit), BLOCK):
        cosines = unit[i: i + BLOCK] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(i, i + len(cosines))] = -2
        values, others = cosines.topk(n)
        rows["other"].append(others.numpy().ravel())
        rows["value"].append(values.numpy().ravel())
    return _neighbours("cosine", np.full(len(unit), n), np.concatenate(rows["other"]), np.concatenate(rows["value"]))


def together(starts: np.ndarray, latents: np.ndarray, keep: np.ndarray, width: int, row_length: int,
             n: int = TOGETHER) -> tuple[dict[str, np.ndarray], int]:
    """The latents that fire most with each, by Jaccard's index, on a sample of whole rows spread evenly over the data.

    starts, latents: the firings by position. Returns the table and the number of tokens that were counted.
    """
    from scipy.sparse import csr_matrix
    n_rows = len(keep) // row_length
    per_token = max(1.0, len(latents) / max(1, len(keep)))
    wanted = max(1, int(min(SAMPLED, PAIRS / per_token**2)) // row_length)
    rows = np.unique(np.linspace(0, n_rows - 1, min(n_rows, wanted)).astype(np.int64))
    positions = (rows[:, None] * row_length + np.arange(row_length)).ravel()
    lengths = np.diff(np.stack([starts[positions], starts[positions + 1]]).astype(np.int64), axis=0)[0]
    columns = [latents[int(starts[r * row_length]): int(starts[(r + 1) * row_length])] for r in rows]
    fires = csr_matrix((np.ones(lengths.sum(), np.int32), np.concatenate(columns).astype(np.int32),
                        np.concatenate([[0], np.cumsum(lengths)])), (len(positions), width))
    counts, tokens = np.asarray(fires.sum(0)).ravel(), int(keep[positions].sum())
    by_latent = fires.T.tocsr()
    sizes, found = np.zeros(width, np.int64), []
    for i in range(0, width, BLOCK):
        both = (by_latent[i: i + BLOCK] @ fires).tocsr()
        for j in range(both.shape[0]):
            own = slice(both.indptr[j], both.indptr[j + 1])
            other, count = both.indices[own], both.data[own]
            fit = (other != i + j) & (count >= LEAST)
            other, count = other[fit], count[fit]
            jaccard = count / (counts[i + j] + counts[other] - count)
            best = np.lexsort((other, -jaccard))[:n]
            sizes[i + j] = len(best)
            lift = count[best] * float(tokens) / (counts[i + j] * counts[other[best]].astype(np.float64))
            found.append((other[best], jaccard[best], count[best], lift))
    return _neighbours("coactive", sizes, *(np.concatenate([row[k] for row in found]) for k in range(4))), tokens


def _neighbours(kind: str, sizes: np.ndarray, other: np.ndarray, value: np.ndarray, count: np.ndarray | None = None,
                lift: np.ndarray | None = None) -> dict[str, np.ndarray]:
    return {"latent": np.repeat(np.arange(len(sizes)), sizes).astype(np.uint32), "kind": np.full(len(other), kind),
            "rank": np.concatenate([np.zeros(0, np.uint16), *(np.arange(n, dtype=np.uint16) for n in sizes)]),
            "other": other.astype(np.uint32), "value": value.astype(np.float32),
            "count": np.zeros(len(other), np.uint32) if count is None else count.astype(np.uint32),
            "lift": np.zeros(len(other), np.float32) if lift is None else lift.astype(np.float32)}


def shares(dictionary: Dictionary) -> np.ndarray:
    """How a latent's decoder is shared among the sites that are written, by its norm at each in that site's units: [width,
    sites]."""
    import torch
    rows = [dictionary.rows_into(j).detach().float() for j in range(len(dictionary.writes))]
    units = dictionary.units().split([part.shape[1] for part in rows])
    norms = torch.stack([(part / unit).norm(dim=1) for part, unit in zip(rows, units, strict=True)], 1)
    return (norms / norms.sum(1, keepdim=True).clamp(min=1e-12)).cpu().numpy()


def logits(net: Network, dictionary: Dictionary, n_known: int, bins: int) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The tokens whose logits each latent raises and lowers most, a histogram of all, and the site: the last that is written.

    Raises ValueError without an unembedding.
    """
    from ..dictionaries.logits import last_written, logit_effects
    last = last_written(net, dictionary)
    site, directions = dictionary.writes[last], dictionary.rows_into(last).detach()
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("latent", "sign", "rank", "token", "value")}
    shapes: dict[str, list[Any]] = {"latent": [], "low": [], "high": [], "counts": []}
    for i in range(0, dictionary.width, BLOCK):
        effects = logit_effects(net, site, directions[i: i + BLOCK])[:, :n_known].cpu()
        n = min(EFFECTS, effects.shape[1])
        for sign in (1, -1):
            values, tokens = (sign * effects).topk(n)
            rows["latent"].append(np.repeat(np.arange(i, i + len(effects), dtype=np.uint32), n))
            rows["sign"].append(np.full(tokens.numel(), sign, np.int8))
            rows["rank"].append(np.tile(np.arange(n, dtype=np.uint16), len(effects)))
            rows["token"].append(tokens.numpy().ravel().astype(np.uint32))
            rows["value"].append(sign * values.numpy().ravel())
        for j, own in enumerate(effects.numpy(), start=i):
            counts, edges = np.histogram(own, bins)
            for name, value in (("latent", j), ("low", edges[0]), ("high", edges[-1]), ("counts", counts)):
                shapes[name].append(value)
    table = {name: np.concatenate(parts) for name, parts in rows.items()}
    order = np.lexsort((table["rank"], -table["sign"], table["latent"]))
    return {name: column[order] for name, column in table.items()}, shapes, site


def vocabulary(tokenizer: Any, size: int) -> dict[str, Any]:
    """The bytes of each token, and which tokens are special."""
    from ..data.packing import special_ids
    from ..report.tokens import bytes_of
    special = set(special_ids(tokenizer))
    return {"token": np.arange(size, dtype=np.uint32), "bytes": bytes_of(tokenizer, range(size)),
            "special": [i in special for i in range(size)]}
