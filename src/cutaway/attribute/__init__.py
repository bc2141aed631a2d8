"""Importance of inputs for an output: one file a method, all asked through the same gates on the units of the input."""

from .attribute import additive, as_batch, attribute, goal_of
from .attribution import Attribution
from .faithfulness import Faithfulness, faithfulness
from .inputs import Inputs, inputs_of
from .target import Target

__all__ = ["Attribution", "Faithfulness", "Inputs", "Target", "additive", "as_batch", "attribute", "faithfulness", "goal_of",
           "inputs_of"]
