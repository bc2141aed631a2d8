"""A run with two small stores, one of them of hostile text, for the tests of the app."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sqlite3
import textwrap
from collections.abc import Callable
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


# What a hostile or mistaken reader asks for: its kind, the address, the status and words of the answer.
ADDRESSES = {
    "a feature beyond the last": ("/d/blocks.0/f/64", 404, "features 0 to 63"),
    "a number beyond all": ("/d/blocks.0/f/99999999999999999999", 404, "features 0 to 63"),
    "a negative number": ("/d/blocks.0/f/-1", 404, "no such page"),
    "an unknown dictionary": ("/d/nowhere/", 404, "no dictionary"),
    "an unknown page": ("/nowhere", 404, "no such page"),
    "a way up the folders": ("/d/..%2f..%2fetc/", 404, "no "),
    "a way up from the assets": ("/assets/..%2f..%2fweb.py", 404, "no "),
    "a way up in plain": ("/assets/../web.py", 404, "no "),
    "dots for a dictionary": ("/d/%2e%2e/", 404, "no "),
    "markup for a dictionary": ("/d/%3Cscript%3Ealert(1)%3C%2Fscript%3E/", 404, "no "),
    "sorting by what is no column": ("/d/blocks.0/?sort=evil", 400, "sorted by"),
    "a kind of feature that is none": ("/d/blocks.0/?status=evil", 400, "a feature is"),
    "a choice by names that is none": ("/d/blocks.0/?named=evil", 400, "by their names"),
    "a word for a bound": ("/d/blocks.0/?low=abc", 400, "share of tokens"),
    "no number for a bound": ("/d/blocks.0/?low=nan", 400, "share of tokens"),
    "a word for a page": ("/d/blocks.0/?page=x", 400, "whole number"),
    "a page beyond the last": ("/d/blocks.0/?page=99999999", 200, "64 features"),
    "a word for a window": ("/d/blocks.0/f/1?window=x", 400, "whole number"),
    "an enormous window": ("/d/blocks.0/f/1?window=99999999", 200, "Figures"),
    "a kind of context that is none": ("/d/blocks.0/f/1/contexts?kind=best", 400, "kinds"),
    "a bar beyond the last": ("/d/blocks.0/f/1/interval?bin=50", 404, "bars 0 to 49"),
    "a power of ten for a bar": ("/d/blocks.0/f/1/interval?bin=1e9", 400, "whole number"),
    "a row beyond the last": ("/d/blocks.0/row/999999", 404, "rows 0 to"),
    "a direction of another width": ("/d/blocks.0/search?by=direction&q=1,2", 400, "256 numbers"),
    "a direction in words": ("/d/blocks.0/search?by=direction&q=a", 400, "list of numbers"),
    "a direction of nothing": ("/d/blocks.0/search?by=direction&q=" + "0," * 255 + "0", 400, "not all zero"),
    "a search by what is none": ("/d/blocks.0/search?by=magic&q=1", 400, "words, text or direction"),
    "a search for an enormous text": ("/d/blocks.0/?q=" + "a" * 5000, 200, "None"),
    "a search in the database's language": ("/d/blocks.0/?q=%22%20OR%20text%3A*%20NEAR(a%20b)%3B--", 200, "None"),
    "a search for bytes that are no text": ("/d/blocks.0/?q=%ED%A0%80%00%FF", 200, "None"),
    "two dictionaries of which one is unknown": ("/compare?a=x&b=y", 404, "no dictionary"),
    "data of a feature beyond the last": ("/api/v1/d/blocks.0/f/64", 404, "features 0 to 63")}
# What is sent in a form: its kind, where to, the form, the status and words of the answer.
FORMS: dict[str, tuple[str, dict[str, str], int, str]] = {
    "no text to read": ("try", {"text": ""}, 400, "no text"),
    "an enormous text": ("try", {"text": "x" * 5000}, 400, "4,000 characters"),
    "more tokens than the network reads": ("try", {"text": "a b c d " * 400}, 400, "reads at most 256 tokens"),
    "a form that is too large": ("try", {"text": "x" * 70_000}, 413, "64 kB"),
    "no prompt": ("steer", {"prompt": " "}, 400, "no text"),
    "a way to push that is none": ("steer", {"prompt": "a", "how": "burn"}, 400, "pushed by"),
    "an enormous strength": ("steer", {"prompt": "a", "strength": "1e9"}, 400, "strength"),
    "a strength that is no number": ("steer", {"prompt": "a", "strength": "nan"}, 400, "a number"),
    "a strength of nothing": ("steer", {"prompt": "a", "strength": "0"}, 400, "adding nothing"),
    "too many new tokens": ("steer", {"prompt": "a", "new_tokens": "5000"}, 400, "new tokens"),
    "an empty note": ("about", {"what": "note", "text": " "}, 400, "needs some text"),
    "an enormous label": ("about", {"what": "label", "text": "x" * 20_000}, 400, "10,000 characters"),
    "a note that is not there": ("about", {"what": "remove-note", "id": "77"}, 404, "no note 77"),
    "a change that is none": ("about", {"what": "x"}, 400, "a label, note or tag")}


def _half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _garbage(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


def _newer(path: Path) -> None:
    write_json(path, {**json.loads(path.read_text()), "schema": 99})


def _notes_of_the_future(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")


def _no_table_of_units(path: Path) -> None:
    import pandas
    path.parent.mkdir(exist_ok=True)
    pandas.DataFrame({"a": [1]}).to_parquet(path)


def _written(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return write


STORE = "store/blocks.0"
# What may be wrong with a folder: its kind, the file, what is done to it, the page that needs it, and words of the answer.
DAMAGES: dict[str, tuple[str, Callable[[Path], None], str, str]] = {
    "half of a shard": (f"{STORE}/latents/000.parquet", _half, "/", "build it again"),
    "no shard": (f"{STORE}/latents/000.parquet", Path.unlink, "/", "is missing"),
    "half of a manifest": (f"{STORE}/manifest.json", _half, "/", "was damaged"),
    "another file for a manifest": (f"{STORE}/manifest.json", _written("[]"), "/", "no manifest of a store"),
    "a store of a newer schema": (f"{STORE}/manifest.json", _newer, "/", "Update Cutaway"),
    "garbage in a shard": (f"{STORE}/latents/000.parquet", _garbage, "/d/blocks.0/f/{}/interval?bin=9", "cannot be read"),
    "garbage in the summary": (f"{STORE}/summary.parquet", _garbage, "/d/blocks.0/", "cannot be read"),
    "garbage in the tokens": (f"{STORE}/tokens.npy", _garbage, "/d/blocks.0/row/0", "cannot be read"),
    "garbage in the vocabulary": (f"{STORE}/vocabulary.parquet", _garbage, "/d/blocks.0/row/0", "cannot be read"),
    "garbage in the dictionary": (f"{STORE}/dictionary.safetensors", _garbage, "/d/blocks.0/map", "dictionary.safetensors"),
    "notes that are no database": (f"{STORE}/notes.sqlite", _written("no database" * 99), "/d/blocks.0/", "cannot be read"),
    "notes of a newer schema": (f"{STORE}/notes.sqlite", _notes_of_the_future, "/d/blocks.0/f/{}", "Update Cutaway"),
    "half of a profile": ("profile.json", _written("{half"), "/evaluations", "is no JSON"),
    "half of a table of units": ("score/units.parquet", _written("PAR1half"), "/units", "not a whole parquet file"),
    "another table for units": ("score/units.parquet", _no_table_of_units, "/units", "not a units table"),
    "half of a proof's result": ("results/topk.json", _written("{half"), "/catalogue", "is no JSON")}


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
