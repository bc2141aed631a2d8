"""Behaviours of language models that can be asked for anywhere: repetition of what came before, and arguments in code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..network import Network
from .task import LogitDifference, Task, pairs


def induction(net: Network, n: int = 64, seed: int = 0, length: int = 16, cue: int = 3) -> Task:
    """Random tokens and then some of them again: the token is right that followed the same tokens before.

    length: random tokens, all different; cue: how many of them are said again. The corrupted prompt has the same tokens in
    another order, and says others of them again, from another place, so that neither the tokens nor their places tell which
    answer is right.
    """
    if net.kind != "causal":
        raise ValueError(f"induction is asked of causal language models; {net.name} is of kind {net.kind!r}.")
    plain, begin = plain_tokens(net), getattr(net.tokenizer, "bos_token_id", None)
    if length < cue + 2 or cue < 1 or length > len(plain):
        raise ValueError(f"induction needs a cue of at least one token and a length from cue + 2 to {len(plain)}; found cue="
                         f"{cue} and length={length}.")
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted, answers = list[Tensor](), list[Tensor](), list[tuple[int, int]]()
    for _ in range(n):
        tokens = plain[torch.randperm(len(plain), generator=generator)[:length]]
        here, there = (torch.randperm(length - cue, generator=generator)[:2] + cue).tolist()  # of the answers
        order = torch.randperm(length, generator=generator)
        if order[there] == here:  # the answers of the two prompts differ
            order[[there - 1, there]] = order[[there, there - 1]]
        for prompt, at, side in ((tokens, here, clean), (tokens[order], there, corrupted)):
            side.append(torch.cat([prompt, prompt[at - cue: at]]))
        answers.append((int(tokens[here]), int(tokens[order][there])))
    first = [] if begin is None else [torch.full((n, 1), begin)]
    both = [torch.cat([*first, torch.stack(side)], 1) for side in (clean, corrupted)]
    right, wrong = torch.tensor(answers).T
    position = torch.full((n,), both[0].shape[1] - 1)
    return Task(f"induction (seed {seed})", {"input_ids": both[0]}, {"input_ids": both[1]},
                LogitDifference(position, right, wrong))


CODE = "class Item:\n    def __init__(self, {0}, {1}):\n        self.{2} = {2}\n        self.{3} ="


def assignment(net: Network, n: int = 64, seed: int = 0) -> Task:
    """Which argument is assigned in `self.b =`, after `def __init__(self, a, b)` and `self.a = a`.

    a and b are words that are one token of the network, drawn at random and in either order; the corrupted prompt assigns
    them the other way round.
    """
    words = _words(net)
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted, right, wrong = [], [], [], []
    for _ in range(n):
        a, b = (words[int(i)] for i in torch.randperm(len(words), generator=generator)[:2])
        flip = bool(torch.rand((), generator=generator) < 0.5)
        first, second = (b, a) if flip else (a, b)
        clean.append(CODE.format(first, second, a, b))
        corrupted.append(CODE.format(first, second, b, a))
        right.append(f" {b}")
        wrong.append(f" {a}")
    return pairs(net, clean, corrupted, right, wrong, f"assignment (seed {seed})")


def plain_tokens(net: Network) -> Tensor:
    """The ids of all tokens that are not special."""
    special = set() if net.tokenizer is None else {int(i) for i in net.tokenizer.all_special_ids}
    size = int(net.config.vocab_size) if net.tokenizer is None else len(net.tokenizer)  # type: ignore[union-attr]
    return torch.tensor([i for i in range(size) if i not in special])


def _words(net: Network) -> list[str]:
    """Lower-case words of four letters or more that are one token with a space before them and after `self.`."""
    if net.tokenizer is None:
        raise ValueError(f"assignment is asked in code, and {net.name} was opened without a tokenizer.")

    def tokens(text: str) -> list[int]:
        return net.tokenizer(text, add_special_tokens=False)["input_ids"]

    known = {net.tokenizer.decode([i]) for i in range(len(net.tokenizer))}
    words = sorted({text[1:] for text in known if text[:1] == " " and text[1:].isalpha() and text[1:].islower()
                    and text.isascii() and len(text) > 4})
    dot = len(tokens("self."))
    found = [word for word in words if len(tokens(f" {word}")) == 1 and len(tokens(f"self.{word}")) == dot + 1
             and len(tokens(f", {word}")) == 1 + len(tokens(","))]
    if len(found) < 10:
        raise ValueError(f"assignment needs words that are one token; {net.name} has {len(found)} of them, and 10 are needed.")
    return found


# name -> makes the task for a network: (net, n, seed)
TASKS: dict[str, Callable[[Network, int, int], Task]] = {"induction": induction, "assignment": assignment}


def task_of(net: Network, name: str, n: int = 64, seed: int = 0) -> Task:
    """A task by name, or from a .jsonl file with `clean`, `corrupted`, `right` and `wrong` in each line."""
    if name in TASKS:
        if n < 2:
            raise ValueError(f"a task has at least two pairs of prompts, so that it can be halved; found n={n}.")
        return TASKS[name](net, n, seed)
    path = Path(name)
    if not path.exists():
        raise ValueError(f"there is no task {name!r}; there are {', '.join(TASKS)}, or give a .jsonl file of prompts.")
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; give a .jsonl file of prompts.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append(_row(path, number, line))
    clean, corrupted, right, wrong = ([row[key] for row in rows] for key in KEYS)
    return pairs(net, clean, corrupted, right, wrong, path.name)


KEYS = ("clean", "corrupted", "right", "wrong")


def _row(path: Path, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} of {path} is not JSON: {error.msg}.") from error
    missing = [key for key in KEYS if not isinstance(row, dict) or not isinstance(row.get(key), str)]
    if missing:
        raise ValueError(f"line {number} of {path} lacks the text {missing[0]!r}; each line has {', '.join(KEYS)}.")
    return row
