"""Whether attributions say what a network answers to: measures of faithfulness, each beside its random baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import find
from ..data.edges import edges
from ..dictionaries import Dictionary
from ..metrics import bootstrap
from ..metrics import faithfulness as measures
from ..metrics.discovery import benjamini_hochberg
from ..network import Network
from .attribute import as_batch, check_options, goal_of
from .attribution import check_finite
from .inputs import Inputs, inputs_of
from .target import Target

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

RANDOM, SIZE, EDGES = "random order", "size", "edges"


@dataclass(frozen=True)
class Asked:
    """What one attribution is measured by. again: the same method on inputs with other numbers x, as [rows, units].

    target: what was attributed; answer: the same read as a probability, where it is a token or a class. exact: units and
    their effects alone, as `measures.effects` gives them; none where nobody asks.
    """

    inputs: Inputs
    target: Target
    answer: Target
    again: Callable[[Tensor], Tensor]
    draws: int
    radius: float
    scaling: str
    seed: int
    exact: tuple[Tensor, Tensor] | None = None

    @property
    def counts(self) -> Tensor:
        return self.inputs.keep.flatten(1).cpu()

    def value(self, rows: Tensor, gates: Tensor) -> Tensor:
        """The answer with units closed: [m]."""
        return self._swept(self.answer, rows, gates)

    def raw(self, rows: Tensor, gates: Tensor) -> Tensor:
        """The target itself with units closed: [m]."""
        return self._swept(self.target, rows, gates)

    def _swept(self, target: Target, rows: Tensor, gates: Tensor) -> Tensor:
        shaped = gates.unflatten(1, self.inputs.shape).to(self.inputs.x)
        return self.inputs.sweep(shaped, target, rows).float().cpu()

    def drawer(self) -> measures.Value:
        """`(rows, chances [m, units]) -> [m]`: the answer with each element of a unit open with the unit's chance."""
        generator, x = torch.Generator().manual_seed(self.seed), self.inputs.x

        @torch.no_grad()
        def drawn(rows: Tensor, chances: Tensor) -> Tensor:
            found = []
            for row, chance in zip(rows.split(self.inputs.limit), chances.split(self.inputs.limit), strict=True):
                wide = self.inputs.units.spread(chance.unflatten(1, self.inputs.shape).to(x), row).expand_as(x[row])
                gate = (torch.rand(wide.shape, generator=generator) < wide.cpu()).to(x)
                base = self.inputs.baseline[row]
                found.append(self.inputs.values(base + gate * (x[row] - base), self.answer, row).float().cpu())
            return torch.cat(found)
        return drawn

    def nearby(self) -> list[Tensor]:
        """The attributions of inputs moved a little, within `radius` times the root mean square of x less its baseline."""
        generator, inputs = torch.Generator().manual_seed(self.seed), self.inputs
        apart = inputs.x - inputs.baseline
        size = self.radius * apart.flatten(1).pow(2).mean(1).sqrt().view(-1, *[1] * (apart.ndim - 1))
        moved = [(2 * torch.rand(apart.shape, generator=generator).to(apart) - 1) * size for _ in range(self.draws)]
        return [self.again(inputs.x + torch.where(apart != 0, step, 0)) for step in moved]


# What each measure gives: by its name, one number a row; and the curves behind it, where there are some.
Measured = dict[str, Tensor]


def _deletion(asked: Asked, importance: Tensor) -> Measured:
    return {"deletion": measures.deletion(asked.value, importance, asked.counts)}


def _insertion(asked: Asked, importance: Tensor) -> Measured:
    return {"insertion": measures.insertion(asked.value, importance, asked.counts)}


def _sufficiency(asked: Asked, importance: Tensor) -> Measured:
    return {"sufficiency": measures.sufficiency(asked.value, importance, asked.counts)}


def _comprehensiveness(asked: Asked, importance: Tensor) -> Measured:
    return {"comprehensiveness": measures.comprehensiveness(asked.value, importance, asked.counts)}


