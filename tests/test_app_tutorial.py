"""The tutorial runs as it stands, and the documentation's links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cutaway.app import Library
from cutaway.cli import main

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (DOCS / "tutorial.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_tutorial_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "tutorial"}
    served = 0
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "tutorial", "exec"), names)  # noqa: S102
            continue
        for line in block.strip().splitlines():
            program, *words = shlex.split(line)
            assert program == "cutaway"
            if words[0] == "serve":       # serving goes on until Ctrl-C: what it would show is opened instead
                library = Library(words[1:])
                assert library.shelves["blocks.2"].model == "pico" and library.shelves["blocks.2"].store.names.newest()
                library.close()
                served += 1
            else:
                main(words)
    said = capsys.readouterr().out
    assert served == 1 and "clears its floor" in said and "silent" in said
    assert (tmp_path / "site" / "index.html").exists() and len(list((tmp_path / "site/d/blocks.2/f").glob("*.html"))) == 20


@pytest.mark.parametrize("page", ["tutorial.md", "reading-features.md"])
def test_links_of_the_documentation_are_there(page: str):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (DOCS / page).read_text(encoding="utf-8")):
        assert (DOCS / target).exists(), target
