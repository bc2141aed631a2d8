"""The server: on this machine alone unless a token is given, on the next free port, until Ctrl-C."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from .guard import LOOPBACK
from .shelves import Library
from .web import application

SHORTEST = 16      # characters of a token


def serve(folders: Sequence[str | Path], *, host: str = "127.0.0.1", port: int = 7860, token: str = "", model: str = "",
          browser: bool = True, results: str | Path = "proofs/results") -> None:
    """Show run folders and stores as pages, until Ctrl-C.

    host: another than this machine's own is refused without a token of at least 16 characters. port: that or the next free
    one; 0 for any. model: what to open when text is tried; left out, what the runs' configurations say. results: where
    `cutaway prove` keeps its results.
    """
    import uvicorn
    local = host in ("127.0.0.1", "localhost", "::1")
    if not local and not token:
        raise ValueError(f"--host {host} opens this to other machines, so it needs --token with at least {SHORTEST} "
                         "characters.")
    if token and len(token) < SHORTEST:
        raise ValueError(f"a token has at least {SHORTEST} characters; found {len(token)}.")
    hosts = LOOPBACK if local else LOOPBACK | {"*" if host in ("0.0.0.0", "::") else host.lower()}
    app = application(Library(folders, model), hosts=hosts, token=token, results=Path(results))
    listening = listen(host, port)
    shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host
    address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    if browser:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, backlog=1024,
                                           timeout_keep_alive=60, timeout_graceful_shutdown=3))
    server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on that port, or on one of the next twenty; port 0 takes any that is free."""
    if not 0 <= port < 65536:
        raise ValueError(f"a port is a number from 0 to 65535; found {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + 20, 65536)) if port else [0]:
        # Named as TCP, or else asyncio leaves Nagle's algorithm on, and every answer waits 40 ms for the one before.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, candidate))
            made.listen(1024)      # from now on nobody is turned away, though the first must wait a moment
            return made
        except OSError as error:
            made.close()
            last = error
    raise OSError(f"no port from {port} to {port + 19} on {host} can be had ({last}); give another --port.")