def _soft(asked: Asked, importance: Tensor) -> Measured:
    found = measures.soft(asked.value, asked.drawer(), importance, asked.counts, scaling=asked.scaling, draws=asked.draws)
    return dict(zip(("soft sufficiency", "soft comprehensiveness"), found, strict=True))


def _infidelity(asked: Asked, importance: Tensor) -> Measured:
    found = measures.infidelity(asked.raw, importance, asked.counts, draws=4 * asked.draws, seed=asked.seed)
    return dict(zip(("infidelity", "scaled infidelity", "correlation"), found, strict=True))


def _agreement(asked: Asked, importance: Tensor) -> Measured:
    units, effect = asked.exact or measures.effects(asked.raw, asked.counts, seed=asked.seed)
    return {"agreement": measures.agreement(importance, units, effect)}


def _sensitivity(asked: Asked, importance: Tensor) -> Measured:
    return {"sensitivity": measures.sensitivity(importance, asked.nearby())}


MEASURES: dict[str, Callable[[Asked, Tensor], Measured]] = {
    "deletion": _deletion, "insertion": _insertion, "sufficiency": _sufficiency, "comprehensiveness": _comprehensiveness,
    "soft": _soft, "infidelity": _infidelity, "agreement": _agreement, "sensitivity": _sensitivity,
}
BY_ORDER = ("deletion", "insertion", "sufficiency", "comprehensiveness")    # which ask for the order of units alone
LOWER = {"deletion", "infidelity", "scaled infidelity", "sensitivity"}   # where less is better; elsewhere more is


@dataclass(frozen=True)
class Faithfulness:
    """How faithful attributions are, method by method and measure by measure.

    frame: one row a method and measure: `value`, the mean over rows with its 95% bootstrap interval `low`, `high`; `random`,
    the same of the attribution's own values in a random order; `difference` of the two with its paired interval, `p` of a
    paired t-test (1 where it is undefined), and `better`: whether it beats random, with the false-discovery rate over the
    table at most 5%.
    curves: by method and measure, the mean deletion or insertion curve [steps + 1]. about: n, baseline, target, seed.
    """

    frame: pd.DataFrame
    curves: dict[tuple[str, str], np.ndarray]
    about: dict[str, Any]

    def __str__(self) -> str:
        import pandas as pd
        columns, rows, words = self.said()
        return f"{pd.DataFrame(rows, columns=columns).to_string(index=False)}\n{words}"

    def said(self) -> tuple[list[str], list[list[str]], str]:
        """The table as it is printed, its columns and rows, and in words what it was measured on."""
        a, shown = self.about, self.frame.copy()
        for name, low, high in (("value", "low", "high"), ("difference", "difference_low", "difference_high")):
            shown[name] = [_said(v, x, y) for v, x, y in zip(shown[name], shown[low], shown[high], strict=True)]
        shown["random"] = shown["random"].map(_number)
        shown["better"] = shown["better"].map({True: "than random", False: "-"})
        columns = ["measure", "wants", "method", "value", "random", "difference", "better"]
        rows = shown.sort_values("measure", kind="stable")[columns].values.tolist()
        over = "one row, which decides nothing" if a["rows"] < 2 else (
            "95% bootstrap intervals over rows, false-discovery rate 5%")
        words = (f"{a['rows']} row{'s' * (a['rows'] > 1)} of {a['network']}, units closed to {a['baseline']}, "
                 f"{a['draws']} draws, seed {a['seed']}; {over}")
        return columns, rows, words

    def plot(self) -> Figure:
        """The curves behind insertion and deletion, as a matplotlib figure."""
        from matplotlib.figure import Figure
        names = list(dict.fromkeys(measure for _, measure in self.curves))
        if not names:
            raise ValueError("there are no curves to draw; measure insertion or deletion.")
        figure = Figure(figsize=(5.2 * len(names), 3.8), layout="constrained", dpi=120)
        for axes, measure in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for (method, of), curve in self.curves.items():
                if of == measure:
                    style = {"color": "black", "linestyle": "--"} if method == RANDOM else {}
                    axes.plot(np.linspace(0, 1, len(curve)), curve, label=method, **style)
            axes.set(title=f"{measure} ({'less' if measure in LOWER else 'more'} is better)", xlabel="share of units",
                     ylabel=self.about["answer"])
        axes.legend(fontsize=7)
        return figure


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def _said(value: float, low: float, high: float) -> str:
    return _number(value) + (f" [{_number(low)}, {_number(high)}]" if np.isfinite([low, high]).all() else "")


