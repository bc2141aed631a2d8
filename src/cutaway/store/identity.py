"""Which network, dictionary and data a store was made from."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..dictionaries import Dictionary
    from ..network import Network


def of_dictionary(dictionary: Dictionary) -> str:
    """16 hexadecimal digits that change with any number of a dictionary, its sparsifier, its site and its norm limit."""
    import torch
    state = hashlib.blake2b(digest_size=8)
    # Settings at their defaults are left out, so that a fingerprint outlives settings that are added later.
    part = dictionary.sparsify
    settings = {f.name: getattr(part, f.name) for f in fields(part) if getattr(part, f.name) != f.default}
    state.update(f"{type(part).__name__} {settings} {dictionary.site} {dictionary.facts.max_norm!r}".encode())
    for name, weight in sorted(dictionary.named_parameters()):
        state.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        state.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return state.hexdigest()


def identity(net: Network, dictionary: Dictionary, key: str, data: Any, seed: int) -> dict[str, Any]:
    """What two stores must share to be the same store."""
    from ..network.fingerprint import fingerprint
    return {"network": {"name": net.name, "fingerprint": fingerprint(net)},
            "dictionary": {"key": key, "site": dictionary.site, "width": dictionary.width, "d": dictionary.d,
                           "fingerprint": of_dictionary(dictionary)},
            "data": {"name": data.name, "fingerprint": data.fingerprint},
            "seed": seed}
