"""What a language model is asked about features, and how its answers are read: None where one cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from .windows import Window

NAME = """You study one feature inside a language model. You get stretches of text in which it fires. Tokens at which it \
fires strongly stand between « and ». After each text come these tokens with their activation, from 1 to 10.
Find what these places have in common: the token itself, what stands before it, its grammar, topic or role. Prefer what \
holds for most of them. Say it in at most 20 words, concrete enough that somebody could find the feature in new text by it. \
Do not mention « or » and do not list the examples.
End your answer with one line of the form
NAME: <your words>"""
DETECT = """You get a description of a feature of a language model, and numbered texts. For each text say whether the \
feature described fires anywhere in it. Answer with nothing but a JSON list with one number for each text, in order: 1 for \
yes, 0 for no."""
MARKED = """You get a description of a feature of a language model, and numbered texts with tokens between « and ». For \
each text say whether the marked tokens are those at which the feature described fires. Answer with nothing but a JSON \
list with one number for each text, in order: 1 if they are, 0 if they are not."""
SIMULATE = """You get a description of a feature of a language model, and a text as a JSON list of tokens. Predict how \
strongly the feature fires at each token, from 0 (silent) to 10. Answer with nothing but a JSON list with one whole number \
for each token, in order."""


def naming(windows: Sequence[Window], raised: Sequence[str] = ()) -> str:
    """The texts in which a feature fires, and the tokens that its direction raises."""
    largest = max(float(window.activations.max()) for window in windows)
    parts = []
    for i, window in enumerate(windows, 1):
        tokens = [f"{json.dumps(window.pieces[j], ensure_ascii=False)} {max(1, round(10 * window.activations[j] / largest))}"
                  for j in np.flatnonzero(window.marks)]
        parts.append(f"Text {i}:\n{window.marked()}\nTokens: {', '.join(tokens)}")
    if raised:
        parts.append("Tokens that the feature makes likelier to come next: "
                     + ", ".join(json.dumps(token, ensure_ascii=False) for token in raised))
    return "\n\n".join(parts)


def judging(name: str, texts: Sequence[str]) -> str:
    """A description and numbered texts."""
    return "\n\n".join([f"Description: {name}", *(f"Text {i}:\n{text}" for i, text in enumerate(texts, 1))])


def simulating(name: str, window: Window) -> str:
    return f"Description: {name}\n\nTokens ({len(window.ids)}): {json.dumps(window.pieces, ensure_ascii=False)}"


def _said(answer: str) -> str:
    """An answer without the reasoning before it, which some models put between <think> and </think>; it may be cut off."""
    return answer.rpartition("</think>")[2].partition("<think>")[0]


def read_name(answer: str) -> str | None:
    """The words after the last `NAME:`, in one line."""
    found = re.findall(r"^\W*NAME:\**[ \t]*(\S.*)$", _said(answer), re.MULTILINE)
    words = found[-1].strip().strip("*<>").strip() if found else ""
    return words[:300] or None


def read_list(answer: str, n: int, largest: int) -> list[int] | None:
    """The last JSON list of an answer, if it has n whole numbers from 0 to `largest`."""
    found = re.findall(r"\[[^\[\]]*\]", _said(answer))
    try:
        numbers = json.loads(found[-1]) if found else []
    except ValueError:
        return None
    good = len(numbers) == n and all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x <= largest for x in numbers)
    return numbers if good else None
