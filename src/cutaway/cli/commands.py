"""Every command by name, and how it is read from words; a command's module is imported when it is asked for."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from .screen import say

# Where each command is, in the order in which help lists them.
PLACES = {
    "to begin": {"demo": "running", "sites": "running", "catalogue": "catalogue"},
    "sparse features": {"learn": "learning", "evaluate": "learning", "features": "learning", "store": "storing",
                        "explain": "explaining", "serve": "serving", "export": "serving", "harvest": "harvesting",
                        "convert": "converting"},
    "a network's own parts, and what an output rests on": {
        "score": "parts", "analyse": "analysing", "attribute": "attributing", "faithfulness": "checking", "circuit": "circuits",
        "edit": "editing"},
    "comparing and repeating": {"bench": "benching", "prove": "catalogue", "rerun": "running"}}
MODULES = {name: module for group in PLACES.values() for name, module in group.items()}
ALSO = {"sites": ["--site"], "batch": ["--batch-size"]}    # what other commands call the like of it
SHOWN = (tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName)
KINDS = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}


def command(name: str) -> Callable[..., None]:
    """The function of a command; an unknown name gets the nearest."""
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, n=1)
        raise ValueError(f"there is no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; `cutaway --help` "
                                                            "lists them all."))
    return getattr(import_module(f".{MODULES[name]}", __package__), name)


def run(words: list[str]) -> None:
    """Run the command that words name, with its options."""
    first = words[0] if words else "--help"
    if first in ("-h", "--help"):
        overview()
    elif first == "--version":
        from .. import __version__
        print(f"cutaway {__version__}")
    elif first.startswith("--tyro-"):       # writes the completion of all commands for a shell
        app = tyro.extras.SubcommandApp()
        for name in MODULES:
            app.command(offered(command(name)))
        app.cli(prog="cutaway", args=words, config=SHOWN)
    else:
        function = command(first)
        if {"-h", "--help"} & {*words}:
            say("\n\n".join(" ".join(part.split()) for part in parts(function)[:-1]) + "\n", indent=0)
        tyro.cli(offered(function), prog=f"cutaway {first}", args=words[1:], config=SHOWN)


def overview() -> None:
    """All commands, each in its first sentence."""
    say("usage: cutaway COMMAND [OPTIONS]\n\nFind what matters inside a neural network, and act on it.")
    for heading, group in PLACES.items():
        say(f"\n{heading}")
        for name in group:
            say(f"  {name:<14}{' '.join(parts(command(name))[0].split())}", indent=14)
    say("\n`cutaway COMMAND --help` lists a command's options. Completion for your shell: cutaway --tyro-write-completion bash "
        "FILE (or zsh, fish, tcsh).")


def offered(function: Callable[..., None]) -> Callable[..., None]:
    """A command as its help shows it: each option's words in one paragraph, its kind, and its default where it has one."""
    hints, told = get_type_hints(function, include_extras=True), explained(function)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*given: Any, **named: Any) -> None:
        _check(named)
        function(*given, **named)

    parameters = {}
    for name, parameter in signature.parameters.items():
        said = f"Unless given: {told[name][0].lower()}{told[name][1:]}" if parameter.default is True else told[name]
        shown = tyro.conf.arg(help=said, metavar=None if parameter.kind is parameter.POSITIONAL_ONLY else kind(hints[name]),
                              help_behavior_hint=_default(parameter.default), aliases=ALSO.get(name))
        parameters[name] = parameter.replace(annotation=Annotated[hints[name], shown])
    called.__signature__ = signature.replace(parameters=list(parameters.values()))  # type: ignore[attr-defined]
    called.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    called.__doc__ = None       # tyro does not fold it
    del called.__wrapped__
    return called


def _check(named: dict[str, Any]) -> None:
    """What holds for every command that has such an option, before anything is computed."""
    seed, out = named.get("seed", 0), named.get("out")
    if not 0 <= seed < 2 ** 32:
        raise ValueError(f"--seed is a whole number from 0 to {2 ** 32 - 1}; found {seed}.")
    if out:
        there = next(folder for folder in (Path(out), *Path(out).absolute().parents) if folder.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise ValueError(f"{out} cannot be written, for {there} is {'not open to you' if there.is_dir() else 'a file'}; "
                             "give --out another folder.")


def parts(function: Callable[..., None]) -> list[str]:
    """The paragraphs of a command's docstring, of which the last is about its arguments."""
    return (inspect.getdoc(function) or "").split("\n\n")


def explained(function: Callable[..., None]) -> dict[str, str]:
    """What a command's docstring says of each of its arguments."""
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", parts(function)[-1], re.M | re.S)
    return {name: " ".join(said.split()) for name, said in found}


def kind(hint: Any) -> str | None:
    """What is typed for an option of a type; none where tyro knows better."""
    if get_origin(hint) in (types.UnionType, tuple):
        inner = get_args(hint)
        several = get_origin(hint) is tuple
        return KINDS[inner[0]] + " ..." * several if inner[0] in KINDS else None
    if get_origin(hint) is Literal:
        return "{" + ",".join(filter(None, get_args(hint))) + "}"
    return KINDS.get(hint)


def _default(value: object) -> str:
    """A default as it would be typed; nothing where leaving the option out is described in words."""
    said = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return "" if value in ("", None, (), inspect.Parameter.empty) or isinstance(value, bool) else f"(default: {said})"
