"""Analyses of whole networks as a user runs them: one call and one command for each, with words, figures and a picture."""

from .finding import Finding, Spread
from .running import ANALYSES, analyse, analysis, read_options

__all__ = ["ANALYSES", "Finding", "Spread", "analyse", "analysis", "read_options"]