def faithfulness(net: Network, data: Any, methods: str | Sequence[str] | Mapping[str, Mapping[str, Any]], target: Any = None,
                 contrast: Any = None, over: str | Dictionary | None = None, *, which: Sequence[str] = tuple(MEASURES),
                 of: str = "logit", position: Any = None, baseline: Any = None, site: Any = None, patch: int | None = None,
                 draws: int = 8, radius: float = 0.1, scaling: str = "min-max", seed: int = 0, batch_size: int = 64,
                 progress: bool = False) -> Faithfulness:
    """Measure how faithful attributions are, each beside the same values in a random order and simple baselines.

    methods: names of the family `attribute`, or name -> options. data, target, contrast, over, of, position, baseline, site,
    patch: as `attribute` takes them; units are closed to the baseline. which: of `MEASURES`. draws: of soft masks, of
    random orders and of inputs nearby, and four times as many of closed sets for infidelity; agreement is with the exact
    effect of at most 64 units a row. radius: how far nearby inputs are, as a share of x less its baseline. scaling: how
    importance becomes a chance for the soft measures.

    Deletion, insertion, sufficiency and comprehensiveness are of the target's probability (of a function of yours, of its
    value). Beside the methods stand `size`, how far a unit is from its baseline, and for images `edges` by Sobel's filter.
    """
    unknown = [name for name in which if name not in MEASURES]
    if unknown or not methods:
        raise ValueError(f"there is no measure {unknown[0]!r}; there are {', '.join(MEASURES)}." if unknown else
                         "there is nothing to measure; give methods=, such as ['integrated-gradients', 'leave-one-out'].")
    if draws < 1 or not radius > 0:
        raise ValueError(f"there is at least one draw, and inputs nearby are at a radius above 0; found draws={draws} and "
                         f"radius={radius}.")
    batch = as_batch(net, data)
    inputs = inputs_of(net, batch, over, baseline, site, patch)
    inputs.limit, inputs.progress = batch_size, progress
    goal = goal_of(net, batch, target, contrast, of, position)
    answer = replace(goal.read_as("probability"), against=None)
    chosen = [methods] if isinstance(methods, str) else methods
    named = chosen if isinstance(chosen, Mapping) else {name: {} for name in chosen}
    for name, options in named.items():
        check_options(name, find(name, "attribute").object, options)
    ways = {name: _way(name, options, goal) for name, options in named.items()} | _simple(inputs)
    found: dict[str, Measured] = {}
    chance: dict[str, Measured] = {}
    orders = [name for name in which if name in BY_ORDER]
    any_order: Measured = {}
    shared = Asked(inputs, goal, answer, lambda x: x, draws, radius, scaling, seed)
    if "agreement" in which:
        shared = replace(shared, exact=measures.effects(shared.raw, shared.counts, seed=seed))
    for name, way in ways.items():
        importance = _units(way(inputs), name)
        asked = replace(shared, again=lambda x, way=way, name=name: _units(way(replace(inputs, x=x)), name))  # type: ignore[misc]
        own = [measure for measure in which if measure != "sensitivity" or not _of_tokens(name)]
        found[name] = _all(asked, importance, own)
        any_order = any_order or _at_random(asked, importance, orders)
        chance[name] = any_order | _at_random(asked, importance, [measure for measure in own if measure not in BY_ORDER])
    about = {"network": net.name, "rows": len(batch), "baseline": inputs.said, "over": inputs.over, "seed": seed,
             "draws": draws, "target": goal.names(net), "answer": answer.of, "scaling": scaling, "radius": radius}
    return _table(found, chance, about, seed)


