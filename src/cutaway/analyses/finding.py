"""What an analysis of a whole network is asked, and what it gives: words, a table, whole figures and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..files import write
from ..metrics.intervals import interval
from ..network import Network, open
from ..report import words
from ..report.values import plain

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """A figure, or an array of them, measured on disjoint parts of the data.

    mean: over the parts; low, high: its 95% interval by Student's t over them, nan for one part.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: Iterable[Any]) -> Spread:
        """The spread of one number or array of a shape from each part."""
        x = np.stack([np.asarray(value, float) for value in values])
        low, high = np.apply_along_axis(interval, 0, x)
        return cls(x.mean(0), low, high)

    def at(self, *index: int) -> str:
        """One figure in words: its mean and interval."""
        mean, low, high = (float(x[index]) for x in (self.mean, self.low, self.high))
        return words.number(mean) + (f" [{words.number(low)}, {words.number(high)}]" if np.isfinite(low) else "")

    def json(self) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in ("mean", "low", "high")}


@dataclass(frozen=True)
class Asked:
    """What an analysis is asked about: a network, rows of data, in how many parts the data is measured, and a seed."""

    net: Network
    data: Any
    parts: int = 4
    seed: int = 0
    progress: bool = False

    @property
    def slices(self) -> list[Any]:
        """The data in disjoint parts, every so many rows to each."""
        n = max(1, min(self.parts, self.data.n_rows))
        return [replace(self.data, index=self.data.index[i::n]) for i in range(n)]

    def each(self, items: Iterable[T], unit: str = "part") -> Iterator[T]:
        """The items, with a progress bar where one is wanted."""
        from tqdm.auto import tqdm
        items = list(items)
        yield from tqdm(items, desc="analyse", unit=unit, leave=False, disable=None if self.progress and items[1:] else True)

    def untrained(self) -> Network | None:
        """The same network with random weights, as a baseline; none where its class cannot make one."""
        import transformers as hf
        if not isinstance(self.net.module, hf.PreTrainedModel):
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module: Any = type(self.net.module)(self.net.module.config)
            return open(module.to(self.net.device), self.net.tokenizer)

    @property
    def has_loss(self) -> bool:
        """Whether the network has a loss on the data."""
        return self.net.kind == "causal" or self.data.rows([0]).labels is not None

    @property
    def about(self) -> dict[str, Any]:
        """What is measured on what, for the record."""
        return {"network": self.net.name, "data": self.data.name, "fingerprint": self.data.fingerprint,
                "rows": self.data.n_rows, "tokens": self.data.n_tokens, "parts": len(self.slices), "seed": self.seed}


@dataclass(frozen=True)
class Table:
    """Columns of a table for reading, and its rows."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    title: str = ""


@dataclass(frozen=True)
class Finding:
    """What an analysis found.

    method: its id in the catalogue. sentences: what it comes to, in words. table: for reading. figures: all of them, whole,
    ready for JSON. about: network, data, n, seed and options. size: of the picture, in inches; draw: puts the figures on an
    empty matplotlib figure.
    """

    method: str
    sentences: tuple[str, ...]
    table: Table
    figures: dict[str, Any]
    about: dict[str, Any]
    size: tuple[float, float]
    draw: Callable[[Any, dict[str, Any]], None]

    def json(self) -> dict[str, Any]:
        """All of it but the picture, as plain data."""
        return plain({"method": self.method, "words": self.sentences, "about": self.about, "figures": self.figures})

    def plot(self, path: str | Path | None = None) -> Any:
        """The picture as a matplotlib figure, written to a file in the format of its name where one is given."""
        from matplotlib.figure import Figure
        figure = Figure(figsize=self.size, layout="constrained", dpi=120)
        self.draw(figure, self.figures)
        figure.suptitle(f"{self.method} of {self.note}", fontsize=8, x=0.01, ha="left")
        if path is not None:
            kind = Path(path).suffix.lstrip(".") or "png"
            write(path, lambda part: figure.savefig(part, format=kind))
        return figure

    @property
    def note(self) -> str:
        """What was measured on what, in short."""
        a = self.about
        parts = f", in {a['parts']} parts" if a["parts"] > 1 else ""
        n = f" ({a['rows']:,} rows, {a['tokens']:,} tokens{parts})" if a["rows"] else ""
        return f"{a['network']}, {a['data']}{n}, seed {a['seed']}"

    def __str__(self) -> str:
        return "\n".join([f"{self.method} of {self.note}", *self.sentences])
