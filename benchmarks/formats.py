"""Whether other libraries' files are read as they mean them, whether they read Cutaway's as the same, and what reading costs.

    python benchmarks/formats.py                       # about five minutes; makes the libraries' environment the first time
    python benchmarks/formats.py --only exchange
    python benchmarks/formats.py --only size --gigabytes 0.5

The libraries write dictionaries of every architecture that they have, with random weights of every tensor, and their own codes
and reconstructions of 128 inputs; Cutaway reads the files and computes the same. Then Cutaway writes, and they read. A
difference is the largest of any code, or of any number of a reconstruction, as a share of the largest in the library's own,
over the inputs for which the same latents fire; those for which one more fires on one side, because its pre-activation is as
near to its threshold as rounding goes, are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from formats_worker import KINDS
from peers import CACHE, environment
from safetensors.torch import load_file, save_file
from torch import Tensor

from cutaway.dictionaries import Dictionary, Facts
from cutaway.dictionaries.abs_topk import LargestMagnitude
from cutaway.dictionaries.anchored import Normed
from cutaway.dictionaries.cross_layer import CrossLayer
from cutaway.dictionaries.group_max import GroupLargest
from cutaway.dictionaries.jump import Jump
from cutaway.dictionaries.mp_sae import Pursuit
from cutaway.dictionaries.parts import ReLU, TopK
from cutaway.dictionaries.transcoder import Transcoder
from cutaway.files import write, write_json
from cutaway.formats import load_dictionary, save_dictionary

HERE = Path(__file__).parent
SCRIPTS = HERE.parent / "tests" / "peers"
# Installed beside the others without what they ask for: the parts that read and write files need none of it.
MORE = {"circuit_tracer": "circuit-tracer==0.5.0",
        "sparse_autoencoder": "git+https://github.com/openai/sparse_autoencoder@4965b941e9eb590b00b253a2c406db1e1b193942"}
SAID: dict[str, dict[str, Any]] = {       # what a file does not say, and a user must
    "sparsify/old/layers.3": {"center": True}, "dictionary_learning/BatchTopKSAE_unmeasured": {"activation": "topk"}}
# Read otherwise than the library does, on purpose: it lets every positive latent fire where a threshold was never measured.
OTHERWISE = ("dictionary_learning/BatchTopKSAE_unmeasured",)
SCALE = 16      # times the sizes of tests/peers/write_files.py: d 256, 1,024 latents, k 64, 128 inputs


@dataclass(frozen=True)
class Row:
    """One exchange: who wrote what, who read it, and the largest differences; or the sentence of what refused."""

    by: str
    read_by: str
    what: str
    codes: float | None = None
    reconstruction: float | None = None
    flips: int = 0
    said: str = ""


def python() -> Path:
    """The Python of an environment with all libraries; `--openai` in place of the address where GitHub cannot be reached."""
    home = environment()
    for module, package in MORE.items():
        found = subprocess.run([home, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec('{module}') is None)"])
        if found.returncode:
            print(f"installing {package} in {home.parent.parent}", flush=True)
            subprocess.run([home, "-m", "pip", "install", "-q", "--no-deps", package], check=True)
    return home


def call(python: Path | str, script: str, folder: Path, scale: int = 1) -> None:
    """Run one of the libraries' scripts; its last words are the error's."""
    done = subprocess.run([str(python), SCRIPTS / script, folder], capture_output=True, text=True, timeout=900,
                          env={**os.environ, "SCALE": str(scale)})
    if done.returncode:
        raise RuntimeError(f"{script} failed: {done.stderr[-2000:]}")


def place(folder: Path) -> Path:
    """What is to be read of a case's folder."""
    return next((folder / name for name in ("layer_3.safetensors", "7.pt") if (folder / name).is_file()), folder)


