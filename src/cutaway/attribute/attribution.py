"""What an attribution gives: one number for each unit of the input, and the facts without which it is only numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .words import merged, word_groups, word_texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """How much each unit of the input matters for the target.

    values: float32 [rows, *units]: [rows, tokens], [rows, words], [rows, h, w] of pixels or patches, [rows, inputs], or
        [rows, tokens, k] of a dictionary's features.
    over: tokens, words, pixels, patches, inputs or features.
    keep: bool, the shape of values; units that do not count, such as begin and padding tokens, have the value 0.
    names: the text of each token or word of each row, where the units have one.
    features: int64 [rows, tokens, k], the latents that the values belong to, where the units are features.
    pixels: the images [rows, channels, height, width] behind a map.
    about: method, title, target and of (what is explained of each row), baseline, seed, options, network, rows, passes
        (rows through the network for each row explained), `output` and `output_at_baseline` [rows], and `gap` [rows], which
        is the sum of values less their difference, for methods that promise that it is nothing (else None).
    """

    values: Tensor
    over: str
    keep: Tensor
    names: list[list[str]] | None = None
    features: Tensor | None = None
    pixels: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Attribution({self.about.get('method', '')} over {self.over}, {list(self.values.shape)})"

    @property
    def complete(self) -> float | None:
        """The largest completeness gap of a row, as a share of the change in the target; none where none is promised."""
        if self.about.get("gap") is None:
            return None
        change = (self.about["output"] - self.about["output_at_baseline"]).abs().clamp(min=1e-12)
        return float((self.about["gap"].abs() / change).max())

    def words(self) -> Attribution:
        """The same over words: the values of a word's tokens are added up."""
        if self.over != "tokens" or self.names is None:
            raise ValueError(f"words are made of tokens with texts; this attribution is over {self.over}"
                             f"{'' if self.names else ' without texts'}.")
        groups = word_groups(self.names, self.keep)
        n = int(groups.max()) + 1
        keep = merged(self.keep.float(), groups, n) > 0
        return replace(self, values=merged(self.values, groups, n), over="words", keep=keep,
                       names=[row + [""] * (n - len(row)) for row in word_texts(self.names, groups)])

    def by_feature(self, width: int) -> Tensor:
        """The values of each of a dictionary's `width` features, added up over tokens: [rows, width]."""
        if self.features is None:
            raise ValueError(f"this attribution is over {self.over}; ask for over=dictionary to have features.")
        flat = self.values.new_zeros(len(self), width)
        return flat.scatter_add(1, self.features.flatten(1), self.values.flatten(1))

    def top(self, n: int = 10, row: int = 0) -> list[tuple[str, float]]:
        """The n units of a row with the largest values by size, with what they are called."""
        flat, keep = self.values[row].flatten(), self.keep[row].flatten()
        order = flat.abs().masked_fill(~keep, -1).argsort(descending=True, stable=True)[: min(n, int(keep.sum()))]
        return [(self.called(int(i), row), float(flat[i])) for i in order]

    def called(self, unit: int, row: int = 0) -> str:
        """What a unit is called, by its place among the row's units in order."""
        if self.features is not None:
            k = self.features.shape[-1]
            return f"feature {int(self.features[row].flatten()[unit])} at token {unit // k}"
        if self.names is not None:
            return self.names[row][unit]
        if self.values.ndim == 3:
            across = self.values.shape[2]
            return f"{self.over[:-1] if self.over != 'patches' else 'patch'} {unit // across},{unit % across}"
        return f"input {unit}"

    # --- to look at ---------------------------------------------------------------------------------------------------

    def terminal(self, row: int | None = None, width: int = 100) -> str:
        """Highlighted text, or a small map, for a terminal; of one row or of all."""
        from .drawing import terminal
        return terminal(self, self._rows(row), width)

    def html(self, row: int | None = None) -> str:
        """One self-contained page with highlighted text or heat maps over images, without a script; of one row or of all."""
        from .drawing import page
        return page(self, self._rows(row))

    def plot(self, path: str | Path | None = None, row: int | None = None) -> Figure:
        """A matplotlib figure: heat maps over images, bars over tokens; written to `path` if one is given."""
        from .drawing import plot
        figure = plot(self, self._rows(row))
        if path is not None:
            figure.savefig(path)
        return figure

    def _repr_html_(self) -> str:
        from .drawing import fragment
        return fragment(self, self._rows(None))

    def _rows(self, row: int | None) -> list[int]:
        if row is not None and not 0 <= row < len(self):
            raise IndexError(f"this attribution has the rows 0 to {len(self) - 1}; row {row} was asked for.")
        return list(range(len(self))) if row is None else [row]

    def json(self) -> dict[str, Any]:
        """All of it as plain data; the images are left out."""
        def plain(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.tolist()
            if isinstance(value, dict):
                return {key: plain(part) for key, part in value.items()}
            return value if isinstance(value, str | int | float | bool | list | None) else repr(value)
        return {"over": self.over, "values": self.values.tolist(), "keep": self.keep.tolist(), "names": self.names,
                "features": None if self.features is None else self.features.tolist(), "about": plain(self.about)}


def check_finite(values: Tensor, method: str) -> None:
    """Refuse an attribution that holds something else than numbers."""
    bad = ~torch.isfinite(values.flatten(1)).all(1)
    if bool(bad.any()):
        raise ValueError(f"{method} gave NaN or infinity for row {int(bad.nonzero()[0])}; the network's gradients are not "
                         "finite there. Use a method without gradients, such as leave-one-out.")
