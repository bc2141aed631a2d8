"""Where the time of a run goes: named parts of it, timed where they happen, only while somebody listens."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Profile:
    """Seconds by part. Parts inside a part count twice: once for themselves, once for what holds them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def __str__(self) -> str:
        whole = self.seconds.get("step") or sum(self.seconds.values()) or 1.0
        rows = [f"{name:<34}{seconds:>9.2f} s {seconds / whole:>7.1%}" for name, seconds in self.seconds.items()]
        return "\n".join(["where the time went (share of the training steps)", *rows])


_listening: list[Profile] = []


@contextmanager
def profiled() -> Iterator[Profile]:
    """Listen to all parts that run inside, in any thread."""
    profile = Profile()
    _listening.append(profile)
    try:
        yield profile
    finally:
        _listening.remove(profile)


@contextmanager
def part(name: str, threads: int = 1) -> Iterator[None]:
    """A named part of a run. threads: how many do such a part side by side, so that the sum is time on the clock."""
    if not _listening:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begun = time.perf_counter()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        for profile in _listening:
            profile.seconds[name] += (time.perf_counter() - begun) / threads
