"""Activations on disk, for when the network is dearer than the disk: written once, read in any order.

    cached = cw.harvest(net, data, "blocks.*", "runs/harvest", tokens=2_000_000, dtype="int8")
    x = cached.read("blocks.2", [5, 17])                    # float32 [2, d]
    for xs, position in cached.batches(["blocks.2"], 4096, seed=0, epoch=0): ...

`layout` says how it lies on disk, `codecs` how a row becomes bytes, `write` and `shard` write it, `statistics` sums it up,
`permutation` puts it in random order, `read` reads it.
"""

from .permutation import Permutation
from .read import Harvest
from .write import harvest

__all__ = ["Harvest", "Permutation", "harvest"]
