"""A run with two small stores, one of them of hostile text, for the tests of the app."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch

import cutaway as cw
from cutaway.dictionaries import Dictionary, Facts
from cutaway.dictionaries.parts import TopK
from cutaway.files import write_json
from cutaway.train import Run

HOSTILE = ("<script>alert(1)</script><img src=x onerror=alert(2)> \"'>`{{7*7}}${1} &lt;b&gt; \u202egnp.exe \x1b[31m </textarea>"
           "</pre></script><!-- http://evil.example/ --> def f(self): return '\ud7ff' 日本語 😀\n")
WIDTH = 64


def source(net: cw.Network) -> Any:
    """Some Python to read."""
    return cw.corpus([inspect.getsource(module) for module in (textwrap, argparse)], net)


def a_run(folder: Path) -> Path:
    """Two dictionaries of random weights on pico, each with a store of 2,000 tokens."""
    net = cw.open("pico")
    texts = {0: source(net), 1: cw.corpus([HOSTILE * 80], net)}
    made = {}
    for block in texts:
        generator = torch.Generator().manual_seed(block)
        dictionary = Dictionary(256, WIDTH, TopK(4), Facts(site=f"blocks.{block}"))
        for weight in (dictionary.W_enc, dictionary.W_dec):
            weight.data = torch.randn(WIDTH, 256, generator=generator)
        made[f"blocks.{block}"] = dictionary
    run = Run(net, None, made, {key: [] for key in made}, {})
    run.save(folder)
    write_json(folder / "config.json", {"command": "learn", "arguments": {"model": "pico", "data": "stdlib"}})
    for block, text in texts.items():
        cw.store(run, text, tokens=2000, key=f"blocks.{block}", progress=False).close()
    return folder


class Page(HTMLParser):
    """What stands in a page: elements with their attributes, and where it would make a browser go."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def targets(self) -> list[str]:
        """Everything that is loaded, linked or sent to."""
        return [value for _, given in self.elements for name, value in given.items()
                if name in ("href", "src", "action", "hx-get", "hx-post", "data-base", "srcset", "poster") and value]

    def dangers(self) -> list[str]:
        """Scripts that are not the app's own, handlers in attributes, inline styles, and addresses of other places."""
        found = [f"<{tag}>" for tag, given in self.elements if tag in ("iframe", "object", "embed", "base", "img", "style")]
        found += [f"script {given}" for tag, given in self.elements
                  if tag == "script" and not (given.get("src", "") or given.get("type") == "application/json")]
        found += [f"{tag} {name}" for tag, given in self.elements for name in given if name.startswith("on") or name == "style"]
        return found + [to for to in self.targets() if ":" in to.split("/")[0].split("?")[0] or to.startswith("//")]
