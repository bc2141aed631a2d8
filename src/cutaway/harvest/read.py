"""Read a harvest: by memory map, in any order, and in the order of a permutation of all its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from ..network import Network
from ..network.fingerprint import fingerprint
from .codecs import Calibration, decoded
from .gather import gather, mapped
from .layout import (
    CALIBRATION,
    STATISTICS,
    TOKEN,
    TOKENS,
    Manifest,
    read_manifest,
    shard_folder,
    site_file,
    verify,
)
from .permutation import Permutation, Without
from .statistics import Statistics, norms_of, statistics_of

REMEDY = "run the same harvest again, which writes anew what is missing and keeps the rest"


class Harvest:
    """Activations on disk, as `harvest` wrote them: `n` tokens at each of `sites`.

    net: the network that they are to be used with, which must be the one that they came from; what is read is on its device,
        to which the stored bytes are sent, not the float32 that they become.

    Tokens are numbered from 0 to n - 1 in the order in which they were written. A shard's checksum is compared when it is
    first touched. Several readers, in one process or in many, do not disturb each other. Attention sinks are stored, but
    `sample` and `batches` leave out what is above `max_norm` at one of their sites. Raises FileNotFoundError or ValueError,
    in one sentence with the remedy, for a folder that holds no harvest, is not finished, damaged, of a newer format or of
    another network.
    """

    def __init__(self, folder: str | Path, net: Network | None = None):
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        if not self.manifest.finished:
            raise ValueError(f"the harvest in {self.folder} is not finished ({self.manifest.n:,} tokens so far); run the same "
                             "harvest again to go on.")
        self._maps: dict[tuple[int, str], np.ndarray] = {}
        self._checked: set[tuple[int, str]] = set()
        device = torch.device("cpu") if net is None else net.device
        self._calibrations = {site: c.to(device) for site, c in read_calibrations(self.folder, self.manifest).items()}
        if net is not None:
            self.check(net)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return f"{self.manifest.data['name']} (harvest of {self.n:,} tokens)"

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the content of any file."""
        import xxhash
        files = [self.manifest.files, *(shard.files for shard in self.manifest.shards)]
        facts = [sorted((name, file.checksum) for name, file in some.items()) for some in files]
        return xxhash.xxh3_64_hexdigest(repr((self.manifest.network, self.manifest.data, facts)).encode())

    @property
    def sites(self) -> list[str]:
        return list(self.manifest.sites)

    @property
    def n(self) -> int:
        """Tokens, attention sinks with them."""
        return self.manifest.n

    @property
    def n_tokens(self) -> int:
        return self.n

    @property
    def dtype(self) -> str:
        """How activations are stored; they are always read as float32."""
        return self.manifest.dtype

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of the tokens that were left out."""
        return tuple(self.manifest.data["special_ids"])

    def d(self, site: str) -> int:
        """The width of a site."""
        return self.manifest.sites[self._site(site)]["d"]

    def __repr__(self) -> str:
        return f"Harvest({self.folder}: {self.n:,} tokens at {', '.join(self.sites)}, {self.dtype})"

    def check(self, net: Network) -> None:
        """Raise ValueError unless the activations came from this network."""
        known = self.manifest.network
        if fingerprint(net) != known["fingerprint"]:
            raise ValueError(f"the harvest in {self.folder} was made with a network called {known['name']} whose weights, or "
                             f"their type, differ from those of {net.name}; open the network it was made with, or harvest "
                             "anew into another folder.")

    def _site(self, site: str) -> str:
        if site not in self.manifest.sites:
            raise ValueError(f"the harvest in {self.folder} holds {', '.join(self.sites)}; found the site {site!r}; harvest it "
                             "into another folder.")
        return site

    # --- statistics ---------------------------------------------------------------------------------------------------

    def moments(self, site: str) -> Statistics:
        """Mean and variance [d], quantiles of the norms, and the sinks, of all tokens as the network gave them."""
        return statistics_of(self._statistics, self._site(site), self.n)

    def max_norm(self, site: str) -> float:
        """The norm above which an activation is an attention sink: `data.norm_limit` of all tokens."""
        return self.moments(site).max_norm

    def norms(self, site: str) -> Tensor:
        """The norm of every activation before it was rounded, float32 [n], for readers with a limit of their own."""
        for number in range(len(self.manifest.shards)):
            self._verified(number, STATISTICS)
        return torch.cat(list(norms_of(self.folder, self.manifest, self._site(site))))

    @cached_property
    def _statistics(self) -> dict[str, Tensor]:
        verify(self.folder / STATISTICS, self.manifest.files[STATISTICS], f"delete it and {REMEDY}")
        return load_file(self.folder / STATISTICS)

    # --- tokens and activations ---------------------------------------------------------------------------------------

    def read(self, site: str, index: Any) -> Tensor:
        """Activations by the numbers of tokens (a number, a list, an array, a tensor or a slice): float32 [m, d]."""
        return self._read([self._site(site)], self._index(index))[site]

    def tokens(self, index: Any) -> np.ndarray:
        """What is known of tokens: a structured array [m] of `id` (-1 where data has none), `row` of the data, `position`
        in that row, and `hidden`, whether a masked language model was not shown it."""
        return self._gather(TOKENS, self._index(index)).view(TOKEN)[:, 0]

    def sample(self, site: str, n: int) -> Tensor:
        """n activations at a site that are no sinks, drawn at random and always the same: float32 [n, d], or all."""
        return self.samples([site], n)[site]

    def samples(self, sites: Iterable[str], n: int) -> dict[str, Tensor]:
        """The same n tokens at several sites, sinks at none of them, drawn at random and always the same: {site: [n, d]}, or
        all."""
        sites = [self._site(site) for site in sites]
        counting = Without(self.n, self._sinks(sites))
        places = np.arange(min(n, counting.n))
        # The third key keeps the sample apart from the order of every epoch.
        return self._read(sites, counting(Permutation(counting.n, 0, 0, 1)(places)))

    def batches(self, sites: Iterable[str], batch: int, seed: int = 0, start: int = 0, epoch: int = 0,
                part: tuple[int, int] = (0, 1), read: Iterable[str] | None = None) -> Iterator[tuple[dict[str, Tensor], int]]:
        """One epoch: every token that counts at all of the sites once, in an order of all of them by seed and epoch.

        Gives ({site: x [batch, d]}, position), the same tokens at each site; with start=position another reader goes on
        from there exactly, at no cost. What is left at the end and fills no batch is not given. part: (i, n) gives only the
        i-th of n equal parts of each batch; read: only these of the sites.
        """
        sites = [self._site(site) for site in dict.fromkeys([sites] if isinstance(sites, str) else sites)]
        counting = Without(self.n, self._sinks(sites))
        if not 1 <= batch <= counting.n:
            raise ValueError(f"the harvest in {self.folder} has {counting.n:,} tokens that count, which do not give a batch of "
                             f"{batch:,}; take a batch from 1 to {counting.n:,}, or harvest more.")
        if not 0 <= start <= counting.n:
            raise ValueError(f"an epoch has the positions 0 to {counting.n:,}; found start={start:,}.")
        order, wanted = Permutation(counting.n, seed, epoch), sites if read is None else [self._site(site) for site in read]
        self.verify(wanted)
        mine = np.arange(batch // part[1] * part[0], batch // part[1] * (part[0] + 1))
        return ((self._read(wanted, counting(order(place + mine))), place + batch)
                for place in range(start, counting.n - batch + 1, batch))

    def verify(self, sites: Iterable[str] | None = None) -> None:
        """Compare the checksum of every file, or of those of some sites, with what was written.

        Raises FileNotFoundError or ValueError, in one sentence, for the first that is missing, cut short or changed.
        """
        names = None if sites is None else {site_file(self._site(site), self.dtype) for site in sites}
        todo = [(number, name) for number, shard in enumerate(self.manifest.shards) for name in shard.files
                if (names is None or name in names) and (number, name) not in self._checked]
        size = sum(self.manifest.shards[number].files[name].bytes for number, name in todo)
        with tqdm(total=size, desc="verifying", unit="B", unit_scale=True, delay=2, leave=False, disable=None) as bar:
            for number, name in todo:
                self._verified(number, name)
                bar.update(self.manifest.shards[number].files[name].bytes)

    def _verified(self, number: int, name: str) -> Path:
        """The path of a shard's file, which is compared with its checksum on first touch."""
        place = shard_folder(self.folder, number)
        if (number, name) not in self._checked:
            verify(place / name, self.manifest.shards[number].files[name], f"delete {place} and {REMEDY}")
            self._checked.add((number, name))
        return place / name

    def _read(self, sites: list[str], index: np.ndarray) -> dict[str, Tensor]:
        return {site: decoded(self._gather(site_file(site, self.dtype), index), self.dtype, self._calibrations[site])
                for site in sites}

    def _gather(self, name: str, index: np.ndarray) -> np.ndarray:
        """The rows of bytes of some tokens in a file that every shard has."""
        first = self.manifest.shards[0]
        return gather(index, self.manifest.shard_tokens, first.files[name].bytes // first.n,
                      lambda number: self._mapped(number, name))

    def _mapped(self, number: int, name: str) -> np.ndarray:
        if (number, name) not in self._maps:
            self._maps[number, name] = mapped(self._verified(number, name), self.manifest.shards[number].n)
        return self._maps[number, name]

    def _index(self, index: Any) -> np.ndarray:
        """Numbers of tokens as int64 [m]; those that do not exist are refused."""
        found = np.arange(self.n)[index] if isinstance(index, slice) else np.asarray(index)
        if found.size and found.dtype.kind not in "iu":
            raise ValueError(f"tokens are chosen by whole numbers; found {found.dtype}.")
        found = found.reshape(-1).astype(np.int64)
        if len(found) and not 0 <= (worst := found.min() if found.min() < 0 else found.max()) < self.n:
            raise IndexError(f"the harvest in {self.folder} has the tokens 0 to {self.n - 1:,}; {worst:,} was asked for.")
        return found

    def _sinks(self, sites: list[str]) -> np.ndarray:
        return np.unique(np.concatenate([self.moments(site).sinks for site in sites]))


def read_calibrations(folder: Path, manifest: Manifest) -> dict[str, Calibration]:
    """The calibration of each site."""
    place = folder / CALIBRATION
    verify(place, manifest.files[CALIBRATION], "restore it, or harvest anew into another folder")
    found = load_file(place)
    return {site: Calibration(found[f"{site}|centre"], found[f"{site}|spread"]) for site in manifest.sites}
