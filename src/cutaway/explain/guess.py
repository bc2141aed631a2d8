"""What an explainer says a feature is, before anything was scored; and what it takes to be a name."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .rules import Rule
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Guess:
    """Words for a feature, and the rule behind them where there is one; by: the explainer's id."""

    text: str
    by: str
    rule: Rule | None = None

    def tokens(self, vocabulary: Vocabulary) -> np.ndarray:
        """The tokens that the words are about, those of the rule, or those that the words have in quotation marks: [size]."""
        if self.rule is not None:
            return self.rule.tokens(vocabulary)
        found = np.zeros(len(vocabulary), bool)
        for quoted in re.findall(r"[\"“`']([^\"”`']+)[\"”`']", self.text):
            found |= vocabulary.members("reads", quoted.strip().casefold())[:-1]
        return found
