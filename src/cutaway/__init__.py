"""Cutaway finds what matters inside a neural network, and acts on it."""

from .catalogue import methods
from .data import arrays, corpus, images, text
from .data.corpora import stdlib
from .dictionaries import (
    ATM,
    CSR,
    GBA,
    VSAE,
    AbsTopK,
    BatchTopK,
    Dictionary,
    FeatureChoice,
    Gated,
    GroupMax,
    JumpReLU,
    KSparse,
    Matryoshka,
    MutualChoice,
    Progressive,
    ReLU,
    TopAFA,
    TopK,
    evaluate,
    watch,
)
from .dictionaries.quality import profile
from .edits import clamp, difference, mean_ablate, resample_ablate, steer, zero_ablate
from .explain import Endpoint, explain
from .formats import load_dictionaries, load_dictionary, save_dictionary
from .harvest import Harvest, harvest
from .metrics import measure, row_loss
from .network import Edit, Network, Site, open
from .observe import Covariance, Moments, Sample, observe
from .store import FeatureStore, store, stores
from .train import Schedule, Settings, learn, load
from .units import Units, units

__version__ = "0.1.0"

__all__ = [
    "ATM", "CSR", "GBA", "VSAE", "AbsTopK", "BatchTopK", "Covariance", "Dictionary", "Edit", "Endpoint", "FeatureChoice",
    "FeatureStore", "Gated", "GroupMax", "Harvest", "JumpReLU", "KSparse", "Matryoshka", "Moments", "MutualChoice", "Network",
    "Progressive", "ReLU", "Sample", "Schedule", "Settings", "Site", "TopAFA", "TopK", "Units", "arrays", "clamp", "corpus",
    "difference", "evaluate", "explain", "harvest", "images", "learn", "load", "load_dictionaries", "load_dictionary",
    "mean_ablate", "measure", "methods", "observe", "open", "profile", "resample_ablate", "row_loss", "save_dictionary",
    "stdlib", "steer", "store", "stores", "text", "units", "watch", "zero_ablate"]
