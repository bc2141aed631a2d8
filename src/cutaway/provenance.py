"""What figures were made with: versions, machine and commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("cutaway", "torch", "transformers", "numpy", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
    """What the figures were made with."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}",
             "cores": str(os.cpu_count())}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            from . import __version__
            found[name] = __version__ if name == "cutaway" else "not installed"
    return found


def commit() -> str:
    """The commit of the source that ran, with `-dirty` where files differ from it; empty where it is in none."""
    here = Path(__file__).parent / "__init__.py"

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return ""
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or ""
