"""The standard methods, computed by captum: one adapter and one row of a table for each.

Captum sees either the gates of the units (ones against a baseline of zeros), the numbers behind them, or a copy of the
network's modules; the network itself is never given to it.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..catalogue import method
from .attribute import Method, additive
from .inputs import Inputs
from .lrp import lrp
from .target import Target

FOLLOWED = 0.01      # how far captum's LRP may be from what is due, as a share of both

Forward = Callable[[Tensor, Tensor], Tensor]      # (x [n, ...], rows [n]) -> the target [n]


@dataclass(frozen=True)
class View:
    """What captum sees: x and baseline [rows, ...], and what leads from them to the target."""

    x: Tensor
    baseline: Tensor
    forward: Any


def _gates(inputs: Inputs, target: Target) -> View:
    ones = torch.ones(inputs.keep.shape, dtype=inputs.x.dtype, device=inputs.x.device)
    return View(ones, torch.zeros_like(ones), lambda gate, rows: inputs.gated(gate, target, rows))


def _numbers(inputs: Inputs, target: Target) -> View:
    return View(inputs.x, inputs.baseline, lambda x, rows: inputs.values(x, target, rows))


class Copied(nn.Module):
    """A copy of a network's modules, which captum may hook and change, from x and rows to the target."""

    def __init__(self, inputs: Inputs, target: Target):
        super().__init__()
        self.inner = copy.deepcopy(inputs.net.module)
        self.inputs, self.target = inputs, target

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        self.inputs.passed += len(rows)
        name: str = getattr(self.inner, "main_input_name", "")
        output = self.inner(**{name: x}) if name else self.inner(x)
        return self.target.select(rows).read(output if isinstance(output, Tensor) else output["logits"])


def _modules(inputs: Inputs, target: Target) -> View:
    if inputs.site is not None:
        raise ValueError("this method follows a network's modules from its input numbers; it is not for text or features. Use "
                         "lrp or integrated-gradients.")
    return View(inputs.x, inputs.baseline, Copied(inputs, target).eval())


def _follows(inputs: Inputs, target: Target, found: Tensor) -> None:
    """Check captum's LRP against rules that act within the pass itself: both hand the units the same in all."""
    ours = lrp(replace(inputs), target).flatten(1).sum(1)
    theirs = found.flatten(1).sum(1)
    if bool(((ours - theirs).abs() > FOLLOWED * (ours.abs() + theirs.abs()).clamp(min=1e-6)).any()):
        raise ValueError(f"captum's LRP does not follow what {inputs.net.name} computes between its modules, such as sums of "
                         f"two branches: it hands out {float(theirs[0]):.3g} where {float(ours[0]):.3g} is due. Use lrp.")


def _sums(inputs: Inputs, found: Tensor) -> Tensor:
    return inputs.units.gather(found)


def _norms(inputs: Inputs, found: Tensor) -> Tensor:
    return inputs.units.gather(found.pow(2)).clamp(min=0).sqrt()


def _resized(inputs: Inputs, found: Tensor) -> Tensor:
    return F.interpolate(found, size=inputs.shape, mode="bilinear", align_corners=False)[:, 0]


def _as_it_is(inputs: Inputs, found: Tensor) -> Tensor:
    return found


@dataclass(frozen=True)
class Standard:
    """One method of captum's.

    view: what captum sees; make: its explainer, from captum's module of attributions, the way to the target, the inputs and
    the options; ask: what the explainer is called with besides; into: its answer -> one number a unit.
    options: name -> (value if left out, what it is). alone: each row is asked for by itself. checked: raises ValueError where
    the answer cannot be right.
    """

    id: str
    title: str
    paper: str
    does: str
    view: Callable[[Inputs, Target], View]
    make: Callable[[ModuleType, Any, Inputs, Mapping[str, Any]], Any]
    ask: Callable[[View, Inputs, Mapping[str, Any]], dict[str, Any]]
    into: Callable[[Inputs, Tensor], Tensor] = _as_it_is
    options: dict[str, tuple[Any, str]] = field(default_factory=dict)
    additive: bool = False
    alone: bool = False
    checked: Callable[[Inputs, Target, Tensor], None] | None = None


SEED = {"seed": (0, "of the random draws.")}
SAMPLES = {"n_samples": (25, "noisy copies of each row."), "noise": (0.15, "their standard deviation, as a share of the range "
                                                                           "of the input's numbers."), **SEED}


