"""A method from outside the package: docs/adding-a-method.md as it stands, and what is said of one that is wrong."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cutaway as cw
from cutaway import catalogue
from cutaway.cli import main
from cutaway.dictionaries import Dictionary, Facts, TopK, parts

ROOT = Path(__file__).parents[1]
METHOD, USE = re.findall(r"```python\n(.*?)```", (PAGE := (ROOT / "docs/adding-a-method.md").read_text()), flags=re.DOTALL)
COMMANDS, TESTS = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's method in a file in the current folder; what it adds is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(catalogue, "_methods", dict(catalogue.methods()))
    monkeypatch.setattr(parts, "SPARSIFIERS", dict(parts.SPARSIFIERS))
    monkeypatch.delitem(sys.modules, "soft_topk", raising=False)
    (tmp_path / "soft_topk.py").write_text(METHOD)
    catalogue._installed.cache_clear()
    yield tmp_path
    sys.modules.pop("soft_topk", None)
    monkeypatch.undo()                       # what is installed is looked for again, without what a test put there
    catalogue._installed.cache_clear()


def test_it_takes_less_than_forty_lines() -> None:
    assert len(METHOD.strip().splitlines()) < 40


def test_the_page_in_python(outside: Path, capsys: pytest.CaptureFixture) -> None:
    exec(compile(USE, "adding-a-method.md", "exec"), {})  # noqa: S102
    said = capsys.readouterr().out
    assert "less the largest that was left out" in said and "SoftTopK(k=16)" in said and "fvu" in said.lower()


def test_the_page_on_the_command_line(outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for line in COMMANDS.strip().splitlines():
        program, *words = shlex.split(line)
        if program == "export":
            monkeypatch.setenv(*words[0].split("=", 1))
            continue
        assert program == "cutaway"
        main(words)
    said = capsys.readouterr().out
    assert "soft-topk" in said and "FVU" in said
    made = Dictionary.load(next((outside / "runs/soft-too/dictionaries").glob("*.safetensors")))
    assert made.width == 512 and made.sparsify.k == 16 and made.facts.tokens == 20_000


def test_the_shared_tests_are_tests_of_it(outside: Path) -> None:
    """As the page says, but only those that are quick."""
    setting, program, *words = shlex.split(TESTS.replace("$PWD", str(outside)))
    assert program == "pytest" and words[-2] == "-k"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", *words[:-1],
         f"{words[-1]} and (exactly or told or saved)"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **dict([setting.split("=", 1)])}, timeout=300)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b4 passed", done.stdout), done.stdout


def test_a_file_whose_method_is_not_known_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Dictionary(4, 8, parts.TopK(2), Facts())
    path = made.save(tmp_path / "d.safetensors")
    monkeypatch.setattr(parts, "SPARSIFIERS", {})
    with pytest.raises(ValueError, match="latents by 'topk', .* import the module .* or name that in CUTAWAY_METHODS"):
        Dictionary.load(path)


@pytest.mark.parametrize(("named", "words"), [
    ("nowhere.py", "nowhere.py, which CUTAWAY_METHODS names, cannot be imported: FileNotFoundError"),
    ("no_such_module", "no_such_module, which CUTAWAY_METHODS names"),
    ("json.py", "there is a module called json already"),
    ("soft_topk.py:broken.py", "broken.py, which .* ZeroDivisionError")])
def test_what_cannot_be_imported_is_named(named: str, words: str, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (outside / "broken.py").write_text("1 / 0\n")
    monkeypatch.setenv(catalogue.OUTSIDE, named)
    with pytest.raises(ImportError, match=words):
        cw.methods("dictionary")
    assert "broken" not in sys.modules


def test_an_installed_package_names_its_module(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = outside / "soft_topk-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: soft-topk\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[cutaway.methods]\nsoft = soft_topk\n")
    assert "soft-topk" in cw.methods("dictionary")
    assert cw.methods("dictionary")["soft-topk"].object(64).with_l0(3).sparsify.k == 3
    assert TopK(64).with_l0(3) == TopK(64, 3)
