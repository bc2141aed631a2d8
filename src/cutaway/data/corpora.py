"""Text for networks: from files, from the standard library, from texts in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from . import stdlib as library
from .cache import stream
from .packing import Layout, layout_of
from .readers import document
from .rows import row_numbers
from .sources import Source, digest, from_files, from_texts, numbered
from .tokens import TokenData

if TYPE_CHECKING:
    from ..network import Network


def text(paths: str | Path | Iterable[str | Path], net: Network, context: int | None = None, *, column: str = "text",
         keep_special: bool = False, seed: int = 0) -> TokenData:
    """Text files as rows of tokens for a network, streamed, tokenized once and kept in a memory map.

    paths: a file, a glob (`corpus/**/*.txt`), a folder that `datasets` saved, or a list of these. Files are .jsonl or
        .json (one object a line), .parquet, or any other text in UTF-8, one document a file.
    context: tokens in a row; left out, as many as the network reads, at most 1,024.
    column: which column of .jsonl, .json, .parquet and `datasets` holds the text.
    keep_special: also count begin, end and other special tokens, which the batches' `keep` leaves out otherwise.
    seed: which 15% of the tokens are hidden from a masked language model; other networks have nothing hidden.

    Documents are joined (see `layout_of`). A row of a causal model is its begin token, if it has one, and the next
    context - 1 tokens; of other models the class token, the next context - 2 tokens and the separator. What is left at
    the end and fills no row is not used. Raises FileNotFoundError when nothing matches, and ValueError for a file that
    is no text, a column that is not there, or less text than one row holds.
    """
    layout = layout_of(net, context)
    return _rows(from_files(paths, column), net, layout, keep_special, seed)


def stdlib(net: Network, split: str = "train", tests: bool = False, context: int | None = None) -> TokenData:
    """The source of the running Python's standard library as rows of tokens: real text that is on every machine.

    split: `train` (85% of the files), `validation` (5%) or `test` (10%), by a hash of the path.
    tests: with the library's own tests, where they are installed.
    """
    layout = layout_of(net, context)
    source = Source(f"stdlib {split}", digest(library.files(split, tests)),
                    lambda: numbered(map(document, library.documents(split, tests))))
    return _rows(source, net, layout)


def corpus(texts: Iterable[str], net: Network, context: int | None = None, *, name: str = "corpus",
           keep_special: bool = False, seed: int = 0) -> TokenData:
    """Texts in memory as rows of tokens, one document each; the other options are those of `text`."""
    layout = layout_of(net, context)
    return _rows(from_texts(texts, name), net, layout, keep_special, seed)


def _rows(source: Source, net: Network, layout: Layout, keep_special: bool = False, seed: int = 0) -> TokenData:
    joined = stream(source, net.tokenizer, layout)
    found, body = len(joined.tokens), layout.body
    if found < body:
        raise ValueError(f"{source.name} gives {found} tokens, but a row of context {layout.context} needs {body}; "
                         f"give more text or context={layout.context - body + found}.")
    rows = row_numbers(found // body, source.name)
    return TokenData(source.name, rows, net.tokenizer, joined, layout, keep_special, seed)
