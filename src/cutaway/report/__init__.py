"""One page, and the same in the terminal, that shows what a run found."""

from .contents import (
    Ablation,
    Acting,
    Agreement,
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
from .page import render, render_scores
from .scores import scores_page
from .terminal import summary
from .tokens import spell
from .values import Histogram, Missing, Series, Shown

__all__ = ["Ablation", "Acting", "Agreement", "Context", "Estimator", "Feature", "Heads", "Histogram", "Learning", "Missing",
           "Report", "Run", "Sample", "ScoreMap", "Series", "Shown", "Steering", "render", "render_scores",
           "scores_page", "spell", "summary"]
