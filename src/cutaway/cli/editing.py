"""The command that edits a network, generates text and measures the effect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from . import folder, inputs
from .screen import console

if TYPE_CHECKING:
    from ..network import Edit, Network


def edit(model: Annotated[str, tyro.conf.Positional] = "pico", /, zero: tuple[str, ...] = (), mean: tuple[str, ...] = (),
         steer: tuple[str, ...] = (), clamp: tuple[str, ...] = (), prompt: tuple[str, ...] = (), new_tokens: int = 40,
         temperature: float = 0.0, data: str = "stdlib:test", tokens: str = "20k", out: Path = Path("runs/edit"), seed: int = 0,
         device: str = "cpu", pickle: bool = False) -> None:
    """Edit a network, and see what it does to its text and to its loss; the network itself is not changed.

    Args:
        model: A model's folder, hub id, or "pico".
        zero: Sites to set to zero, with units: blocks.3.attn.heads:0,5 or blocks.2.mlp.
        mean: Sites to set to their mean over the data, in the same way, such as blocks.3.mlp.
        steer: Features to add, as RUN:FEATURE:STRENGTH, such as runs/learn:123:6.0.
        clamp: Features to hold at a value, as RUN:FEATURE:VALUE; 0 ablates the feature.
        prompt: Texts to continue, before and after, such as "def main(".
        new_tokens: How many tokens to continue with.
        temperature: 0 takes the likeliest token; above 0 samples.
        data: Text files on which the loss is measured (globs and commas allowed), or stdlib:test.
        tokens: On how many tokens, such as 20k or all.
        out: Folder for the figures and the configuration.
        seed: Of sampling.
        device: Where the network runs, such as cpu or cuda.
        pickle: Also read weights that are saved as a pickle.
    """
    from ..edits import mean_ablate, zero_ablate
    from ..metrics import measure
    from ..report import terminal
    if not (zero or mean or steer or clamp):
        raise ValueError("nothing to edit; give --zero, --mean, --steer or --clamp.")
    net = inputs.network(model, device, pickle)
    source = inputs.first(inputs.data(data, net, "test"), tokens)
    edits = [zero_ablate(net, *_place(place)) for place in zero]
    for place in mean:
        site, units = _place(place)
        edits.append(mean_ablate(net, site, inputs.data(data, net, "test"), units))
    edits += [_on_feature(net, "steer", text) for text in steer] + [_on_feature(net, "clamp", text) for text in clamp]
    given = {
        "model": model, "zero": zero, "mean": mean, "steer": steer, "clamp": clamp, "prompt": prompt, "new_tokens": new_tokens,
        "temperature": temperature, "data": data, "tokens": tokens, "out": out, "seed": seed, "device": device,
        "pickle": pickle}
    with folder.begun(out, "edit", given):
        texts = {}
        for text in prompt:
            before = net.generate(text, new_tokens, temperature, seed)
            with net.edited(edits):
                texts[text] = {"before": before, "after": net.generate(text, new_tokens, temperature, seed)}
            print(f"--- as it is\n{before}\n--- edited\n{texts[text]['after']}\n")
        before = measure(net, source, "loss", progress=True)["loss"]
        with net.edited(edits):
            after = measure(net, source, ["loss", "kl"], progress=True)
        console().print(terminal.figures([before], "As it is"))
        console().print(terminal.figures(list(after.values()), "Edited"))
        folder.figures(out, {"before": before.json(), "after": {n: f.json() for n, f in after.items()}, "texts": texts})


def _place(text: str) -> tuple[str, list[int] | None]:
    """`site` or `site:0,5`; a module path keeps its own `:in` or `:out`."""
    site, _, units = text.rpartition(":")
    if not site or not units.replace(",", "").isdigit():
        return text, None
    return site, [int(unit) for unit in units.split(",") if unit]


def _on_feature(net: Network, what: str, text: str) -> Edit:
    """An edit on a feature of a run, from RUN:FEATURE:NUMBER."""
    from ..dictionaries import Direction
    from ..edits import clamp, steer
    from ..train import load
    parts = text.rsplit(":", 2)
    try:
        folder_name, index, number = Path(parts[0]), int(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        raise ValueError(f"--{what} takes RUN:FEATURE:NUMBER, such as runs/learn:123:6.0; found {text!r}.") from None
    feature = Direction(load(folder_name, net).dictionary, index)
    return steer(feature, number) if what == "steer" else clamp(feature, number)
