"""One page, and the same in the terminal, that shows what a run found."""

from .contents import (
    Ablation,
    Acting,
    Context,
    Estimator,
    Feature,
    Heads,
    Learning,
    Report,
    Run,
    Sample,
    ScoreMap,
    Steering,
)
from .page import render
from .terminal import summary
from .tokens import spell
from .values import Histogram, Missing, Series, Shown

__all__ = ["Ablation", "Acting", "Context", "Estimator", "Feature", "Heads", "Histogram", "Learning", "Missing",
           "Report", "Run", "Sample", "ScoreMap", "Series", "Shown", "Steering", "render", "spell", "summary"]
