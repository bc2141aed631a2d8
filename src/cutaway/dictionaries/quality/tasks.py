"""The yes-or-no questions that probes are asked, for the tokens of a bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import labels

if TYPE_CHECKING:
    from .bench import Bench

LEAST = 100      # a task with fewer tokens on either side is left out


@dataclass(frozen=True)
class Tasks:
    """Questions and their answers.

    names: of the questions; y: bool [n, tasks]; known: bool [n], whether the questions can be answered for a token;
    letters: [n], the first letter (0 to 25) of tokens that are words, -1 of others; token: [n], the token's id.
    sources: where the answers come from, in words.
    """

    names: tuple[str, ...]
    y: np.ndarray
    known: np.ndarray
    letters: np.ndarray
    token: np.ndarray
    sources: str

    def of(self, name: str) -> np.ndarray:
        return self.y[:, self.names.index(name)]


def tasks_of(bench: Bench) -> Tasks:
    """The tasks of a bench: of Python source where most documents are such, of the tokens' own text otherwise.

    Data that is not text has its labels, one against the rest, for tasks.
    """
    data, n = bench.data, bench.n
    nothing = np.full(n, -1)
    if not hasattr(data, "stream"):
        given = data.rows(slice(None)).labels if data is not None else None
        if given is None or given.ndim != 1:
            return Tasks((), np.zeros((n, 0), bool), np.zeros(n, bool), nothing, nothing, "there are no labels")
        y = given.numpy()[bench.row]
        classes = np.unique(y)
        return Tasks(tuple(f"class {c}" for c in classes), y[:, None] == classes, np.ones(n, bool), nothing, nothing,
                     "the data's labels")
    from .bench import documents_of, place_in_stream
    place, document = place_in_stream(data, bench.row, bench.position), documents_of(data, bench.row, bench.position)
    token = np.asarray(data.stream.tokens)[place].astype(np.int64)
    texts = {int(i): data.tokenizer.decode([int(i)], clean_up_tokenization_spaces=False) for i in np.unique(token)}
    columns = {name: np.array([ask(texts[i]) for i in token.tolist()]) for name, ask in labels.SURFACE.items()}
    words = {i: text.strip().lower() for i, text in texts.items()}
    letters = np.array([labels.LETTERS.find(words[i][0]) if words[i].isalpha() and words[i].isascii() else -1
                        for i in token.tolist()])
    known, source = np.zeros(n, bool), np.zeros((n, len(labels.TASKS)), bool)
    for number in np.unique(document):
        here = document == number
        answers = _answers(data, int(number), place[here])
        if answers is not None:
            known[here], source[here] = True, answers
    sources = "the tokens' own text"
    if known.mean() > 0.5:
        columns |= dict(zip(labels.TASKS, source.T, strict=True))
        sources += " and Python's tokenizer"
    else:
        known[:] = True
    names = [name for name, y in columns.items() if LEAST <= y[known].sum() <= known.sum() - LEAST]
    y = np.stack([columns[name] for name in names], 1) if names else np.zeros((n, 0), bool)
    return Tasks(tuple(names), y, known, letters, token, sources)


def _answers(data: Any, document: int, places: np.ndarray) -> np.ndarray | None:
    """Which of `labels.TASKS` are true of some tokens of one document, bool [tokens, tasks]; none where it is not Python."""
    starts = data.stream.starts
    start, stop = int(starts[document]), int(starts[document + 1]) if document + 1 < len(starts) else None
    ids = np.asarray(data.stream.tokens[start:stop]).astype(np.int64)
    own = ~np.isin(ids, data.layout.special)
    text = data.tokenizer.decode(ids[own].tolist(), clean_up_tokenization_spaces=False)
    marks = labels.python(text)
    again = data.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    # Where the text is not cut into the same tokens once more, nobody knows which characters a token stands for.
    if marks is None or again["input_ids"] != ids[own].tolist():
        return None
    number = np.cumsum(own) - 1
    spans = np.array(again["offset_mapping"])[number[places - start]]
    first = np.array([lo + next((i for i, c in enumerate(text[lo:hi]) if not c.isspace()), 0) for lo, hi in spans.tolist()])
    return np.stack([mark[spans[:, 1] if name.startswith("next ") else first] for name, mark in marks.items()], 1)
