"""Where documents come from: files found by name and glob, or texts in memory, with a hash of their content."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from .readers import Document, document, from_text, reader_of

BLOCK = 2**20

Paths = str | Path | Iterable[str | Path]


@dataclass(frozen=True)
class Source:
    """Where documents come from.

    digest: a hash of the content; read: gives (document number, piece of its text) from the beginning.
    """

    name: str
    digest: str
    read: Callable[[], Iterator[tuple[int, str]]]


def from_files(paths: Paths, column: str) -> Source:
    """The documents of files: a text file is one document, and so is the column of each row of a table."""
    wanted = _listed(paths)
    found = find(wanted)
    name = str(wanted[0]) + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else "")
    facts = column if any(reader_of(path) is not from_text for path in found) else ""
    return Source(name, digest(found, facts), lambda: numbered(_documents(found, column)))


def _documents(paths: list[Path], column: str) -> Iterator[Document]:
    for path in paths:
        yield from reader_of(path)(path, column)


def from_texts(texts: Iterable[str], name: str) -> Source:
    """The documents of a collection of texts that can be gone through more than once."""
    if isinstance(texts, str) or iter(texts) is texts:
        raise ValueError(f"{name} must be a list of texts, or another collection that can be gone through twice; "
                         f"found a {type(texts).__name__}.")
    state = hashlib.sha256()
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{name} holds a {type(text).__name__} among its texts; give strings.")
        state.update(f"{len(text)}\n{text}".encode("utf-8", "surrogatepass"))
    return Source(name, state.hexdigest(), lambda: numbered(map(document, texts)))


def numbered(documents: Iterable[Document]) -> Iterator[tuple[int, str]]:
    """Pieces with the number of their document; documents without any text are left out and not counted."""
    number = -1
    for pieces in documents:
        begun = False
        for piece in pieces:
            if begun or piece.strip():
                number += not begun
                begun = True
                yield number, piece


def find(paths: Paths) -> list[Path]:
    """The files and `datasets` folders of some paths and globs, each once, in the order of the list and of names.

    Raises FileNotFoundError when a path or a glob stands for nothing, and ValueError for a folder that is no dataset.
    """
    wanted = _listed(paths)
    if not wanted:
        raise ValueError("no paths were given; give a file, a glob such as 'corpus/**/*.txt', or a list of them.")
    found: dict[Path, None] = {}
    for path in wanted:
        found.update(dict.fromkeys(_find_one(Path(path).expanduser())))
    # What is inside a dataset's folder belongs to it, also when a glob matches both.
    folders = {path for path in found if path.is_dir()}
    return [path for path in found if not folders.intersection(path.parents)]


def _listed(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _find_one(path: Path) -> list[Path]:
    if _is_data(path):
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        raise ValueError(f"{path} holds the splits {', '.join(splits)}; give one of them, such as {path / splits[0]}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder not saved by `datasets`; say which files, such as '{path}/**/*.txt'.")
    if not glob.has_magic(str(path)):
        raise FileNotFoundError(f"there is no file {path}; check its name (relative names start in {Path.cwd()}).")
    matches = [match for match in map(Path, sorted(glob.glob(str(path), recursive=True))) if _is_data(match)]
    if not matches:
        raise FileNotFoundError(f"no file matches {str(path)!r}; check it (relative patterns start in {Path.cwd()}).")
    return matches


def _is_data(path: Path) -> bool:
    """Whether a path is a file or a folder that `datasets` saved."""
    return path.is_file() or ((path / "dataset_info.json").is_file() and (path / "state.json").is_file())


def digest(paths: Iterable[Path], facts: str = "") -> str:
    """A hash of the content of files, of how each is read, and of further facts."""
    files = [(reader_of(path).__name__, file) for path in paths
             for file in (sorted(path.glob("*.arrow")) if path.is_dir() else [path])]
    state = hashlib.sha256(facts.encode())
    total = sum(file.stat().st_size for _, file in files)
    with tqdm(total=total, desc="reading", unit="B", unit_scale=True, delay=2, leave=False, disable=None) as bar:
        for reader, path in files:
            state.update(f"\n{reader} {path.stat().st_size}\n".encode())
            with open(path, "rb") as file:
                while block := file.read(BLOCK):
                    state.update(block)
                    bar.update(len(block))
    return state.hexdigest()
