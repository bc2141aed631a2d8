"""A network as a graph: parts that write to the residual stream, parts that read it, and a gate on each edge between them.

The reader r sees x_r + sum over s of (1 - gate[r, s]) (other_s - own_s): with all gates at 1 the network as it is, with an
edge's gate at 0 what its sender wrote in another run. Keys and values that several heads share are one reader, as they are in
the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..network import At, Network, Site, View
from .task import Inputs
from .wires import LAYOUTS, PARTS, Wires, weight_of, wires_of


@dataclass(frozen=True)
class Reader:
    """Readers that read at one moment: `heads` (the q, k or v of all heads of a block), `mlp` or `logits`.

    rows: their rows in the matrix of gates; before: how many senders have written by then.
    outputs: for heads, the outputs of the map that belong to each reader, [readers, width].
    """

    kind: str
    block: int
    rows: range
    before: int
    path: str = ""
    outputs: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """The parts of a network and the edges between them.

    senders: `embed`, `blocks.0.attn.heads:3`, `blocks.0.mlp`, in the order in which they write; receivers:
    `blocks.0.attn.q:3`, `.k:1`, `.v:1`, `blocks.0.mlp`, `logits`. edges: bool [receivers, senders], the edges that there are.
    owner: bool [senders, receivers], which readers a sender is made of.
    """

    net: Network
    senders: list[str]
    receivers: list[str]
    edges: Tensor
    owner: Tensor
    readers: tuple[Reader, ...] = field(repr=False)
    wires: Wires = field(repr=False)

    @property
    def n_edges(self) -> int:
        return int(self.edges.sum())

    def names(self, chosen: Tensor | None = None) -> list[str]:
        """The edges chosen by a bool matrix, or all of them, as `sender -> receiver`."""
        pairs = (self.edges if chosen is None else chosen & self.edges).nonzero().tolist()
        return [f"{self.senders[s]} -> {self.receivers[r]}" for r, s in pairs]

    def without_dead_ends(self, chosen: Tensor) -> Tensor:
        """The chosen edges that lie on a way from the embedding to the logits; the others have no effect."""
        kept = chosen & self.edges
        while True:
            reached = (self.owner & kept.any(1)).any(1)     # senders that read something
            reached[0] = True
            left = kept & reached[None, :] & self.useful(kept)[:, None]
            if torch.equal(left, kept):
                return kept
            kept = left

    def useful(self, kept: Tensor) -> Tensor:
        """The readers of parts that somebody reads, and the logits: bool [receivers]."""
        useful = (self.owner & kept.any(0)[:, None]).any(0)
        useful[-1] = True
        return useful

    def __repr__(self) -> str:
        return f"Graph({self.net.name}: {len(self.senders)} senders, {len(self.receivers)} receivers, {self.n_edges:,} edges)"


def graph(net: Network) -> Graph:
    """The graph of a network with its norms before its parts; ValueError for other networks."""
    wires, n = wires_of(net), net.n_heads or 1
    parallel = bool(getattr(net.config, "use_parallel_residual", False))
    senders, receivers, readers = ["embed"], list[str](), list[Reader]()
    own: list[list[int]] = [[]]  # of each sender, the rows of its readers

    def read(kind: str, block: int, names: Sequence[str], before: int, **more: Any) -> range:
        rows = range(len(receivers), len(receivers) + len(names))
        receivers.extend(names)
        readers.append(Reader(kind, block, rows, before, **more))
        return rows

    for i in range(net.n_blocks):
        before, path = len(senders), net.site(f"blocks.{i}").path
        width = _head_width(net, i)
        groups = int(getattr(net.config, "num_key_value_heads", None) or n)
        sizes = (n, groups, groups)
        rows = [read("heads", i, [f"blocks.{i}.attn.{part}:{u}" for u in range(sizes[p])], before,
                     path=f"{path}.{wires.maps[p]}", outputs=LAYOUTS[wires.layout](p, sizes, width))
                for p, part in enumerate(PARTS)]
        senders += [f"blocks.{i}.attn.heads:{head}" for head in range(n)]
        own += [[rows[0][head], rows[1][head * groups // n], rows[2][head * groups // n]] for head in range(n)]
        row = read("mlp", i, [f"blocks.{i}.mlp"], before if parallel else len(senders), path=f"{path}.{wires.norm2}")
        senders.append(f"blocks.{i}.mlp")
        own.append(list(row))
    read("logits", net.n_blocks, ["logits"], len(senders), path=net.site("norm").path)
    edges = torch.zeros(len(receivers), len(senders), dtype=torch.bool)
    for reader in readers:
        edges[reader.rows.start: reader.rows.stop, : reader.before] = True
    owner = torch.zeros(len(senders), len(receivers), dtype=torch.bool)
    for sender, rows_of in enumerate(own):
        owner[sender, rows_of] = True
    return Graph(net, senders, receivers, edges, owner, tuple(readers), wires)


def _head_width(net: Network, block: int) -> int:
    from ..network.families import inputs_of
    site = net.site(f"blocks.{block}.attn.heads")
    return int(inputs_of(net.module.get_submodule(site.path)) or 0) // int(site.n or 1)


class Pass:
    """One pass through a graph: what its senders write, and the gates of its edges.

    gates: [receivers, senders], or [rows, receivers, senders] for gates of their own for each row; none to only look on.
    other: what the senders wrote in the other run, [senders, rows, t, d]. own: what they are taken to write in this one;
    left out, what they do write, as constants.
    """

    def __init__(self, graph: Graph, gates: Tensor | None = None, other: Tensor | None = None, own: Tensor | None = None):
        self.graph, self.other = graph, other
        self.open = None if gates is None else 1 - gates
        self.live = other is None or own is None
        self.bank = torch.empty(0) if other is None or own is None else other - own  # of each sender, other - own
        self.n_sent = 0
        self.stream = torch.empty(0)

    @contextmanager
    def in_force(self) -> Iterator[Pass]:
        """Put the gates in force for the length of a `with` block, in which the network passes once."""
        net, touches = self.graph.net, dict[Any, Any]()
        for i in range(net.n_blocks):
            name = f"blocks.{i}"
            touches[net.site("embed") if i == 0 else _place(net.site(name).path, "in")] = self._begin(i)
            touches[net.site(f"{name}.attn.heads")] = self._heads(net, f"{name}.attn.heads")
            touches[net.site(f"{name}.mlp")] = lambda x, at: self._sends(x[None])
        for path in dict.fromkeys(reader.path for reader in self.graph.readers):
            here = [reader for reader in self.graph.readers if reader.path == path]
            heads = here[0].kind == "heads"
            touches[_place(path, "out" if heads else "in")] = self._projected(here) if heads else self._read(here[0])
        with net.watched(touches):
            yield self

    # --- writing ------------------------------------------------------------------------------------------------------

    def _sends(self, x: Tensor) -> None:
        """Take what the next senders write: [n, rows, t, d]."""
        if not self.live:
            return
        if self.n_sent == 0:
            self.bank = x.new_empty(len(self.graph.senders), *x.shape[1:])
        place = slice(self.n_sent, self.n_sent + len(x))
        self.bank[place] = x.detach() if self.other is None else self.other[place] - x.detach()
        self.n_sent += len(x)

    def _begin(self, block: int) -> Any:
        def touch(x: Tensor, at: At) -> None:
            self.stream = x
            if block == 0:
                self.n_sent = 0
                self._sends(x[None])
        return touch

    def _heads(self, net: Network, name: str) -> Any:
        site = net.site(name)
        weight = weight_of(net.module.get_submodule(site.path)).detach()

        def touch(x: Tensor, at: At) -> None:
            if self.live:
                z, _ = site.cut.split(x.detach(), at)
                self._sends(torch.einsum("bthe,dhe->hbtd", z, weight.view(len(weight), z.shape[2], -1)))
        return touch

    # --- reading ------------------------------------------------------------------------------------------------------

    def _moved(self, reader: Reader) -> tuple[Tensor, Tensor] | None:
        """Which of some readers read something else than the stream, and by how much: [n], [n, rows, t, d]."""
        if self.open is None or self.other is None:
            return None
        part = self.open[..., reader.rows.start: reader.rows.stop, : reader.before]
        closed = torch.ones_like(part, dtype=torch.bool) if part.requires_grad else part != 0
        active = closed.transpose(-1, -2).flatten(0, -2).any(0).nonzero()[:, 0]
        if not len(active):
            return None
        share, bank = part[..., active, :], self.bank[: reader.before]
        if share.ndim == 2:
            return active, (share @ bank.flatten(1)).view(-1, *bank.shape[1:])
        # Each row has few closed gates, so that only the columns that any row needs are looked at.
        columns = closed.flatten(0, -2).any(0).nonzero()[:, 0]
        return active, torch.einsum("sbtd,brs->rbtd", bank[columns], share[..., columns])

    def _read(self, reader: Reader) -> Any:
        def touch(x: Tensor, at: At) -> Tensor | None:
            moved = self._moved(reader)
            return None if moved is None else x + moved[1][0].view_as(x)
        return touch

    def _projected(self, readers: Sequence[Reader]) -> Any:
        net, block = self.graph.net, readers[0].block
        module: Any = net.module.get_submodule(readers[0].path)
        norm = net.module.get_submodule(f"{net.site(f'blocks.{block}').path}.{self.graph.wires.norm1}")
        weight = weight_of(module).detach()

        def touch(y: Tensor, at: At) -> Tensor | None:
            stream, changed = self.stream, False
            for reader in readers:
                moved = self._moved(reader)
                if moved is None:
                    continue
                active, change = moved
                outputs = reader.outputs[active]  # type: ignore[index]
                x = norm(stream + change)
                new = torch.einsum("rbtd,red->btre", x, weight[outputs])
                if module.bias is not None:
                    new = new + module.bias.detach()[outputs]
                y = y.index_copy(-1, outputs.flatten().to(y.device), new.flatten(2))
                changed = True
            return y if changed else None
        return touch


def _place(path: str, io: str) -> Site:
    return Site(f"{path}:{io}", path, io, View())


@torch.no_grad()
def written(graph: Graph, inputs: Inputs) -> Tensor:
    """What every sender writes to the residual stream in a pass as the network is: [senders, rows, t, d]."""
    with Pass(graph).in_force() as run:
        graph.net.forward(inputs)
    return run.bank