def _noisy(kind: str) -> dict[str, Any]:
    """The columns that gradients under noise have in common."""
    return dict(view=_numbers, make=lambda attr, forward, inputs, o: attr.NoiseTunnel(attr.Saliency(forward)), options=SAMPLES,
                ask=lambda view, inputs, o: {
                    "nt_type": kind, "nt_samples": o["n_samples"], "abs": False,
                    "nt_samples_batch_size": max(1, inputs.limit // len(view.x)),
                    "stdevs": o["noise"] * float(view.x.max() - view.x.min())})


def _cam(attr: ModuleType, forward: Any, inputs: Inputs, o: Mapping[str, Any]) -> Any:
    if inputs.over not in ("pixels", "patches"):
        raise ValueError(f"Grad-CAM is a map over an image; it has nothing to say over {inputs.over}.")
    layers = [path for path, module in inputs.net.module.named_modules() if isinstance(module, nn.Conv2d)]
    layer = o["layer"] or (layers[-1] if layers else None)
    if layer is None:
        raise ValueError(f"Grad-CAM needs a convolution, and {inputs.net.name} has none; give layer= by its module's path.")
    return attr.LayerGradCam(forward, inputs.net.module.get_submodule(layer.removesuffix(":out")))


def _windows(view: View, inputs: Inputs, o: Mapping[str, Any]) -> dict[str, Any]:
    if not 1 <= o["stride"] <= o["window"] <= min(inputs.shape):
        raise ValueError(f"occlusion needs 1 <= stride <= window <= {min(inputs.shape)} units; found a stride of {o['stride']} "
                         f"and a window of {o['window']}.")
    return {"sliding_window_shapes": (o["window"],) * len(inputs.shape), "strides": (o["stride"],) * len(inputs.shape),
            "baselines": view.baseline, "perturbations_per_eval": max(1, inputs.limit // len(view.x))}


def _lime(attr: ModuleType, forward: Any, inputs: Inputs, o: Mapping[str, Any]) -> Any:
    from captum._utils.models.linear_model import SkLearnLasso
    return attr.Lime(forward, interpretable_model=SkLearnLasso(alpha=o["alpha"]))


def _lrp(attr: ModuleType, forward: Any, inputs: Inputs, o: Mapping[str, Any]) -> Any:
    from captum.attr._utils.lrp_rules import EpsilonRule
    for layer in forward.modules():
        if isinstance(layer, nn.Flatten | nn.Identity):     # captum has no rule for modules that only reshape
            layer.rule = EpsilonRule()
    return attr.LRP(forward)


STANDARD = (
    Standard("integrated-gradients", "Integrated gradients", "arXiv 1703.01365",
             "Gradients in the units' gates, averaged along the straight way from the baseline to the input.",
             _gates, lambda attr, forward, inputs, o: attr.IntegratedGradients(forward),
             lambda view, inputs, o: {"baselines": view.baseline, "n_steps": o["n_steps"],
                                      "internal_batch_size": max(inputs.limit, len(view.x))},
             options={"n_steps": (50, "points on the way, by Gauss and Legendre's rule.")}, additive=True),
    Standard("saliency", "Saliency (size of the gradient)", "arXiv 1312.6034",
             "The size of the target's gradient within each unit (Euclidean, over its numbers).",
             _numbers, lambda attr, forward, inputs, o: attr.Saliency(forward), lambda view, inputs, o: {"abs": False}, _norms),
    Standard("input-x-gradient", "Gradient times input", "arXiv 1605.01713",
             "The target's gradient in each unit's gate: gradient times the input's difference from the baseline.",
             _gates, lambda attr, forward, inputs, o: attr.Saliency(forward), lambda view, inputs, o: {"abs": False}),
    Standard("smoothgrad", "SmoothGrad", "arXiv 1706.03825",
             "The size within each unit of the gradient's mean over noisy copies of the input.",
             into=_norms, **_noisy("smoothgrad")),
    Standard("smoothgrad-squared", "SmoothGrad-Squared", "arXiv 1806.10758",
             "The mean of the squared gradient over noisy copies of the input, summed within each unit.",
             into=_sums, **_noisy("smoothgrad_sq")),
    Standard("vargrad", "VarGrad", "arXiv 1810.03307",
             "The variance of the gradient over noisy copies of the input, summed within each unit.",
             into=_sums, **_noisy("vargrad")),
    Standard("gradient-shap", "GradientSHAP", "arXiv 1705.07874",
             "Gradients in the units' gates at random points between the baseline and the input.",
             _gates, lambda attr, forward, inputs, o: attr.GradientShap(forward),
             lambda view, inputs, o: {"baselines": view.baseline[:1], "n_samples": o["n_samples"], "stdevs": o["noise"]},
             options={"n_samples": (50, "points for each row."), "noise": (0.0, "standard deviation of noise on the gates."),
                      **SEED}),
    Standard("lime", "LIME", "arXiv 1602.04938",
             "A sparse linear model of the target over random choices of units, fitted near the input.",
             _gates, _lime, lambda view, inputs, o: {"baselines": view.baseline, "n_samples": o["n_samples"],
                                                     "perturbations_per_eval": inputs.limit},
             options={"n_samples": (200, "random choices for each row."), "alpha": (0.01, "the lasso's penalty in the\n"
                          "target's own unit; lower it where all values are 0."), **SEED},
             alone=True),
    Standard("occlusion", "Occlusion", "arXiv 1311.2901",
             "What the target loses when a window of neighbouring units is taken away, on average over the windows of a unit.",
             _gates, lambda attr, forward, inputs, o: attr.Occlusion(forward), _windows,
             options={"window": (1, "its side in units."), "stride": (1, "how far it moves.")}),
    Standard("grad-cam", "Grad-CAM", "arXiv 1610.02391",
             "A convolution's maps, weighted by their mean gradient, rectified and resized to the image.",
             _numbers, _cam, lambda view, inputs, o: {"relu_attributions": True}, _resized,
             options={"layer": (None, "the path of the convolution, the last one if left out.")}),
    Standard("captum-deeplift", "DeepLIFT by captum (rescale rule)", "arXiv 1704.02685",
             "Differences from the baseline carried back through a network's modules; `deeplift` has both rules.",
             _modules, lambda attr, forward, inputs, o: attr.DeepLift(forward),
             lambda view, inputs, o: {"baselines": view.baseline}, _sums, additive=True),
    Standard("captum-lrp", "Layer-wise relevance propagation by captum", "https://doi.org/10.1371/journal.pone.0130140",
             "The output carried back through modules in proportion to what each input gave; `lrp` is for any network.",
             _modules, _lrp, lambda view, inputs, o: {}, _sums, checked=_follows),
)


def explain(row: Standard, inputs: Inputs, target: Target, options: Mapping[str, Any]) -> Tensor:
    """Ask captum for one of its methods: [rows, *units]."""
    import captum.attr as attr
    view = row.view(inputs, target)
    explainer = row.make(attr, view.forward, inputs, options)
    parts = [torch.tensor([i]) for i in inputs.rows.tolist()] if row.alone else [inputs.rows]
    found = []
    with _seeded(options.get("seed", 0)), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)      # of what captum sets up and takes down again
        for rows in parts:
            seen = replace(view, x=view.x[rows].detach().clone(), baseline=view.baseline[rows])
            asked = row.ask(seen, inputs, options)
            try:
                found.append(explainer.attribute(seen.x, additional_forward_args=(rows.to(seen.x.device),), **asked).detach())
            except (TypeError, RuntimeError, AssertionError, AttributeError, KeyError) as error:
                said = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise ValueError(f"{row.id}, computed by captum, does not fit {inputs.net.name}: {said}") from error
    whole = torch.cat(found)
    if row.checked is not None:
        row.checked(inputs, target, whole)
    return row.into(inputs, whole)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random draws of torch and numpy by a seed, with both left as they were; captum draws from both."""
    before = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


def _made(row: Standard) -> Method:
    """A row of the table as a method of the catalogue."""
    def run(inputs: Inputs, target: Target, **options: Any) -> Tensor:
        return explain(row, inputs, target, {name: value for name, (value, _) in row.options.items()} | options)

    run.__name__ = run.__qualname__ = row.id.replace("-", "_")
    says = [f"{name}: {what}" for name, (_, what) in row.options.items()]
    run.__doc__ = "\n\n".join(filter(None, (row.does, "\n".join(says), "Computed by captum.")))
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, (value, _) in row.options.items()]
    shared = [p for p in inspect.signature(run).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    run.__signature__ = inspect.Signature([*shared, *own], return_annotation="Tensor")  # type: ignore[attr-defined]
    run.__module__ = __name__
    return additive(run) if row.additive else run


for _row in STANDARD:
    method(_row.id, family="attribute", title=_row.title, paper=_row.paper)(_made(_row))
