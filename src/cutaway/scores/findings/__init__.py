"""Published analyses of a whole network: one file each, a function of a network and data that gives a small record."""

from .depth_use import DepthUse, depth_use
from .essential_sparsity import Sparsity, essential_sparsity
from .iscs import Channels, iscs
from .lac_voids import Voids, lac_voids
from .layer_transfer import Transfer, layer_transfer
from .massive_dynamics import Curve, fit_curve, massive_dynamics, massive_ratio
from .neuron_path import NeuronPath, neuron_path
from .sink_decorrelation import Sinks, sink_decorrelation, sinks

__all__ = ["Channels", "Curve", "DepthUse", "NeuronPath", "Sinks", "Sparsity", "Transfer", "Voids", "depth_use",
           "essential_sparsity", "fit_curve", "iscs", "lac_voids", "layer_transfer", "massive_dynamics", "massive_ratio",
           "neuron_path", "sink_decorrelation", "sinks"]
