"""Sparse-feature learners: a method is a recipe of an encoder, a sparsifier, a decoder constraint and loss terms."""

from .codes import Codes
from .dictionary import Dictionary, Facts
from .evaluate import evaluate
from .features import Context, Direction, Feature, Features, watch
from .k_sparse import KSparse
from .recipe import Recipe
from .relu_l1 import ReLU
from .topk import TopK

__all__ = ["Codes", "Context", "Dictionary", "Direction", "Facts", "Feature", "Features", "KSparse", "ReLU", "Recipe",
           "TopK", "evaluate", "watch"]
