"""What stands around each token: the tokens before it, and the state that the text is in there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from .vocabulary import Vocabulary

# What a scan knows at each token: whether it is the first of its line; in what quotes or comment it is, and the innermost open
# bracket; the spaces before the line's first token, -1 where its beginning was not seen; whether the token, and the token
# with the one before it, were in the row already; and its place in the row.
COLUMNS = ("first", "mode", "bracket", "indent", "again", "pair", "index")
# States of the text at a token: a column of the scan, and its least and largest value there.
STATES: dict[str, tuple[str, int, int]] = {
    "at the start of a line": ("first", 1, 1),
    "in a comment": ("mode", 1, 1),
    "in quotation marks": ("mode", 2, 2),
    "in triple quotation marks": ("mode", 3, 3),
    "in round brackets": ("bracket", 1, 1),
    "in square brackets": ("bracket", 2, 2),
    "in curly brackets": ("bracket", 3, 3),
    "in a line that is not indented": ("indent", 0, 0),
    "in a line indented by 1 to 4 spaces": ("indent", 1, 4),
    "in a line indented by 5 to 8 spaces": ("indent", 5, 8),
    "in a line indented by more than 8 spaces": ("indent", 9, 1 << 20),
    "that was in the text before": ("again", 1, 1),
    "that followed the same token before": ("pair", 1, 1),
    "among the first 8 tokens": ("index", 0, 7),
}
OPEN, SHUT, QUOTES = "([{", ")]}", "\"'"


class Surroundings:
    """Rows of tokens, with what stands around each of them.

    ids: int [rows, t], the size of the vocabulary for what is no token of the text. A row is read from its left end: nothing
    is known of what stands before it.
    """

    def __init__(self, ids: np.ndarray, vocabulary: Vocabulary):
        self.ids, self.vocabulary = ids, vocabulary

    def at(self, back: int) -> np.ndarray:
        """The token so many places before each token, the size of the vocabulary where there is none: int [rows, t]."""
        moved, n = np.full_like(self.ids, len(self.vocabulary)), self.ids.shape[-1]
        if abs(back) < n:
            moved[..., max(back, 0): n + min(back, 0)] = self.ids[..., max(-back, 0): n - max(back, 0)]
        return moved

    def state(self, name: str) -> np.ndarray:
        """Where the text is in one of STATES: bool [rows, t]."""
        column, least, largest = STATES[name]
        found = self.scanned[..., COLUMNS.index(column)]
        return (found >= least) & (found <= largest)

    def rows(self, chosen: np.ndarray) -> Surroundings:
        """Some of the rows; what was scanned is not scanned again."""
        part = Surroundings(self.ids[chosen], self.vocabulary)
        if "scanned" in self.__dict__:
            part.__dict__["scanned"] = self.scanned[chosen]
        return part

    @cached_property
    def scanned(self) -> np.ndarray:
        """What a scan knows at each token: int32 [rows, t, columns]."""
        rows = [_scan(row, self.vocabulary) for row in self.ids.tolist()]
        return np.array(rows, np.int32).reshape(*self.ids.shape, len(COLUMNS))


def _scan(row: Sequence[int], vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    """Read one row from left to right, as the source of a program is read; other text has lines, quotes and brackets too."""
    none, found = len(vocabulary), list[tuple[int, ...]]()
    mode, run, brackets, before = "", "", list[str](), len(vocabulary)
    indent, spaces, blank = -1, 0, False           # blank: only white space yet, in a line whose beginning was seen
    seen, pairs = set[int](), set[tuple[int, int]]()
    for index, token in enumerate(row):
        text = vocabulary.words[token].replace("\t", "    ") if token < none else ""
        bare = text.strip()
        first = blank and bare != "" and "\n" not in text[: text.find(bare)]
        if blank:
            spaces += len(text) - len(text.lstrip(" "))
        if first:
            indent, blank = spaces, False
        was = mode
        if bare != text or not bare.isalnum():
            mode, run = _read(text, mode, run, brackets)
        shown = mode if mode == "#" else was
        found.append((int(first), (shown != "") + (shown not in ("", "#")) + (len(shown) == 3),
                      OPEN.find(brackets[-1]) + 1 if brackets else 0, indent, int(token in seen),
                      int(before < none and (before, token) in pairs), index))
        if "\n" in text:                           # the line after it begins in this token, and may do more than begin
            rest = text[text.rfind("\n") + 1:]
            spaces, blank = len(rest) - len(rest.lstrip(" ")), not rest.strip()
            indent = -1 if blank else spaces
        if text:
            seen.add(token)
            pairs.add((before, token))
        before = token
    return found


def _read(text: str, mode: str, run: str, brackets: list[str]) -> tuple[str, str]:
    """The quotes or comment that a text is in after a token, and the quotation marks it ends with; brackets open and close."""
    last = ""
    for char in text:
        run = "" if char not in QUOTES else run + char if run.strip(char) == "" else char
        if char == "\n":
            mode = mode if len(mode) == 3 else ""
        elif char in QUOTES and last != "\\":
            if len(run) == 3 and mode in ("", run):
                mode, run = "" if mode else run, ""
            elif mode in ("", char):
                mode = "" if mode else char
        elif not mode and char == "#":
            mode = "#"
        elif not mode and char in OPEN:
            brackets.append(char)
        elif not mode and char in SHUT and brackets:
            brackets.pop()
        last = char
    return mode, run
