"""The command that finds which parts of a network carry a behaviour."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..files import write_json
from . import folder, inputs
from .screen import frame, say

if TYPE_CHECKING:
    import pandas as pd

    from ..circuits import Effects, Task
    from ..network import Network

HEADS = "blocks.*.attn.heads"


def circuit(model: Annotated[str, tyro.conf.Positional] = "pico", /, task: str = "induction",
            level: Literal["edges", "nodes"] = "edges",
            by: Literal["eap-ig", "eap", "edge-patching", "information-flow"] = "eap-ig", target: float = 0.9, n: int = 32,
            top: int = 12, out: Path = Path("runs/circuit"), seed: int = 0, device: str = "cpu", pickle: bool = False) -> None:
    """Find the parts of a network that carry a behaviour: heads by patching, then the smallest circuit that keeps it.

    Args:
        model: A model's folder, hub id, or "pico".
        task: induction, assignment, or a .jsonl file with clean, corrupted, right and wrong in each line.
        level: A circuit of edges, or of nodes (heads and MLPs with all edges that leave them).
        by: The scores of edges that say where to look.
        target: The share of the behaviour that the circuit is to keep on the half of the prompts that it is found on.
        n: Pairs of prompts of a task that is made here; half of them to find the circuit, half to measure it.
        top: How many heads and parts to print.
        out: Folder for heads.json, circuit.json, pictures and the configuration.
        seed: Of the prompts and of random circuits.
        device: Where the network runs, such as cpu or cuda.
        pickle: Also read weights that are saved as a pickle.
    """
    from ..circuits import strength, task_of
    from ..circuits.smallest_circuit import check_target
    check_target(target)
    net = inputs.network(model, device, pickle)
    asked = task_of(net, task, n, seed)
    shown = strength(net, asked)
    folder.begin(out, "circuit", {
        "model": model, "task": task, "level": level, "by": by, "target": target, "n": n, "top": top, "out": out, "seed": seed,
        "device": device, "pickle": pickle})
    say(f"{asked.name} in {net.name}, {len(asked)} pairs of prompts of {asked.length} tokens")
    for figure in shown:
        say(f"- {figure}")
    _heads(net, asked, top, out)
    unknown = _without_edges(net)
    if unknown:
        say(f"\nNo circuit was sought: {unknown}\nThe heads are in {out}: heads.json and heads.png.")
        return
    _circuit(net, asked, level, by, target, seed, top, out)
    say(f"\nAll of it is in {out}: heads.json and heads.png, circuit.json and circuit.png, curves.png.")


def _without_edges(net: Network) -> str:
    """Why a network's edges are not known, in one sentence; empty where they are."""
    from ..circuits.wires import wires_of
    try:
        wires_of(net)
    except ValueError as error:
        return str(error)
    return ""


def _heads(net: Network, asked: Task, top: int, out: Path) -> None:
    """What each head carries, measured and estimated, and where it looks."""
    from ..circuits import activation_patching, agreement, attribution_patching, relp
    from ..circuits.pictures import draw_heads, save
    measured = activation_patching(net, asked, HEADS, progress=True)
    other = {"noising": activation_patching(net, asked, HEADS, direction="noising", progress=True),
             "attribution": attribution_patching(net, asked, HEADS), "relp": relp(net, asked, HEADS)}
    table = with_patterns(net, head_table(measured, other))
    say(f"\nHeads by activation patching (denoising), as shares of a gap of {measured.gap:.3g} {asked.unit}:")
    frame(table.head(top).assign(site=table["site"] + ":" + table["unit"].astype(str)).drop(columns="unit"))
    agreed = {name: agreement(other[name], measured)["heads"] for name in ("attribution", "relp")}
    for name, found in agreed.items():
        say(f"- {name} agrees with the measured effect of {found.n} heads: Pearson {found.pearson:.3f}, Spearman "
            f"{found.spearman:.3f}, same sign {found.signs:.2f}")
    write_json(out / "heads.json", {**measured.about, "gap": measured.gap, "heads": table.to_dict("records"),
                                    "agreement": {name: asdict(found) for name, found in agreed.items()}})
    save(draw_heads(measured), out / "heads.png")


def head_table(measured: Effects, other: dict[str, Effects]) -> pd.DataFrame:
    """One row a head, the largest measured effect first, with the other effects beside it."""
    table = measured.frame().rename(columns={"effect": "denoising"})
    for name, effects in other.items():
        table[name] = effects.frame()["effect"]
    return table.sort_values("denoising", key=abs, ascending=False, ignore_index=True)


def with_patterns(net: Network, table: pd.DataFrame) -> pd.DataFrame:
    """The table with where each head looks in repeated random tokens, for causal language models."""
    from ..circuits import head_patterns
    if net.kind != "causal":
        return table
    return table.merge(head_patterns(net), on=["site", "unit"], how="left")


def _circuit(net: Network, asked: Task, level: str, by: str, target: float, seed: int, top: int, out: Path) -> None:
    """The smallest circuit, and the benchmark's areas for the scores of edges that led to it."""
    from ..circuits import benchmark, smallest_circuit
    from ..circuits.pictures import draw_circuit, draw_curves, save
    found = smallest_circuit(net, asked, level, by, target, seed=seed, progress=True)
    measured_on = asked.halves()[1]
    areas = benchmark(measured_on, found.scores, seed=seed)
    say(f"\nThe smallest circuit found on {len(asked) - len(measured_on)} pairs has {len(found.parts)} of {found.n_parts:,} "
        f"{level}; on the other {len(measured_on)}:")
    for figure in found.figures.values():
        say(f"- {figure}")
    frame(found.frame().head(top))
    say(f"\nEdges by {by}, kept from the best to the worst (definitions of arXiv 2504.13151):")
    said: dict[str, Any] = {"cpr": areas.cpr, "cmd": areas.cmd, "log cmd": areas.log_cmd}
    for kind, figure in said.items():
        say(f"- {figure}; random orders {sum(areas.random[kind]) / len(areas.random[kind]):.4g}")
    write_json(out / "circuit.json", {
        **found.json(), "areas": {kind: figure.json() for kind, figure in said.items()}, "random areas": areas.random,
        "faithfulness by share": {name: dict(zip(map(str, line.shares), line.faithfulness.tolist(), strict=True))
                                  for name, line in areas.curves.items()}})
    save(draw_circuit(found), out / "circuit.png")
    save(draw_curves({by: areas}, f"{asked.name} in {net.name}, {len(measured_on)} pairs of prompts"), out / "curves.png")
