"""The README's examples run as they stand, and what it says of files and commands is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_five_examples():
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs_as_pasted(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"README example {number + 1}", "exec"), {"__name__": "example"})  # noqa: S102
    assert capsys.readouterr().out.strip(), "an example that shows nothing"


def test_pictures_and_links_are_there():
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / target).exists(), target


def test_commands_of_the_readme_exist():
    commands = set(re.findall(r"^cutaway (\w+)", README.read_text(encoding="utf-8"), flags=re.MULTILINE))
    shown = subprocess.run([sys.executable, "-c", "from cutaway.cli import main; main(['--help'])"], capture_output=True,
                           text=True, check=True).stdout
    assert commands and all(command in shown for command in commands), commands
