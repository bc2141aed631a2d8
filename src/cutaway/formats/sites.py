"""Names of sites: what other projects call them, in Cutaway's names, and back.

Two schemes are in use: TransformerLens's hooks (`blocks.3.hook_resid_post`) and module paths of the model itself
(`model.layers.3`, with `.input` or `.output` in Gemma Scope's files). What has no name that holds in every network needs
the network, or the user's word.
"""

from __future__ import annotations

import re

from ..network import Network

# What follows `blocks.{i}.` in TransformerLens, and what follows it in Cutaway ("" is the block itself).
LENS = {"hook_resid_post": "", "hook_attn_out": "attn", "hook_mlp_out": "mlp", "attn.hook_z": "attn.heads",
        "mlp.hook_post": "mlp.neurons"}
BACK = {ours: theirs for theirs, ours in reversed(LENS.items())}

# TransformerLens's hooks that are a module's input or output in transformers, by family: the path inside a block.
MLP_NORM = {"gpt2": "ln_2", "llama": "post_attention_layernorm", "mixture-of-experts": "post_attention_layernorm",
            "gemma": "pre_feedforward_layernorm"}
INSIDE = {"hook_resid_mid": "{norm}:in", "hook_mlp_in": "{norm}:in", "mlp.hook_in": "mlp:in", "ln2.hook_normalized": "mlp:in",
          "mlp.hook_out": "mlp:out"}

# The same for module paths of the Gemma family.
GEMMA = {"": "", "post_attention_layernorm": "attn", "post_feedforward_layernorm": "mlp"}
BLOCK = re.compile(r"^(?:(.*)\.)?(?:layers|layer|h|blocks)\.(\d+)(?:\.(.+))?$")


def from_lens(hook: str, net: Network | None = None) -> str:
    """Cutaway's name of a TransformerLens hook, or "" where it has none that holds without the network.

    `hook_mlp_in` is the stream before the norm, and `mlp.hook_in` what the MLP's module takes. `ln2.hook_normalized` is that
    before the norm's gain, which `gains` makes good; `mlp.hook_out` is before the norm that follows an MLP in Gemma.
    """
    parts = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    if not parts:
        return ""
    block, inside = int(parts[1]), parts[2]
    if inside == "hook_resid_pre":
        return f"blocks.{block - 1}" if block else "embed"
    if inside in LENS:
        return f"blocks.{block}.{LENS[inside]}".rstrip(".")
    family = net.family if net is not None else None
    if net is None or family is None or inside not in INSIDE or family.name not in MLP_NORM:
        return ""
    path, _, io = INSIDE[inside].format(norm=MLP_NORM[family.name]).partition(":")
    return from_path(f"{net.prefix}{family.blocks}.{block}.{path}", io, net)


def to_lens(site: str) -> str:
    """TransformerLens's name of a site, or "" where it has none."""
    if site == "embed":
        return "blocks.0.hook_resid_pre"
    parts = re.fullmatch(r"blocks\.(\d+)(?:\.(.+))?", site)
    inside = BACK.get(parts[2] or "") if parts else None
    return f"blocks.{parts[1]}.{inside}" if parts and inside else ""


def to_hook(site: str, layer: int) -> str:
    """TransformerLens's name of a site inside a layer, as sets of transcoders have it; "" where it has none."""
    if site == (f"blocks.{layer - 1}" if layer else "embed"):
        return "hook_resid_pre"
    if re.fullmatch(rf".+\.{layer}\.mlp:in", site):
        return "mlp.hook_in"
    block, _, inside = to_lens(site).removeprefix("blocks.").partition(".")
    return inside if block == str(layer) else ""


def from_path(path: str, io: str = "out", net: Network | None = None) -> str:
    """Cutaway's name of a module's input or output, or "" where that cannot be known without the network.

    path: as the causal model or its base model (without the head) calls it. The output of a block is known everywhere.
    """
    parts = BLOCK.match(path)
    if parts and not parts[3] and io == "out":
        return f"blocks.{parts[2]}"
    if net is None:
        return ""
    modules = dict(net.module.named_modules())
    full = next((name for name in (path, f"{net.prefix}{path}") if name in modules), "")
    if not full:
        return ""
    return next((site.name for site in net.named.values() if (site.path, site.io) == (full, io)), f"{full}:{io}")


def to_module(site: str) -> str:
    """`model.layers.3.mlp.input` for the site `model.layers.3.mlp:in`, and "" for sites that have names."""
    path, _, io = site.partition(":")
    return f"{path}.{io}put" if io in ("in", "out") else ""


def from_gemma(hook: str) -> tuple[str, str]:
    """The site of `model.layers.3.self_attn.o_proj.input` and the like, in Gemma, and the module's path."""
    path, _, io = hook.rpartition(".")
    parts = BLOCK.match(path)
    if not parts or io not in ("input", "output"):
        return "", path
    inside, block = parts[3] or "", f"blocks.{parts[2]}"
    if (inside, io) == ("self_attn.o_proj", "input"):
        return f"{block}.attn.heads", path
    if inside in GEMMA and io == "output":
        return f"{block}.{GEMMA[inside]}".rstrip("."), path
    # The output of the norm before the MLP is the MLP's input.
    if (inside, io) == ("pre_feedforward_layernorm", "output"):
        path = path.removesuffix("pre_feedforward_layernorm") + "mlp"
        return f"{path}:in", path
    return f"{path}:{io.removesuffix('put')}", path


def to_gemma(site: str, prefix: str = "model.layers") -> str:
    """Gemma Scope 2's name of a site, or "" where it has none."""
    if named := re.fullmatch(r"(.+\.layers\.\d+)\.mlp:in", site):
        return f"{named[1]}.pre_feedforward_layernorm.output"
    parts = re.fullmatch(r"blocks\.(\d+)(?:\.(.+))?", site)
    if not parts:
        return to_module(site)
    inside = {"": "output", "attn": "post_attention_layernorm.output", "mlp": "post_feedforward_layernorm.output",
              "attn.heads": "self_attn.o_proj.input"}.get(parts[2] or "")
    return f"{prefix}.{parts[1]}.{inside}" if inside else ""
