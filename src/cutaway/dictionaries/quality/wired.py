"""What a metric can mean for a dictionary that writes elsewhere than it reads, or at several sites."""

from __future__ import annotations

from ..dictionary import Dictionary
from ..source_layer import SourceLayer

PROFILED = ("", "transcoder", "crosscoder", "source-layer")    # kinds whose codes say all that is written, but for a linear map
ALONE = ("what is written is the sum over the layers of a cross-layer transcoder, and this is one of them; `cutaway evaluate` "
         "measures all layers together")
ELSEWHERE = ("it takes what latents write out of what they read, and this dictionary reads {reads} and writes {writes}")
SEVERAL = "a latent is cut at one site, and this dictionary writes {writes}, each of which changes the later ones"


def in_place(dictionary: Dictionary) -> bool:
    """Whether it writes where it reads."""
    return dictionary.reads == dictionary.writes


def elsewhere(dictionary: Dictionary) -> str:
    """Why a metric that takes what latents write out of what they read has no meaning; empty where it has."""
    return "" if in_place(dictionary) else _said(ELSEWHERE, dictionary)


def several(dictionary: Dictionary) -> str:
    """Why a metric that cuts at one site has no meaning; empty where it has."""
    return "" if len(dictionary.writes) == 1 else _said(SEVERAL, dictionary)


def alone(dictionary: Dictionary) -> str:
    """Why a metric of reconstruction has no meaning; empty where it has."""
    return ALONE if isinstance(dictionary, SourceLayer) else ""


def note(dictionary: Dictionary) -> str:
    """What one must know to read figures of such a dictionary; empty for one that reads and writes one site."""
    said = []
    if not in_place(dictionary):
        said.append("What is measured is what it writes; neurons and components write the best linear map of what is read.")
    if len(dictionary.writes) > 1:
        said.append("Each site that is written counts as much as the others, in units of its own spread.")
    return " ".join(said)


def _said(sentence: str, dictionary: Dictionary) -> str:
    return sentence.format(reads=", ".join(dictionary.reads), writes=", ".join(dictionary.writes))
