"""The table and the plot of a comparison of dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write, write_json
from ..metrics.intervals import interval
from ..provenance import commit, versions

PUBLISHED_SAMPLES = 200_000_000
# SynthSAEBench-16k, width 4096, L0 25 (arXiv 2602.14687): F1, MCC and explained variance, means of five seeds.
PUBLISHED = {"batch-topk": (0.7316, 0.7574, 0.7923), "matryoshka": (0.8793, 0.7927, 0.7792), "mp-sae": (0.4464, 0.6930, 0.8351),
             "relu-l1": (0.5562, 0.6039, 0.7654), "jumprelu": (0.7317, 0.7527, 0.7951)}
SHOWN = ("cosine", "f1", "fvu")          # of worlds; a network's activations have no truth, so FVU and stability there
FIGURES = ("cosine", "recovered", "precision", "recall", "f1", "unique", "splitting", "absorption", "stability", "fvu", "l0",
           "dead")
NEAR = 0.05                              # an L0 that differs by more than this share from the wanted one is marked


def rows(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each scene, method and wanted L0: of each figure the mean over seeds, its 95% interval and n."""
    keys = sorted({(c["scene"], c["l0"], c["method"]) for c in cells})
    found = []
    for key in keys:
        mine = [c for c in cells if (c["scene"], c["l0"], c["method"]) == key]
        row: dict[str, Any] = dict(zip(("scene", "wanted", "method"), key, strict=True))
        good = [c["figures"] for c in mine if "figures" in c]
        row["seeds"], row["width"] = len(good), mine[0]["width"]
        if not good:
            row["error"] = mine[0]["error"]
        for name in FIGURES:
            values = [f[name] for f in good if f.get(name) is not None and isfinite(f[name])]
            if values:
                # Stability is of pairs of seeds, which share their seeds, so that it has no interval over them.
                low, high = interval(values if name != "stability" else values[:1])
                row[name] = {"mean": float(np.mean(values)), "low": low, "high": high, "n": len(values)}
        found.append(row)
    return found


def markdown(found: Sequence[dict[str, Any]], budget: dict[str, Any]) -> str:
    """One table: a row for each method, a column for each scene, at the scene's first L0; the published figures below."""
    from .scenes import SIZES
    scenes = [name for name in SIZES if any(row["scene"] == name for row in found)]
    table = {(row["scene"], row["method"]): row for row in found if row["wanted"] == SIZES[row["scene"]][1][0]}
    ids = sorted({method for _, method in table})
    share = budget["samples"] / PUBLISHED_SAMPLES
    heads = [f"{name} (L0 {SIZES[name][1][0]})" for name in scenes]
    tried = ", ".join(f"{rate:g}" for rate in budget["rates"])
    lines = ["# Dictionaries against each other", "",
             f"Each training sees {budget['samples']:,} activations in batches of {budget['batch']}; its learning rate is the "
             f"best of {tried} times the method's own, on validation data. Means over seeds, with half of the 95% interval "
             "(Student's t). Worlds: mean cosine of matched latents and features · F1 of firing · FVU. pico: FVU · stability "
             "over seeds. `*`: L0 on test data is more than 5% off, and follows in brackets.",
             "", "## At a glance", "", "F1 of firing on worlds whose features are known, FVU on pico.", "",
             *summary(found).splitlines(), "", "## With intervals", "",
             "| method | " + " | ".join(heads) + " |", "|---|" + "---|" * len(scenes)]
    lines += [f"| {id} | " + " | ".join(_entry(table.get((name, id)), name) for name in scenes) + " |" for id in ids]
    lines += ["", "## Beside the published figures", "",
              f"SynthSAEBench-16k at L0 25, width 4096, {PUBLISHED_SAMPLES:,} samples, five seeds (arXiv 2602.14687). Ours are "
              "of its smaller sibling `synth-small` (1,024 features in 128 dimensions, width 256, L0 8) with "
              f"{share:.2%} of that number of samples, so only the order of the methods may be compared.", "",
              "| method | F1 published | F1 here | MCC published | MCC here | explained variance published | here |",
              "|---|---|---|---|---|---|---|"]
    for id, known in PUBLISHED.items():
        row = table.get(("synth-small", id), {})
        ours = [_number(row.get(name), flip) for name, flip in (("f1", False), ("cosine", False), ("fvu", True))]
        lines.append(f"| {id} | " + " | ".join(f"{a:.3f} | {b}" for a, b in zip(known, ours, strict=True)) + " |")
    return "\n".join(lines) + "\n"


