"""What a network's parts are about: names with their scores, and what they are found by."""

from .endpoint import Endpoint
from .guess import Guess
from .name import Name
from .naming import explain
from .outcome import Score
from .rules import Part, Pattern, Rule

__all__ = ["Endpoint", "Guess", "Name", "Part", "Pattern", "Rule", "Score", "explain"]
