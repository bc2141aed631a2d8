"""The command line: `cutaway COMMAND`."""

from __future__ import annotations

import errno
import os
import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one command; bad input ends with one sentence and a status that is not zero."""
    if os.environ.get("NO_COLOR"):
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")    # tyro, which prints help, does not read NO_COLOR
    try:
        from .commands import run
        run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt as stop:
        sys.exit(f"cutaway: {stop}" if str(stop) else "cutaway: stopped.")
    except BrokenPipeError:         # whoever read what is printed has seen enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, IndexError, ImportError) as error:
        sys.exit(f"cutaway: {_said(error)}")


def _said(error: Exception) -> str:
    """An error in one line; what the system says of a file, with the file's name."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.strerror == os.strerror(errno.ENOSPC):
        return "there is no space left on the disk; free some and run this again: what was finished before is still there."
    said = error.args[-1] if isinstance(error, OSError) and error.args else error
    return " ".join(str(said).split())
