"""What dictionaries are compared on: worlds with known features, and a network's activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..data import below, norm_limit
from ..data.corpora import stdlib
from ..dictionaries import Dictionary
from ..dictionaries.truth import WORLDS, World, judge
from ..metrics import fidelity
from ..network import open
from ..observe import Sample, observe

SITE, HELD_OUT = "blocks.2", 8192
KEPT = 2**26                                   # numbers of a training stream that are made once and not again
FIRST, VALIDATION, TEST = 10_000, 777, 999     # seeds of training streams count from the first


@dataclass(frozen=True)
class Scene:
    """One comparison. width: latents; l0s: how many should fire, the table's first.

    train: n, batch and seed -> batches [batch, d]; validation: activations; judge: figures of a dictionary on test data.
    """

    name: str
    width: int
    l0s: tuple[int, ...]
    train: Callable[[int, int, int], Iterator[Tensor]]
    validation: Tensor
    judge: Callable[[Dictionary], Mapping[str, float]]


def of_world(world: World, width: int, l0s: tuple[int, ...]) -> Scene:
    """A scene of a world: everybody sees fresh samples, the same for all methods of a seed."""
    @lru_cache(maxsize=2)
    def kept(n: int, batch: int, seed: int) -> tuple[Tensor, ...]:
        return tuple(s.x for s in world.samples(n, batch, seed))

    def train(n: int, batch: int, seed: int) -> Iterator[Tensor]:
        small = n * world.d <= KEPT
        return iter(kept(n, batch, FIRST + seed)) if small else (s.x for s in world.samples(n, batch, FIRST + seed))
    return Scene(world.name, width, l0s, train, world.sample(HELD_OUT, VALIDATION).x,
                 lambda dictionary: judge(dictionary, world, HELD_OUT, TEST))


@lru_cache(maxsize=1)
def activations(n: int) -> dict[str, Tensor]:
    """Activations at the middle of pico, without special tokens and attention sinks, by split of the text."""
    net, found = open("pico"), {}
    for split, wanted in (("train", n), ("validation", HELD_OUT), ("test", 2 * HELD_OUT)):
        sample = Sample(SITE, wanted)
        observe(net, stdlib(net, split), [sample], seed=0)
        found[split] = sample.x
    most = norm_limit(found["train"])
    return {split: x[below(x, most)].float() for split, x in found.items()}


def of_pico(n: int, width: int, l0s: tuple[int, ...]) -> Scene:
    """Real activations, of which there are n to learn from; a longer training reads them again in another order."""
    x = activations(n)

    def train(n: int, batch: int, seed: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(FIRST + seed)
        while n > 0:
            for chosen in torch.randperm(len(x["train"]), generator=generator).split(batch):
                if n <= 0:
                    break
                n -= batch
                yield x["train"][chosen]
    return Scene("pico", width, l0s, train, x["validation"], lambda dictionary: fidelity(dictionary, x["test"]))


# Width and L0 of each scene; the first L0 is near the true one of the features that the width has room for.
SIZES: dict[str, tuple[int, tuple[int, ...]]] = {
    "independent": (64, (5,)), "superposed-2": (128, (5,)), "superposed-8": (512, (5,)), "correlated": (256, (5,)),
    "hierarchical": (256, (6,)), "bidirectional": (256, (5,)), "power-law": (256, (5,)), "manifolds": (192, (4,)),
    "toy-network": (128, (2,)), "synth-small": (256, (8, 4, 16, 32)), "synth-sae-bench": (4096, (25, 20, 30, 45)),
    "pico": (512, (16, 8, 32, 64))}
SCENES = tuple(name for name in SIZES if name != "synth-sae-bench")


def scene(name: str, n: int, frontier: bool = True) -> Scene:
    """A scene by name; frontier: at all of its L0, else at the first alone."""
    from ..dictionaries.truth import synth_sae_bench
    if name not in SIZES:
        raise ValueError(f"there is no scene called {name!r}; there are {', '.join(SIZES)}.")
    width, l0s = SIZES[name]
    l0s = l0s if frontier else l0s[:1]
    if name == "pico":
        return of_pico(n, width, l0s)
    return of_world((WORLDS | {"synth-sae-bench": synth_sae_bench})[name](), width, l0s)
