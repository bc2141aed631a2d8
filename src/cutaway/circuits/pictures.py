"""Pictures of circuits: the parts and edges that are left, faithfulness by size, and patching by head."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write
from .effects import Effects
from .faithfulness import Benchmark
from .smallest_circuit import Circuit

COLOURS = {"q": "#c9482b", "k": "#2b6cb0", "v": "#2f855a", "mlp": "#6b46c1", "logits": "#444444"}
MOST = 80  # edges that are drawn
WRITTEN = 0.02  # shares of a behaviour at least this large are written into the map
BENDS = {"q": 0.26, "k": 0.13, "v": 0.0, "mlp": -0.13, "logits": 0.1}  # so that edges between the same parts lie apart
WHAT = {"q": "into queries", "k": "into keys", "v": "into values", "mlp": "into an MLP", "logits": "into the logits"}


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    return figure, figure.add_subplot()


def save(figure: Any, path: str | Path) -> Path:
    """Write a figure in the format of its name."""
    kind = Path(path).suffix.lstrip(".") or "png"
    return write(path, lambda part: figure.savefig(part, format=kind))


def place_of(name: str, n_heads: int, n_blocks: int) -> tuple[float, float]:
    """Where a part is drawn: the network from the bottom up, heads side by side, MLPs above them on the right."""
    if name == "embed":
        return (n_heads - 1) / 2, -1.0
    if name == "logits":
        return (n_heads - 1) / 2, 2.0 * n_blocks
    block, part, unit = re.fullmatch(r"blocks\.(\d+)\.(attn\.\w+|mlp)(?::(\d+))?", name).groups()  # type: ignore[union-attr]
    return (float(n_heads) + 0.4, 2.0 * int(block) + 0.7) if part == "mlp" else (float(unit), 2.0 * int(block))


def draw_circuit(circuit: Circuit) -> Any:
    """The circuit's edges between heads, MLPs, embedding and logits; grey parts are not in it."""
    parts = circuit.graph
    n_heads, n_blocks = parts.net.n_heads or 1, parts.net.n_blocks
    figure, axes = _figure(max(6.0, 0.75 * n_heads + 3), max(3.5, 0.95 * n_blocks + 2))
    used = {*circuit.nodes, "logits"}
    scores, shown = circuit.scores.values, set()
    edges = circuit.edges.nonzero()
    edges = edges[scores[edges[:, 0], edges[:, 1]].abs().argsort(descending=True)][:MOST]
    largest = float(scores[circuit.edges].abs().max()) if len(edges) else 1.0
    for row, column in edges.tolist():
        receiver = parts.receivers[row]
        part = re.split(r"[.:]", receiver)[-2 if ":" in receiver else -1]
        owners = parts.owner[:, row].nonzero()[:, 0].tolist()
        for target in [parts.senders[i] for i in owners if parts.senders[i] in used] or ["logits"]:
            start, end = (place_of(name, n_heads, n_blocks) for name in (parts.senders[column], target))
            width = 0.5 + 3 * abs(float(scores[row, column])) / max(largest, 1e-12)
            axes.annotate("", end, start, arrowprops=dict(
                arrowstyle="-|>", color=COLOURS[part], linewidth=width, alpha=0.75, shrinkA=9, shrinkB=9,
                connectionstyle=f"arc3,rad={BENDS[part]}"))
            shown.add(part)
    for name in [*parts.senders, "logits"]:
        x, y = place_of(name, n_heads, n_blocks)
        here = name in used
        axes.scatter([x], [y], s=340 if here else 40, color="#f4e7c3" if here else "#e3e3e3",
                     edgecolors="#333333" if here else "#d0d0d0", linewidths=0.8, zorder=3)
        if here:
            said = name.rpartition(":")[2] if ":" in name else {"embed": "emb", "logits": "out"}.get(name, "mlp")
            axes.text(x, y, said, ha="center", va="center", fontsize=7 if said.isdigit() else 6,
                      zorder=4)
    axes.set(yticks=[2 * i for i in range(n_blocks)], xticks=[], xlim=(-1, n_heads + 1.2), ylim=(-1.8, 2 * n_blocks + 0.8))
    axes.set_yticklabels([f"block {i}" for i in range(n_blocks)], fontsize=8)
    for part in [part for part in COLOURS if part in shown]:
        axes.plot([], [], color=COLOURS[part], label=WHAT[part])
    if shown:
        axes.legend(fontsize=7, loc="upper left", frameon=False, ncols=len(shown))
    for side in axes.spines.values():
        side.set_visible(False)
    n_edges = int(circuit.edges.sum())
    drawn = f"; drawn are the {MOST} edges of {n_edges:,} with the largest scores" if n_edges > MOST else ""
    axes.set_title(f"{circuit.about['task']} in {parts.net.name}: {len(circuit.parts)} of {circuit.n_parts:,} {circuit.level}"
                   f"{drawn}\n{circuit.figures['faithfulness']}", fontsize=8, loc="left")
    return figure


def draw_curves(benchmarks: dict[str, Benchmark], title: str) -> Any:
    """Faithfulness by the share of parts kept, for several scores: parts chosen by signed scores, and by their size."""
    figure, axes = _figure(6.4, 4.0)
    first = next(iter(benchmarks.values()))
    for name, found in benchmarks.items():
        lines = (("signed", "signed score", found.cpr, "-"), ("size", "size of score", found.cmd, "--"))
        for order, words, area, line in lines:
            axes.plot(found.curves[order].shares, found.curves[order].faithfulness, line, marker="o", markersize=3,
                      label=f"{name}, by {words}: {area.name.upper()} {area.value:.2f}")
    axes.plot(first.curves["random"].shares, first.curves["random"].faithfulness, color="grey", linestyle=":",
              label=f"random: CPR {np.mean(first.random['cpr']):.2f}, CMD {np.mean(first.random['cmd']):.2f}")
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set(xscale="log", xlabel="share of edges kept", ylabel="faithfulness")
    figure.legend(fontsize=7, loc="outside lower center", frameon=False)
    axes.set_title(title, fontsize=8, loc="left")
    return figure


def draw_heads(effects: Effects) -> Any:
    """Blocks down, heads across: red where a head carries the behaviour, blue where it works against it."""
    from matplotlib.colors import CenteredNorm
    grid = np.stack([effects.share(site) for site in effects.values])
    figure, axes = _figure(max(4.5, 0.5 * grid.shape[1] + 2), max(3.0, 0.45 * grid.shape[0] + 1.4))
    image = axes.imshow(grid, cmap="RdBu_r", norm=CenteredNorm(), aspect="auto")
    for (block, head), share in np.ndenumerate(grid):
        if abs(share) >= WRITTEN:       # the strongest head makes all others pale
            axes.text(head, block, f"{share:.2f}", ha="center", va="center", fontsize=6,
                      color="white" if abs(share) > 0.6 * np.abs(grid).max() else "black")
    figure.colorbar(image, label="share of the behaviour")
    axes.set(xlabel="head", ylabel="block", xticks=range(grid.shape[1]), yticks=range(grid.shape[0]))
    a = effects.about
    axes.set_title(f"{a['method']} of {a['task']} in {a['network']}\n{a['direction']}, {a['rows']} pairs of prompts",
                   fontsize=8, loc="left")
    return figure
