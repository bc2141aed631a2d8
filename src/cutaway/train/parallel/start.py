"""How a process finds out that it is one of many, and how they begin and end together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from . import folders
from .alone import Alone
from .data import Data
from .group import Group
from .joined import Joined
from .sites import Sites
from .watch import Watch
from .width import Width

SPLITS: Mapping[str, type[Joined]] = {kind.split: kind for kind in (Data, Width, Sites)}
HUNG = timedelta(minutes=10)   # after which a rank that still runs but does not answer is given up
GRACE = 45.0                   # seconds in which a broken connection is to be explained by the rank that was lost


@contextmanager
def together(split: str, device: torch.device, out: Path | None) -> Iterator[Alone]:
    """The ranks of a run: as many as torchrun started, or one process alone.

    split: what they divide among them, `data`, `width` or `sites`. When a rank is lost, the others end with a sentence that
    names it and says how to go on. Raises ValueError for a split that does not exist, or where ranks share a GPU.
    """
    if split not in SPLITS:
        raise ValueError(f"work is split over ranks by {', '.join(SPLITS)}; found split={split!r}.")
    size = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    if size == 1:
        yield Alone() if out is None or not folders.found(out) else SPLITS["data"](Group())
        return
    group = _group(device)
    if split == "sites" and out is None:
        raise ValueError("split='sites' gathers what the ranks learn in a folder; give one that all of them see, with out=.")
    store = dist.distributed_c10d._get_default_store()
    run = store.add(f"cutaway-runs-{group.rank}", 1)   # the same on all ranks, and another for each run of a script
    watch = Watch(group.rank, group.size, store, f"cutaway-watch-{run}", lambda: _advice(out))
    try:
        yield SPLITS[split](group)
    except KeyboardInterrupt:
        watch.close()
        raise
    except RuntimeError as error:
        if any(word in str(error).lower() for word in ("gloo", "nccl", "connection", "timed out", "peer")):
            time.sleep(GRACE)   # the watch ends this process as soon as it knows which rank was lost
        watch.close(f"stopped with an error ({error})")
        raise
    except BaseException as error:
        watch.close(f"stopped with an error ({error})")
        raise
    watch.close()


def _group(device: torch.device) -> Group:
    """Join the process group of torchrun: gloo for what is in main memory, nccl for what is on GPUs."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device.type == "cuda":
        if device.index != local and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
            raise ValueError(f"each rank needs a GPU of its own: this one's network is on {device} and belongs on "
                             f"cuda:{local}; open it there, by the environment's LOCAL_RANK.")
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=HUNG)
    return Group(dist.get_rank(), dist.get_world_size())


def _advice(out: Path | None) -> str:
    """How to go on after a rank was lost."""
    if out is None:
        return "No folder was given (out=), so nothing was saved; run the same command again to begin anew."
    saved = folders.found(out)
    if not saved:
        return f"Nothing was saved in {out} yet; run the same command again to begin anew."
    return (f"What was saved is whole: run the same command again, on as many ranks or on another number, to go on from "
            f"{saved[0]}.")
