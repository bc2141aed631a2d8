"""The units table: one row for each layer, head, neuron, weight row, token or feature, one column for each fact.

Scoring adds a column, choosing adds a column of yes and no, acting turns that column into edits.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .files import write
from .kinds import KINDS, Kind, block_of, kind_of, sites_of, size_of
from .network import Edit, Network, Site
from .network.edit import Reference

if TYPE_CHECKING:
    import pandas as pd

    from .scores import Column, Trust

FORMAT = 1


@dataclass(frozen=True)
class Units:
    """A table of units; its columns `site`, `unit` and `block` say which, the others what is known about them.

    frame: a pandas table, one row a unit. about: for each score its method, metric, data, n, seed and reference.
    sites, sizes: the sites by the names in the table, and how many units each has in all.
    data: the fingerprint of the data that tokens stand in.
    """

    net: Network
    kind: Kind
    frame: pd.DataFrame
    sites: dict[str, Site]
    sizes: dict[str, int]
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: str | None = None

    # --- scoring ------------------------------------------------------------------------------------------------------

    def score(self, names: str | Sequence[str], data: Any, column: str | None = None, **options: Any) -> Units:
        """A new table with a column for each score; scores that can share a pass over the data do.

        names: of the catalogue's family `score`, such as `fisher` or `["gradient", "fisher"]`; data may be None for those
        of parameters alone, such as `magnitude`.
        column: the new column's name, where it is not to be the score's. options: the scores', such as `ref="mean"`.
        """
        from .scores import run
        names = [names] if isinstance(names, str) else list(names)
        if column is not None and (len(names) != 1 or column in ("site", "unit", "block", "row", "token")):
            raise ValueError(f"column= names the column of one score; found {column!r} for {', '.join(names)}.")
        return self.add({column or name: made for name, made in run(self, names, data, **options).items()})

    def add(self, columns: Mapping[str, Column]) -> Units:
        """A new table with more columns, each with what it says about itself."""
        return replace(self, frame=self.frame.assign(**{name: made.values for name, made in columns.items()}),
                       about={**self.about, **{name: made.about for name, made in columns.items()}})

    def trust(self, name: str, data: Any, n: int = 64, seed: int = 0, **options: Any) -> Trust:
        """How far a score agrees with the exact effect, measured on a sample of units; see `cutaway.scores.trusts`."""
        from .scores import trusts
        return trusts(self, [name], data, n=n, seed=seed, **options)[name]

    def agreement(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Spearman's rank correlation of each score with each other over all units; nan where a score is constant.

        names: of columns, all scores if left out. `plot` draws it for three or more names.
        """
        import pandas as pd

        from .scores.ranks import spearman
        names = list(names or self.scores)
        values = [self._numbers(name) for name in names]
        return pd.DataFrame([[float(spearman(x, y)) for y in values] for x in values], names, names)

    @property
    def scores(self) -> list[str]:
        """The names of the columns that hold scores."""
        return list(self.about)

    def column(self, name: str) -> np.ndarray:
        """The values of a column; an unknown name names the nearest."""
        if name not in self.frame:
            near = difflib.get_close_matches(name, list(self.frame), n=3) or self.scores
            tail = f"the nearest are {', '.join(near)}" if near else "it has no score yet, so add one with .score(...)"
            raise ValueError(f"this table has no column {name!r}; {tail}.")
        return self.frame[name].to_numpy()

    # --- choosing and acting ------------------------------------------------------------------------------------------

    def keep(self, by: str, share: float, per: str | None = None) -> Units:
        """A new table whose column `keep` is true for the best share of units by a score.

        per: choose the share within each group of a column, such as `block`, and not over all units.
        """
        import pandas as pd
        if not 0 <= share <= 1:
            raise ValueError(f"share is the part of the units to keep, from 0 to 1; found {share}.")
        values = self._numbers(by)
        groups = pd.factorize(self.column(per))[0] if per else np.zeros(len(values))
        keep = np.zeros(len(values), dtype=bool)
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            best = members[np.argsort(-values[members], kind="stable")]
            keep[best[: round(share * len(members))]] = True
        return replace(self, frame=self.frame.assign(keep=keep))

    def edits(self, ref: str | Reference | None = None, data: Any = None) -> list[Edit]:
        """The edits that close all units whose column `keep` is false; units that are not in the table stay open.

        ref: `zero`, `mean` (needs data=), `skip`, a function `(z, at) -> tensor`, or none for the usual of the kind.
        For tokens the gates are over the rows of the batch, in the order in which the table first names them.
        """
        import pandas as pd

        from .scores.places import references
        if "keep" not in self.frame:
            raise ValueError("nothing has been chosen in this table; choose with .keep(by, share) before .edits().")
        refs, edits = references(self, ref, data), []
        copies, rows = pd.factorize(self.frame["row"]) if "row" in self.frame else (np.zeros(len(self), int), [None])
        closed = self.frame.assign(copy=copies)[~self.column("keep").astype(bool)]
        for name, group in closed.groupby("site", sort=False):
            gate = torch.ones(len(rows), self.sizes[name])
            gate[tuple(torch.tensor(group[["copy", "unit"]].to_numpy()).T)] = 0
            shaped, over = {"": (gate[0, 0], ""), "u": (gate[0], "u"), "t": (gate, "b t")}[self.kind.axis]
            edits.append(Edit(self.sites[name], refs[name], shaped, over))
        return edits

    def top(self, by: str, n: int = 10) -> Units:
        """The n best units by a score, the best first."""
        return self.pick(np.argsort(-self._numbers(by), kind="stable")[:n])

    def bottom(self, by: str, n: int = 10) -> Units:
        """The n worst units by a score, the worst first."""
        return self.pick(np.argsort(self._numbers(by), kind="stable")[:n])

    def pick(self, rows: Any) -> Units:
        """Some rows of the table, by position or by a mask."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        frame = self.frame.iloc[rows].reset_index(drop=True)
        names = set(frame["site"])
        return replace(self, frame=frame, sites={name: site for name, site in self.sites.items() if name in names})

    def join(self, other: Units) -> Units:
        """The columns of both tables; units that the other lacks have no value in its columns."""
        if other.kind != self.kind:
            raise ValueError(f"tables of one kind can be joined; these are of {self.kind.name} and {other.kind.name}.")
        key = [name for name in ("site", "row", "unit") if name in self.frame]
        new = [name for name in other.frame if name not in (*key, "block", "token")]
        twice = [name for name in new if name in self.frame]
        if twice:
            raise ValueError(f"both tables have the column {twice[0]!r}; score one of them with another column= name.")
        frame = self.frame.merge(other.frame[[*key, *new]], on=key, how="left", validate="one_to_one")
        return replace(self, frame=frame, about={**self.about, **other.about})

    def _numbers(self, by: str) -> np.ndarray:
        values = self.column(by)
        if by == "site" or not np.issubdtype(values.dtype, np.number) or np.isnan(values.astype(float)).any():
            raise ValueError(f"units cannot be ordered by {by!r}, which is not a number for every unit.")
        return values.astype(float)

    # --- keeping and showing ------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the table as one parquet file, with what each score says about itself."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        facts = {"format": FORMAT, "kind": self.kind.name, "network": self.net.name, "sizes": self.sizes,
                 "about": self.about, "data": self.data}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"cutaway": json.dumps(facts).encode()})
        return write(path, lambda part: pq.write_table(table, part))

    @classmethod
    def load(cls, path: str | Path, net: Network, dictionaries: Iterable[Any] = ()) -> Units:
        """Read a table that `save` wrote, for the same network; a table of features needs its dictionaries."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        try:
            table = pq.read_table(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no units table at {path}.") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is not a whole parquet file: {str(error).splitlines()[0]}") from error
        facts = json.loads((table.schema.metadata or {}).get(b"cutaway", b"null"))
        if facts is None or facts["format"] > FORMAT:
            raise ValueError(f"{path} is not a units table that this version of Cutaway wrote.")
        given = {site.name: site for site in (dictionary.features(net) for dictionary in dictionaries)}
        if facts["kind"] == "features" and not set(facts["sizes"]) <= set(given):
            where = ", ".join(facts["sizes"])
            raise ValueError(f"{path} is about {where}; give dictionaries= that were learned there.")
        sites = {name: given.get(name) or net.site(name) for name in facts["sizes"]}
        for name, site in sites.items():
            if KINDS[facts["kind"]].axis == "u" and site.n not in (None, facts["sizes"][name]):
                raise ValueError(f"{path} was made on a network with {facts['sizes'][name]} units at {name}; "
                                 f"{net.name} has {site.n} there.")
        return cls(net, KINDS[facts["kind"]], table.to_pandas(), sites, facts["sizes"], facts["about"], facts["data"])

    def plot(self, by: str | Sequence[str], path: str | Path | None = None) -> Any:
        """A matplotlib figure: layers by heads, a profile over layers, a histogram; of two columns a scatter, of more how far
        they agree.
        """
        from .scores.pictures import draw
        figure = draw(self, by)
        if path is not None:
            kind = Path(path).suffix.lstrip(".") or "png"
            write(path, lambda part: figure.savefig(part, format=kind))
        return figure

    def __len__(self) -> int:
        return len(self.frame)

    def title(self) -> str:
        """What the table holds, in words."""
        sites = "1 site" if len(self.sites) == 1 else f"{len(self.sites)} sites"
        return f"{len(self):,} {self.kind.name} of {self.net.name} at {sites}"

    def notes(self) -> list[str]:
        """What the scores were measured by and on, a sentence for those that were measured alike."""
        said: dict[str, list[str]] = {}
        for name, a in self.about.items():
            metric = f"{a['metric']}, " if a["metric"] else ""
            closed = f", closed to {a['reference']}" if a["reference"] else ""
            n = f" ({a['rows']:,} row{'s' * (a['rows'] != 1)}, {a['tokens']:,} tokens)" if a["rows"] else ""
            said.setdefault(f"{metric}{a['data']}{n}{closed}", []).append(name)
        return [f"{', '.join(names)}: {note}" for note, names in said.items()]

    def __repr__(self) -> str:
        return "\n".join([self.title(), *self.notes(), self.frame.to_string(max_rows=12, float_format="{:.4g}".format)])

    def _repr_html_(self) -> str:
        from html import escape
        notes = "".join(f"<br>{escape(note)}" for note in self.notes())
        table = self.frame.to_html(max_rows=20, float_format="{:.4g}".format)
        return f"<p><b>{escape(self.title())}</b>{notes}</p>{table}"


