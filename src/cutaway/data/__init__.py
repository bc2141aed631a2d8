"""Streams of text, images and arrays: rows in batches, with the positions that count.

`cutaway.stdlib`, the standard library as rows for a network, is in `corpora`; `stdlib` here is the module behind it.
"""

from .batch import Batch
from .corpora import corpus, text
from .pictures import ImageData, images
from .rows import Data, as_data
from .sinks import below, norm_limit
from .tensors import ArrayData, arrays
from .tokens import TokenData

__all__ = ["ArrayData", "Batch", "Data", "ImageData", "TokenData", "arrays", "as_data", "below", "corpus", "images",
           "norm_limit", "text"]
