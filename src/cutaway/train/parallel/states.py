"""What goes into a checkpoint of many ranks, and how it is dealt out again to any number of them.

Tensors have the names that a process alone gives them, so that its checkpoints are read here too: `learner|key|name` are whole,
whatever they were split into, and `source|i|name` belong to the i-th of those that read rows of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...files import write_json
from .. import checkpoint
from ..sources import Source
from . import folders
from .sources import Aligned, Stripe

if TYPE_CHECKING:
    from ..learner import Learner
    from .alone import Alone
    from .joined import Joined

Learners = Mapping[str, "Learner"]


def save(ranks: Joined, out: Path, config: dict[str, Any], learners: Learners, source: Source) -> None:
    """Save everything that the training depends on; all ranks must call it."""
    group, (tensors, facts) = ranks.group, source.state()
    stripe = group.rank if ranks.stripes > 1 else 0
    held, states = {f"source|{stripe}|{name}": t for name, t in tensors.items()}, {}
    for key, learner in learners.items():
        own, states[key] = learner.state()
        held.update({f"learner|{key}|{name}": t for name, t in ranks.placed(own).items()})
    states = {key: state for some in group.objects(states) for key, state in some.items()}
    header = {"config": config, "split": ranks.split, "learners": states, "stripes": group.objects(facts)[: ranks.stripes]}
    folders.save(out, group, sum(state["step"] for state in states.values()), held, header)


def resume(ranks: Joined, out: Path, config: dict[str, Any], learners: Learners, source: Source) -> None:
    """Go on from the newest whole checkpoint, of whatever number of ranks, if there is one."""
    found = folders.newest(out, ranks.group)
    if found is None:
        resume_alone(ranks, out, config, learners, source)
        return
    place, header = found
    check(out, header["config"], config)
    if (ranks.split == "sites") and (header["split"] != "sites"):
        raise ValueError(f"{out} holds unfinished training with split={header['split']!r}, whose ranks read different rows; go "
                         "on with split='data' or 'width'.")
    shapes = folders.shapes(place)
    for key, learner in learners.items():
        tensors, _ = learner.state()
        folders.read(place, {f"learner|{key}|{name}": t for name, t in ranks.placed(tensors).items()})
        learner.load_state(tensors, header["learners"][key])

    def stripe(i: int) -> Stripe:
        start = f"source|{i}|"

        def one(name: str) -> Tensor:
            shape, dtype = shapes[start + name]
            value = torch.empty(shape, dtype=dtype)
            folders.read(place, {start + name: value})
            return value
        rows = {name.removeprefix(start): shape[0] for name, (shape, _) in shapes.items() if name.startswith(start)}
        return Stripe(header["stripes"][i], rows, one)

    _go_on(ranks, source, [stripe(i) for i in range(len(header["stripes"]))])


def save_alone(out: Path, config: dict[str, Any], learners: Learners, source: Source) -> None:
    """Save what `save` does in one file, as a process alone keeps it."""
    tensors, facts = source.state()
    held = {f"source|{name}": t for name, t in tensors.items()}
    states = {key: learner.state() for key, learner in learners.items()}
    held.update({f"learner|{key}|{name}": t for key, (own, _) in states.items() for name, t in own.items()})
    checkpoint.save(out, held, {"config": config, "source": facts, "learners": {key: own for key, (_, own) in states.items()}})


def resume_alone(ranks: Alone, out: Path, config: dict[str, Any], learners: Learners, source: Source) -> None:
    """Go on from the newest whole checkpoint of a process alone, if there is one."""
    found = checkpoint.newest(out)
    if found is None:
        check_finished(out, config)
        if ranks.group.rank == 0:
            write_json(out / "learning.json", config)
        return
    tensors, header = found
    check(out, header["config"], config)

    def inside(start: str) -> dict[str, Tensor]:
        return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

    for key, learner in learners.items():
        own = {name: ranks.cut(name, t) for name, t in inside(f"learner|{key}|").items()}
        learner.load_state(own, header["learners"][key])
    held = inside("source|")
    _go_on(ranks, source, [Stripe(header["source"], {name: len(t) for name, t in held.items()}, held.__getitem__)])


def _go_on(ranks: Alone, source: Source, stripes: list[Stripe]) -> None:
    if len(stripes) == ranks.stripes:
        mine = stripes[ranks.group.rank if ranks.stripes > 1 else 0]
        source.load_state({name: mine.read(name) for name in mine.rows if _wanted(source, name)}, mine.facts)
    elif isinstance(source, Aligned):
        source.load_stripes(stripes)


def _wanted(source: Source, name: str) -> bool:
    """Whether a tensor of a source belongs to one of this rank's sites."""
    return name.rpartition("|")[0] in source.samples


def check(out: Path, saved: dict[str, Any], config: dict[str, Any]) -> None:
    """Raise ValueError where a checkpoint was made with other settings."""
    changed = _differ(saved, config)
    if changed:
        raise ValueError(f"{out} holds unfinished training with other settings ({', '.join(changed)} differ); "
                         "use another folder, or the same settings to go on.")


def check_finished(out: Path, config: dict[str, Any]) -> None:
    """Raise ValueError where a folder holds dictionaries that were learned with other settings, which would be lost or mixed
    with the new ones.
    """
    said = out / "learning.json"
    if not said.exists() or not any((out / "dictionaries").glob("*.safetensors")):
        return
    changed = _differ(json.loads(said.read_text(encoding="utf-8")), config)
    if changed:
        raise ValueError(f"{out} holds dictionaries that were learned with other settings ({', '.join(changed)} differ); use "
                         "another folder, or remove it.")


def _differ(saved: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """The names of the settings that are not as they were."""
    config = json.loads(json.dumps(config))
    return [name for name in config if saved.get(name) != config[name]]
