"""The source of the running Python's standard library: real text that is on every machine.

Files are split by a hash of their path, so that the same file is training text everywhere and test text nowhere else.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

SPLITS = {"train": range(0, 85), "validation": range(85, 90), "test": range(90, 100)}

# Character tables, this machine's build settings, and other people's packages are not prose about Python.
LEFT_OUT = ("encodings/", "site-packages/", "dist-packages/", "config-", "_sysconfigdata", "ensurepip/_bundled")


def folder() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def is_test(path: str) -> bool:
    """Whether a path belongs to the library's own tests, which some systems do not install."""
    return any(part in ("test", "tests", "idle_test") for part in Path(path).parts[:-1])


def split_of(path: str) -> str:
    """The split of a file, from the hash of its path alone: 85% train, 5% validation, 10% test."""
    bucket = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def files(split: str = "train", tests: bool = False) -> list[Path]:
    """The source files of one split in a fixed order, without the library's own tests unless `tests`."""
    if split not in SPLITS:
        raise ValueError(f"the standard library's text has the splits {', '.join(SPLITS)}; found {split!r}.")
    root = folder()
    found = []
    # Other people's packages can be many, so folders that are left out are not even walked through.
    tops = [top for top in root.iterdir() if not f"{top.name}/".startswith(LEFT_OUT) and not top.is_symlink()]
    for path in sorted([*root.glob("*.py"), *(path for top in tops if top.is_dir() for path in top.rglob("*.py"))]):
        name = path.relative_to(root).as_posix()
        if not name.startswith(LEFT_OUT) and is_test(name) <= tests and split_of(name) == split:
            found.append(path)
    return found


def documents(split: str = "train", tests: bool = False) -> Iterator[str]:
    """The text of each file of one split; files that are not valid Python text are left out."""
    for path in files(split, tests):
        try:
            with tokenize.open(path) as file:
                text = file.read()
        except (SyntaxError, UnicodeDecodeError):
            continue
        if text.strip():
            yield text