def units(net: Network, kind: str, *, sites: str | Site | Iterable[str | Site] | None = None, dictionary: Any = None,
          data: Any = None, rows: Sequence[int] = (0,)) -> Units:
    """The table of a network's units of one kind.

    kind: `layers` (blocks, left out), `sublayers` (attention and MLP), `heads`, `neurons`, `experts`, `channels` of the
        residual stream, `rows` of weight matrices, `features` of a dictionary, or `tokens` of given rows of data.
    sites: where, in place of the kind's usual sites; names with wildcards, for rows also `path:weight`.
    dictionary: for features, one dictionary or several.
    data, rows: for tokens, the data and which of its rows; data also tells how many units there are at a site that does
        not say so itself.
    """
    chosen = kind_of(kind)
    places = sites_of(net, chosen, sites, dictionary)
    if kind == "tokens":
        return _tokens(net, chosen, places, data, rows)
    sizes = {site.name: size_of(net, chosen, site, data) for site in places}
    import pandas as pd
    frame = pd.DataFrame({
        "site": np.repeat(np.array(list(sizes), dtype=object), list(sizes.values())),
        "unit": np.concatenate([np.arange(size) for size in sizes.values()]),
        "block": pd.array(np.repeat([block_of(net, site) for site in places], list(sizes.values())), dtype="Int64")})
    return Units(net, chosen, frame, {site.name: site for site in places}, sizes)


