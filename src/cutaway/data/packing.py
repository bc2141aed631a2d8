"""How text becomes rows: documents are tokenized and joined, and the joined tokens are cut into rows of one length."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..network import Network

Ids = tuple[int, ...]
Piece = tuple[int, str]                 # the number of a document and some of its text
Part = tuple[np.ndarray, np.ndarray]    # tokens [n] and starts of documents [m]

# Which special tokens open and close a row, the first that the tokenizer has, for each kind of network that reads text.
BEGIN, AROUND = (("bos",), ()), (("cls", "bos"), ("sep", "eos"))
FRAMES = {"causal": BEGIN, "module": BEGIN, "masked": AROUND, "encoder": AROUND, "sentence": AROUND}
LONGEST = 1024          # the context where none is given and the network reads more than this
CHARACTERS = 2**20      # tokenized at a time


@dataclass(frozen=True)
class Layout:
    """How a row of tokens is built for a network.

    opens, closes: special tokens around the text of a row; before, after: around each document; special: all tokens
    that are not text; mask: what hides tokens from a masked language model; vocabulary: how many ids the network knows.
    """

    kind: str
    context: int
    opens: Ids
    closes: Ids
    before: Ids
    after: Ids
    special: Ids
    mask: int | None
    vocabulary: int | None

    @property
    def body(self) -> int:
        """Tokens of text in a row."""
        return self.context - len(self.opens) - len(self.closes)

    def rows(self, bodies: np.ndarray) -> np.ndarray:
        """Rows [b, context] from the tokens of text in them [b, body]."""
        opens, closes = (np.tile(np.array(ids, np.int64), (len(bodies), 1)) for ids in (self.opens, self.closes))
        return np.concatenate([opens, bodies.astype(np.int64), closes], axis=1)


def layout_of(net: Network, context: int | None = None) -> Layout:
    """The layout of a network's rows.

    context: tokens in a row with its special tokens; left out, as many as the network reads, at most 1,024.

    Each document is followed by the end token if the tokenizer has one, else preceded by the begin token, else followed
    by the separator. Raises ValueError for a network that reads no text and for a context that does not fit it.
    """
    if net.kind not in FRAMES:
        raise ValueError(f"{net.name} is of kind {net.kind!r}, which reads no text; use cw.images or cw.arrays.")
    tokenizer = net.tokenizer
    if tokenizer is None:
        raise ValueError(f"{net.name} was opened without a tokenizer, so it cannot read text; save its tokenizer "
                         "in its folder, open it with cw.open(module, tokenizer), or give token ids with cw.arrays.")
    opens, closes = (_first(tokenizer, *names) for names in FRAMES[net.kind])
    end, begin, separator = (_first(tokenizer, name) for name in ("eos", "bos", "sep"))
    mask = _first(tokenizer, "mask") if net.kind == "masked" else (None,)
    if not mask:
        raise ValueError(f"{net.name} is a masked language model, but its tokenizer has no mask token.")
    return Layout(net.kind, _context(net, context, least=len(opens + closes) + 1), opens, closes,
                  before=() if end else begin, after=end or (() if begin else separator),
                  special=special_ids(tokenizer), mask=mask[0], vocabulary=getattr(net.config, "vocab_size", None))


def _context(net: Network, context: int | None, least: int) -> int:
    """The context that was asked for, if it fits the network, or else its own."""
    # A tokenizer can know better than the configuration: RoBERTa has two positions more than it can read.
    limits = [n for n in (net.context, getattr(net.tokenizer, "model_max_length", None)) if n is not None]
    if context is None:
        return min([*limits, LONGEST])
    if context > min(limits, default=context):
        raise ValueError(f"a context of {context} tokens was asked for, but {net.name} reads at most {min(limits)}; "
                         f"give context={min(limits)} or less.")
    # Causal models learn from pairs of tokens, so one token alone is no row of text.
    if context < max(least, 2):
        raise ValueError(f"a context of {context} tokens leaves no room for text; give at least {max(least, 2)}.")
    return context


def _first(tokenizer: Any, *names: str) -> Ids:
    """The first of some special tokens that a tokenizer has, if any."""
    ids = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
    return next(((id,) for id in ids if id is not None), ())


def special_ids(tokenizer: Any) -> Ids:
    """All tokens that are not text: begin, end, padding, mask and whatever else is marked as special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return tuple(sorted({*tokenizer.all_special_ids, *(id for id, token in added.items() if token.special)}))


def tokenizer_digest(tokenizer: Any) -> str:
    """A hash of all that decides how a tokenizer cuts text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend else {type(tokenizer).__name__: tokenizer.get_vocab()}
    # Truncation and padding change from call to call and are never used here.
    state |= {"truncation": None, "padding": None, "special": special_ids(tokenizer)}
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def tokenized(pieces: Iterable[Piece], tokenizer: Any, layout: Layout) -> Iterator[Part]:
    """The joined tokens of documents in parts: some tokens, and where among all tokens the documents in them start.

    Only the text of one part is held at a time.
    """
    before, after = list(layout.before), list(layout.after)
    done, last = 0, None
    for group in _grouped(pieces):
        encoded = tokenizer([text for _, text in group], add_special_tokens=False, padding=False, truncation=False,
                            return_attention_mask=False, return_token_type_ids=False, verbose=False)["input_ids"]
        part: list[int] = []
        starts: list[int] = []
        for (number, _), ids in zip(group, encoded, strict=True):
            if number != last:
                part += [] if last is None else after
                starts.append(done + len(part))
                part += before
                last = number
            part += ids
        done += len(part)
        yield np.array(part, np.int64), np.array(starts, np.int64)
    if last is not None:
        yield np.array(after, np.int64), np.array([], np.int64)


def _grouped(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces in groups of about `CHARACTERS` characters."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece[1])
        if size >= CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
