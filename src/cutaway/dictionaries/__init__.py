"""Sparse-feature learners: a method is a recipe of an encoder, a sparsifier, a decoder constraint and loss terms."""

from .abs_topk import AbsTopK
from .atm_sae import ATM
from .batch_topk import BatchTopK
from .codes import Codes
from .csr import CSR
from .dictionary import Dictionary, Facts
from .evaluate import evaluate
from .feature_choice import FeatureChoice
from .features import Context, Direction, Feature, Features, watch
from .gated import Gated
from .gba import GBA
from .group_max import GroupMax
from .jumprelu import JumpReLU
from .k_sparse import KSparse
from .matryoshka import Matryoshka
from .mutual_choice import MutualChoice
from .progressive import Progressive
from .recipe import Recipe
from .relu_l1 import ReLU
from .top_afa import TopAFA
from .topk import TopK
from .vsae import VSAE

__all__ = ["ATM", "CSR", "GBA", "VSAE", "AbsTopK", "BatchTopK", "Codes", "Context", "Dictionary", "Direction", "Facts",
           "Feature", "FeatureChoice", "Features", "Gated", "GroupMax", "JumpReLU", "KSparse", "Matryoshka", "MutualChoice",
           "Progressive", "ReLU", "Recipe", "TopAFA", "TopK", "evaluate", "watch"]
