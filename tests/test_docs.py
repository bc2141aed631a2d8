"""The pages in docs/: their examples run as they stand, one after another on each page; what they name is there."""

from __future__ import annotations

import functools
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cutaway import catalogue
from cutaway.cli import commands

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
# Whose examples need more than Python: a script for torchrun (run by test_parallel), commands (run by test_app_tutorial), a
# file beside them (run by test_adding).
SCRIPTS = {"many-devices", "tutorial", "adding-a-method"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    text, example_module = page.read_text(encoding="utf-8"), ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", example_module)   # where dataclasses look their names up
    monkeypatch.setattr(catalogue, "_methods", dict(catalogue.methods()))   # what a page adds is gone after it
    examples = [] if page.stem in SCRIPTS else re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for number, example in enumerate(examples):
        exec(compile(example, f"{page.name}, example {number + 1}", "exec"), vars(example_module))  # noqa: S102
        assert capsys.readouterr().out.strip(), "an example that shows nothing"
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, PAGES[0].parents[1] / "README.md"], ids=lambda p: p.stem)
def test_commands_of_a_page_can_be_typed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find, typed = commands.command, []

    def noted(name: str):
        @functools.wraps(find(name))
        def note(*_: object, **__: object) -> None:
            typed.append(name)
        return note
    monkeypatch.setattr(commands, "command", noted)
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    wanted = re.findall(r"^(?:.*--no-python )?cutaway (.*(?:\n    .*)*)", blocks, flags=re.MULTILINE)
    for words in wanted:
        words = shlex.split(words.split("&&")[0], comments=True)
        try:
            commands.run(words)
        except SystemExit as stop:
            assert stop.code == 0 and "--help" in words, words
            typed.append(words[0])
    assert len(typed) == len(wanted)
