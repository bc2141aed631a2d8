"""Known truth: activations that are made of known features, and how well a dictionary found them."""

from .judge import Judged, judge, judged, matched, stability
from .synth import synth_sae_bench, synth_small
from .toy import toy_network
from .world import Firing, Sample, World
from .worlds import WORLDS

__all__ = ["WORLDS", "Firing", "Judged", "Sample", "World", "judge", "judged", "matched", "stability",
           "synth_sae_bench", "synth_small", "toy_network"]
