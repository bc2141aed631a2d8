"""Sparse encode, decode, their gradients and the optimizer's step on rows: one interface, three backends.

`reference` is plain torch and exact, `cpu` is Numba with a bfloat16 product that selects, `gpu` is Triton. `sparse` holds the
differentiable functions and picks the backend by the weight's device and dtype.
"""

from .reference import Product, is_dense
from .sparse import (
    Rows,
    adam_rows,
    at,
    backend_of,
    collecting,
    decode,
    encode_above,
    encode_batch_topk,
    encode_by,
    encode_groups,
    encode_magnitude,
    encode_positive,
    encode_topk,
    fast_pays,
    mask_largest,
    squared_error,
    take,
)

__all__ = ["Product", "Rows", "adam_rows", "at", "backend_of", "collecting", "decode", "encode_above", "encode_batch_topk",
           "encode_by", "encode_groups", "encode_magnitude", "encode_positive", "encode_topk", "fast_pays", "is_dense",
           "mask_largest", "squared_error", "take"]
