"""Sparse-feature learners: a method is a recipe of an encoder, a sparsifier, a decoder constraint and loss terms."""

from .abs_topk import AbsTopK
from .across import SkipTranscoder, Transcoder
from .archetypal import Archetypal, RelaxedArchetypal
from .atm_sae import ATM
from .batch_topk import BatchTopK
from .codes import Codes
from .crosscoder import Crosscoder, CrosscoderL1
from .csr import CSR
from .dictionary import Dictionary, Facts
from .evaluate import evaluate
from .feature_choice import FeatureChoice
from .features import Context, Direction, Feature, Features, watch
from .gated import Gated
from .gba import GBA
from .gradient_sae import GradientSAE
from .group_max import GroupMax
from .jumprelu import JumpReLU
from .k_sparse import KSparse
from .matryoshka import Matryoshka
from .mutual_choice import MutualChoice
from .omp import OMP
from .progressive import Progressive
from .recipe import Recipe
from .relu_l1 import ReLU
from .top_afa import TopAFA
from .topk import TopK
from .upward import CrossLayerTranscoder
from .vsae import VSAE

__all__ = ["ATM", "CSR", "GBA", "OMP", "VSAE", "AbsTopK", "Archetypal", "BatchTopK", "Codes", "Context", "CrossLayerTranscoder",
           "Crosscoder", "CrosscoderL1", "Dictionary", "Direction", "Facts", "Feature", "FeatureChoice", "Features", "Gated",
           "GradientSAE", "GroupMax", "JumpReLU", "KSparse", "Matryoshka", "MutualChoice", "Progressive", "ReLU", "Recipe",
           "RelaxedArchetypal", "SkipTranscoder", "TopAFA", "TopK", "Transcoder", "evaluate", "watch"]
