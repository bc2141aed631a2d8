"""The command that says which attributions may be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from ..files import write
from . import folder, inputs
from .attributing import _images, _named, _number, options_of, units_of
from .screen import say, show

METHODS = ("integrated-gradients", "input-x-gradient", "saliency", "leave-one-out")


def faithfulness(model: Annotated[str, tyro.conf.Positional] = "pico", /, text: tuple[str, ...] = (),
                 images: Path | None = None, data: str = "stdlib:test", methods: tuple[str, ...] = METHODS, target: str = "",
                 contrast: str = "", over: str = "", of: str = "logit", position: int | None = None, baseline: str = "",
                 site: str = "", patch: int | None = None, size: int | None = None, run: Path | None = None,
                 set: tuple[str, ...] = (), measures: tuple[str, ...] = (), rows: int = 16, tokens: int = 48, draws: int = 8,
                 radius: float = 0.1, scaling: str = "min-max", seed: int = 0, batch_size: int = 64,
                 out: Path = Path("runs/faithfulness"), device: str = "cpu", pickle: bool = False) -> None:
    """Measure how faithful attributions are on your own model and input, each beside its random baseline.

    Args:
        model: A model's folder, hub id, or "pico".
        text: Texts whose last prediction is attributed.
        images: Or a folder of images, or one image.
        data: Or, without either, rows of this text: files, or the standard library's stdlib:test.
        methods: Of the family attribute; `cutaway catalogue attribute` lists them.
        target: The token (as text, or id:7) or class, or with --run a feature, as feature:17; left out, what the network
            finds likeliest.
        contrast: Attribute why the target rather than this one.
        over: tokens, words, pixels or patches; left out, tokens or pixels.
        of: What is attributed: logit, probability, log-probability or loss.
        position: At which token the output is read, negative from the end; left out, the last.
        baseline: zero, mean, blur, or a number such as 0.5: what a closed unit leaves.
        site: Where a text's embeddings are, in a network whose family Cutaway does not know.
        patch: The side of a patch in pixels.
        size: The side to which images are brought, for a network that does not say it.
        run: Attribute to the features of this run of `cutaway learn`, or to one of its features.
        set: Options of methods, as METHOD.NAME=VALUE, such as rise.n_masks=200.
        measures: Some of deletion, insertion, sufficiency, comprehensiveness, soft, infidelity, agreement, sensitivity; left
            out, all.
        rows: At most so many rows or images.
        tokens: The first so many tokens of each row of data.
        draws: Random draws of each measure that draws.
        radius: How far a nearby input is, for sensitivity, as a share of the input less its baseline.
        scaling: How importance becomes a chance for the soft measures: min-max, sigmoid, softmax or rank.
        seed: Of all random draws.
        batch_size: Rows that go through the network at a time.
        out: Folder for the table, the curves and the configuration.
        device: Where the network runs, such as cpu or cuda.
        pickle: Also read weights that are saved as a pickle.
    """
    from ..attribute.faithfulness import MEASURES
    from ..attribute.faithfulness import faithfulness as measured
    from ..train import load
    if text and images is not None:
        raise ValueError("give either --text or --images, the input that is to be explained.")
    if draws < 1 or batch_size < 1:
        raise ValueError(f"--draws and --batch-size are at least 1; found {draws} and {batch_size}.")
    net = inputs.network(model, device, pickle)
    source: Any = list(text) or (_images(images, net, rows, size) if images else _rows(inputs.data(data, net), rows, tokens))
    dictionary = load(run, net).dictionary if run else None
    goal = _named(target, net, dictionary)
    found = measured(net, source, _with_options(methods, set), goal, _named(contrast, net), units_of(over, dictionary, goal),
                     which=measures or tuple(MEASURES), of=of, position=position, baseline=_number(baseline), site=site or None,
                     patch=patch, draws=draws, radius=radius, scaling=scaling, seed=seed, batch_size=batch_size, progress=True)
    folder.begin(out, "faithfulness", {
        "model": model, "text": text, "images": images, "data": data, "methods": methods, "target": target,
        "contrast": contrast, "over": over, "of": of, "position": position, "baseline": baseline, "site": site, "patch": patch,
        "size": size, "run": run, "set": set, "measures": measures, "rows": rows, "tokens": tokens, "draws": draws,
        "radius": radius, "scaling": scaling, "seed": seed, "batch_size": batch_size, "out": out, "device": device,
        "pickle": pickle})
    columns, lines, words = found.said()
    for measure, wants in dict.fromkeys((line[0], line[1]) for line in lines):
        show(columns[2:], [line[2:] for line in lines if line[0] == measure], f"{measure}: {wants} is better", left=(0, 4))
    say(words)
    folder.figures(out, {"about": found.about, "rows": found.frame.to_dict("records"),
                         "curves": {f"{name} of {way}": curve.tolist() for (way, name), curve in found.curves.items()}})
    if found.curves:
        write(out / "curves.png", lambda part: found.plot().savefig(part, format="png"))
    say(f"\nThe figures are in {out / 'figures.json'}" + (", the curves in curves.png beside them." if found.curves else "."))


def _with_options(methods: tuple[str, ...], pairs: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Methods by name, each with its options of METHOD.NAME=VALUE."""
    found: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for pair in pairs:
        name, _, rest = pair.partition(".")
        if name not in found or not rest:
            raise ValueError(f"--set takes METHOD.NAME=VALUE of one of the methods {', '.join(methods)}, such as "
                             f"{methods[0]}.seed=1; found {pair!r}.")
        found[name] |= options_of((rest,))
    return found


def _rows(source: Any, rows: int, tokens: int) -> dict[str, Any]:
    """The first tokens of rows from all over text data, as inputs."""
    if rows < 1 or tokens < 2:
        raise ValueError(f"at least one row of two tokens is explained; found --rows {rows} and --tokens {tokens}.")
    step = max(1, source.n_rows // rows)
    batch = source.rows(list(range(0, source.n_rows, step))[:rows])
    return {name: x[:, :tokens] for name, x in batch.inputs.items()}
