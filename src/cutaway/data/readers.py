"""Documents in files, streamed: any text, JSON lines, parquet and folders that `datasets` saved.

A document comes in pieces of at most `PIECE` characters, so that no text file has to fit into memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

PIECE = 2**20

Document = Iterator[str]
Reader = Callable[[Path, str], Iterator[Document]]


def pieces(read: Callable[[int], str]) -> Document:
    """A text in pieces that end with a line where that is possible; `read(n)` gives the next n characters."""
    rest = ""
    while new := read(PIECE - len(rest)):
        text = rest + new
        if len(text) < PIECE:
            rest = text
            continue
        cut = text.rfind("\n") + 1 or len(text)
        yield text[:cut]
        rest = text[cut:]
    if rest:
        yield rest


def document(text: str) -> Document:
    """A text that is in memory, as a document."""
    return pieces(io.StringIO(text).read)


def reader_of(path: Path) -> Reader:
    """What reads the documents of a path, by its ending; given the path and the column that holds text."""
    return from_dataset if path.is_dir() else READERS.get(path.suffix.lower(), from_text)


def from_text(path: Path, column: str) -> Iterator[Document]:
    yield _whole(path)


def _whole(path: Path) -> Document:
    with _opened(path) as file:
        yield from pieces(file.read)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path} is not UTF-8 text (0x{byte:02x} is the first byte that is not); convert it with "
                         "iconv or leave it out.") from error


def from_json(path: Path, column: str) -> Iterator[Document]:
    with _opened(path) as file:
        first = next((line.lstrip() for line in file if line.strip()), "")
        file.seek(0)
        if first.startswith("["):  # One array instead of lines: it has to be read whole.
            for n, row in enumerate(_parsed(file.read(), str(path)), start=1):
                yield _cell(row, column, f"{path}, entry {n},")
            return
        for n, line in enumerate(file, start=1):
            if line.strip():
                yield _cell(_parsed(line, f"{path}, line {n},"), column, f"{path}, line {n},")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not valid JSON ({error.msg} at character {error.pos}); every line must be one "
                         "object.") from error


def _cell(row: Any, column: str, where: str) -> Document:
    if not isinstance(row, dict):
        raise ValueError(f"{where} holds a {type(row).__name__}; expected an object with a column {column!r}.")
    _check_column(column, list(row), where)
    return _value(row[column], column, where)


def _value(value: Any, column: str, where: str) -> Document:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where} holds a {type(value).__name__} in the column {column!r}; give column= the name of "
                         "one that holds text.")
    return document(value or "")


def _check_column(column: str, there: list[str], where: str) -> None:
    if column not in there:
        known = ", ".join(map(repr, there)) or "none"
        raise ValueError(f"{where} has no column {column!r}; give column= one that it has: {known}.")


def from_parquet(path: Path, column: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file that can be read; write it again or leave it out.") from error
    with file:
        _check_column(column, file.schema_arrow.names, str(path))
        for batch in file.iter_batches(batch_size=256, columns=[column]):
            for value in batch.column(0):
                yield _value(value.as_py(), column, str(path))


def from_dataset(path: Path, column: str) -> Iterator[Document]:
    import datasets
    data = datasets.load_from_disk(str(path))
    _check_column(column, data.column_names, str(path))
    for batch in data.select_columns([column]).iter(batch_size=256):
        for value in batch[column]:
            yield _value(value, column, str(path))


READERS: dict[str, Reader] = {".jsonl": from_json, ".ndjson": from_json, ".json": from_json, ".parquet": from_parquet}
