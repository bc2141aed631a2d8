"""One library in a process of its own, in that library's own environment: `python train_worker.py`.

Requests come over stdin and answers go to stdout, one JSON object a line; what the libraries print goes to stderr. A request
names what to `do` (see DO) and its arguments. Between requests the process waits without using the processor; each answer
says how much it did use.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import chain, count, islice, repeat
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from peers_worker import SAMPLE, Batches, sparsify_trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Job = dict[str, Any]


class Trainee(NamedTuple):
    """How a library takes one training step on a batch [n, d], and how it reconstructs activations [n, d]."""

    step: Callable[[Tensor], Any]
    reconstruct: Callable[[Tensor], Tensor]


def batches_of(job: Job, most: int) -> Batches:
    """The job's first batches, as many as its file holds or `most`."""
    in_file = len(np.load(job["data"], mmap_mode="r")) // job["batch"]
    return Batches(job["data"], job["batch"], min(most, in_file), job["seed"])


# --- the libraries ----------------------------------------------------------------------------------------------------

def cutaway(job: Job, sample: Tensor) -> Trainee:
    """The step that `cutaway.learn` takes."""
    from cutaway.dictionaries import Facts, TopK
    from cutaway.train.learner import Learner
    learner = Learner(TopK(job["width"], job["k"], **job["settings"]), sample, job["steps"], job["batch"], job["seed"])
    return Trainee(learner.step, lambda x: learner.export(Facts())(x))


class Pulled:
    """A training loop that pulls its batches from an iterator, run in a thread so that it takes one step at a time."""

    def __init__(self, loop: Callable[[Iterator[Tensor]], Any]):
        self.given: Queue[Tensor] = Queue()
        self.asked: Queue[BaseException | None] = Queue()
        Thread(target=self._run, args=(loop,), daemon=True).start()
        self._until_asked()

    def step(self, x: Tensor) -> None:
        """From giving a batch until the loop asks for the next one."""
        self.given.put(x)
        self._until_asked()

    def _batches(self) -> Iterator[Tensor]:
        while True:
            self.asked.put(None)
            yield self.given.get()

    def _run(self, loop: Callable[[Iterator[Tensor]], Any]) -> None:
        try:
            loop(self._batches())
            self.asked.put(RuntimeError("the training loop ended before its last batch."))
        except BaseException as error:
            self.asked.put(error)

    def _until_asked(self) -> None:
        if error := self.asked.get():
            raise error


def sparsify(job: Job, sample: Tensor) -> Trainee:
    """eai-sparsify: its Trainer's own loop."""
    trainers: list[Any] = []
    # One row more than there are batches, so that the loop asks for another one after the last step.
    longer = {**job, "steps": job["steps"] + 1}

    def loop(stream: Iterator[Tensor]) -> None:
        trainers.append(sparsify_trainer(longer, stream, tempfile.gettempdir()))
        trainers[0].fit()

    pulled = Pulled(loop)
    coder, optimizers = trainers[0].saes["site"], trainers[0].optimizers

    def reconstruct(x: Tensor) -> Tensor:
        averaging = [optimizer for optimizer in optimizers if hasattr(optimizer, "eval")]
        for optimizer in averaging:
            optimizer.eval()          # a schedule-free optimizer puts its averaged weights in place, as it does to save
        made = coder(x).sae_out
        for optimizer in averaging:
            optimizer.train()
        return made

    return Trainee(pulled.step, reconstruct)


def dictionary_learning(job: Job, sample: Tensor) -> Trainee:
    """dictionary-learning: its TopK trainer's update, on activations scaled as trainSAE scales them if asked to."""
    from dictionary_learning.trainers.top_k import TopKTrainer
    from dictionary_learning.training import get_norm_factor
    settings = dict(job["settings"])
    # trainSAE looks at the first 101 batches.
    scale = get_norm_factor(batches_of(job, 101), steps=100) if settings.pop("normalize_activations", False) else None
    trainer = TopKTrainer(steps=job["steps"], activation_dim=job["d"], dict_size=job["width"], k=job["k"], layer=0, lm_name="",
                          seed=job["seed"], device="cpu", **settings)
    number = count()
    if scale is None:
        return Trainee(lambda x: trainer.update(next(number), x), trainer.ae)
    return Trainee(lambda x: trainer.update(next(number), x / scale), lambda x: trainer.ae(x / scale) * scale)


def sae_lens(job: Job, sample: Tensor) -> Trainee:
    """sae-lens: its SAETrainer's step and what its `fit` does around each one."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer
    settings = dict(job["settings"])
    architecture = settings.pop("sae", {})
    torch.manual_seed(job["seed"])
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=job["d"], d_sae=job["width"], k=job["k"], **architecture))
    # Its runner, too, sets the end of the rate to a tenth; the constant schedule, its default, does not use it.
    config = SAETrainerConfig(total_training_samples=job["steps"] * job["batch"], train_batch_size_samples=job["batch"],
                              lr_end=settings["lr"] / 10, **settings)
    trainer = SAETrainer(config, sae, iter(()))
    scaler = trainer.activation_scaler
    if sae.cfg.normalize_activations == "expected_average_only_in":
        batches = sample.split(job["batch"])
        scaler.estimate_scaling_factor(job["d"], iter(batches), len(batches))

    def step(x: Tensor) -> None:
        trainer.maybe_reset_sparsity()
        trainer.step(x)
        trainer.n_training_steps += 1

    return Trainee(step, lambda x: scaler.unscale(sae(scaler(x))))


def product(job: Job, sample: Tensor) -> Trainee:
    """The encoder's product alone, on one batch that is already in the wanted precision."""
    dtype = getattr(torch, job["settings"]["dtype"])
    weight = torch.randn(job["width"], job["d"], generator=torch.Generator().manual_seed(job["seed"])).to(dtype)
    x = sample[: job["batch"]].to(dtype)
    return Trainee(lambda _: x @ weight.T, lambda x: x)


