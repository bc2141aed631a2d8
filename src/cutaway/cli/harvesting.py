"""The command that writes activations to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from . import folder, inputs
from .screen import say


def harvest(model: Annotated[str, tyro.conf.Positional] = "pico", /, site: tuple[str, ...] = (), tokens: str = "1M",
            dtype: str = "bfloat16", data: str = "stdlib", out: Path = Path("runs/harvest"), shard_tokens: int = 65_536,
            batch_size: int = 16, seed: int = 0, device: str = "cpu", pickle: bool = False) -> None:
    """Write the activations at some sites of a network to disk, all from one pass over the data.

    Interrupted with Ctrl-C, or killed, the same command goes on where it stopped.

    Args:
        model: A model's folder, hub id, or "pico".
        site: Where, such as blocks.3 or "blocks.*"; left out, the residual stream at the middle block.
        tokens: How many tokens, such as 500k or 2M, or all.
        dtype: How activations are stored: bfloat16, int8 or float32.
        data: Text files (globs and commas allowed), or stdlib, the source of Python's standard library; for a network that
            reads images, a folder of them.
        out: Folder for the activations and the configuration.
        shard_tokens: Tokens in one file.
        batch_size: Rows of the data in one pass.
        seed: Of the order in which the data's rows are read.
        device: Where the network runs, such as cpu or cuda.
        pickle: Also read weights that are saved as a pickle.
    """
    from ..counts import count_of
    from ..harvest import harvest as write
    net = inputs.network(model, device, pickle)
    sites = site or (f"blocks.{max(0, (net.n_blocks - 1) // 2)}",)
    source = inputs.data(data, net)
    if not (out / "manifest.json").exists():    # what is there already is described by the configuration it was begun with
        net.sites(sites)
        folder.begin(out, "harvest", {
            "model": model, "site": site, "tokens": tokens, "dtype": dtype, "data": data, "out": out,
            "shard_tokens": shard_tokens, "batch_size": batch_size, "seed": seed, "device": device, "pickle": pickle})
    found = write(net, source, sites, out, None if tokens == "all" else count_of(tokens), dtype, shard_tokens, seed=seed,
                  batch_size=batch_size)
    for name in found.sites:
        about = found.moments(name)
        say(f"{name}: {found.n:,} tokens, d {found.d(name)}, median norm {about.quantiles[0.5]:.3g}, "
            f"{len(about.sinks):,} sinks with norms above {about.max_norm:.3g}")
    say(f"The activations are in {out}; read them with cw.Harvest({str(out)!r}, net).")
