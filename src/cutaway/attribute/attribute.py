"""The importance of each unit of an input for an output: one call for text, images and features."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..catalogue import find
from ..data import Batch
from ..dictionaries import Dictionary, Direction
from ..network import Network, Site
from .attribution import Attribution, check_finite
from .inputs import Inputs, inputs_of
from .target import Target, target_of

Method = Callable[..., Tensor]     # (inputs: Inputs, target: Target, **options) -> [rows, *units]


def additive(method: Method) -> Method:
    """Say of a method that its values add up to the target less the target at the baseline, which is then checked."""
    method.additive = True  # type: ignore[attr-defined]
    return method


def of_tokens(method: Method) -> Method:
    """Say of a method that it puts other tokens in, and never looks at the numbers behind them."""
    method.of_tokens = True  # type: ignore[attr-defined]
    return method


def reads(of: str) -> Callable[[Method], Method]:
    """Say of a method that whatever is asked for, it is about this number, such as the target's probability."""
    def mark(method: Method) -> Method:
        method.reads = of  # type: ignore[attr-defined]
        return method
    return mark


def attribute(net: Network, data: Any, method: str = "integrated-gradients", target: Any = None, contrast: Any = None,
              over: str | Dictionary | None = None, *, of: str = "logit", position: Any = None, baseline: Any = None,
              site: str | Site | None = None, patch: int | None = None, batch_size: int = 64, progress: bool = False,
              **options: Any) -> Attribution:
    """Say how much each unit of an input matters for an output.

    data: text or a list of texts, token ids [rows, tokens], images or numbers as a tensor, a `Batch`, or data with few rows.
    method: of the family `attribute`; options: its own, such as n_steps or seed.
    target, contrast: a token, a class, a dictionary's feature (`run.features[12]`), whose activation is then explained, or a
        function `(network, batch) -> [rows]`; with a contrast the question is why this one rather than that. None explains
        what the network finds likeliest.
    of: `logit`, `probability`, `log-probability` or `loss`; some methods are about probabilities and say so.
    position: where text's logits are read; left out, at the last token (in a masked network at the mask; for a feature where
        it fires most).
    over: `tokens`, `words`, `pixels`, `patches`, `inputs`, or a dictionary, whose features are then the units.
    baseline: what a unit that is taken away leaves: `zero`, `mean` (left out, for text), `blur`, a number or a tensor.
    site: where a text's embeddings are. patch: the side of a patch in pixels. batch_size: rows at a time.

    Raises ValueError, in one sentence, for a target outside the vocabulary, a mask that leaves no unit, a network without
    gradients where the method needs them, NaN, and an option that the method does not have.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("attributions need gradients, which torch.inference_mode() forbids; call attribute outside of it.")
    chosen = find(method, "attribute")
    check_options(method, chosen.object, options)
    batch = as_batch(net, data)
    inputs = inputs_of(net, batch, over, baseline, site, patch)
    inputs.limit, inputs.progress = batch_size, progress
    goal = goal_of(net, batch, target, contrast, of, position)
    goal = goal.read_as(getattr(chosen.object, "reads", goal.of))
    values = chosen.object(inputs, goal, **options)
    if tuple(values.shape) != tuple(inputs.keep.shape):
        raise ValueError(f"{method} must give one number for each of {list(inputs.keep.shape)} units; it gave "
                         f"{list(values.shape)}.")
    values = torch.where(inputs.keep, values.detach(), 0).float().cpu()
    check_finite(values, method)
    seed = options.get("seed", _default(chosen.object, "seed"))
    about = {"method": method, "title": chosen.title, "target": goal.names(net), "of": goal.of, "baseline": inputs.said,
             "position": None if goal.position is None else goal.position.tolist(), "seed": seed,
             "options": options, "network": net.name, "rows": len(batch), "passes": inputs.passed / len(batch),
             "notes": inputs.notes, **_ends(inputs, goal, values, getattr(chosen.object, "additive", False))}
    return Attribution(values, inputs.over, inputs.keep.cpu(), inputs.names, inputs.features, inputs.pixels, about)


@torch.no_grad()
def goal_of(net: Network, batch: Batch, target: Any, contrast: Any = None, of: str = "logit", position: Any = None) -> Target:
    """The target for a batch, checked against what the network says of it."""
    if isinstance(target, Target | Direction) or callable(target):
        return target_of(net, batch, torch.empty(0), target, contrast, position=position)
    logits = net.logits(batch)
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(f"{net.name} gives NaN or infinity on this input; look into its weights and the input.")
    return target_of(net, batch, logits, target, contrast, of, position)


@torch.no_grad()
def _ends(inputs: Inputs, target: Target, values: Tensor, promised: bool) -> dict[str, Any]:
    """The target as it is and at the baseline [rows], and how far the values are from adding up to the difference."""
    before = inputs.passed
    output, low = (inputs.values(x, target).float().cpu() for x in (inputs.x, inputs.baseline))
    inputs.passed = before
    return {"output": output, "output_at_baseline": low,
            "gap": values.flatten(1).sum(1) - (output - low) if promised else None}


def as_batch(net: Network, data: Any) -> Batch:
    """What a user gave, as a batch; special tokens and padding do not count."""
    if isinstance(data, Batch):
        return data.to(net.device)
    if hasattr(data, "rows") and hasattr(data, "n_rows"):
        return data.rows(slice(None)).to(net.device)
    if isinstance(data, str) or (isinstance(data, Sequence) and data and all(isinstance(text, str) for text in data)):
        inputs: Any = net.tokens(list(data) if not isinstance(data, str) else data)
    elif isinstance(data, Tensor) and not data.is_floating_point() and getattr(net.base, "main_input_name", "") == "input_ids":
        inputs = {"input_ids": data}
    elif isinstance(data, Tensor | dict):
        inputs = data
    else:
        raise ValueError(f"an attribution is of text, a tensor, a dict of tensors, a batch or data; found a "
                         f"{type(data).__name__}.")
    tensor = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    if len(tensor) == 0:
        raise ValueError("there is nothing to explain: the input has no rows.")
    return Batch(inputs, _kept(net, inputs), None, torch.arange(len(tensor))).to(net.device)


def _kept(net: Network, inputs: Any) -> Tensor | None:
    """The tokens that count, where there are tokens."""
    ids = inputs.get("input_ids") if isinstance(inputs, dict) else None
    if ids is None:
        return None
    special = torch.tensor(sorted(getattr(net.tokenizer, "all_special_ids", None) or []), dtype=ids.dtype, device=ids.device)
    keep = ~torch.isin(ids, special)
    mask = inputs.get("attention_mask")
    return keep if mask is None else keep & mask.bool()


def check_options(name: str, method: Method, options: Mapping[str, Any]) -> None:
    """Raise ValueError, in one sentence, where a method is not of one input's units or has no such option."""
    first, second, *known = [*inspect.signature(method).parameters, "", ""]
    if (first, second) != ("inputs", "target"):
        raise ValueError(f"{name} asks another question than how much each unit of one input matters; call it by itself, as "
                         f"{method.__module__}.{method.__name__}.")
    known = [option for option in known if option]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.4)
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{name} has no option {option!r}{f'; did you mean {near[0]!r}?' if near else f'; {has}.'}")
        _check_number(name, option, options[option], _default(method, option))


def _check_number(name: str, option: str, value: Any, default: Any) -> None:
    """An option that is a number where it is left out is one of its kind; what counts something is at least 1."""
    if isinstance(default, bool) or not isinstance(default, int | float):
        return
    wanted = "a whole number" if isinstance(default, int) else "a number"
    fits = isinstance(value, int) if isinstance(default, int) else isinstance(value, int | float) and math.isfinite(value)
    if not fits or isinstance(value, bool):
        raise ValueError(f"{option} of {name} is {wanted}; found {value!r}.")
    if isinstance(default, int) and option != "seed" and value < 1:
        raise ValueError(f"{option} of {name} is at least 1; found {value}.")


def _default(method: Method, option: str) -> Any:
    found = inspect.signature(method).parameters.get(option)
    return None if found is None else found.default