LIBRARIES = {"cutaway": cutaway, "eai-sparsify": sparsify, "dictionary-learning": dictionary_learning, "sae-lens": sae_lens,
             "product": product}


# --- memory -----------------------------------------------------------------------------------------------------------

def resident() -> dict[str, int] | None:
    """Bytes of memory that this process holds now, and the most it ever held; None where there is no /proc."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    except OSError:
        return None
    return {"now": 1024 * int(lines["VmRSS"].split()[0]), "most": 1024 * int(lines["VmHWM"].split()[0])}


def forget_peak() -> None:
    """Begin to measure the most memory anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


class Largest(TorchDispatchMode):
    """Records the largest float32 tensor that any operation gives; of a view or a sparse tensor, what is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Any] = {"elements": 0}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float32:
                elements = stored(tensor)
                if elements > self.found["elements"]:
                    self.found = {"elements": elements, "shape": list(tensor.shape), "operation": str(func)}
        return made


def stored(tensor: Tensor) -> int:
    """How many elements a tensor has in memory."""
    if tensor.layout is not torch.strided:
        return tensor._nnz()
    return min(tensor.numel(), tensor.untyped_storage().nbytes() // tensor.element_size())


# --- requests ---------------------------------------------------------------------------------------------------------

class Worker:
    """The library that is being trained, and the batches it is given."""

    trainee: Trainee
    stream: Iterator[Tensor]
    before: dict[str, int] | None

    def build(self, job: Job) -> dict[str, Any]:
        """Make a library's trainer for a job; its batches come from the job's file, again and again."""
        batches = batches_of(job, job["steps"])
        sample = torch.cat(list(islice(batches, -(-SAMPLE // job["batch"]))))
        self.stream = chain.from_iterable(repeat(batches))
        if (held := resident()) is not None:
            forget_peak()
        self.before = held
        began = time.perf_counter()
        self.trainee = LIBRARIES[job["library"]](job, sample)
        seconds = time.perf_counter() - began
        packages = ["torch", "numpy", *({job["library"]} - {"product"})]
        return {"seconds": seconds, "threads": torch.get_num_threads(), "versions": {name: version(name) for name in packages}}

    def step(self, n: int) -> dict[str, Any]:
        """Take n steps; the batch of each is in memory before its time begins."""
        seconds = []
        for x in islice(self.stream, n):
            began = time.perf_counter()
            self.trainee.step(x)
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}

    def fvu(self, data: str, n: int) -> dict[str, Any]:
        """FVU about the mean of each dimension, on the first n activations of a file."""
        x = torch.from_numpy(np.load(data, mmap_mode="r")[:n].copy())
        with torch.no_grad():
            error = sum(float((self.trainee.reconstruct(part) - part).double().pow(2).sum()) for part in x.split(2048))
        return {"fvu": error / float((x - x.mean(0)).double().pow(2).sum()), "n": len(x)}

    def memory(self) -> dict[str, Any]:
        """The most memory held since before the trainer was built, less what was held then."""
        now = resident()
        return {"bytes": None if now is None or self.before is None else now["most"] - self.before["now"]}

    def largest(self) -> dict[str, Any]:
        """The most memory held in the first steps, building apart, and the largest float32 tensor that torch makes in one."""
        if self.before is not None:
            forget_peak()
        self.step(3)
        held = self.memory()
        with Largest() as seen:
            self.step(1)
        return {"largest": seen.found, **held}

    def learn(self, model: str, site: str, recipes: list[list[int]], tokens: int, together: bool) -> dict[str, Any]:
        """Seconds of `cutaway.learn` for dictionaries of (width, k), in one call for all or in one call for each."""
        import cutaway as cw
        net = cw.open(model)
        text, made = cw.stdlib(net), [cw.TopK(width, k) for width, k in recipes]
        calls = [made] if together else [[recipe] for recipe in made]
        began = time.perf_counter()
        runs = [cw.learn(net, text, {site: call}, tokens=tokens, progress=False) for call in calls]
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "fvu": [history[-1]["fvu"] for run in runs for history in run.history.values()],
                "threads": torch.get_num_threads(), "versions": {name: version(name) for name in ("torch", "numpy", "cutaway")}}


DO = {name: getattr(Worker, name) for name in ("build", "step", "fvu", "memory", "largest", "learn")}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    waiting = time.perf_counter(), time.process_time()
    while line := sys.stdin.readline():
        idle = {"wall": time.perf_counter() - waiting[0], "processor": time.process_time() - waiting[1]}
        request = json.loads(line)
        try:
            answer = DO[request.pop("do")](worker, **request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({**answer, "idle": idle}), file=answers, flush=True)
        waiting = time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