def computed(made: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstruction in the units of the file; with an axis of layers first for a cross-layer transcoder."""
    if isinstance(made, CrossLayer):
        codes = [code.dense(len(made.b_enc[0])) for code in made.encode(x.unbind())]
        return torch.stack(codes), torch.stack(made(x.unbind()))
    codes = made.encode(x)
    values = codes.values / getattr(codes, "scale", 1.0)
    return values.new_zeros(len(x), made.width).scatter_add(-1, codes.indices, values), made(x)


def compared(made: Any, x: Tensor, theirs: dict[str, Tensor]) -> dict[str, Any]:
    """The figures of a row: `codes`, `reconstruction`, and `flips`, the inputs for which other latents fire."""
    ours = dict(zip(("codes", "reconstruction"), computed(made, x), strict=True))
    same = ((ours["codes"] != 0) == (theirs["codes"] != 0)).flatten(0, -2).all(-1)
    figures = {name: float((ours[name] - theirs[name]).flatten(0, -2)[same].abs().max() / theirs[name].abs().max())
               if same.any() else None for name in ours}
    return {**figures, "flips": int((~same).sum())}


def read_theirs(folder: Path) -> Iterator[Row]:
    """Rows of what the libraries wrote."""
    for case in json.loads((folder / "manifest.json").read_text())["cases"]:
        library, _, what = case.partition("/")
        own = load_file(folder / case / "expected.safetensors")
        try:
            made = load_dictionary(place(folder / case), pickle=True, **SAID.get(case, {}))
        except ValueError as error:
            yield Row(library, "cutaway", what, said=str(error).replace(f"{folder}/", ""))
            continue
        yield Row(library, "cutaway", what, **compared(made, own["x"], own))


def example(d: int, width: int, sparsify: Any, kind: Callable[..., Any] = Dictionary, site: str = "blocks.3",
            **settings: Any) -> Any:
    """A dictionary in which every tensor is random."""
    made = kind(d, width, sparsify, Facts(site=site, network="tiny"), **settings)
    return filled(made)


def filled(made: Any) -> Any:
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.normal_(0, 0.3)
            if "threshold" in name:
                p.abs_()
    return made.requires_grad_(False)


def ours(d: int = 16, width: int = 64, k: int = 4) -> dict[str, list[Any]]:
    """One dictionary of each kind that each format holds."""
    jumps, out = (ReLU(), Jump()), 3 * d // 4

    def plain(*sparsify: Any) -> list[Any]:
        return [example(d, width, one) for one in sparsify]

    def moved(*sparsify: Any, d_out: int = d, skips: tuple[bool, ...] = (False, True), site: str = "blocks.2") -> list[Any]:
        return [example(d, width, one, Transcoder, site, d_out=d_out, skip=skip, target="blocks.3.mlp")
                for one in sparsify for skip in skips]

    level = example(d, width, Jump())
    level.extra["threshold"].fill_(0.4)          # Llama Scope has one for all latents
    cross = [filled(CrossLayer(d, width, 3, one, d, ["embed", "blocks.0", "blocks.1"], [f"blocks.{i}.mlp" for i in range(3)]))
             for one in jumps]
    pursuit = example(d, width, Pursuit(k))
    pursuit.W_dec /= pursuit.W_dec.norm(dim=1, keepdim=True)
    return {
        "saelens": [*plain(TopK(k), ReLU(), Jump(), LargestMagnitude(k)), pursuit, *moved(*jumps, d_out=out)],
        "sparsify": [*plain(TopK(k), GroupLargest(k)), *moved(TopK(k))],
        "dictionary-learning": plain(TopK(k), ReLU(), Jump()),
        "openai": [*plain(ReLU()), example(d, width, TopK(k), Normed, norm="layer_norm")],
        "circuit-tracer": moved(*jumps),
        "cross-layer": cross,
        "gemma-scope": [*plain(Jump()), *moved(Jump(), skips=(False,))],
        "gemma-scope-2": [*plain(Jump()), *moved(Jump(), site="model.layers.3.mlp:in")],
        "llama-scope": [level]}


# Where a repository of these kinds keeps what is written, by which sae-lens knows what it is: name and folder.
REPOSITORIES = {
    "gemma-scope": ("google/gemma-scope-2b-pt-{}", "layer_3/width_16k/average_l0_9", ("res", "transcoders")),
    "gemma-scope-2": ("google/gemma-scope-2-1b-pt", "{}/layer_3_width_16k_l0_small", ("resid_post", "transcoder_all")),
    "llama-scope": ("fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L3R-8x", ("", ""))}


def written(one: Any, format: str, folder: Path) -> Path:
    """Write a dictionary where `read_files.py` looks for it."""
    if format not in REPOSITORIES:
        return save_dictionary(one, folder / "7.pt" if format == "openai" else folder, format)
    name, inside, kinds = REPOSITORIES[format]
    kind = kinds[isinstance(one, Transcoder)]
    shape = {"d_in": one.d, "d_sae": one.width, **({"d_out": one.d_out} if isinstance(one, Transcoder) else {})}
    write_json(folder / "repository.json", [name.format(kind), inside.format(kind), shape])
    return save_dictionary(one, folder / "repository" / inside.format(kind), format)


def title(one: Any) -> str:
    """Such as `Transcoder, Jump, skip`."""
    skip = getattr(one, "W_skip", None) is not None
    return ", ".join([type(one).__name__, type(one.sparsify).__name__] + ["skip"] * skip)


def read_by_them(python: Path | str, folder: Path, made: dict[str, list[Any]], n: int) -> Iterator[Row]:
    """Rows of what Cutaway writes."""
    readers = {"openai": "sparse-autoencoder", "cross-layer": "circuit-tracer", "llama-scope": "sae-lens",
               "gemma-scope": "sae-lens", "gemma-scope-2": "sae-lens", "saelens": "sae-lens", "sparsify": "eai-sparsify"}
    for format, dictionaries in made.items():
        for i, one in enumerate(dictionaries):
            case = folder / format / str(i)
            written(one, format, case)
            x = torch.randn(n, one.d) + torch.linspace(-1, 2, one.d)
            save_file({"x": torch.stack([x] * one.layers) if isinstance(one, CrossLayer) else x}, case / "inputs.safetensors")
    call(python, "read_files.py", folder)
    for format, dictionaries in made.items():
        for i, one in enumerate(dictionaries):
            theirs, x = (load_file(folder / format / str(i) / f"{name}.safetensors") for name in ("theirs", "inputs"))
            reader = readers.get(format, format)
            if format.startswith("gemma-scope") and isinstance(one, Transcoder):
                reader += ", circuit-tracer"
            yield Row("cutaway", reader, f"{format}: {title(one)}", **compared(one, x["x"], theirs))


def sizes(gigabytes: float) -> list[dict[str, Any]]:
    """Seconds and memory of opening a large file and reading ten rows, each in a process of its own."""
    found = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            for do in ("write", "open"):
                done = subprocess.run([sys.executable, HERE / "formats_worker.py", do, kind, folder, str(gigabytes)],
                                      capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"{kind}: {done.stderr[-2000:]}")
            found.append({"format": kind, **json.loads(done.stdout.splitlines()[-1])})
            print(found[-1], flush=True)
    return found


def tables(result: dict[str, Any]) -> str:
    """What is kept for people."""
    lines = ["# Other libraries' files", "", f"By `{result['command']}`, {result['machine']}."]
    if "exchange" in result:
        lines += ["", f"Libraries: {', '.join(f'{name} {v}' for name, v in result['written_by'].items())}. d {result['d']}, "
                  f"{result['width']:,} latents, {result['n']} inputs, float32; every tensor random. A difference is the "
                  "largest of any code, and of any number of a reconstruction, as a share of the largest in the library's own.",
                  "Inputs for which one more latent fires on one side, whose pre-activation is its threshold but for rounding, "
                  "are left out of it and counted.", "",
                  "| written by | read by | what | codes differ by | reconstructions differ by | left out |",
                  "|---|---|---|---|---|---|"]
        lines += [f"| {row['by']} | {row['read_by']} | {row['what']} | {cell(row, 'codes')} | {cell(row, 'reconstruction')} | "
                  f"{row['flips'] or ''} |" for row in result["exchange"]]
    if "sizes" in result:
        lines += ["", f"Files of {result['gigabytes']:g} GB, float32, in the page cache; one process and one thread each. "
                  "Memory is what is not a file's. The first token is encoded with all of the encoder, and for it what lies by "
                  "columns is copied. Seconds are of the processor.", "",
                  "| format | opened, s | ten rows, s | memory of both, MB | bytes read, s | first token, s | then, MB |",
                  "|---|---|---|---|---|---|---|"]
        lines += [f"| {row['format']} | {row['opened']:.3f} | {row['rows']:.4f} | {row['memory']:.0f} | {row['bytes']:.2f} | "
                  f"{row['encoded']:.2f} | {row['encoding']:.0f} |" for row in result["sizes"]]
    return "\n".join(lines) + "\n"


def cell(row: dict[str, Any], key: str) -> str:
    if row["said"]:
        return "refused" if key == "codes" else row["said"]
    if f"{row['by']}/{row['what']}" in OTHERWISE:
        return "other latents, on purpose: see docs/formats.md" if key == "codes" else ""
    return f"{row[key]:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["exchange", "size"])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--openai", default=MORE["sparse_autoencoder"], help="what pip installs for OpenAI's library")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "formats")
    given = parser.parse_args()
    MORE["sparse_autoencoder"] = given.openai
    found: dict[str, Any] = {"command": "python benchmarks/formats.py",
                             "machine": f"{platform.machine()}, torch {torch.__version__}"}
    if given.only != "size":
        found.update(exchange(python()))
    if given.only != "exchange":
        found.update(gigabytes=given.gigabytes, sizes=sizes(given.gigabytes))
    kept = given.out.with_suffix(".json")
    result = {**(json.loads(kept.read_text()) if kept.exists() else {}), **found}
    write_json(kept, result)
    write(given.out.with_suffix(".md"), lambda part: part.write_text(tables(result)))
    print(tables(result))


def exchange(home: Path) -> dict[str, Any]:
    """Every exchange of files, and between whom."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        theirs, mine = Path(folder) / "theirs", Path(folder) / "ours"
        call(home, "write_files.py", theirs, SCALE)
        manifest = json.loads((theirs / "manifest.json").read_text())
        d, width, k, n = manifest["d"], manifest["width"], manifest["k"], 8 * SCALE
        rows = [*read_theirs(theirs), *read_by_them(home, mine, ours(d, width, k), n)]
    counted = [row for row in rows if not row.said and f"{row.by}/{row.what}" not in OTHERWISE]
    far = [row for row in counted if not max(row.codes or 0, row.reconstruction or 0) < 1e-5]     # NaN is far too
    print(f"{len(counted)} exchanges, of which {len(far)} differ by 1e-5 or more: {far}")
    return {"written_by": manifest["written_by"], "d": d, "width": width, "n": n, "exchange": [asdict(row) for row in rows]}


if __name__ == "__main__":
    main()
