"""Which parts of a network carry a behaviour: patching, edges between parts, and the smallest circuit that keeps it."""

from .activation_patching import activation_patching
from .attribution_patching import attribution_patching
from .attribution_patching_ig import attribution_patching_ig
from .eap import eap
from .eap_ig import eap_ig
from .edge_patching import edge_patching
from .edge_scores import EdgeScores
from .effects import Agreement, Effects, agreement
from .faithfulness import Benchmark, Curve, benchmark
from .features import feature_attribution, feature_patching, features_kept
from .graph import Graph, graph
from .heads import head_patterns
from .information_flow import information_flow
from .path_patching import path_patching
from .relp import relp
from .smallest_circuit import Circuit, smallest_circuit
from .task import LogitDifference, Task, pairs, strength
from .tasks import TASKS, assignment, induction, task_of

__all__ = [
    "TASKS", "Agreement", "Benchmark", "Circuit", "Curve", "EdgeScores", "Effects", "Graph", "LogitDifference", "Task",
    "activation_patching", "agreement", "assignment", "attribution_patching", "attribution_patching_ig", "benchmark", "eap",
    "eap_ig", "edge_patching", "feature_attribution", "feature_patching", "features_kept", "graph", "head_patterns",
    "induction", "information_flow", "pairs", "path_patching", "relp", "smallest_circuit", "strength", "task_of"]
