"""How far a cheap score may be trusted: its agreement with the exact effect on a sample of units."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import write_json
from ..metrics import row_loss
from .column import Column
from .exact import exact
from .places import reference_name
from .ranks import FEWEST, agreement, in_common, stratified
from .reading import Metric, metric_name

if TYPE_CHECKING:
    import pandas as pd

    from ..units import Units


@dataclass(frozen=True)
class Trust:
    """The rank agreement of a score with the exact effect.

    agreement: Spearman's rank correlation, with its 95% bootstrap interval over units; nan where it is undefined.
    shared: how many of the `top` units by the exact effect are also among the `top` by the score.
    n: the units compared, of `of` in the table; rows, tokens: the data on which the exact effect was measured.
    repeats: how far the exact effect would agree with itself on as much other data; no score can do much better there.
    same_data: whether that is the data of the score itself; why: why the agreement is undefined, empty where it is not.
    """

    score: str
    kind: str
    agreement: float
    low: float
    high: float
    shared: int
    top: int
    n: int
    of: int
    repeats: float
    metric: str
    data: str
    rows: int
    tokens: int
    reference: str
    same_data: bool
    seed: int
    why: str = ""

    @property
    def defined(self) -> bool:
        return not self.why

    def words(self) -> str:
        """What the agreement means."""
        if not self.defined:
            return f"whether {self.score} agrees with the exact effect is undefined"
        if self.low <= 0 <= self.high:
            return f"no agreement of {self.score} with the exact effect can be shown"
        return f"{self.score} {next(text for least, text in WORDS if self.agreement >= least)} the exact effect"

    @property
    def in_short(self) -> str:
        """The same in a word or two, for a table."""
        said = self.words().removeprefix(f"{self.score} ")
        return "not shown" if said.startswith("no ") else said.removeprefix("agrees ").split(" with ")[0].split(" the ")[0]

    def __str__(self) -> str:
        same = "the same data" if self.same_data else "other data"
        measured = (f"{self.metric} on {same}, {self.data} ({self.rows:,} rows, {self.tokens:,} tokens), "
                    f"units closed to {self.reference}, seed {self.seed}")
        if not self.defined:
            return f"{self.words()}: {self.why} ({measured})"
        sample = f"all {self.n}" if self.n == self.of else f"{self.n} of {self.of:,}"
        return (f"{self.words()}: rank correlation {self.agreement:.2f} [{self.low:.2f}, {self.high:.2f}] over "
                f"{sample} {self.kind}, {self.shared} of the top {self.top} in common; the exact effect repeats "
                f"{self.repeats:.2f} on so much data{', so give it more' if self.repeats < 0.5 else ''} ({measured})")


WORDS = ((0.8, "agrees well with"), (0.5, "agrees in part with"), (0.0, "agrees poorly with"), (-1.0, "contradicts"))


def trusts(units: Units, names: Sequence[str], data: Any, n: int = 64, seed: int = 0, top: int = 10,
           metric: Metric | None = None, **options: Any) -> dict[str, Trust]:
    """The trust of several scores of a table, all against the exact effect on one sample of units.

    data: best other data than the scores'. n: how many units to sample, evenly over the quantiles of the scores; all of
    them where the table has fewer. options: those of the exact score; ref= is the scores' own unless given.
    """
    return compared(units, names, data, n, seed, top, metric, **options)[1]


def compared(units: Units, names: Sequence[str], data: Any, n: int = 64, seed: int = 0, top: int = 10,
             metric: Metric | None = None, **options: Any) -> tuple[Units, dict[str, Trust]]:
    """The same, with the sample of units, whose column `exact` is the effect on that data."""
    for name in names:
        units.column(name)
    metric = metric or _own(units, names, "metric", metric_name(row_loss), row_loss)
    if "ref" not in options:
        options["ref"] = _own(units, names, "reference", units.kind.ref, None)
    problems = {name: _problem(units.column(name)) for name in names}
    rows = stratified([units.column(name) for name in names if not problems[name]], len(units), n, seed)
    sample = units.pick(rows)
    effect = _known(units, rows, data, metric, options) or exact(sample, data, metric=metric, **options)
    facts = {key: effect.about[key] for key in ("repeats", "metric", "data", "rows", "tokens", "reference")}
    found = {}
    for name in names:
        values = sample.column(name)
        why = problems[name] or _problem(values) or _problem(effect.values, "the exact effect")
        rank, low, high = (nan, nan, nan) if why else agreement(values, effect.values, seed)
        most = min(top, max(1, len(sample) // 2))
        common = 0 if why else in_common(values, effect.values, most)
        same = units.about.get(name, {}).get("fingerprint") == data.fingerprint
        found[name] = Trust(name, units.kind.name, rank, low, high, common, most, n=len(sample), of=len(units),
                            seed=seed, same_data=same, why=why, **facts)
    return sample.add({"exact": effect}), found


def _known(units: Units, rows: np.ndarray, data: Any, metric: Metric, options: dict[str, Any]) -> Column | None:
    """The exact effect of some rows of a table, where it is a column already, measured on the same data in the same way."""
    tokens, ref = options.get("tokens"), options["ref"]
    asked = {"method": "exact", "metric": metric_name(metric), "fingerprint": data.fingerprint, "seed": options.get("seed"),
             "rows": (data if tokens is None else data.take(tokens)).n_rows, "reference": reference_name(units, ref)}
    for name, about in units.about.items():
        if not callable(ref) and asked.items() <= about.items():
            return Column(units.column(name)[rows], about)
    return None


def trust_table(units: Units, names: Sequence[str], data: Any, n: int = 64, seed: int = 0,
                **options: Any) -> pd.DataFrame:
    """The estimator table: one row a score, with its agreement with the exact effect, the best first."""
    import pandas as pd
    found = trusts(units, names, data, n=n, seed=seed, **options)
    table = pd.DataFrame([{**asdict(trust), "words": trust.words()} for trust in found.values()])
    return table.sort_values("agreement", ascending=False, na_position="last", ignore_index=True)


def _problem(values: np.ndarray, what: str = "the score") -> str:
    """Why no rank agreement can be taken of a column; empty where it can."""
    if not np.isfinite(values.astype(float)).all():
        return f"{what} is not a number for some units"
    if len(values) < FEWEST:
        return f"there are {len(values)} units, and it takes at least {FEWEST}"
    if np.ptp(values) == 0:
        return f"{what} is the same for all units"
    return ""


def _own(units: Units, names: Sequence[str], key: str, usual: str, value: Any) -> Any:
    """What the scores themselves were measured by, where it can be had again by name."""
    found = {units.about[name][key] for name in names if name in units.about} - {None}
    if len(found) > 1:
        raise ValueError(f"these scores differ in their {key} ({', '.join(sorted(found))}); check them one by one.")
    own = found.pop() if found else usual
    if own == usual:
        return value
    if key == "reference" and own in ("zero", "mean", "skip"):
        return own
    option = "ref" if key == "reference" else key
    raise ValueError(f"{', '.join(names)} was scored with the {key} {own}; give {option}= to be checked by the same.")


def save_trusts(path: str | Path, found: Mapping[str, Trust]) -> Path:
    """Write the trust of scores as JSON, by score; beside a saved table of units it is called `trust.json`."""
    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and np.isnan(value) else value
    return write_json(path, {name: {key: plain(value) for key, value in asdict(trust).items()}
                             for name, trust in found.items()})


def load_trusts(path: str | Path) -> dict[str, Trust]:
    """The trust of scores that `save_trusts` wrote, by score; none where there is no such file."""
    path = Path(path)
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: _read(facts) for name, facts in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold the trust of scores ({error}); score again, or remove it.") from error


def _read(facts: dict[str, Any]) -> Trust:
    plain: dict[str, Any] = {key: nan if value is None else value for key, value in facts.items()}
    return Trust(**plain)
