"""Analyses by name: which there are, what each takes, and one call that runs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from ..catalogue import find
from ..network import Network
from . import (
    depth_use,
    essential_sparsity,
    iscs,
    lac_voids,
    layer_transfer,
    massive_dynamics,
    neuron_path,
    sink_decorrelation,
)
from .finding import Asked, Finding


@dataclass(frozen=True)
class Analysis:
    """An analysis as a command: the function, and on how much text it usually runs.

    found: `(asked, *, options) -> Finding`. tokens: of text; context: tokens in a row, none for as many as the network reads.
    """

    found: Callable[..., Finding]
    tokens: str = "4k"
    context: int | None = None

    @property
    def summary(self) -> str:
        """The first sentence of what it says of itself."""
        return (inspect.getdoc(self.found) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Its own options by name."""
        return {name: p for name, p in inspect.signature(self.found).parameters.items()
                if p.kind is inspect.Parameter.KEYWORD_ONLY}


ANALYSES = {
    "depth-use": Analysis(depth_use.found, tokens="2k"),
    "essential-sparsity": Analysis(essential_sparsity.found),
    "iscs": Analysis(iscs.found),
    "lac-voids": Analysis(lac_voids.found),
    "layer-transfer": Analysis(layer_transfer.found, tokens="16k", context=64),
    "massive-dynamics": Analysis(massive_dynamics.found),
    "neuron-path": Analysis(neuron_path.found, tokens="1k", context=64),
    "sink-decorrelation": Analysis(sink_decorrelation.found),
}


def analysis(name: str) -> Analysis:
    """The analysis of a name; an unknown one names the nearest."""
    if name not in ANALYSES:
        find(name, "analysis")
        raise ValueError(f"{name} has no command of its own; call it in Python.")
    return ANALYSES[name]


def analyse(net: Network, data: Any, name: str, *, parts: int = 4, seed: int = 0, progress: bool = False,
            **options: Any) -> Finding:
    """Run an analysis of a whole network: words, a table, figures with their intervals, and a picture.

    name: of the catalogue's family `analysis`, such as `depth-use`. parts: disjoint parts of the data over which intervals are
    taken. seed: of all that is drawn. options: the analysis' own; `ANALYSES[name].options` names them.

    Raises ValueError for an unknown name or option, for no data, and for what the analysis itself refuses.
    """
    chosen = analysis(name)
    unknown = [option for option in options if option not in chosen.options]
    if unknown:
        raise ValueError(f"there is no option {unknown[0]!r} of {name}; there are {', '.join(chosen.options)}.")
    if parts < 1:
        raise ValueError(f"the data is measured in at least one part; found parts={parts}.")
    if data.n_rows == 0:
        raise ValueError(f"{data.name} holds no rows, so there is nothing to analyse; give data with at least one.")
    return chosen.found(Asked(net, data, parts, seed, progress), **options)


READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "int": (int, "a whole number"), "float": (float, "a number"), "str": (str, "text"),
    "Sequence[float]": (lambda text: tuple(float(part) for part in text.split(",")), "numbers such as 0.2,0.5"),
    "Sequence[str]": (lambda text: tuple(text.split(",")), "names such as transfer,random"),
}


def read_options(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """The options of an analysis from NAME=VALUE as people type them, each as what the analysis takes it for."""
    chosen, found = analysis(name), dict[str, Any]()
    hints = get_type_hints(chosen.found)
    for pair in pairs:
        option, equals, value = pair.partition("=")
        option = option.replace("-", "_")
        if not equals or not value:
            raise ValueError(f"--set takes NAME=VALUE, such as {next(iter(chosen.options))}=...; found {pair!r}.")
        if option not in chosen.options:
            raise ValueError(f"there is no option {option!r} of {name}; there are {', '.join(chosen.options)}.")
        kind = _kind(hints[option])
        read, said = READERS[kind]
        try:
            found[option] = read(value)
        except ValueError:
            raise ValueError(f"{option} is {said}; found {value!r}.") from None
    return found


def _kind(hint: Any) -> str:
    """The name of an option's type, of `int | None` the first."""
    text = str(hint).removeprefix("collections.abc.") if not isinstance(hint, type) else hint.__name__
    return text.removesuffix(" | None")
