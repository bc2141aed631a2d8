"""The command that reads and writes other projects' dictionaries."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from . import folder, inputs
from .screen import say

if TYPE_CHECKING:
    from ..network import Network, Site

SAMPLE = 2_000   # activations on which a dictionary is checked


def convert(src: Annotated[Path, tyro.conf.Positional], dst: Annotated[Path, tyro.conf.Positional], /, to: str = "cutaway",
            format: str = "", model: str = "", data: str = "stdlib:validation", site: str = "", target: str = "",
            center: bool | None = None, activation: str = "", k: int | None = None, threshold: float | None = None,
            scale: str = "", by_norm: bool | None = None, skip_special: bool = False,
            dtype: Literal["float32", "bfloat16", "float16"] = "float32", device: str = "cpu", pickle: bool = False) -> None:
    """Read dictionaries of any known format and write them in another; with --model, after a check of what they reconstruct.

    Args:
        src: A file or folder of Cutaway, SAELens, eai-sparsify, dictionary_learning, OpenAI, Gemma Scope, Llama Scope or
            circuit-tracer.
        dst: What to write. Without --to, a name that ends in .safetensors is one file, and any other a run's folder, which
            `cutaway evaluate` and `cutaway features` read; that needs --model.
        to: The format to write: cutaway, saelens, sparsify, dictionary-learning, openai, gemma-scope, gemma-scope-2,
            llama-scope, circuit-tracer or cross-layer.
        format: The format to read; left out, by what is found.
        model: The network that the dictionary belongs to: a folder, hub id, or "pico".
        data: Text for the check, and for `cutaway evaluate` later.
        site: Where it reads, in Cutaway's names, where the file does not say.
        target: Where a transcoder writes, where the file does not say.
        center: Whether b_dec is taken from the input, where the file does not say.
        activation: relu, topk, jumprelu, abstopk or groupmax, where the file does not say.
        k: How many latents fire for each token, where the file does not say.
        threshold: Above what a latent fires, where the file does not say.
        scale: What the input is multiplied by, or layer_norm or constant_norm, where the file does not say.
        by_norm: Whether latents are chosen with the norms of their decoder rows, where the file does not say.
        skip_special: It was not trained on special tokens such as BOS, so leave those alone when it is spliced in.
        dtype: Of the tensors.
        device: Where the network runs, such as cpu or cuda.
        pickle: Also read a pickle, with weights_only.
    """
    from ..formats import save_dictionary
    from ..formats.loading import OWN, known
    known(to)
    run = to == OWN and dst.suffix != ".safetensors"
    if run and not model:
        raise ValueError(f"{dst} would be a run's folder, which needs the network that the dictionary belongs to: give "
                         "--model; or a name that ends in .safetensors, for the dictionary alone.")
    net = inputs.network(model, device, pickle) if model else None
    told: dict[str, Any] = {"center": center, "activation": activation or None, "k": k, "threshold": threshold,
                            "scale": number(scale), "by_norm": by_norm, "site": site or None, "target": target or None}
    if skip_special:
        if net is None or net.tokenizer is None:
            raise ValueError("--skip-special needs the network's tokenizer: give --model.")
        told["skip_tokens"] = list(net.tokenizer.all_special_ids)
    made = read(src, format or None, net=net, pickle=pickle, dtype=dtype,
                **{name: value for name, value in told.items() if value is not None})
    if net is not None:
        report(net, made, data, src)
    if run:
        assert net is not None
        as_run(net, made, dst, {
            "src": src, "dst": dst, "to": to, "format": format, "model": model, "data": data, "site": site, "target": target,
            "center": center, "activation": activation, "k": k, "threshold": threshold, "scale": scale, "by_norm": by_norm,
            "skip_special": skip_special, "dtype": dtype, "device": device, "pickle": pickle})
        say(f"The dictionaries are in {dst}; next: cutaway evaluate {dst}")
        return
    fresh = not dst.exists()
    try:
        for key, one in made.items():
            say(f"Written: {save_dictionary(one, dst if len(made) == 1 else dst / key.replace('/', '+'), to)}")
    except ValueError:
        if fresh:
            shutil.rmtree(dst, ignore_errors=True)   # of several, those that could be written are no use alone
        raise


def read(src: Path, format: str | None, **options: Any) -> dict[str, Any]:
    """The dictionaries at a path by their site, one or several."""
    from ..formats import load_dictionaries, load_dictionary
    from ..formats.loading import OWN, detected
    if not src.exists():
        raise FileNotFoundError(f"there is nothing at {src}.")
    if src.is_dir() and detected(src) == [OWN] and "site" not in options:
        return {file.stem.replace("+", "/"): load_dictionary(file, **options)
                for file in sorted((src / "dictionaries").glob("*.safetensors"))}
    if format is None and not detected(src) and src.is_dir():
        return load_dictionaries(src, **options)
    one = load_dictionary(src, format, **options)
    return {getattr(one, "site", "") or src.stem: one}


def number(scale: str) -> float | str | None:
    try:
        return float(scale) if scale else None
    except ValueError:
        return scale


def report(net: Network, made: dict[str, Any], data: str, src: Path) -> None:
    """Print how well each dictionary reconstructs some activations of the network, with a warning where it does not."""
    import torch

    from ..formats import check
    from ..observe import activations
    source = inputs.data(data, net).take(SAMPLE)
    for key, one in made.items():
        sites, n_read = places(net, one, src), len(one.reads)
        rows = [[seen.kept(site.name) for site in sites] for seen in activations(net, source, sites)]
        found = [torch.cat(parts).cpu() for parts in zip(*rows, strict=True)]
        if found[0].shape[-1] != one.d:
            raise ValueError(f"{src} was learned on activations of width {one.d}, but {sites[0].name} of {net.name} has "
                             f"{found[0].shape[-1]}; it belongs to another network.")
        fvu = check(one, (found[:n_read], found[n_read:]), src)
        say(f"{key}: {one.width:,} latents; FVU {fvu:.4f} on {len(found[0]):,} activations of {source.name}")


def places(net: Network, one: Any, src: Path) -> list[Site]:
    """The sites of a network that a dictionary reads, and then those that it writes."""
    from ..dictionaries import Dictionary
    if isinstance(one, Dictionary):
        if not one.site:
            raise ValueError(f"{src} does not say where in {net.name} it reads; give --site, such as blocks.1.")
        return [one.placed(net), one.written(net)]
    if not all((*one.reads, *one.writes)):
        raise ValueError(f"{src} does not say, in names that {net.name} has, where each of its layers reads and writes.")
    return [net.site(name) for name in (*one.reads, *one.writes)]


def as_run(net: Network, made: dict[str, Any], dst: Path, arguments: dict[str, Any]) -> None:
    """Write a run's folder."""
    from ..train import Run
    folder.begin(dst, "convert", arguments)
    Run(net, None, made, {}, {"converted": str(arguments["src"])}).save(dst)
