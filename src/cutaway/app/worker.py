"""The network in a thread of its own: opened at first need, one job after the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..network import Network

T = TypeVar("T")


class Busy(RuntimeError):
    """More is waiting for the network than it is worth waiting for."""


class Worker:
    """Runs jobs on networks, one at a time. waiting: so many jobs may wait; opener: from a model's name to its network."""

    def __init__(self, opener: Callable[[str], Network] | None = None, waiting: int = 8):
        self._opener, self._most = opener or opened, waiting
        self._thread = ThreadPoolExecutor(1, "network")
        self._networks: dict[str, Network] = {}
        self._pending, self._lock = 0, threading.Lock()

    def has(self, model: str) -> bool:
        """Whether the network is open already."""
        return model in self._networks

    async def do(self, model: str, job: Callable[[Network], T]) -> T:
        """What a job gives; a job whose asker has gone away before it began is not begun."""
        with self._lock:
            if self._pending >= self._most:
                raise Busy(f"{self._pending} texts are waiting for the network already; try again in a moment.")
            self._pending += 1
        future = self._thread.submit(self._run, model, job)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def _run(self, model: str, job: Callable[[Network], T]) -> T:
        if model not in self._networks:
            self._networks[model] = self._opener(model)
        return job(self._networks[model])

    def _done(self, _: Any) -> None:
        with self._lock:
            self._pending -= 1

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def opened(model: str) -> Network:
    """A network for trying text, never from a pickle, whatever a run's configuration says."""
    from ..network import open as open_network
    return open_network(model, device="cpu", pickle=False)
