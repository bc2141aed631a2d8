"""Tokens as people can read them: whitespace and broken bytes made visible, activations as a background.

Tokens are untrusted: they come from whatever text was read. In HTML they are always escaped; in a terminal, control
characters never reach it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from .contents import Context

if TYPE_CHECKING:
    from rich.text import Text

# Controls, invisible and direction-changing characters, lone surrogates: shown by their number, not obeyed.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
EMPTY = "⟨⟩"  # an active token without text of its own, such as the first bytes of a character
BROKEN_BYTES = {0xDC00 + byte: f"⟨{byte:02x}⟩" for byte in range(128, 256)}


def decode(raw: bytes) -> str:
    """Bytes as text; those that are only part of a character become ⟨e2⟩."""
    return raw.decode("utf-8", "surrogateescape").translate(BROKEN_BYTES)


def spell(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """The text of each token on its own, spaces included, for byte-level, SentencePiece and WordPiece tokenizers."""
    return [decode(raw) for raw in bytes_of(tokenizer, ids)]


def bytes_of(tokenizer: Any, ids: Iterable[int]) -> list[bytes]:
    """The bytes that each token stands for; an id that stands for no token has none."""
    pieces = tokenizer.convert_ids_to_tokens([int(i) for i in ids])
    decoder = repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
    read = next(read for name, read in READERS.items() if name in decoder)
    return [b"" if piece is None else read(piece) for piece in pieces]


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE (GPT-2): printable ones for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


ALPHABET = _byte_alphabet()


def _byte_level(piece: str) -> bytes:
    return bytes(ALPHABET[c] for c in piece) if ALPHABET.keys() >= set(piece) else piece.encode()


def _word_piece(piece: str) -> bytes:
    return (piece[2:] if piece.startswith("##") else " " + piece).encode()


def _sentence_piece(piece: str) -> bytes:
    byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece)
    return bytes.fromhex(byte[1]) if byte else piece.replace("▁", " ").encode()


# A word in the tokenizer's decoder -> how its pieces are read; the last one fits all that is left.
READERS: dict[str, Callable[[str], bytes]] = {
    "ByteLevel": _byte_level, "WordPiece": _word_piece, "": _sentence_piece,
}


def visible(text: str) -> str:
    """Text with newlines as ⏎ and a break, and with every character that cannot be seen as its number: ⟨1b⟩."""
    return "".join(_visible(c) for c in text)


def _visible(c: str) -> str:
    if c == "\n":
        return "⏎\n"
    return f"⟨{ord(c):02x}⟩" if c != "\t" and unicodedata.category(c) in UNSEEN else c


def printable(text: str) -> str:
    """Text as it stands, but for the characters that cannot be seen."""
    return visible(text).replace("⏎\n", "\n")


def short(text: str) -> str:
    """A token on one line, with its spaces visible: " self" is "␣self", a newline and eight spaces are "⏎␣×8"."""
    text = visible(text).replace("⏎\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return re.sub("␣{4,}", lambda run: f"␣×{len(run[0])}", text)


def dedent(tokens: list[str]) -> list[str]:
    """Tokens without the indentation that all their lines share, so that deep code fits a narrow column.

    The first line is left as it is, since a stretch of text may begin anywhere in it.
    """
    lines = [line for line in "".join(tokens).split("\n")[1:] if line.strip()]
    shared = min((len(line) - len(line.lstrip(" ")) for line in lines), default=0)
    if not shared:
        return tokens
    shown, left = [], 0
    for token in tokens:
        text = ""
        for c in token:
            if c == " " and left:
                left -= 1
                continue
            left = shared if c == "\n" else 0
            text += c
        shown.append(text or token[:1])
    return shown


def html(context: Context, maximum: float) -> Markup:
    """The tokens of a context as HTML: the background's alpha is activation/maximum, the peak is underlined."""
    parts = []
    for i, (token, activation) in enumerate(zip(dedent(context.tokens), context.activations, strict=True)):
        alpha = share(activation, maximum)
        if alpha == 0:
            parts.append(Markup("{}").format(visible(token)))
            continue
        text = visible(token) or EMPTY
        peak = Markup(" class=peak") if i == context.peak else ""
        parts.append(Markup('<mark{} style="--a:{:.0f}%" title="{:.3g}">{}</mark>').format(
            peak, 100 * alpha, activation, text))
    return Markup("").join(parts).replace("⏎", Markup("<i>⏎</i>"))


def share(activation: float, maximum: float) -> float:
    """activation/maximum between 0 and 1; 0 where either is not a positive number."""
    return min(activation / maximum, 1.0) if activation > 0 and maximum > 0 else 0.0


def line(context: Context, maximum: float, width: int = 100) -> Text:
    """The tokens of a context as one line for a terminal, cut to `width` characters around the peak."""
    from rich.text import Text

    text = Text(no_wrap=True)
    centre = 0
    for i, (token, activation) in enumerate(zip(context.tokens, context.activations, strict=True)):
        alpha = share(activation, maximum)
        shown = (visible(token) or EMPTY * (alpha > 0)).replace("⏎\n", "⏎").replace("\t", " ")
        if i == context.peak:
            centre = len(text) + len(shown) // 2
        style = f"rgb(0,0,0) on rgb(255,{244 - 84 * alpha:.0f},{220 - 160 * alpha:.0f})" if alpha else ""
        text.append(shown, f"{style} bold underline" if i == context.peak else style)
    start = max(0, min(centre - width // 2, len(text) - width))
    return text[start: start + width]
