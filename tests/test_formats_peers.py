"""With the libraries themselves: CUTAWAY_PEERS names the Python of an environment that has them.

    CUTAWAY_PEERS=~/.cache/cutaway/benchmarks/peers/bin/python pytest tests/test_formats_peers.py

`benchmarks/formats.py` makes that environment, and keeps a table of the same exchanges at a larger size.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from test_formats import FILES

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import formats  # noqa: E402

PYTHON = str(Path(os.environ.get("CUTAWAY_PEERS", "")).expanduser()) if os.environ.get("CUTAWAY_PEERS") else ""
with_peers = pytest.mark.skipif(not PYTHON, reason="CUTAWAY_PEERS does not name the peers' Python")


def same(row: formats.Row) -> bool:
    """Whether both sides compute the same, or Cutaway refuses what it should."""
    if f"{row.by}/{row.what}" in formats.OTHERWISE:
        return True
    if row.what == "temporal":
        return "cannot be read" in row.said
    return not row.flips and max(row.codes, row.reconstruction) < 1e-5


@with_peers
def test_the_files_are_what_the_libraries_write_today():
    """Writes the kept files again, and reads all of them; commit them when the manifest names new versions."""
    before = json.loads((FILES / "manifest.json").read_text())["cases"]
    formats.call(PYTHON, "write_files.py", FILES)
    assert set(before) <= set(json.loads((FILES / "manifest.json").read_text())["cases"])
    assert [row for row in formats.read_theirs(FILES) if not same(row)] == []


@with_peers
def test_the_libraries_read_what_is_written_as_the_same(tmp_path: Path):
    rows = list(formats.read_by_them(PYTHON, tmp_path, formats.ours(), 8))
    assert len(rows) > 25 and [row for row in rows if not same(row)] == []


def test_every_kind_that_a_format_holds_is_written_for_its_readers(tmp_path: Path):
    """The other half of the table, without the libraries: what is written is read back as the same."""
    for format, dictionaries in formats.ours().items():
        for i, one in enumerate(dictionaries):
            assert formats.written(one, format, tmp_path / format / str(i)).exists()
    for row in formats.read_theirs(FILES):
        assert same(row), row
