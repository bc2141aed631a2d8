"""The command that says which parts of an input an output rests on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..files import write, write_json
from . import folder, inputs
from .screen import console, say

if TYPE_CHECKING:
    from ..network import Network


def attribute(model: Annotated[str, tyro.conf.Positional] = "pico", /, text: tuple[str, ...] = (), images: Path | None = None,
              method: str = "integrated-gradients", target: str = "", contrast: str = "", over: str = "", of: str = "logit",
              position: int | None = None, baseline: str = "", site: str = "", patch: int | None = None,
              size: int | None = None, run: Path | None = None, set: tuple[str, ...] = (), rows: int = 8, batch_size: int = 64,
              top: int = 10, out: Path = Path("runs/attribute"), device: str = "cpu", pickle: bool = False) -> None:
    """Say which tokens, words, pixels or features an output rests on, and show it.

    Args:
        model: A model's folder, hub id, or "pico".
        text: Texts to explain, such as "for i in range(10):".
        images: Or a folder of images, or one image.
        method: Of the family attribute; `cutaway catalogue attribute` lists them.
        target: The token (as text, or id:7) or class to explain, or with --run a feature, as feature:17, whose activation is
            explained; left out, what the network finds likeliest.
        contrast: Explain why the target rather than this one.
        over: tokens, words, pixels or patches; left out, tokens or pixels.
        of: logit, probability, log-probability or loss.
        position: At which token the output is read, negative from the end; left out, the last.
        baseline: zero, mean, blur, or a number such as 0.5: what is left of a unit that is taken away.
        site: Where a text's embeddings are, in a network whose family Cutaway does not know.
        patch: The side of a patch in pixels.
        size: The side to which images are brought, for a network that does not say it.
        run: Explain by the features of this run of `cutaway learn`, or one of its features.
        set: The method's options, as NAME=VALUE, such as n_steps=100.
        rows: At most so many images.
        batch_size: Rows that go through the network at a time.
        top: How many units to print with their values.
        out: Folder for the page, the picture, the values and the configuration.
        device: Where the network runs, such as cpu or cuda.
        pickle: Also read weights that are saved as a pickle.
    """

    from ..attribute import attribute as explain
    from ..attribute.drawing import texts
    from ..train import load
    if bool(text) == (images is not None):
        raise ValueError("give either --text or --images, the input that is to be explained.")
    if batch_size < 1 or top < 0:
        raise ValueError(f"--batch-size is at least 1 and --top at least 0; found {batch_size} and {top}.")
    net = inputs.network(model, device, pickle)
    dictionary = load(run, net).dictionary if run else None
    goal = _named(target, net, dictionary)
    source = list(text) or _images(images, net, rows, size)
    found = explain(net, source, method, goal, _named(contrast, net), units_of(over, dictionary, goal), of=of,
                    position=position, baseline=_number(baseline), site=site or None, patch=patch, batch_size=batch_size,
                    progress=True, **options_of(set))
    folder.begin(out, "attribute", {
        "model": model, "text": text, "images": images, "method": method, "target": target, "contrast": contrast, "over": over,
        "of": of, "position": position, "baseline": baseline, "site": site, "patch": patch, "size": size, "run": run,
        "set": set, "rows": rows, "batch_size": batch_size, "top": top, "out": out, "device": device, "pickle": pickle})
    screen = console()
    shown = found.names is not None or (found.values.ndim == 3 and found.features is None)   # as text or a map, not a list
    for i in range(len(found)):
        for line in texts(found, [i])[: 2 if shown else 1]:
            screen.print(line)
        for unit, value in found.top(top, i):
            screen.print(f"{value:+10.4g}  {unit!r}", markup=False)
    write_json(out / "attribution.json", found.json())
    page = write(out / "attribution.html", lambda part: part.write_text(found.html(), encoding="utf-8"))
    write(out / "attribution.png", lambda part: found.plot().savefig(part, format="png"))
    say(f"\nThe page is {page}, its picture attribution.png and the values attribution.json beside it.")


def _images(path: Path | None, net: Network, rows: int, size: int | None) -> Any:
    """The first images of a folder, or one image."""
    import numpy as np
    from PIL import Image

    from ..data import images
    path = Path(path or "")
    if not path.exists():
        raise FileNotFoundError(f"there is no image or folder {path}.")
    if path.is_dir():
        return images(path, net, size=size).take(rows)
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} is not an image that can be read.") from error
    return images(pixels[None], net, size=size)


def units_of(over: str, dictionary: Any, target: Any) -> Any:
    """What an attribution is over: what was asked for, or a run's features where it is not one of them that is explained."""
    from ..dictionaries import Direction
    return over or (None if isinstance(target, Direction) else dictionary)


def _named(text: str, net: Network, dictionary: Any = None) -> Any:
    """A token by its text, or by its number as id:7; a class by its name or number; a dictionary's feature as feature:17."""
    if text.startswith("feature:") and text[8:].isdigit():
        from ..dictionaries import Direction
        if dictionary is None:
            raise ValueError(f"{text} is a feature of a run of `cutaway learn`; give its folder as --run.")
        return Direction(dictionary, int(text[8:]))
    known = getattr(net.config, "label2id", None) or {}
    if text.startswith("id:") and text[3:].isdigit():
        return int(text[3:])
    return int(text) if text.isdigit() and net.kind not in ("causal", "masked") and text not in known else text or None


def _number(text: str) -> Any:
    """A number where it is one, the text otherwise, and none where there is no text."""
    try:
        return int(text) if text else None
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def options_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name or not value:
            raise ValueError(f"--set takes NAME=VALUE, such as n_steps=100; found {pair!r}.")
        options[name.replace("-", "_")] = _value(value)
    return options


def _value(text: str) -> Any:
    """An option's value: true or false, numbers with commas between them as a tuple, or as `_number` reads it."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return tuple(_number(part) for part in text.split(",") if part) if "," in text else _number(text)