def summary(found: Sequence[dict[str, Any]]) -> str:
    """The comparison at a glance, methods by their mean F1 over the worlds: F1 of firing on each world, FVU on pico.

    Means over seeds at each scene's first L0; the best of a column is bold, and `*` marks an L0 that is off.
    """
    from .scenes import SIZES
    table = {(row["method"], row["scene"]): row for row in found
             if row["wanted"] == SIZES[row["scene"]][1][0] and "error" not in row}
    scenes = [name for name in SIZES if any(scene == name for _, scene in table)]
    shown = {name: "fvu" if name == "pico" else "f1" for name in scenes}

    def value(id: str, name: str) -> float | None:
        return table.get((id, name), {}).get(shown[name], {}).get("mean")
    mean = {id: float(np.mean([value(id, name) or 0.0 for name in scenes if name != "pico"] or [0.0]))
            for id in {id for id, _ in table}}
    best = {name: (min if shown[name] == "fvu" else max)(v for id in mean if (v := value(id, name)) is not None)
            for name in scenes}

    def entry(id: str, name: str) -> str:
        v = value(id, name)
        if v is None:
            return "–"
        return (f"**{v:.2f}**" if v == best[name] else f"{v:.2f}") + ("*" if _off(table[id, name]) else "")
    heads = [f"{name}{', FVU' if shown[name] == 'fvu' else ''}" for name in scenes]
    lines = ["| method | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(scenes)]
    order = sorted(mean, key=lambda id: -mean[id])
    lines += [f"| {id} | " + " | ".join(entry(id, name) for name in scenes) + " |" for id in order]
    return "\n".join(lines) + "\n"


def report(out: str | Path, found: Sequence[dict[str, Any]], budget: dict[str, Any], stem: str = "dictionaries") -> Path:
    """Write `<stem>.json` (every figure), `<stem>.md` (the table) and `<stem>.png` (the frontier); gives the table's path."""
    out, made = Path(out), rows(found)
    write_json(out / f"{stem}.json", {"budget": budget, "versions": versions(), "commit": commit(),
                                      "interval": "95%, Student's t over seeds", "rows": made})
    plot(made, out / f"{stem}.png")
    return write(out / f"{stem}.md", lambda part: part.write_text(markdown(made, budget), encoding="utf-8"))


def _entry(row: dict[str, Any] | None, scene: str) -> str:
    if row is None:
        return ""
    if "error" in row:
        return "cannot be trained on this"
    names = ("fvu", "stability") if scene == "pico" else SHOWN
    return " · ".join(_number(row.get(name)) for name in names) + (f" * ({row['l0']['mean']:.1f})" if _off(row) else "")


def _off(row: dict[str, Any]) -> bool:
    """Whether the L0 on test data is not the wanted one."""
    return abs(row["l0"]["mean"] / row["wanted"] - 1) > NEAR


def _number(found: dict[str, float] | None, flip: bool = False) -> str:
    if found is None:
        return "–"
    half = (found["high"] - found["low"]) / 2
    mean = 1 - found["mean"] if flip else found["mean"]
    return f"{mean:.3f}" + (f" ± {half:.3f}" if isfinite(half) else "")


def plot(found: Sequence[dict[str, Any]], path: Path) -> None:
    """The frontier of sparsity and fidelity: FVU over L0 on pico and synth-small, and matched cosine over L0 on the latter."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    panels = [(s, f) for s, f in (("pico", "fvu"), ("synth-small", "fvu"), ("synth-small", "cosine"))
              if any(row["scene"] == s and f in row for row in found)]
    if not panels:
        panels = [(found[0]["scene"], "fvu")]
    figure = Figure(figsize=(5.2 * len(panels), 5.0), layout="constrained", dpi=120)
    # A frontier is of methods at several L0; of a comparison at one L0 alone, all are points.
    several = {(s, m): sum(row["scene"] == s and row["method"] == m for row in found) for s, m in
               {(row["scene"], row["method"]) for row in found}}
    least = {s: min(2, max(n for (of, _), n in several.items() if of == s)) for s, _ in panels}
    ids = sorted({m for (s, m), n in several.items() if s in least and n >= least[s]})
    for axes, (scene, name) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for i, id in enumerate(ids):
            mine = sorted((row["l0"]["mean"], row[name]["mean"], row[name]["low"], row[name]["high"]) for row in found
                          if row["scene"] == scene and row["method"] == id and name in row)
            if len(mine) < least[scene]:
                continue
            x, y, low, high = np.array(mine).T
            error = np.nan_to_num(np.abs(np.stack([y - low, high - y])))
            axes.errorbar(x, y, error, label=id, color=colormaps["tab20"](i % 20), marker="osD^vPX"[i % 7], ms=4, lw=1.2,
                          capsize=2)
        label = {"fvu": "FVU on test data", "cosine": "mean cosine of matched latents and features"}[name]
        ticks = sorted({row["wanted"] for row in found if row["scene"] == scene})
        axes.set(xscale="log", ylabel=label, title=scene,
                 xlabel="L0 on test data (latents per activation)",
                 xlim=(ticks[0] / 1.4, ticks[-1] * 1.4))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    write(path, lambda part: figure.savefig(part, format="png"))
