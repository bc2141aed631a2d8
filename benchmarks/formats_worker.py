"""Writes a large file of a format, or opens one and says what that cost.

    python formats_worker.py write|open KIND FOLDER GIGABYTES
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

D, ROWS = 2048, 10
# Which of a file's matrices lies by columns, [d, width] in place of [width, d]: of a few formats, one of each kind.
KINDS = {"sparsify": "", "saelens": "encoder", "gemma-scope": "encoder", "dictionary-learning": "decoder"}


def write(kind: str, folder: Path, gigabytes: float) -> None:
    """A file of a format as its library lays it out, with random numbers."""
    from safetensors.torch import save_file
    width = int(gigabytes * 2**30 / 8 / D)
    block = torch.randn(width, 64)
    rows = block.repeat(1, D // 64) / D**0.5
    names = {"sparsify": ("encoder.weight", "W_dec", "encoder.bias", "b_dec"),
             "dictionary-learning": ("encoder.weight", "decoder.weight", "encoder.bias", "b_dec")}
    encoder, decoder, b_enc, b_dec = names.get(kind, ("W_enc", "W_dec", "b_enc", "b_dec"))
    t: dict[str, Any] = {encoder: rows.T.contiguous() if KINDS[kind] == "encoder" else rows, b_enc: torch.zeros(width),
                         decoder: rows.T.contiguous() if KINDS[kind] == "decoder" else rows.clone(), b_dec: torch.ones(D)}
    if kind == "sparsify":
        save_file(t, folder / "sae.safetensors")
        (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "k": 32, "num_latents": width, "d_in": D,
                                                     "transcode": False}))
    elif kind == "saelens":
        save_file(t, folder / "sae_weights.safetensors")
        (folder / "cfg.json").write_text(json.dumps({"architecture": "topk", "k": 32, "metadata": {}}))
    elif kind == "gemma-scope":
        np.savez(folder / "params.npz", **{name: x.numpy() for name, x in t.items()}, threshold=np.zeros(width, np.float32))
    else:
        torch.save({**t, "k": torch.tensor(32, dtype=torch.int), "threshold": torch.tensor(-1.0)}, folder / "ae.pt")
        (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderTopK"}}))


def own() -> float:
    """MB of this process that are not a file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1000


def seconds(work: Any) -> tuple[float, Any]:
    """Seconds of the processor, whatever else the machine does."""
    began = time.process_time()
    done = work()
    return time.process_time() - began, done


def bytes_of(folder: Path) -> int:
    """All bytes of the files of a folder, read once."""
    total, buffer = 0, bytearray(2**24)
    for path in folder.iterdir():
        with open(path, "rb", buffering=0) as file:
            while n := file.readinto(buffer):
                total += n
    return total


def measure(kind: str, folder: Path) -> dict[str, float]:
    from cutaway.formats import load_dictionary
    small = torch.zeros(1, D)
    bytes_of(folder)
    read, _ = seconds(lambda: bytes_of(folder))
    before = own()
    opened, made = seconds(lambda: load_dictionary(folder, pickle=True))
    index = torch.randperm(made.width)[:ROWS]
    rows, _ = seconds(lambda: made.W_dec[index].sum())
    memory = own() - before
    encoded, _ = seconds(lambda: made.encode(small))
    return {"opened": opened, "rows": rows, "memory": memory, "encoded": encoded, "encoding": own() - before, "bytes": read}


if __name__ == "__main__":
    do, kind, folder, gigabytes = sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
    if do == "write":
        write(kind, folder, gigabytes)
    else:
        torch.set_num_threads(1)
        print(json.dumps(measure(kind, folder)))
