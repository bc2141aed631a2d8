"""Tensors of a file by name, read lazily: they are mapped into memory, and a row is read from the disk when it is touched."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Named(dict[str, Any]):
    """What a file holds by name; what is asked for and not there is told with what is."""

    def __init__(self, path: Path, held: dict[str, Any]):
        super().__init__(held)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{self.path} lacks {name!r}; it holds {', '.join(sorted(map(str, self))) or 'nothing'}.")


def tensors(path: Path, pickle: bool = False) -> dict[str, Any]:
    """What a file holds by name: tensors, and in a pickle also numbers, text and dicts.

    pickle: also read torch pickles, with `weights_only`. Raises FileNotFoundError, or ValueError for what is damaged,
    a pickle that was not allowed, or a pickle with more in it than weights.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the file in it that holds the tensors.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    kinds = {".safetensors": _safetensors, ".npz": _npz}
    if path.suffix in kinds:
        return Named(path, kinds[path.suffix](path))
    if not pickle:
        raise ValueError(f"{path} is a pickle, and only safetensors and npz are read unless you say otherwise. If you trust "
                         "it, pass pickle=True (on the command line --pickle); it is then read with weights_only.")
    return Named(path, _pickle(path))


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(str(path), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); copy it again.") from error


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {member.filename.removesuffix(".npy"): _array(path, archive, member) for member in archive.infolist()}
    except (zipfile.BadZipFile, struct.error, EOFError) as error:
        raise ValueError(f"{path} is not a whole npz file ({error}); copy it again.") from error


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    """One array of an npz: mapped where it is stored plainly, read where it is compressed; never a pickle."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} in {path} is a pickle, and that is never read from an npz.")
        header = file.tell()
        if member.compress_type != zipfile.ZIP_STORED:
            flat = np.frombuffer(bytearray(file.read()), dtype)
            return torch.from_numpy(flat.reshape(shape, order="F" if fortran else "C"))
    with open(path, "rb") as raw:
        raw.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", raw.read(4))
    start = member.header_offset + 30 + name + extra + header
    # Mapped copy-on-write: what is changed in memory does not change the file.
    mapped = np.memmap(path, dtype, "c", start, shape, order="F" if fortran else "C")
    return torch.from_numpy(mapped)


def _pickle(path: Path) -> dict[str, Any]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        raise ValueError(f"{path} holds a pickle with more in it than weights, and that is never run.") from error
    except (RuntimeError, EOFError, ValueError) as error:
        reason = f"{error}\n".splitlines()[0].split(". ")[0] or type(error).__name__
        raise ValueError(f"{path} is not a whole file of torch.save ({reason}); copy it again.") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path} holds {type(held).__name__}, but a dictionary's file holds tensors by name.")
    return held


def config(path: Path) -> dict[str, Any]:
    """A JSON or YAML file that a reader needs."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path.name} in {path.parent}, and it says how the tensors are to be read.")
    import yaml
    try:
        text = path.read_text(encoding="utf-8")
        read = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not whole ({str(error).splitlines()[0]}); copy it again.") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} should hold settings by name; found {type(read).__name__}.")
    return Named(path, read)


def optional(path: Path) -> dict[str, Any]:
    """The same, or nothing where there is no such file."""
    return config(path) if path.is_file() else {}
