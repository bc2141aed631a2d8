"""What is true of each token, without any download: facts that Python's own tokenizer gives exactly.

A task is a yes-or-no question about a token, such as whether it stands in a comment. A token of the network is asked about
at its first character that is no blank (at its first character where it is all blank); tasks whose name begins with `next`
are about the Python token that follows the network's token, so about what must be predicted.
"""

from __future__ import annotations

import io
import keyword
import token as kinds
import tokenize
from collections.abc import Callable
from itertools import accumulate, pairwise

import numpy as np

# The statement that a logical line is, by its first word.
STATEMENTS = {"def": "def line", "async": "def line", "class": "class line", "import": "import line", "from": "import line",
              "return": "return line", "if": "condition", "elif": "condition", "while": "condition", "for": "for line",
              "raise": "raise line", "@": "decorator", "with": "with line", "except": "except line", "assert": "assert line"}
CLASSES = ("name", "keyword", "operator", "number", "string", "comment")   # what one Python token is; at most one is true
OPEN, CLOSE = "([{", ")]}"
LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)

# task -> what it asks
TASKS: dict[str, str] = {
    **{kind: f"the Python token here is a {kind}" for kind in CLASSES},
    "docstring": "in a string that is a statement of its own",
    **{name: f"in a logical line that begins with {' or '.join(k for k, v in STATEMENTS.items() if v == name)}"
       for name in dict.fromkeys(STATEMENTS.values())},
    "call argument": "the innermost open bracket follows a name or a bracket, so that it is a call",
    "parameter": "in the brackets of a def line",
    "subscript": "the innermost open bracket is square and follows a name or a bracket",
    "display": "the innermost open bracket opens a tuple, list, dict or set, or groups",
    "depth 2": "in two open brackets or more",
    "indent 1": "in a block of indentation 1 or more", "indent 2": "of 2 or more", "indent 3": "of 3 or more",
    "line start": "the first Python token of its logical line",
    "attribute": "a name after a dot",
    "called": "a name directly before an opening round bracket",
    "keyword argument": "a name before `=` in brackets",
    "capitalised": "a name that begins with a capital letter", "private": "a name that begins with an underscore",
    "self": "the name self", "constant": "True, False or None",
    **{f"next {kind}": f"the next Python token is a {kind}" for kind in ("name", "keyword", "operator", "string")},
    "next newline": "the logical line ends next", "next closes": "a bracket is closed next"}

Marks = dict[str, np.ndarray]


def python(text: str) -> Marks | None:
    """Which tasks are true of each character, bool [len(text) + 1] each; none for text that is not Python."""
    try:
        found = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    lines = [0, *accumulate(len(line) for line in io.StringIO(text))]
    marks = {name: np.zeros(len(text) + 1, bool) for name in TASKS}
    state = _State()
    starts: list[int] = []
    follows: list[list[str]] = []
    shown = [part for part in found if part.type not in (tokenize.NL, tokenize.COMMENT)]
    after = {id(a): b for a, b in pairwise(shown)}
    before = 0
    for part in found:
        lo, hi = (lines[row - 1] + column if row <= len(lines) else len(text) for row, column in (part.start, part.end))
        state.enter(part)
        for name in state.around():
            marks[name][before:hi] = True
        for name in _itself(part, state, after.get(id(part))):
            marks[name][lo:hi] = True
        if part.type not in (tokenize.INDENT, tokenize.DEDENT, tokenize.NL):
            starts.append(lo)
            follows.append(_next(part))
        state.leave(part)
        before = max(before, hi)
    places = np.searchsorted(starts, np.arange(len(text) + 1))
    for name in (name for name in TASKS if name.startswith("next ")):
        marks[name] = np.array([*(name in each for each in follows), False])[np.minimum(places, len(starts))]
    return marks


class _State:
    """Where in the program the tokenizer stands: open brackets, indentation, and the statement of the logical line."""

    def __init__(self) -> None:
        self.brackets: list[str] = []
        self.indent, self.statement, self.begins, self.last = 0, "", True, ""

    def enter(self, part: tokenize.TokenInfo) -> None:
        self.indent += (part.type == tokenize.INDENT) - (part.type == tokenize.DEDENT)
        if self.begins and part.type not in (*LAYOUT, tokenize.COMMENT):
            self.statement = STATEMENTS.get(part.string, "")

    def around(self) -> list[str]:
        names = [self.statement] if self.statement else []
        names += self.brackets[-1:] + ["depth 2"] * (len(self.brackets) >= 2)
        return names + [f"indent {n}" for n in (1, 2, 3) if self.indent >= n]

    def leave(self, part: tokenize.TokenInfo) -> None:
        if part.type == tokenize.OP and part.string in OPEN:
            follows = self.last.isidentifier() and not keyword.iskeyword(self.last) or self.last in (")", "]")
            first = self.statement == "def line" and not self.brackets
            self.brackets.append("parameter" if first else "display" if not follows or part.string == "{"
                                 else "subscript" if part.string == "[" else "call argument")
        elif part.type == tokenize.OP and part.string in CLOSE and self.brackets:
            self.brackets.pop()
        if part.type == tokenize.NEWLINE:
            self.statement, self.begins = "", True
        elif part.type not in (*LAYOUT, tokenize.COMMENT):
            self.begins = False
            self.last = part.string


def kind_of(part: tokenize.TokenInfo) -> str:
    """Which of `CLASSES` a Python token is, or nothing."""
    if part.type == tokenize.NAME:
        return "keyword" if keyword.iskeyword(part.string) else "name"
    if "STRING" in kinds.tok_name[part.type]:  # from Python 3.12 the parts of f-strings are tokens of their own
        return "string"
    return {tokenize.OP: "operator", tokenize.NUMBER: "number", tokenize.COMMENT: "comment"}.get(part.type, "")


def _itself(part: tokenize.TokenInfo, state: _State, after: tokenize.TokenInfo | None) -> list[str]:
    """The tasks that are true of one Python token itself."""
    kind, text, then = kind_of(part), part.string, after.string if after else ""
    if not kind:
        return []
    true = {"line start": state.begins and kind != "comment",
            "docstring": kind == "string" and state.begins and after is not None and after.type == tokenize.NEWLINE,
            "constant": text in ("True", "False", "None")}
    if kind == "name":
        true |= {"attribute": state.last == ".", "called": then == "(", "self": text == "self",
                 "keyword argument": then == "=" and bool(state.brackets), "capitalised": text[0].isupper(),
                 "private": text[0] == "_"}
    return [kind, *(name for name, holds in true.items() if holds)]


def _next(part: tokenize.TokenInfo) -> list[str]:
    kind = kind_of(part)
    names = [f"next {kind}"] if f"next {kind}" in TASKS else []
    names += ["next newline"] * (part.type == tokenize.NEWLINE)
    return names + ["next closes"] * (part.type == tokenize.OP and part.string in CLOSE)


LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Of a token's own text, in any language.
SURFACE: dict[str, Callable[[str], bool]] = {
    "after a space": lambda text: text[:1] == " ", "digits": lambda text: text.strip().isdigit(),
    "capital": lambda text: text.strip()[:1].isupper(), "punctuation": lambda text: bool(text.strip()) and not any(
        character.isalnum() or character == "_" for character in text.strip()),
    "blank": lambda text: not text.strip(), "a word": lambda text: len(text.strip()) > 1 and text.strip().isalpha()}
