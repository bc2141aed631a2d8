"""Processes that stay, to be ranks of many small runs: starting them costs more than what they do."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = 240   # seconds; the first run of all may have to compile the kernels
context: Any = get_context("forkserver")   # its server imports once, and has no threads that a fork could break
context.set_forkserver_preload(["cutaway", "cutaway.kernels.cpu", "pytest", "torch.distributed.checkpoint",
                                "torch.distributed.tensor", "transformers.models.llama.modeling_llama"])


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _serve(pipe: Any) -> None:
    torch.set_num_threads(1)
    while (job := pipe.recv()) is not None:
        fn, rank, size, port, args = job
        os.environ.update(environment(rank, size, port))
        try:
            pipe.send((fn(*args), ""))
        except BaseException:
            pipe.send((None, traceback.format_exc()))
        if dist.is_initialized():
            dist.destroy_process_group()


class Pool:
    """Up to some number of ranks."""

    def __init__(self, most: int):
        self.most = most
        self.start()

    def start(self) -> None:
        self.pipes, self.processes = [], []
        for _ in range(self.most):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def run(self, size: int, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """What a function gives on each rank; an error of any of them is raised here."""
        port = free_port()
        for rank, pipe in enumerate(self.pipes[:size]):
            pipe.send((fn, rank, size, port, args))
        found = []
        for rank, pipe in enumerate(self.pipes[:size]):
            assert pipe.poll(PATIENCE), f"rank {rank} of {size} does not answer"
            try:
                found.append(pipe.recv())
            except EOFError:
                found.append((None, f"rank {rank} ended with {self.processes[rank].exitcode}"))
        errors = [error for _, error in found if error]
        if errors:
            self.close()
            self.start()
        assert not errors, "\n".join(errors)
        return [value for value, _ in found]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