def _way(name: str, options: Mapping[str, Any], goal: Target) -> Callable[[Inputs], Tensor]:
    method = find(name, "attribute").object
    return lambda inputs: method(inputs, goal, **options)


def _of_tokens(name: str) -> bool:
    """Whether a method never looks at the numbers behind tokens, so that it has no sensitivity to them."""
    return name not in (SIZE, EDGES) and getattr(find(name, "attribute").object, "of_tokens", False)


def _simple(inputs: Inputs) -> dict[str, Callable[[Inputs], Tensor]]:
    """Importance that asks no network: how far a unit is from its baseline, and edges of images."""
    ways = {SIZE: lambda i: i.units.gather((i.x - i.baseline).pow(2)).sqrt()}
    return ways if inputs.pixels is None else {**ways, EDGES: lambda i: i.units.gather(edges(i.x)[:, None].expand_as(i.x))}


def _units(values: Tensor, name: str) -> Tensor:
    check_finite(values.flatten(1), name)
    return values.detach().float().cpu().flatten(1)


def _all(asked: Asked, importance: Tensor, which: Sequence[str]) -> Measured:
    found: Measured = {}
    for name in which:
        found.update(MEASURES[name](asked, importance))
    return found


def _at_random(asked: Asked, importance: Tensor, which: Sequence[str]) -> Measured:
    """The mean of the measures over random orders of the attribution's own values; any, for those of the order alone."""
    def shuffled(seed: int) -> Tensor:
        noise = torch.rand(importance.shape, generator=torch.Generator().manual_seed(seed)).masked_fill(~asked.counts, 2)
        places, own = noise.argsort(1), importance.masked_fill(~asked.counts, torch.inf).argsort(1)
        return torch.empty_like(importance).scatter_(1, places, importance.gather(1, own))

    seeds = [asked.seed + 1 + i for i in range(max(2, asked.draws // 4))]
    parts = [_all(replace(asked, draws=max(1, asked.draws // 2), again=lambda x, s=s: shuffled(s + 1000)),  # type: ignore[misc]
                  shuffled(s), which) for s in seeds]
    return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}


def _table(found: dict[str, Measured], chance: dict[str, Measured], about: dict[str, Any], seed: int) -> Faithfulness:
    import pandas as pd
    from scipy.stats import ttest_1samp
    rows, curves = [], {}
    for method, measured in found.items():
        for measure, values in measured.items():
            theirs = chance[method][measure]
            if values.ndim == 2:
                curves[method, measure] = values.mean(0).numpy()
                curves.setdefault((RANDOM, measure), theirs.mean(0).numpy())
                values, theirs = measures.area(values), measures.area(theirs)
            value, low, high = _mean(values, seed)
            difference, below, above = _mean(values - theirs, seed)
            apart = (values - theirs).numpy()
            p = float(ttest_1samp(apart, 0).pvalue) if len(apart) > 1 and np.ptp(apart) > 0 else 1.0
            rows.append((method, measure, "less" if measure in LOWER else "more", value, low, high, float(theirs.mean()),
                         difference, below, above, p, len(values)))
    frame = pd.DataFrame(rows, columns=["method", "measure", "wants", "value", "low", "high", "random", "difference",
                                        "difference_low", "difference_high", "p", "n"])
    right = (frame["difference"] < 0) == (frame["wants"] == "less")
    frame["better"] = (benjamini_hochberg(frame["p"]) <= 0.05) & right.to_numpy()
    return Faithfulness(frame, curves, about)


def _mean(values: Tensor, seed: int) -> tuple[float, float, float]:
    parts = np.stack([values.double().numpy(), np.ones(len(values))], axis=1)
    return float(values.double().mean()), *bootstrap(parts, lambda sums: sums[..., 0] / sums[..., 1], seed=seed)
