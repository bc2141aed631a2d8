"""Features of dictionaries as parts of a circuit, each site's error of reconstruction beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import method
from ..dictionaries import Dictionary
from ..dictionaries.dictionary import raw
from ..metrics import Figure, bootstrap
from ..network import At, Edit, Network, Site
from .derivatives import mean_slopes, midpoints
from .effects import Effects, checked
from .task import Pair, Task, ends

Dictionaries = Dictionary | Sequence[Dictionary]


@method("feature-attribution", family="circuit", title="First-order effect of every feature of dictionaries",
        paper="Marks et al. 2024, arXiv:2403.19647, section 3.1")
def feature_attribution(net: Network, task: Task, dictionary: Dictionaries, direction: str = "denoising", steps: int = 0,
                        rules: Sequence[str] = (), batch_size: int = 16) -> Effects:
    """What patching each feature would do, for all features from two forward passes and one backward pass.

    dictionary: one, or one for each of several sites. direction: as in activation patching. steps: runs on the way from one
    prompt to the other over which gradients are averaged; 0 takes that of the run that is patched. rules: of relevance, for
    LRP's coefficients in the place of gradients.

    A site has `SITE.features`, one effect a feature, and `SITE.error`, that of what the dictionary does not reconstruct;
    together they are the effect of patching the whole site, to first order.
    """
    places = _places(net, dictionary)
    checked(net, list(places), "u", direction)
    clean, corrupted = ends(net, task, batch_size)
    levels = midpoints(steps) if steps else (0.0,)
    parts: dict[str, list[np.ndarray]] = {}
    for pair in task.batches(batch_size):
        slopes = mean_slopes(net, task, pair, list(places), direction, levels, rules)
        seen = _codes(net, pair, places)
        for site, one in places.items():
            (x, codes), (y, others) = seen[site.name]
            slope = slopes[site.name]
            features = ((codes - others) * (slope @ one.W_dec.T)).flatten(1, -2).sum(1)
            error = ((x - y - (codes - others) @ one.W_dec) * slope).flatten(1).sum(1, keepdim=True)
            for name, values in ((f"{site.name}.features", features), (f"{site.name}.error", error)):
                parts.setdefault(name, []).append(values.double().cpu().numpy())
    about = {"method": "feature-attribution", "task": task.name, "network": net.name, "direction": direction,
             "unit": task.unit, "rows": len(task), "options": {"steps": steps, "rules": list(rules)}}
    return Effects({name: np.concatenate(rows) for name, rows in parts.items()}, clean, corrupted, "u", about)


@method("feature-patching", family="circuit", title="Measured effect of features of a dictionary",
        paper="Marks et al. 2024, arXiv:2403.19647")
@torch.no_grad()
def feature_patching(net: Network, task: Task, dictionary: Dictionary, features: Sequence[int], direction: str = "denoising",
                     batch_size: int = 16) -> Effects:
    """Give one feature at a time, at every position, its activation on the other prompt, and measure the change.

    dictionary: of one site; the error of reconstruction stays. features: which; the effects are in their order, and under
    `units` of the table are their places in it. direction: as in activation patching.
    """
    places = _places(net, dictionary)
    site = checked(net, list(places), "u", direction)[0]
    wrong = [feature for feature in features if not 0 <= feature < dictionary.width]
    if wrong or not len(features):
        found = wrong[0] if wrong else "none"
        raise ValueError(f"this dictionary has the features 0 to {dictionary.width - 1}; found {found}.")
    clean, corrupted = ends(net, task, batch_size)
    sign, parts = (1.0 if direction == "denoising" else -1.0), []
    for pair in task.batches(batch_size):
        base, other = (0, 1) if direction == "noising" else (1, 0)
        source = _codes(net, pair, places)[site.name][other][1]
        inputs = (pair.clean, pair.corrupted)[base]
        before = task.measured(net, inputs, pair.rows).double()
        columns = []
        for feature in features:
            chosen = torch.zeros(dictionary.width, dtype=torch.bool)
            chosen[feature] = True
            with net.edited(_moved(dictionary, site, source, chosen)):
                columns.append(sign * (task.measured(net, inputs, pair.rows).double() - before))
        parts.append(torch.stack(columns, 1).cpu().numpy())
    about = {"method": "feature-patching", "task": task.name, "network": net.name, "direction": direction, "unit": task.unit,
             "rows": len(task), "options": {"features": list(map(int, features))}}
    return Effects({f"{site.name}.features": np.concatenate(parts)}, clean, corrupted, "u", about)


@torch.no_grad()
def features_kept(net: Network, task: Task, dictionary: Dictionaries, kept: Mapping[str, Tensor], errors: bool = True,
                  batch_size: int = 16) -> Figure:
    """The faithfulness of a set of features, with every other feature at its activation on the corrupted prompt.

    kept: by site of a dictionary, bool [width]; sites that are not named keep none. errors: whether what is not reconstructed
    stays as on the clean prompt; if not, and no feature is kept, the site is as on the corrupted prompt.
    """
    places = _places(net, dictionary)
    clean, corrupted = ends(net, task, batch_size)
    found = []
    for pair in task.batches(batch_size):
        known, edits = _codes(net, pair, places), []
        for site, one in places.items():
            y, others = known[site.name][1]
            closed = ~kept.get(site.name, torch.zeros(one.width, dtype=torch.bool))
            edits.append(_moved(one, site, others, closed, None if errors else y - others @ one.W_dec))
        with net.edited(edits):
            found.append(task.measured(net, pair.clean, pair.rows).double().cpu())
    parts = np.stack([torch.cat(found).numpy() - corrupted, clean - corrupted], 1)
    low, high = bootstrap(parts, lambda sums: sums[..., 0] / sums[..., 1])
    return Figure("faithfulness", float(parts[:, 0].sum() / parts[:, 1].sum()), low, high, len(task), "pairs of prompts",
                  baseline="all features corrupted", data=task.name)


def _places(net: Network, dictionary: Dictionaries) -> dict[Site, Dictionary]:
    """The raw sites of some dictionaries whose decoders are sums of rows."""
    places: dict[Site, Dictionary] = {}
    for one in [dictionary] if isinstance(dictionary, Dictionary) else dictionary:
        if type(one).directions is not Dictionary.directions or one.written(net) != one.placed(net):
            raise ValueError("features are parts of a circuit where they add their rows to the site that they read; the "
                             f"dictionary at {one.site} does something else.")
        places[raw(one.placed(net))] = one
    return places


@torch.no_grad()
def _codes(net: Network, pair: Pair, places: Mapping[Site, Dictionary]) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """For clean and for corrupted prompts: activations and dense codes at each site."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {site.name: [] for site in places}
    for inputs in (pair.clean, pair.corrupted):
        known = net.record(inputs, list(places))
        for site, one in places.items():
            x = known[site.name]
            found[site.name].append((x, dense(one, x, inputs.get("input_ids"))))
    return found


def dense(dictionary: Dictionary, x: Tensor, tokens: Any = None) -> Tensor:
    """Codes [..., width]; zero for activations that the dictionary does not speak for."""
    codes = dictionary.encode(x).dense(dictionary.width)
    return torch.where(dictionary.keeps(x, tokens)[..., None], codes, 0)


def _moved(dictionary: Dictionary, site: Site, source: Tensor, chosen: Tensor, error: Tensor | None = None) -> Edit:
    """The edit that gives chosen features the activations `source` [rows, t, width], and what is left over `error`."""
    def ref(x: Tensor, at: At) -> Tensor:
        codes = dense(dictionary, x, at.tokens)
        moved = x + ((source - codes) * chosen) @ dictionary.W_dec
        return moved if error is None else moved + error - (x - codes @ dictionary.W_dec)
    return Edit(site, ref)
