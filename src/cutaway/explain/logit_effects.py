"""Names by logit effects: which tokens a feature's direction makes likelier."""

from __future__ import annotations

from ..catalogue import method
from ..dictionaries import Feature
from .guess import Guess
from .rules import Part, Pattern, Rule
from .text import Text
from .windows import Unmeasurable

PART = "\ufffd"  # what a token that is part of a character decodes to


@method("logit-effects", family="explain", title="Names by logit effects",
        paper="interpreting GPT: the logit lens, lesswrong.com 2020; arXiv 2501.08319")
def logit_effects(feature: Feature, text: Text, n: int = 8) -> Guess:
    """Name a feature by the n tokens whose logits its direction raises most; later blocks are left out.

    As a rule it says that the feature fires where one of these tokens comes next, which is how far an output-side name can
    be checked on text; `intervention` checks what it claims. Raises Unmeasurable where no unembedding reads the direction.
    """
    try:
        raised, _ = feature.logits(n)
    except ValueError as error:
        raise Unmeasurable(str(error).rstrip(".")) from error
    words = list(dict.fromkeys(token for token, _ in raised if token.strip() and token.isprintable() and PART not in token))
    if not words:
        raise Unmeasurable("the tokens that it raises are white space or parts of characters")
    rule = Rule(tuple(Pattern((Part(-1, "is", word),)) for word in words))
    said = ", ".join(f'"{word}"' for word in words)
    return Guess(f"raises {said}", "logit-effects", rule)
