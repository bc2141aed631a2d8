"""One pass over data, many observers.

The network runs forward once for each batch and stops after the last site that somebody looks at. An observer is handed the
tensors themselves, not copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .data import as_data, below
from .network import At, Enough, Network, Site


@dataclass(frozen=True)
class Seen:
    """What one batch shows: the tensor at each site by its name, the batch, and the data's next row."""

    tensors: dict[str, Tensor]
    batch: Any
    next_row: int

    def kept(self, site: str, max_norm: float = float("inf")) -> Tensor:
        """The activations [n, d] that count: not at special tokens, and no larger than `max_norm`."""
        x = self.tensors[site]
        keep = self.batch.keep
        x = x.flatten(0, -2) if keep is None or keep.shape != x.shape[:-1] else x[keep.to(x.device)]
        return x if max_norm == float("inf") else x[below(x, max_norm)]


class Observer(Protocol):
    """Anything that wants to see some sites: `done` ends the pass when all observers are done."""

    @property
    def sites(self) -> Sequence[str]: ...
    @property
    def done(self) -> bool: ...
    def update(self, seen: Seen) -> None: ...


@torch.no_grad()
def activations(net: Network, data: Any, sites: Iterable[str | Site], batch_size: int = 16, start: int = 0,
                stop: int | None = None, seed: int | None = None) -> Iterator[Seen]:
    """The tensors at some sites for each batch of data; nothing of the network runs after the last of them."""
    wanted = {site.name: site for site in net.sites(sites)}
    found: dict[str, Tensor] = {}
    fired, needed = 0, 0
    first: dict[str, tuple[Tensor, int]] = {}
    overwritten: set[str] = set()

    def keeper(name: str) -> Callable[[Tensor, At], None]:
        def keep(x: Tensor, at: At) -> None:
            nonlocal fired
            if needed == 0:
                first[name] = (x, x._version)
            # What a later module computes in place must be copied before it does; the first batch shows which sites.
            found[name] = x.clone() if needed == 0 or name in overwritten else x
            fired += 1
            if fired == needed:
                raise Enough
        return keep

    row = start
    # A module that is shared fires more than once, so the first batch runs to its end and counts.
    watchers = {site: keeper(name) for name, site in wanted.items()}
    for batch in as_data(data).batches(batch_size, start=start, stop=stop, seed=seed):
        batch = batch.to(net.device)
        fired = 0
        found.clear()
        with torch.no_grad(), net.watched(watchers):
            net.run_until_enough(batch)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise ValueError(f"the network's pass did not reach {', '.join(missing)}.")
        overwritten |= {name for name, (x, version) in first.items() if x._version != version}
        first.clear()
        needed = fired
        row += len(batch.rows)
        yield Seen(dict(found), batch, row)


def observe(net: Network, data: Any, observers: Sequence[Observer], tokens: int | None = None, batch_size: int = 16,
            seed: int | None = None, progress: str | None = None) -> int:
    """Show the data to all observers in one pass and return how many rows were read.

    tokens: only the first so many tokens; progress: what to call the progress bar, if one is wanted. Ctrl-C ends the pass
    with what has been seen so far left in the observers.
    """
    data = data if tokens is None else data.take(tokens)
    sites = {site for observer in observers for site in observer.sites}
    rows = 0
    with tqdm(total=data.n_rows, desc=progress, unit="row", disable=None if progress else True, leave=False) as bar:
        for seen in activations(net, data, sorted(sites), batch_size, seed=seed):
            for observer in observers:
                observer.update(seen)
            bar.update(seen.next_row - rows)
            rows = seen.next_row
            if all(observer.done for observer in observers):
                break
    if rows == 0:
        raise ValueError(f"{data.name} holds no rows, so there was nothing to observe.")
    return rows


class Moments:
    """Streaming statistics of each dimension and of the norms at one site, in float64.

    mean, variance, kurtosis: [d]; maximum: [d] of the absolute values; norms: of at most 100,000 activations.
    """

    done = False

    def __init__(self, site: str, max_norm: float = float("inf")):
        self.sites = [site]
        self.max_norm = max_norm
        self.n = 0
        self._powers: Tensor | None = None
        self.maximum: Tensor | None = None
        self._norms: list[np.ndarray] = []

    def update(self, seen: Seen) -> None:
        x = seen.kept(self.sites[0], self.max_norm).double()
        if not torch.isfinite(x).all():
            raise ValueError(f"the activations at {self.sites[0]} hold NaN or infinity.")
        if self._powers is None or self.maximum is None:
            # Powers are taken about the first batch's mean, so that a large mean costs no digits.
            self._origin = x.mean(0)
            self._powers, self.maximum = torch.zeros(4, x.shape[-1], dtype=torch.float64, device=x.device), x.abs().amax(0)
        self.n += len(x)
        y = x - self._origin
        self._powers += torch.stack([y.pow(p).sum(0) for p in (1, 2, 3, 4)])
        self.maximum = torch.maximum(self.maximum, x.abs().amax(0))
        if sum(map(len, self._norms)) < 100_000:
            self._norms.append(x.norm(dim=-1).cpu().numpy())

    def _central(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._powers is None:
            raise ValueError(f"nothing was seen at {self.sites[0]}, so it has no statistics.")
        m1, m2, m3, m4 = self._powers / self.n
        return m1, m2 - m1**2, m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4

    @property
    def mean(self) -> Tensor:
        return self._origin + self._central()[0]

    @property
    def variance(self) -> Tensor:
        return self._central()[1]

    @property
    def kurtosis(self) -> Tensor:
        """Of each dimension; 3 for a Gaussian."""
        _, variance, fourth = self._central()
        return fourth / variance.clamp(min=1e-300) ** 2

    @property
    def norms(self) -> np.ndarray:
        return np.concatenate(self._norms)


class Covariance:
    """The mean [d] and covariance [d, d] at one site, in float64."""

    done = False

    def __init__(self, site: str, max_norm: float = float("inf")):
        self.sites = [site]
        self.max_norm, self.n = max_norm, 0
        self._sum: Tensor | float = 0.0
        self._outer: Tensor | float = 0.0

    def update(self, seen: Seen) -> None:
        x = seen.kept(self.sites[0], self.max_norm).double()
        self.n += len(x)
        self._sum = self._sum + x.sum(0)
        self._outer = self._outer + x.T @ x

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self._sum) / self.n

    @property
    def covariance(self) -> Tensor:
        return torch.as_tensor(self._outer) / self.n - torch.outer(self.mean, self.mean)


class Sample:
    """The first `n` activations at one site that count: x [n, d]."""

    def __init__(self, site: str, n: int, max_norm: float = float("inf")):
        self.sites = [site]
        self.n, self.max_norm = n, max_norm
        self._parts: list[Tensor] = []

    @property
    def done(self) -> bool:
        return sum(map(len, self._parts)) >= self.n

    def update(self, seen: Seen) -> None:
        if not self.done:
            self._parts.append(seen.kept(self.sites[0], self.max_norm).clone())

    @property
    def x(self) -> Tensor:
        return torch.cat(self._parts)[: self.n]
