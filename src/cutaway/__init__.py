"""Cutaway finds what matters inside a neural network, and acts on it."""

from .catalogue import methods
from .data import arrays, corpus, images, text
from .data.corpora import stdlib
from .dictionaries import Dictionary, KSparse, ReLU, TopK, evaluate, watch
from .edits import clamp, difference, mean_ablate, resample_ablate, steer, zero_ablate
from .metrics import measure, row_loss
from .network import Edit, Network, Site, open
from .observe import Covariance, Moments, Sample, observe
from .train import learn, load
from .units import Units, units

__version__ = "0.1.0"

__all__ = [
    "Covariance", "Dictionary", "Edit", "KSparse", "Moments", "Network", "ReLU", "Sample", "Site", "TopK", "Units", "arrays",
    "clamp", "corpus", "difference", "evaluate", "images", "learn", "load", "mean_ablate", "measure", "methods", "observe",
    "open", "resample_ablate", "row_loss", "stdlib", "steer", "text", "units", "watch", "zero_ablate"]
