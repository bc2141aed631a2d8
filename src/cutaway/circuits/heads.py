"""Where heads look in text that says itself again: which are induction heads by their patterns alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..network import Network
from .tasks import plain_tokens

if TYPE_CHECKING:
    import pandas as pd

# name -> how far back a head looks, in tokens, for a repetition after `length`
LOOKS = {"prefix_matching": lambda length: length - 1, "previous_token": lambda length: 1,
         "duplicate_token": lambda length: length}


@torch.no_grad()
def head_patterns(net: Network, n: int = 32, length: int = 24, seed: int = 0) -> pd.DataFrame:
    """The mean attention of every head over the second half of repeated random tokens: one row a head.

    `prefix_matching`: to the token after the same one before, which makes an induction head (Olsson et al. 2022, arXiv
    2209.11895); `previous_token`: to the one before; `duplicate_token`: to the same one before. n: sequences; length: random
    tokens, all different, that are said twice, or as many as there are and the network reads.
    """
    import pandas as pd
    plain, begin = plain_tokens(net), getattr(net.tokenizer, "bos_token_id", None)
    length = min(length, len(plain), ((net.context or 2 * length + 1) - (begin is not None)) // 2)
    if length < 2:
        raise ValueError(f"a repeated sequence has at least two different tokens; found length={length}.")
    generator = torch.Generator().manual_seed(seed)
    half = torch.stack([plain[torch.randperm(len(plain), generator=generator)[:length]] for _ in range(n)])
    first = [] if begin is None else [torch.full((n, 1), begin)]
    ids = torch.cat([*first, half, half], 1)
    patterns = net.record({"input_ids": ids}, "blocks.*.attn.pattern")
    queries = torch.arange(ids.shape[1] - length, ids.shape[1])
    rows = []
    for name, pattern in patterns.items():
        looks = {look: pattern[:, :, queries, queries - back(length)].mean((0, 2)) for look, back in LOOKS.items()}
        rows.append(pd.DataFrame({"site": name.replace("pattern", "heads"), "unit": range(pattern.shape[1]),
                                  **{look: values.float().numpy() for look, values in looks.items()}}))
    return pd.concat(rows, ignore_index=True)
