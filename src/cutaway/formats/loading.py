"""Read and write dictionaries in any format."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dictionaries import Dictionary
from ..dictionaries.cross_layer import CrossLayer
from ..network import Network
from . import (
    circuit_tracer,
    cross_layers,
    dictionary_learning,
    gains,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    openai,
    saelens,
    sparsify,
)
from .found import Found, built

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Format:
    """fits: whether a path looks like it; read: what it says; write: a dictionary, the other way."""

    title: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, bool, Network | None], Found]
    write: Callable[[Any, Path], Path]


FORMATS: dict[str, Format] = {
    name: Format(str(module.__doc__).splitlines()[0].rstrip("."), module.fits, module.read, module.write) for name, module in (
        ("saelens", saelens), ("sparsify", sparsify), ("dictionary-learning", dictionary_learning), ("openai", openai),
        ("gemma-scope", gemma_scope), ("gemma-scope-2", gemma_scope_2), ("llama-scope", llama_scope),
        ("circuit-tracer", circuit_tracer))}
OWN, CROSS = "cutaway", "cross-layer"
NAMES = (OWN, *FORMATS, CROSS)


def load_dictionary(path: str | Path, format: str | None = None, site: str | None = None, *, target: str | None = None,
                    net: Network | None = None, sample: Any = None, pickle: bool = False, dtype: str | None = "float32",
                    center: bool | None = None, activation: str | None = None, k: int | None = None,
                    threshold: float | Tensor | None = None, scale: float | str | None = None,
                    by_norm: bool | None = None, skip_tokens: Sequence[int] | None = None) -> Any:
    """Read a dictionary that Cutaway or another project wrote; without any library of theirs.

    path: the file or folder. format: one of `cutaway.formats.NAMES`; left out, by what the folder holds.
    site, target: where it reads, and for a transcoder writes, in Cutaway's names; needed where the file does not say.
    net: the network, by which names are understood that mean different modules in different models, and whose norms' gains
        are folded in where a dictionary was learned before them.
    sample: activations [n, d] of the site (for a transcoder a pair, with those of its target, and for a cross-layer one a pair
        of lists, one of each layer): its reconstruction of them is checked, with a warning where it explains less than
        nothing (FVU above 1).
    pickle: also read a torch pickle, with weights_only. dtype: of the tensors; None leaves the file's.
    center, activation, k, threshold, scale, by_norm: a convention that the file does not say; see `Found`. Nothing is
        guessed: what is lacking is asked for, with the choices, and what contradicts the file is refused.
    skip_tokens: ids of tokens that it was not trained on, and whose activations it leaves alone; in place of the file's list,
        which only SAELens and Cutaway keep.

    Gives a `Dictionary`, `Normed`, `Transcoder` or `CrossLayer`, whichever is the smallest that computes the same.
    Raises FileNotFoundError, or ValueError in one sentence.
    """
    path = Path(path)
    name = format_of(path) if format is None else known(format)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, or None; found {dtype!r}.")
    said = {"center": center, "activation": activation, "k": k, "threshold": threshold, "scale": scale, "by_norm": by_norm}
    if name in (OWN, CROSS):
        given = [key for key, value in said.items() if value is not None]
        if given:
            raise ValueError(f"{path} says all of its conventions itself; leave out {', '.join(given)}.")
        made = _own(path, site) if name == OWN else cross_layers.read(path, net, DTYPES.get(dtype or ""))
        if isinstance(made, CrossLayer) and (site or target or skip_tokens is not None):
            raise ValueError("a cross-layer transcoder has a site for each layer, which its files say; leave out site, target "
                             "and skip_tokens.")
    else:
        found = FORMATS[name].read(path, pickle, net)
        if target is not None and not found.transcoder:
            found = replace(found, transcoder=True)
        found = found.settled(path, said).checked(path)
        if gains.missing(found.hook) and site and not found.site:
            raise ValueError(f"{path} reads {found.hook}, which is before a norm's gain and so no site of a network: leave out "
                             "site, and give the network, by net= or --model, whose gain is then folded in.")
        made = built(replace(found, site=_place("site", path, found.site, site),
                             target=_place("target", path, found.target, target)), DTYPES.get(dtype or ""))
        if gains.missing(found.hook) and found.site and net is not None:
            gains.folded(made, found.hook, net)
    if net is not None and isinstance(made, Dictionary) and made.site:
        made.facts = replace(made.facts, path=made.placed(net).path)
    if skip_tokens is not None and isinstance(made, Dictionary):
        made.facts = replace(made.facts, skip_tokens=tuple(skip_tokens))
    if sample is not None:
        check(made, sample, path)
    return made


def load_dictionaries(path: str | Path, format: str | None = None, **options: Any) -> dict[str, Any]:
    """Every dictionary of a folder by its site, or by its place in the folder: a set of transcoders, a run of many sites.

    options: as for `load_dictionary`. Raises ValueError where the folder holds none.
    """
    path = Path(path)
    files = circuit_tracer.parts(path) or {
        str(folder.relative_to(path)): folder for folder in sorted(path.rglob("*")) if folder.is_dir() and detected(folder)}
    if not files:
        raise ValueError(f"{path} holds no dictionaries that are known; the formats are {', '.join(NAMES)}.")
    made = {key: load_dictionary(file, format, **options) for key, file in files.items()}
    named = [getattr(one, "site", "") or key for key, one in made.items()]
    return dict(zip(named if len(set(named)) == len(named) else made, made.values(), strict=True))


def save_dictionary(dictionary: Any, path: str | Path, format: str = OWN) -> Path:
    """Write a dictionary in a format: `cutaway` (one file), or one of another project, as that project reads it.

    Raises ValueError where the format cannot hold what the dictionary computes. Gives the path of what was written.
    """
    path, name = Path(path), known(format)
    if name == OWN:
        return dictionary.save(path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors"))
    if (name == CROSS) != isinstance(dictionary, CrossLayer):
        raise ValueError(f"a cross-layer transcoder is written as {CROSS} or {OWN}, and nothing else as {CROSS}; "
                         f"found {type(dictionary).__name__} and {format!r}.")
    return cross_layers.write(dictionary, path) if name == CROSS else FORMATS[name].write(dictionary, path)


def known(format: str) -> str:
    if format not in NAMES:
        raise ValueError(f"there is no format {format!r}; the formats are {', '.join(NAMES)}.")
    return format


def detected(path: Path) -> list[str]:
    """The formats that a path looks like."""
    own = path.suffix == ".safetensors" and _header(path) is not None or (path / "dictionaries").is_dir()
    fits = [OWN] if own else [name for name, form in FORMATS.items() if form.fits(path)]
    return [*fits, *([CROSS] if path.is_dir() and cross_layers.fits(path) else [])]


def format_of(path: Path) -> str:
    """The only format that a path looks like; ValueError with the choices otherwise."""
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path}.")
    found = detected(path)
    if len(found) != 1:
        looks = f"looks like {' and '.join(found)}" if found else "does not look like any format that is known"
        several = "; it holds several, which load_dictionaries reads" if path.is_dir() and circuit_tracer.parts(path) else ""
        raise ValueError(f"{path} {looks}{several}; say which it is: format={' or '.join(map(repr, found or NAMES))}.")
    return found[0]


def _header(path: Path) -> dict[str, Any] | None:
    """What Cutaway's own file says, or none."""
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(str(path), "pt") as file:
            return json.loads((file.metadata() or {}).get("cutaway", "null"))
    except (SafetensorError, OSError):
        return None


