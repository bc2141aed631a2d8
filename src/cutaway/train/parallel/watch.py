"""Who of the ranks is still there: each holds a line to the first, and a line that breaks names the rank that was lost.

The system closes a process's connections the moment it ends, however it ends, which is long before a collective operation
gives up or a launcher stops the others. A machine that vanishes is noticed within half a minute.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PATIENCE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}   # seconds, seconds, times
GRACE = 5.0   # seconds in which a rank may end with an error of its own, such as the same one, after another has failed
LOST = "was lost: its process ended without a word (killed, out of memory, or its machine is gone)"


class Watch:
    """A thread that ends this process with a sentence when another rank is lost, or has failed.

    store: where ranks find the first one's address. advice: gives what to do next, at the time.
    """

    def __init__(self, rank: int, size: int, store: Any, name: str, advice: Callable[[], str]):
        self.rank, self.size, self.advice = rank, size, advice
        self.lines: dict[socket.socket, int] = {}
        self.ended: set[int] = set()
        self.closed = threading.Event()
        if rank == 0:
            self._listen(store, name)
        else:
            self._call(store, name)
        self.thread = threading.Thread(target=self._run, name="cutaway-watch", daemon=True)
        self.thread.start()

    def _listen(self, store: Any, name: str) -> None:
        host = os.environ.get("MASTER_ADDR", "localhost")
        with _server(host) as server:
            store.set(name, f"{host} {server.getsockname()[1]}")
            server.settimeout(120)
            while len(self.lines) < self.size - 1:
                try:
                    line, _ = server.accept()
                except TimeoutError:
                    here = {0, *self.lines.values()}
                    missing = ", ".join(str(rank) for rank in range(self.size) if rank not in here)
                    raise RuntimeError(f"the ranks {missing} of {self.size} did not come within two minutes; start all of them "
                                       "again.") from None
                rank = int.from_bytes(line.recv(4, socket.MSG_WAITALL), "big")
                self.lines[_kept_alive(line)] = rank

    def _call(self, store: Any, name: str) -> None:
        host, port = store.get(name).decode().split()
        line = socket.create_connection((host, int(port)), timeout=120)
        line.settimeout(None)
        line.sendall(self.rank.to_bytes(4, "big"))
        self.lines[_kept_alive(line)] = 0

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for held in self.lines:
                selector.register(held, selectors.EVENT_READ)
            while selector.get_map() and not self.closed.is_set():
                for key, _ in selector.select(timeout=0.5):
                    line: Any = key.fileobj
                    words = _read(line)
                    if self.closed.is_set():
                        return
                    if words is None:
                        selector.unregister(line)
                        if self.lines[line] not in self.ended:
                            self._end(self.lines[line], LOST)
                    for word in words or ():
                        if word["why"]:
                            self._end(word["rank"], word["why"], GRACE)
                        self.ended.add(word["rank"])

    def _end(self, rank: int, why: str, grace: float = 0.0) -> None:
        """Tell the others which rank was lost, say it here, and end, unless this one closes its watch in the meantime."""
        self._send(rank, why, besides=rank)
        if self.closed.wait(grace):
            return
        print(f"Rank {rank} of {self.size} {why}. {self.advice()}", file=sys.stderr, flush=True)
        os._exit(1)

    def _send(self, rank: int, why: str, besides: int = -1) -> None:
        word = json.dumps({"rank": rank, "why": why}).encode() + b"\n"
        for line, other in self.lines.items():
            if other != besides:
                with suppress(OSError):
                    line.sendall(word)

    def close(self, why: str = "") -> None:
        """Say goodbye; with a reason, the others end too."""
        self._send(self.rank, why)
        self.closed.set()
        self.thread.join()
        for line in self.lines:
            line.close()


def _read(line: socket.socket) -> list[dict[str, Any]] | None:
    """The words that have come over a line, or None where it has broken or ended."""
    data = b""
    try:
        while not data.endswith(b"\n"):
            more = line.recv(4096)
            if not more:
                return None
            data += more
    except OSError:
        return None
    return [json.loads(word) for word in data.splitlines()]


def _server(host: str) -> socket.socket:
    """A socket that listens where the ranks look for the first one, or, where it has another address there, everywhere."""
    try:
        return socket.create_server((host, 0))
    except OSError:
        return socket.create_server(("", 0))


def _kept_alive(line: socket.socket) -> socket.socket:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in PATIENCE.items():
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return line