def _tokens(net: Network, kind: Kind, places: list[Site], data: Any, rows: Sequence[int]) -> Units:
    """One unit for each kept position of some rows of data."""
    import pandas as pd
    if data is None:
        raise ValueError("tokens are those of data; give data= and rows=.")
    if max(rows, default=0) >= data.n_rows or min(rows, default=0) < 0 or not rows:
        raise ValueError(f"{data.name} has the rows 0 to {data.n_rows - 1}; found {list(rows)}.")
    sizes = {site.name: size_of(net, kind, site, data) for site in places}
    parts = []
    for site in places:
        for row in rows:
            batch, n = data.rows([row]), sizes[site.name]
            masked = batch.keep is not None and batch.keep.shape == (1, n)
            positions = np.flatnonzero(batch.keep[0].cpu().numpy()) if masked else np.arange(n)
            part = pd.DataFrame({"site": site.name, "row": row, "unit": positions})
            ids = batch.inputs.get("input_ids") if isinstance(batch.inputs, dict) else None
            if ids is not None and net.tokenizer is not None:
                part["token"] = [net.tokenizer.decode([int(ids[0, position])]) for position in positions]
            parts.append(part)
    frame = pd.concat(parts, ignore_index=True)
    return Units(net, kind, frame, {site.name: site for site in places}, sizes, data=data.fingerprint)
