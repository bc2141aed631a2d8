"""What training gives: dictionaries, how they were trained, and the way to look into them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..dictionaries import Dictionary, evaluate, watch
from ..dictionaries.apart import apart, chosen
from ..files import write_json
from ..network import Network
from .checkpoint import BEFORE, NEWEST


@dataclass(repr=False)
class Run:
    """Dictionaries by site, the history of their training by site, and the configuration that gives them again."""

    net: Network
    data: Any
    dictionaries: dict[str, Dictionary]
    history: dict[str, list[dict[str, float]]]
    config: dict[str, Any]
    folder: Path | None = None

    def __repr__(self) -> str:
        last = {key: f", FVU {steps[-1]['fvu']:.3g}" for key, steps in self.history.items() if steps}
        parts = [f"{key}: {made.width:,} latents{last.get(key, '')}" for key, made in self.dictionaries.items()]
        place = f", in {self.folder}" if self.folder else ""
        return f"Run(of {self.net.name}{place})\n" + "\n".join(f"  {part}" for part in parts)

    @property
    def dictionary(self) -> Dictionary:
        """The only dictionary of the run."""
        if len(self.dictionaries) != 1:
            raise ValueError(f"this run has dictionaries at {', '.join(self.dictionaries)}; choose one of run.dictionaries.")
        return next(iter(self.dictionaries.values()))

    def only(self, key: str) -> Run:
        """The run with one of its dictionaries; of a cross-layer transcoder with one of its layers, by KEY/TARGET."""
        found = chosen(self.dictionaries, key)
        if len(found) > 1:
            raise ValueError(f"{key} is several dictionaries; choose one of {', '.join(found)}.")
        return replace(self, dictionaries=found)

    @cached_property
    def features(self) -> Any:
        """The features of the run's only dictionary: from its store in the run's folder, if `cutaway store` made one
        (a `FeatureStore`), or else as they fire in the first 100,000 tokens of the run's data (`Features`)."""
        if len(keys := [*apart(self.dictionaries)]) > 1:
            raise ValueError(f"this run has dictionaries at {', '.join(keys)}; choose one, as in "
                             f"run.only({keys[0]!r}).features.")
        # The one look upwards, for a store has the same face and knows more.
        from ..store import opened
        if (found := opened(self)) is not None:
            return found
        if self.data is None:
            raise ValueError("this run was loaded without data; give load(..., data=) to see where its features fire.")
        return watch(self.net, self.dictionary, self.data, tokens=100_000)

    def evaluate(self, data: Any = None, tokens: int | str | None = 50_000, **options: Any) -> dict[str, dict[str, Any]]:
        """Every figure of every dictionary, by site; on data of your own, or else on the data it was trained on."""
        return {key: evaluate(self.net, dictionary, data or self.data, tokens, **options)
                for key, dictionary in self.dictionaries.items()}

    def save(self, folder: str | Path) -> Path:
        """Write each dictionary, the history and the configuration."""
        folder = Path(folder)
        save_dictionaries(self.dictionaries, folder)
        write_json(folder / "history.json", self.history)
        write_json(folder / "learning.json", self.config)
        self.folder = folder
        return folder


def save_dictionaries(dictionaries: dict[str, Dictionary], folder: Path) -> None:
    """Write dictionaries where `load` finds them."""
    for key, dictionary in dictionaries.items():
        dictionary.save(folder / "dictionaries" / f"{key.replace('/', '+')}.safetensors")


def load_dictionaries(folder: Path) -> dict[str, Dictionary]:
    """The dictionaries that were written in a folder, by key."""
    files = sorted((folder / "dictionaries").glob("*.safetensors"))
    return {file.stem.replace("+", "/"): Dictionary.load(file) for file in files}


def said(folder: Path) -> dict[str, str]:
    """The network and the data of the run in a folder, as they were called when it was learned."""
    config = json.loads((folder / "learning.json").read_text(encoding="utf-8"))
    data = str(config.get("data", "")).rpartition(" (")[0]
    return {"model": config.get("network", ""), "data": data.replace("stdlib ", "stdlib:").replace("stdlib:train", "stdlib")}


def load(folder: str | Path, net: Network, data: Any = None) -> Run:
    """The run that `learn` left in a folder."""
    folder = Path(folder)
    dictionaries = {key: one.to(net.device) for key, one in load_dictionaries(folder).items()}
    if not dictionaries:
        unfinished = any((folder / name).exists() for name in (NEWEST, BEFORE, "checkpoints"))
        what = "training there is not finished; run the same command again to go on" if unfinished else "it holds none"
        raise FileNotFoundError(f"there are no dictionaries in {folder}: {what}.")
    history, config = (json.loads((folder / name).read_text()) for name in ("history.json", "learning.json"))
    return Run(net, data, dictionaries, history, config, folder)
