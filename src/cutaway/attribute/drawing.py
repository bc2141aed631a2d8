"""Attributions to look at: highlighted text and heat maps, in a terminal, as HTML and as a figure.

Warm is what speaks for the target, blue what speaks against it; see `shades`.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from ..report.cards import DARK, MONO
from ..report.terminal import cell
from ..report.tokens import EMPTY, short, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.text import Text

    from .attribution import Attribution

WARM, COLD = (255, 138, 30), (60, 130, 235)
SIDE = 224                      # pixels of a picture on a page
MISSED = 0.1                    # the share of the difference by which values may miss it before it is said loudly
TOP = 12                        # units that are listed or drawn as bars where there is no text or map
LEGEND = ("Warm speaks for the target, blue against it; the shade is the value over the row's largest, or where all speak for "
          "it from the smallest to the largest. Hover over text for values.")
STYLE = """
html { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
body { background: Canvas; color: CanvasText }
h1 { font-size: 1.4em }
section { border-top: 1px solid rgba(128, 128, 128, .4); padding: 1em 0 }
figure { margin: 0; display: inline-block }
img { image-rendering: pixelated }
figcaption, .quiet { opacity: .75; font-size: .9em }
td { padding: 0 1em 0 0; font-variant-numeric: tabular-nums }
"""


def shades(a: Attribution, row: int) -> np.ndarray:
    """The values of a row over its largest by size, from -1 to 1; from the smallest to the largest where all are above 0.

    Maps such as RISE's stand on a constant, beside which nothing else would be seen.
    """
    values, counts = a.values[row].numpy(), a.keep[row].numpy()
    low, most = float(values[counts].min(initial=np.inf)), float(np.abs(values).max())
    if 0 < low < most:
        return np.where(counts, (values - low) / (most - low), 0)
    return values / most if most > 0 else values * 0


def caption(a: Attribution, row: int) -> str:
    """What was asked, and what came of it, in one line."""
    said, names = a.about, a.about.get("target") or [""]
    name = names[row] if len(names) > row else names[0]
    output, low = said["output"][row], said["output_at_baseline"][row]
    passes = "1 pass" if said["passes"] == 1 else f"{said['passes']:.4g} passes"
    return (f"{said['title']} for the {name}: {float(output):.4g}, and {float(low):.4g} at the baseline "
            f"({said['baseline']}){_sums(a, row)}; {passes}")


def _sums(a: Attribution, row: int) -> str:
    """How far values add up to what they should, where a method promises it; loudly where they do not."""
    said, notes = a.about, a.about.get("notes") or {}
    if not bool(a.values[row].any()):
        return "; ALL VALUES ARE 0, so that there is nothing to show"
    if "leak" in notes:
        rest = notes["held by constants"] + notes["held by what does not count"]
        return (f"; over all rows the units hold {notes['held by units']:.3g}, constants and other tokens {rest:.3g}, the "
                f"leak is {abs(notes['leak']):.1%}")
    if said.get("gap") is None:
        return ""
    gap, change = abs(float(said["gap"][row])), abs(float(said["output"][row] - said["output_at_baseline"][row]))
    if gap > MISSED * change:
        return f"; VALUES MISS THE DIFFERENCE BY {gap:.2g}, {gap / max(change, 1e-12):.0%} of it: do not trust them"
    return f"; values sum to the difference within {gap:.2g}"


# --- terminal -------------------------------------------------------------------------------------------------------------


def texts(a: Attribution, rows: list[int]) -> list[Text]:
    """Each row for a terminal: its caption, then its text highlighted, its map, or the units with the largest values."""
    from rich.text import Text
    found = []
    for row in rows:
        found.append(Text(caption(a, row), style="dim"))
        if a.names is not None:
            found.append(_text_line(a, row))
        elif a.values.ndim == 3 and a.features is None:
            found.append(_small_map(a, row))
        else:
            found.append(Text("\n".join(f"{value:+10.4g}  {name}" for name, value in a.top(TOP, row))))
    return found


def _colour(shade: float) -> str:
    r, g, b = (round(255 + (c - 255) * abs(shade)) for c in (WARM if shade > 0 else COLD))
    return f"rgb({r},{g},{b})"


def _text_line(a: Attribution, row: int) -> Text:
    from rich.text import Text
    line, shade = Text(), shades(a, row)
    for name, s in zip(a.names[row], shade, strict=False):  # type: ignore[index]
        shown = visible(name) or (EMPTY if abs(s) > 0.05 else "")
        strongest = " bold underline" if abs(s) == 1 else ""
        line.append(shown, f"rgb(0,0,0) on {_colour(s)}{strongest}" if abs(s) > 0.05 else "")
    return line


def _small_map(a: Attribution, row: int) -> Text:
    from rich.text import Text
    shade = shades(a, row)
    step = max(1, -(-shade.shape[1] // 32))
    picture = Text()
    for line in shade[::step, ::step]:
        for s in line:
            picture.append(*cell(float(s), _colour(float(s))))
        picture.append("\n")
    return picture


def terminal(a: Attribution, rows: list[int], width: int) -> str:
    """All of it as one string with colour codes."""
    from rich.console import Console
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=width, highlight=False)
    for text in texts(a, rows):
        console.print(text)
    return console.file.getvalue()  # type: ignore[attr-defined]


# --- HTML -----------------------------------------------------------------------------------------------------------------


def page(a: Attribution, rows: list[int]) -> str:
    """A whole page."""
    title = f"{a.about['title']} on {a.about['network']}"
    return str(Markup('<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
                      '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'; '
                      'img-src data:"><title>{}</title><style>{}</style><h1>{}</h1><p class=quiet>{}</p>{}</html>').format(
        title, Markup(STYLE), title, LEGEND, Markup(fragment(a, rows))))


def fragment(a: Attribution, rows: list[int]) -> str:
    """The rows, one after another, without a page around them."""
    return str(Markup("").join(Markup("<section><p class=quiet>{}</p>{}</section>").format(caption(a, row), _shown(a, row))
                               for row in rows))


def _shown(a: Attribution, row: int) -> Markup:
    if a.names is not None:
        return _marked(a, row)
    if a.values.ndim == 3 and a.features is None:
        return _pictures(a, row)
    line = Markup("<tr><td>{:+.4g}</td><td>{}</td></tr>")
    cells = Markup("").join(line.format(value, name) for name, value in a.top(TOP, row))
    return Markup("<table>{}</table>").format(cells)


def _marked(a: Attribution, row: int) -> Markup:
    mark = Markup('<span style="background:rgba({},{},{},{:.2f});border-radius:2px{}" title="{:+.4g}">{}</span>')
    parts = []
    for name, s, value in zip(a.names[row], shades(a, row), a.values[row].tolist(), strict=False):  # type: ignore[index]
        text = visible(name) or (EMPTY if abs(s) > 0.05 else "")
        if abs(s) <= 0.02:
            parts.append(Markup("{}").format(text))
            continue
        colour = WARM if s > 0 else COLD
        alpha = 0.9 * abs(s)
        parts.append(mark.format(*colour, alpha, ";color:#111" if alpha >= DARK else "", value, text))
    return Markup('<div style="{}">{}</div>').format(MONO, Markup("").join(parts))


def _pictures(a: Attribution, row: int) -> Markup:
    shade = shades(a, row)
    image = None if a.pixels is None else greyed(a, row)
    parts = [] if image is None else [_figure(image, "input")]
    most = float(a.values[row].abs().max())
    parts.append(_figure(overlaid(shade, image), f"{a.about['title']}; largest {most:.3g}"))
    return Markup(" ").join(parts)


def _figure(picture: np.ndarray, says: str) -> Markup:
    from PIL import Image
    raw = io.BytesIO()
    Image.fromarray((255 * picture).astype(np.uint8)).save(raw, "PNG")
    wide = picture.shape[1] * SIDE // max(picture.shape[:2])
    return Markup('<figure><img alt="{}" width={} src="data:image/png;base64,{}"><figcaption>{}</figcaption></figure>').format(
        says, wide, base64.b64encode(raw.getvalue()).decode(), says)


def greyed(a: Attribution, row: int) -> np.ndarray:
    """The image of a row with its numbers brought to 0..1: [h, w, 3]."""
    image = a.pixels[row].detach().cpu().float().numpy()  # type: ignore[index]
    image = image.transpose(1, 2, 0) if image.shape[0] == 3 else np.repeat(image.mean(0)[..., None], 3, -1)
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else image * 0


def overlaid(shade: np.ndarray, image: np.ndarray | None) -> np.ndarray:
    """A map as colours over a faint image: [h, w, 3] from 0 to 1."""
    if image is not None and shade.shape != image.shape[:2]:
        down, across = (-(-n // m) for n, m in zip(image.shape[:2], shade.shape, strict=True))
        shade = np.kron(shade, np.ones((down, across)))[: image.shape[0], : image.shape[1]]
    ground = np.ones((*shade.shape, 3)) if image is None else 1 - 0.15 * image.mean(-1, keepdims=True).repeat(3, -1)
    colour = np.where(shade[..., None] > 0, np.array(WARM), np.array(COLD)) / 255
    alpha = np.abs(shade)[..., None]
    return (alpha * colour + (1 - alpha) * ground).clip(0, 1)


# --- figure ---------------------------------------------------------------------------------------------------------------


def plot(a: Attribution, rows: list[int]) -> Figure:
    """A matplotlib figure with one line of pictures or bars for each row, at most 8; it is not shown or saved here."""
    from matplotlib.figure import Figure
    rows = rows[:8]
    maps = a.names is None and a.values.ndim == 3 and a.features is None
    figure = Figure(figsize=(6.4, 3.2 * len(rows)) if maps else (max(6.4, 0.22 * _bars(a)), 3.0 * len(rows)),
                    layout="constrained", dpi=120)
    if maps:
        grid = figure.subplots(len(rows), 2, squeeze=False)
        for axes, row in zip(grid, rows, strict=True):
            _draw_map(axes, a, row)
    else:
        for axes, row in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
            _draw_bars(axes, a, row)
    return figure


def _bars(a: Attribution) -> int:
    return max(len(row) for row in a.names) if a.names is not None else TOP


def _draw_map(axes: Any, a: Attribution, row: int) -> None:
    image = None if a.pixels is None else greyed(a, row)
    if image is not None:
        axes[0].imshow(image, interpolation="nearest")
    axes[0].set_title("input", fontsize=8)
    axes[1].imshow(overlaid(shades(a, row), image), interpolation="nearest")
    axes[1].set_title(_lines(caption(a, row), 56), fontsize=6)
    for each in axes:
        each.set_axis_off()


def _draw_bars(axes: Any, a: Attribution, row: int) -> None:
    if a.names is not None:
        places = [i for i, keep in enumerate(a.keep[row].tolist()) if keep]
        names, values = [short(a.names[row][i]) for i in places], [float(a.values[row, i]) for i in places]
    else:
        found = a.top(TOP, row)
        names, values = [name for name, _ in found], [value for _, value in found]
    colours = [tuple(c / 255 for c in (WARM if v > 0 else COLD)) for v in values]
    axes.bar(range(len(values)), values, color=colours)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks(range(len(values)), [name.replace("$", r"\$") for name in names], rotation=90, fontsize=7)
    axes.set_title(_lines(caption(a, row)), fontsize=7, loc="left")


def _lines(text: str, width: int = 90) -> str:
    import textwrap
    return "\n".join(textwrap.wrap(text.replace("$", r"\$"), width))
