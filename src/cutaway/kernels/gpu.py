"""The Triton backend: the functions of `reference` for float32 weights on a GPU, all with deterministic results.

Needs the package triton, which comes with PyTorch's CUDA builds on Linux; nothing else in Cutaway imports it. **It has been
run in Triton's interpreter only, on a CPU, and compiled, but not run, for compute capability 9.0: nothing here has been
timed, and no speed is claimed.** What follows is arithmetic.

A training step (TopK, Adam on encoder and decoder) at d 4,096, width 131,072, k 64, batch 8,192, all activations in float32.
In GB of device memory, on the left as if each gathered row came from memory each time, on the right as if every operand were
read once and then found in the cache; the truth lies between. A share is of the time of the encoder's bfloat16 product,
8.89 ms at 989 TFLOP/s, with memory at 4.8 TB/s (both from the H200's data sheet, so both optimistic).

| part of a step                         | GFLOP |    GB |  share |  GB, cached | share |
|----------------------------------------|-------|-------|--------|-------------|-------|
| largest: the product, by cuBLAS        | 8,796 |   6.5 |   1.00 |         3.3 |  1.00 |
| largest: maxima of groups of 64        |     1 |   2.2 |   0.05 |         2.2 |  0.05 |
| largest: candidates (about 75 a row)   |     - |   0.6 |   0.01 |         0.6 |  0.01 |
| largest: rescoring them in float32     |     5 |  10.2 |   0.24 |         2.3 |  0.05 |
| combine: decode                        |     4 |   8.7 |   0.20 |         2.3 |  0.05 |
| products: gradient of the code         |     4 |   8.7 |   0.20 |         2.3 |  0.05 |
| adam_rows, twice: gathers of x         |     9 |  17.2 |   0.40 |         0.3 |  0.01 |
| adam_rows, twice: weight, m, v, low    |    13 |  27.9 |   0.65 |        27.9 |  0.65 |
| all                                    |       |       |   2.77 |             |  1.89 |

About 75 candidates a row is what the interpreter found for random unit rows at width 131,072 (d 1,024, 6 rows: 71 to 78).
A step of 1.3 times the product is therefore out of reach with float32 Adam at every step of this shape, whatever the kernels:
the product and Adam's passes over weights and moments alone make 1.65. It takes a smaller state (moments in fewer bits), or
several batches to an update. Left out of the table: launches, sorting 524,288 entries twice, and gradients of biases.
"""

from __future__ import annotations

from .gpu_products import combine, products
from .gpu_select import above, groups, kth_largest, largest, low_copy
from .gpu_update import adam_rows, sums, transposed

__all__ = ["above", "adam_rows", "combine", "groups", "kth_largest", "largest", "low_copy", "products", "sums", "transposed"]