def _own(path: Path, site: str | None) -> Any:
    """A file of Cutaway, or the only dictionary (or that of a site) of a run's folder."""
    if path.is_dir():
        files = {file.stem.replace("+", "/"): file for file in sorted((path / "dictionaries").glob("*.safetensors"))}
        if not files:
            raise ValueError(f"{path} holds no dictionaries of Cutaway.")
        chosen = [file for key, file in files.items() if site in (None, key, Dictionary.load(file).site)]
        if len(chosen) != 1:
            raise ValueError(f"{path} has dictionaries at {', '.join(files) or 'no site'}; say which with site=.")
        path = chosen[0]
        site = None
    if (_header(path) or {}).get("kind") == "cross-layer":
        return CrossLayer.load(path)
    made = Dictionary.load(path)
    made.facts = replace(made.facts, site=_place("site", path, made.site, site))
    return made


def _place(which: str, path: Path, own: str, given: str | None) -> str:
    if given is not None and own and given != own:
        raise ValueError(f"{path} says {which}={own!r}, but {which}={given!r} was given; leave it out, or look whether this is "
                         "the file that you mean.")
    return given or own


@torch.no_grad()
def check(dictionary: Any, sample: Any, name: Path) -> float:
    """FVU of the reconstruction of sample activations, about the mean of each dimension; a warning where it is above 1."""
    pair = sample if isinstance(sample, tuple | list) else (sample, sample)
    x, y = ([torch.as_tensor(z).float().flatten(0, -2) for z in (part if isinstance(part, tuple | list) else [part])]
            for part in pair)
    n = min(map(len, [*x, *y]))
    if n < 2:
        raise ValueError(f"a check needs at least 2 activations; found {n}.")
    whole = isinstance(dictionary, CrossLayer)
    x = [z.to((dictionary.W_enc[0] if whole else dictionary.W_enc).dtype) for z in x]
    made, wanted = torch.cat(dictionary(x) if whole else [dictionary(x[0])], -1).double(), torch.cat(y, -1).double()
    fvu = float((made - wanted).pow(2).sum() / (wanted - wanted.mean(0)).pow(2).sum())
    if not fvu <= 1:
        warnings.warn(f"{name} explains less of {n:,} sample activations than their mean does (FVU {fvu:.2f}): the "
                      "activations are of another site or network, or scaled differently, or a convention is wrong.",
                      stacklevel=3)
    return fvu
