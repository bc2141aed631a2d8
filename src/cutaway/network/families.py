"""Where each family of models keeps what: one row of data a family.

Paths are inside a block, or inside the base model where the row says so. A family is chosen by the model's type, and
for types that are not listed by the first row whose paths all exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .site import Experts, Site, View


@dataclass(frozen=True)
class Family:
    name: str
    types: tuple[str, ...]
    blocks: str                  # in the base model: the list of blocks
    attn: str = ""               # what attention adds to the residual stream
    heads: str = ""              # the module whose input is the heads' outputs, side by side
    pattern: str = ""            # the module that calls transformers' attention interface
    mlp: str = ""                # what the MLP adds to the residual stream
    neurons: str = ""            # the module whose input is the neurons' activations
    norm: str = ""               # in the base model: the last norm
    router: str = ""             # mixture of experts: the module that chooses experts
    experts: str = ""            # mixture of experts: the module that runs the chosen ones
    axes: str = "b t u"          # axes of a block's output
    flat: tuple[str, ...] = ()   # modules that see all tokens of the batch in one row

    def paths(self) -> list[str]:
        return [p for p in (self.attn, self.heads, self.pattern, self.mlp, self.neurons) if p]


_LLAMA: dict[str, Any] = dict(blocks="layers", attn="self_attn", heads="self_attn.o_proj", pattern="self_attn",
                              mlp="mlp", norm="norm")
_BERT: dict[str, Any] = dict(blocks="encoder.layer", attn="attention.output.dense", heads="attention.output.dense",
                             pattern="attention.self", mlp="output.dense", neurons="output.dense")

FAMILIES = (
    Family("gpt2", ("gpt2",), "h", "attn", "attn.c_proj", "attn", "mlp", "mlp.c_proj", "ln_f"),
    Family("gpt-neox", ("gpt_neox",), "layers", "attention", "attention.dense", "attention",
           "mlp", "mlp.dense_4h_to_h", "final_layer_norm"),
    Family("opt", ("opt",), "decoder.layers", "self_attn", "self_attn.out_proj", "self_attn",
           "fc2", "fc2", "decoder.final_layer_norm", flat=("fc1", "activation_fn", "fc2")),
    Family("gemma", ("gemma2", "gemma3_text"), "layers", "post_attention_layernorm", "self_attn.o_proj", "self_attn",
           "post_feedforward_layernorm", "mlp.down_proj", "norm"),
    Family("llama", ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma"), **_LLAMA, neurons="mlp.down_proj"),
    Family("mixture-of-experts", ("mixtral", "qwen2_moe", "qwen3_moe"), **_LLAMA,
           router="mlp.gate", experts="mlp.experts", flat=("mlp.gate",)),
    Family("bert", ("bert", "roberta", "xlm-roberta"), **_BERT),
    Family("vit", ("vit",), "layers", "attention", "attention.o_proj", "attention", "mlp", "mlp.fc2", "layernorm"),
    Family("clip-vision", ("clip_vision_model",), "encoder.layers", "self_attn", "self_attn.out_proj", "self_attn",
           "mlp", "mlp.fc2", "post_layernorm"),
    Family("resnet", ("resnet",), "encoder.stages", axes="b u h w"),
)


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def family_of(base: nn.Module) -> Family | None:
    """The family of a transformers base model, or none when no row fits."""
    kind = getattr(getattr(base, "config", None), "model_type", None)
    if kind is None:
        return None
    named = [family for family in FAMILIES if kind in family.types]
    for family in named or FAMILIES:
        if _has(base, family.blocks) and all(_has(base, f"{family.blocks}.0.{path}") for path in family.paths()):
            return family
    return None


# What the modules of PyTorch and transformers call the number of their inputs and of their outputs.
_INPUTS, _OUTPUTS = ("in_features", "in_channels", "nx"), ("out_features", "out_channels", "nf", "embedding_dim")


def inputs_of(module: nn.Module) -> int | None:
    """The number of features that a module takes, whichever way round it stores its weight; none if it has no say."""
    return _width(module, _INPUTS)


def outputs_of(module: nn.Module) -> int | None:
    """The number of features that a module gives; none if it has no say."""
    return _width(module, _OUTPUTS)


def _width(module: nn.Module, names: tuple[str, ...]) -> int | None:
    weight = getattr(module, "weight", None)
    elementwise = weight.shape[0] if isinstance(weight, Tensor) and weight.ndim == 1 else None  # a norm
    return next((getattr(module, name) for name in names if hasattr(module, name)), elementwise)


def family_sites(family: Family, base: nn.Module, prefix: str) -> dict[str, Site]:
    """Every named site of a network, checked against the shapes of the modules that it names."""
    config: Any = base.config
    blocks: Any = base.get_submodule(family.blocks)
    plain = f"{family.axes} -> {family.axes}"
    width = getattr(config, "hidden_size", None) if family.axes == "b t u" else None
    n_heads = getattr(config, "num_attention_heads", None)
    sites: dict[str, Site] = {}

    def add(name: str, path: str, io: str = "out", pattern: str = plain, n: int | None = width, **more: Any) -> None:
        sites[name] = Site(name, path, io, View(pattern, n), **more)

    add("embed", f"{prefix}{family.blocks}.0", "in")
    for i, block in enumerate(blocks):
        name, path = f"blocks.{i}", f"{prefix}{family.blocks}.{i}"
        add(name, path)
        if family.attn and _has(block, family.heads):
            wide = inputs_of(block.get_submodule(family.heads))
            if wide is None or n_heads is None or wide % n_heads:
                raise ValueError(f"{path}.{family.heads} takes {wide} inputs, which {n_heads} heads cannot share.")
            add(f"{name}.attn", f"{path}.{family.attn}")
            add(f"{name}.attn.heads", f"{path}.{family.heads}", "in", "b t (u d) -> b t u d", n_heads)
            add(f"{name}.attn.pattern", f"{path}.{family.pattern}", "pattern", "b u t k -> b u t k", n_heads)
        if family.mlp and _has(block, family.mlp):
            add(f"{name}.mlp", f"{path}.{family.mlp}", flat=family.mlp in family.flat)
        if family.experts and _has(block, family.experts):
            n = block.get_submodule(family.experts).num_experts
            if _has(block, family.router):
                add(f"{name}.mlp.router", f"{path}.{family.router}", n=n, editable=False, flat=True)
            experts = f"{name}.mlp.experts"
            sites[experts] = Site(experts, f"{path}.{family.experts}", "in", Experts(n=n), pick=2, flat=True)
        elif family.neurons and _has(block, family.neurons):
            n = inputs_of(block.get_submodule(family.neurons))
            add(f"{name}.mlp.neurons", f"{path}.{family.neurons}", "in", n=n, flat=family.neurons in family.flat)
        elif family.router and _has(block, "mlp.down_proj"):  # a dense layer among mixture-of-experts layers
            add(f"{name}.mlp.neurons", f"{path}.mlp.down_proj", "in", n=inputs_of(block.mlp.down_proj))
    if family.norm and _has(base, family.norm):
        add("norm", f"{prefix}{family.norm}")
    return sites
