"""What `import cutaway as cw` offers, in one place: each name that a user writes, from the room where it lives."""

from .analyses import analyse
from .attribute import Attribution, Target, attribute, faithfulness
from .catalogue import methods
from .data import arrays, corpus, images, text
from .data.corpora import stdlib
from .dictionaries import (
    ATM,
    CSR,
    GBA,
    OMP,
    VSAE,
    AbsTopK,
    Archetypal,
    BatchTopK,
    Crosscoder,
    CrosscoderL1,
    CrossLayerTranscoder,
    Dictionary,
    FeatureChoice,
    Gated,
    GradientSAE,
    GroupMax,
    JumpReLU,
    KSparse,
    Matryoshka,
    MutualChoice,
    Progressive,
    RelaxedArchetypal,
    ReLU,
    SkipTranscoder,
    TopAFA,
    TopK,
    Transcoder,
    evaluate,
    watch,
)
from .dictionaries.quality import profile
from .edits import clamp, difference, mean_ablate, resample_ablate, steer, zero_ablate
from .explain import Endpoint, explain
from .formats import load_dictionaries, load_dictionary, save_dictionary
from .harvest import Harvest, harvest
from .metrics import measure, row_loss
from .network import Edit, Network, Site, open, side_by_side
from .observe import Covariance, Moments, Sample, observe
from .store import FeatureStore, store, stores
from .train import Schedule, Settings, learn, load
from .units import Units, units

__all__ = [
    "ATM", "CSR", "GBA", "OMP", "VSAE", "AbsTopK", "Archetypal", "Attribution", "BatchTopK", "Covariance",
    "CrossLayerTranscoder", "Crosscoder", "CrosscoderL1", "Dictionary", "Edit", "Endpoint", "FeatureChoice",
    "FeatureStore", "Gated", "GradientSAE", "GroupMax", "Harvest", "JumpReLU", "KSparse", "Matryoshka", "Moments",
    "MutualChoice", "Network", "Progressive", "ReLU", "RelaxedArchetypal", "Sample", "Schedule", "Settings", "Site",
    "SkipTranscoder", "Target", "TopAFA", "TopK", "Transcoder", "Units", "analyse", "arrays", "attribute", "clamp", "corpus",
    "difference", "evaluate", "explain", "faithfulness", "harvest", "images", "learn", "load", "load_dictionaries",
    "load_dictionary", "mean_ablate", "measure", "methods", "observe", "open", "profile", "resample_ablate", "row_loss",
    "save_dictionary", "side_by_side", "stdlib", "steer", "store", "stores", "text", "units", "watch", "zero_ablate"]
