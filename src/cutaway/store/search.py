"""Find features: by a token, by a text that stands in the store, by a direction, and by the network on a new text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .layout import number

if TYPE_CHECKING:
    from torch import Tensor

    from ..dictionaries import Codes
    from ..network import Network
    from .feature_store import FeatureStore

PLACES = 20_000    # occurrences that are looked at, spread evenly over all
MATCHES = 2_000    # places of a text
SHOWN = 50         # of them named


def by_token(store: FeatureStore, token: int | str, n: int) -> dict[str, Any]:
    """See `FeatureStore.by_token`."""
    files, words = store.files, store.files.vocabulary
    ids = words.ids(token) if isinstance(token, str) else [number(token, len(words.bytes), "the vocabulary has the tokens")]
    if not ids:
        raise ValueError(f"there is no token spelled {token!r}; spaces count, as in ' def'. Search for it as a text instead.")
    places = np.concatenate([np.flatnonzero((files.tokens[i: i + (1 << 24)] == ids[0]) & files.kept[i: i + (1 << 24)]) + i
                             for i in range(0, len(files.tokens), 1 << 24)])
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), PLACES)).astype(np.int64))]
    return {"token": ids[0], "text": words.name(ids[0]), "occurrences": len(places), "n": len(chosen),
            "features": ranked(store, chosen, n)}


def by_text(store: FeatureStore, text: str, n: int) -> dict[str, Any]:
    """See `FeatureStore.by_text`."""
    files = store.files
    if not isinstance(text, str) or not text:
        raise ValueError(f"give some text to look for; found {text!r}.")
    first, last = files.vocabulary.find(text, files.tokens, MATCHES)
    complete = len(first) < MATCHES
    inside = files.documents[first] == files.documents[last]     # the end of one document and the begin of the next are no text
    first, last = first[inside], last[inside]
    spans = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
    covered = np.unique(np.concatenate([np.zeros(0, np.int64), *spans]))
    length = files.manifest["row_length"]
    return {"text": text, "matches": len(first), "complete": complete,
            "features": ranked(store, covered[files.kept[covered]], n),
            "places": [{"row": int(a) // length, "position": int(a) % length} for a in first[:SHOWN]]}


def ranked(store: FeatureStore, positions: np.ndarray, n: int) -> list[dict[str, Any]]:
    """The latents that fire at some positions more than elsewhere, by how much more, counting how often they do.

    Ranked by share * log2(lift); share: of the positions at which it fires; lift: share over its frequency; mean: of its
    activations there.
    """
    if len(positions) == 0:
        return []
    files = store.files
    fires, _ = files.firings_at(positions)
    latents, levels = files.latents[fires], files.levels[fires]
    offset, scale = files.scales
    counts = np.bincount(latents, minlength=store.width)
    sums = np.bincount(latents, offset[latents] + scale[latents] * levels, minlength=store.width)
    share = counts / len(positions)
    lift = share * store.n_tokens / np.maximum(files.counts, 1)
    score = share * np.log2(np.maximum(lift, 1e-12))
    best = np.lexsort((np.arange(store.width), -score))[:n]
    best = best[score[best] > 0]
    labels, names = store.notes.labels(best), store.names.newest(best)
    return [{"latent": int(i), "count": int(counts[i]), "share": float(share[i]), "lift": float(lift[i]),
             "mean": float(sums[i] / counts[i]), "label": labels.get(int(i)), "name": names.get(int(i))} for i in best]


def by_direction(store: FeatureStore, vector: Any, n: int, at: str = "") -> list[dict[str, Any]]:
    """See `FeatureStore.by_direction`."""
    import torch
    try:
        direction = torch.as_tensor(vector, dtype=torch.float32).flatten().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"a direction is a tensor or an array of numbers; found a {type(vector).__name__}.") from error
    rows, writes = store.unit_directions, store.wiring["writes"]
    if at and at not in writes:
        raise ValueError(f"this dictionary writes {', '.join(writes)}; found {at!r}.")
    if at and len(writes) > 1:
        rows = torch.nn.functional.normalize(store.dictionary.rows_into(writes.index(at)).detach().float(), dim=1)
    if len(direction) != rows.shape[1]:
        beside = " side by side (give at= for one of them)" if len(writes) > 1 and not at else ""
        raise ValueError(f"directions at {at or ', '.join(writes)}{beside} have {rows.shape[1]} numbers; found "
                         f"{len(direction)}.")
    if not torch.isfinite(direction).all() or not direction.norm() > 0:
        raise ValueError("a direction must be of finite numbers that are not all zero.")
    if not at or len(writes) == 1:
        direction = direction / store.dictionary.units().float()
    cosines = rows @ torch.nn.functional.normalize(direction, dim=0)
    values, best = cosines.topk(min(max(0, n), len(cosines)))
    labels, names = store.notes.labels(best.tolist()), store.names.newest(best.tolist())
    return [{"latent": i, "cosine": round(value, 6), "label": labels.get(i), "name": names.get(i)}
            for i, value in zip(best.tolist(), values.tolist(), strict=True)]


def codes_of(store: FeatureStore, net: Network, text: str) -> tuple[Tensor, Tensor, Codes]:
    """A text through the store's own network: token ids [t], which of them the dictionary speaks for [t], and their codes."""
    from .coded import counted, looked_at
    store.check(net)
    dictionary, inputs = store.dictionary, net.tokens(text)
    ids = inputs["input_ids"][0].cpu()
    if len(ids) == 0:
        raise ValueError("this text has no tokens; give some text.")
    sites = looked_at(net, dictionary)
    found = net.record(inputs, sites)
    x, keep = counted(dictionary, [found[name].reshape(len(ids), -1).cpu() for name in sites], ids)
    return ids, keep, dictionary.encoded([part.to(dictionary.W_dec.dtype) for part in x])


def through(store: FeatureStore, net: Network, text: str, n: int) -> dict[str, Any]:
    """See `FeatureStore.through`."""
    ids, keep, codes = codes_of(store, net, text)
    seen = codes.indices.unique().tolist()
    labels, names = store.notes.labels(seen), store.names.newest(seen)
    features = []
    for kept, values, indices in zip(keep.tolist(), codes.values, codes.indices, strict=True):
        order = values.argsort(descending=True)[:n].tolist() if kept else []
        features.append([{"latent": int(indices[i]), "activation": float(values[i]), "label": labels.get(int(indices[i])),
                          "name": names.get(int(indices[i]))} for i in order if values[i] != 0])
    words = store.files.vocabulary
    # A special token that somebody typed is one to the network, and is shown as such; the one that begins every text is not.
    tokens = [words.name(token) if i and token in words.special else piece
              for i, (token, piece) in enumerate(zip(ids.tolist(), words.pieces(ids.tolist()), strict=True))]
    return {"tokens": tokens, "features": features}
