"""What commands are given: models and data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..counts import count_of

if TYPE_CHECKING:
    from ..network import Network


def network(model: str, device: str = "cpu", pickle: bool = False) -> Network:
    """Open a model, quietly."""
    from ..network import open
    return open(model, device=device, pickle=pickle)


def data(paths: str, net: Network, split: str = "train", context: int | None = None) -> Any:
    """The data of a command: files, the standard library's split (`stdlib`, or `stdlib:test`), or a harvest's folder; for a
    network that reads images a folder of them. context: tokens in a row of text; left out, as many as the network reads.
    """
    from ..data import images, text
    from ..data.corpora import stdlib
    from ..data.stdlib import SPLITS
    from ..harvest import Harvest
    from ..harvest.layout import MANIFEST
    name, _, wanted = paths.partition(":")
    if net.kind in ("image", "vision") and not (Path(paths) / MANIFEST).exists():
        if name == "stdlib":
            raise ValueError(f"{net.name} reads images, not text; give --data a folder of images.")
        return images(paths, net)
    if name == "stdlib" and not Path(paths).exists():
        if wanted and wanted not in SPLITS:
            raise ValueError(f"the standard library's text has the splits {', '.join(SPLITS)}; found {wanted!r}.")
        return stdlib(net, wanted or split, context=context)
    if (Path(paths) / MANIFEST).exists():
        return Harvest(paths, net)
    return text(paths.split(",") if "," in paths else paths, net, context)


def first(source: Any, tokens: str) -> Any:
    """The first so many tokens of data; all of them for "all"."""
    from ..harvest import Harvest
    if isinstance(source, Harvest):
        raise ValueError(f"this command runs the network on text, but {source.folder} holds activations; give --data.")
    return source if tokens == "all" else source.take(count_of(tokens))
