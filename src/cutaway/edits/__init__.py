"""What can be done to a network: ablate, steer, clamp."""

from .ablate import MeanOf, mean_ablate, resample_ablate, zero_ablate
from .clamp import clamp
from .steer import difference, steer

__all__ = ["MeanOf", "clamp", "difference", "mean_ablate", "resample_ablate", "steer", "zero_ablate"]
