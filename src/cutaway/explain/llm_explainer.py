"""Names by a language model that reads the texts in which a feature fires."""

from __future__ import annotations

from ..catalogue import method
from ..dictionaries import Feature
from . import prompts
from .endpoint import Endpoint
from .guess import Guess
from .text import Text
from .windows import Unmeasurable, strongest


@method("llm-explainer", family="explain", title="Names by a language model", paper="arXiv 2410.13928, section 2")
def llm_explainer(feature: Feature, text: Text, endpoint: Endpoint, n: int = 20, raised: int = 8) -> Guess:
    """Ask a language model what the texts in which a feature fires have in common.

    endpoint: any OpenAI-compatible one. n: windows of the naming side that are shown, half of them the strongest and the
    others from all quantiles, with strong tokens marked and their activation from 1 to 10. raised: how many of the tokens
    that the direction raises are shown, where an unembedding reads it. Raises Unmeasurable for a feature that hardly fires
    and when no name is in the answer; that answer is kept and counted.
    """
    windows = strongest(feature, text, n)
    try:
        tokens = [token for token, _ in feature.logits(raised)[0]] if raised else []
    except ValueError:
        tokens = []
    answer = endpoint.ask(prompts.NAME, prompts.naming(windows, tokens))
    name = prompts.read_name(answer)
    if name is None:
        endpoint.unreadable(answer, "a line that begins with NAME:")
        raise Unmeasurable("the language model's answer has no line that begins with NAME:")
    return Guess(name, "llm-explainer")
