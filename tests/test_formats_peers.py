"""With the libraries themselves: CUTAWAY_PEERS names the Python of an environment that has them.

    CUTAWAY_PEERS=~/.cache/cutaway/benchmarks/peers/bin/python pytest tests/test_formats_peers.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_formats import FILES, SAID, D, close, codes_of, example, inputs

from cutaway.dictionaries.abs_topk import LargestMagnitude
from cutaway.dictionaries.group_max import GroupLargest
from cutaway.dictionaries.jump import Jump
from cutaway.dictionaries.parts import ReLU, TopK
from cutaway.dictionaries.transcoder import Transcoder
from cutaway.formats import load_dictionary, save_dictionary

PYTHON, HERE = os.environ.get("CUTAWAY_PEERS", ""), Path(__file__).parent / "peers"
with_peers = pytest.mark.skipif(not PYTHON, reason="CUTAWAY_PEERS does not name the peers' Python")


def call(script: str, folder: Path) -> None:
    subprocess.run([str(Path(PYTHON).expanduser()), HERE / script, folder], check=True, capture_output=True, timeout=600)


def transcoder(sparsify: Any, skip: bool, d_out: int = D) -> Transcoder:
    return example(sparsify, Transcoder, d_out=d_out, skip=skip, target="blocks.3.mlp")


@with_peers
def test_the_files_are_what_the_libraries_write_today():
    """Writes the kept files again, and reads all of them; commit them when the manifest names new versions."""
    before = json.loads((FILES / "manifest.json").read_text())["cases"]
    call("write_files.py", FILES)
    cases = json.loads((FILES / "manifest.json").read_text())["cases"]
    assert set(before) <= set(cases)
    for case in cases:
        own = load_file(FILES / case / "expected.safetensors")
        made = load_dictionary(FILES / case, pickle=True, **SAID.get(case, {}))
        if not case.endswith("unmeasured"):
            close(codes_of(made, own["x"]), own["codes"])
            close(made(own["x"]), own["reconstruction"])


@with_peers
def test_the_libraries_read_what_is_written_as_the_same(tmp_path: Path):
    written = {
        "saelens": [example(s) for s in (TopK(4), ReLU(), Jump(), LargestMagnitude(4))]
        + [transcoder(s, skip, 12) for s in (ReLU(), Jump()) for skip in (False, True)],
        "sparsify": [example(TopK(4)), example(GroupLargest(4)), transcoder(TopK(4), False), transcoder(TopK(4), True)],
        "dictionary-learning": [example(s) for s in (TopK(4), ReLU(), Jump())]}
    x = inputs()
    for format, made in written.items():
        for i, one in enumerate(made):
            path = save_dictionary(one, tmp_path / format / str(i), format)
            save_file({"x": x}, path / "inputs.safetensors")
    call("read_files.py", tmp_path)
    for format, made in written.items():
        for i, one in enumerate(made):
            theirs = load_file(tmp_path / format / str(i) / "theirs.safetensors")
            torch.testing.assert_close(codes_of(one, x), theirs["codes"], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(one(x), theirs["reconstruction"], rtol=1e-5, atol=1e-5)
