"""Sparse-feature learners: a method is a recipe of an encoder, a sparsifier, a decoder constraint and loss terms."""

from .abs_topk import AbsTopK
from .batch_topk import BatchTopK
from .codes import Codes
from .dictionary import Dictionary, Facts
from .evaluate import evaluate
from .features import Context, Direction, Feature, Features, watch
from .gated import Gated
from .group_max import GroupMax
from .jumprelu import JumpReLU
from .k_sparse import KSparse
from .matryoshka import Matryoshka
from .recipe import Recipe
from .relu_l1 import ReLU
from .topk import TopK

__all__ = ["AbsTopK", "BatchTopK", "Codes", "Context", "Dictionary", "Direction", "Facts", "Feature", "Features", "Gated",
           "GroupMax", "JumpReLU", "KSparse", "Matryoshka", "ReLU", "Recipe", "TopK", "evaluate", "watch"]
