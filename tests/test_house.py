"""Rooms stand on floors: imports go down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "cutaway"
FLOORS = (("counts", "files", "timing", "catalogue", "provenance"),
          ("network", "kernels"),
          ("data", "kinds", "metrics"),
          ("observe",),
          ("units",),
          ("harvest", "scores"),
          ("dictionaries",),
          ("report",),
          ("train", "edits", "attribute", "circuits", "formats", "analyses"),
          ("explain",),
          ("store",),
          ("app", "bench", "demo"),
          ("proofs",),
          ("api", "cli"))
# What a user holds offers what is built upon it by a method, which imports it when it is called.
FACES = {("units", "scores"), ("train", "store"), ("dictionaries", "report")}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The rooms that a file imports from, and whether it does so on being imported itself."""
    package = ("cutaway", *path.relative_to(ROOT).parts[:-1])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_once = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple(filter(None, (node.module or "").split(".")))
            for name in (base + (alias.name,) for alias in node.names):
                if len(name) > 1:
                    yield name[1], id(node) in at_once


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def test_imports_go_down_only():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    wrong = []
    for path in ROOT.rglob("*.py"):
        here = room(path)
        if here.startswith("__"):
            continue
        assert here in floor, f"the room {here} has no floor yet: say in tests/test_house.py where it stands"
        for there, at_once in imports(path):
            if there == here or there.startswith("__"):
                continue
            beside = floor[there] == floor[here] and here not in FLOORS[0] + FLOORS[1] + FLOORS[2]
            if (floor[there] > floor[here] or beside) and (at_once or (here, there) not in FACES):
                wrong.append(f"{path.relative_to(ROOT)} imports from {there}")
    assert not wrong
