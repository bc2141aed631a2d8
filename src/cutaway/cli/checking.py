"""The command that says which attributions may be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from ..files import write
from . import folder, inputs
from .attributing import _images, _named, _number

METHODS = ("integrated-gradients", "input-x-gradient", "saliency", "leave-one-out")


def faithfulness(model: Annotated[str, tyro.conf.Positional] = "pico", /, text: tuple[str, ...] = (),
                 images: Path | None = None, data: str = "stdlib:test", methods: tuple[str, ...] = METHODS, target: str = "",
                 contrast: str = "", over: str = "", of: str = "logit", baseline: str = "", patch: int | None = None,
                 measures: tuple[str, ...] = (), rows: int = 16, tokens: int = 48, draws: int = 8, seed: int = 0,
                 batch_size: int = 64, out: Path = Path("runs/faithfulness"), device: str = "cpu",
                 pickle: bool = False) -> None:
    """Measure how faithful attributions are on your own model and input, each beside its random baseline.

    Args:
        model: A model's folder, hub id, or "pico".
        text: Texts whose last prediction is attributed.
        images: Or a folder of images, or one image.
        data: Or, without either, rows of this text: files, or the standard library's stdlib:test.
        methods: Of the family attribute; `cutaway catalogue attribute` lists them.
        target: The token (as text, or id:7) or class; left out, what the network finds likeliest.
        contrast: Attribute why the target rather than this one.
        over: tokens, words, pixels or patches; left out, tokens or pixels.
        of: What is attributed: logit, probability, log-probability or loss.
        baseline: zero, mean, blur, or a number: what a closed unit leaves.
        patch: The side of a patch in pixels.
        measures: Some of deletion, insertion, sufficiency, comprehensiveness, soft, infidelity, sensitivity; left out, all.
        rows: At most so many rows or images.
        tokens: The first so many tokens of each row of data.
        draws: Random draws of each measure that draws.
        seed: Of all random draws.
        batch_size: Rows that go through the network at a time.
        out: Folder for the table, the curves and the configuration.
        device: Where the network runs.
        pickle: Also read weights that are saved as a pickle.
    """
    from ..attribute.faithfulness import MEASURES
    from ..attribute.faithfulness import faithfulness as measured
    if text and images is not None:
        raise ValueError("give either --text or --images, the input that is to be explained.")
    net = inputs.network(model, device, pickle)
    source: Any = list(text) or (_images(images, net, rows) if images else _rows(inputs.data(data, net), rows, tokens))
    found = measured(net, source, list(methods), _named(target, net), _named(contrast, net), over or None, of=of,
                     which=measures or tuple(MEASURES), baseline=_number(baseline), patch=patch, draws=draws, seed=seed,
                     batch_size=batch_size, progress=True)
    folder.begin(out, "faithfulness", {
        "model": model, "text": text, "images": images, "data": data, "methods": methods, "target": target,
        "contrast": contrast, "over": over, "of": of, "baseline": baseline, "patch": patch, "measures": measures, "rows": rows,
        "tokens": tokens, "draws": draws, "seed": seed, "batch_size": batch_size, "out": out, "device": device,
        "pickle": pickle})
    print(found)
    folder.figures(out, {"about": found.about, "rows": found.frame.to_dict("records"),
                         "curves": {f"{name} of {way}": curve.tolist() for (way, name), curve in found.curves.items()}})
    if found.curves:
        write(out / "curves.png", lambda part: found.plot().savefig(part, format="png"))
    print(f"\nThe figures are in {out / 'figures.json'}" + (", the curves in curves.png beside them." if found.curves else "."))


def _rows(source: Any, rows: int, tokens: int) -> dict[str, Any]:
    """The first tokens of rows from all over text data, as inputs."""
    step = max(1, source.n_rows // rows)
    batch = source.rows(list(range(0, source.n_rows, step))[:rows])
    return {name: x[:, :tokens] for name, x in batch.inputs.items()}
