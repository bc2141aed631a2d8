"""Importance of a network's own parts: one file a method, all columns of the units table, each with its trust."""

from .column import Column
from .exact import exact
from .findings import (
    depth_use,
    essential_sparsity,
    iscs,
    lac_voids,
    layer_transfer,
    massive_dynamics,
    neuron_path,
    sink_decorrelation,
    sinks,
)
from .path import path
from .running import defined, run
from .significance import significance
from .trust import Trust, trust_table, trusts
from .which import Verdict, estimators, verdict, which_to_trust

__all__ = ["Column", "Trust", "Verdict", "defined", "depth_use", "essential_sparsity", "estimators", "exact", "iscs",
           "lac_voids", "layer_transfer", "massive_dynamics", "neuron_path", "path", "run", "significance",
           "sink_decorrelation", "sinks", "trust_table", "trusts", "verdict", "which_to_trust"]
