"""Open a network: a module, a folder, a hub id, or a bundled model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .network import Network

BUNDLED = {"pico": Path(__file__).parents[1] / "models" / "pico"}


def open(model: nn.Module | str | Path, tokenizer: Any = None, *, device: str = "cpu", dtype: str | None = None,
         pickle: bool = False) -> Network:
    """Open a network and look inside it.

    model: any `nn.Module`; a folder or hub id of a transformers or sentence-transformers model; or "pico", the small
        language model that comes with Cutaway.
    tokenizer: for a module that reads text, its tokenizer (a folder brings its own).
    dtype: "float32", "bfloat16" or "float16"; left out, the type of the saved weights (float32 for float16 on a CPU).
    pickle: also read weights that are saved as a pickle, with `weights_only`; safetensors alone are read otherwise.
    """
    if isinstance(model, nn.Module):
        return Network(model.to(device), tokenizer)
    name, path = str(model), BUNDLED.get(str(model), Path(model))
    if not path.exists() and (path.is_absolute() or str(path).startswith(".")):
        raise FileNotFoundError(f"there is no folder {path}; give a folder with a config.json, a hub id or "
                                f"{' or '.join(map(repr, BUNDLED))}.")
    if path.is_dir() and not (path / "config.json").exists() and not (path / "modules.json").exists():
        raise FileNotFoundError(f"{path} holds no config.json, so it is not a saved transformers model.")
    if path.is_dir() and not pickle and not any(path.rglob("*.safetensors")):
        raise ValueError(f"{path} holds no safetensors weights. If its weights are a pickle that you trust, open it "
                         "with pickle=True (on the command line --pickle).")
    source = str(path) if path.is_dir() else name
    if (path / "modules.json").exists():
        from sentence_transformers import SentenceTransformer
        module = SentenceTransformer(source, device=device)
        return Network(module, tokenizer or module.tokenizer, name=name)
    module = _transformers_model(source, dtype, pickle).to(device)
    if device == "cpu" and dtype is None and next(module.parameters()).dtype == torch.float16:
        module = module.float()
    tokenizer, processor = (tokenizer or _optional("AutoTokenizer", source, module),
                            _optional("AutoImageProcessor", source, module))
    return Network(module, tokenizer, processor, name=name)


def _transformers_model(source: str, dtype: str | None, pickle: bool) -> nn.Module:
    import transformers
    try:
        config = transformers.AutoConfig.from_pretrained(source)
        architecture = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        return architecture.from_pretrained(source, dtype=dtype or "auto", use_safetensors=None if pickle else True)
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"{source!r} could not be opened as a local folder or from the hub: {first}") from error
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{source!r} has a configuration that transformers cannot read: {error}") from error


def _optional(kind: str, source: str, module: nn.Module) -> Any:
    """The tokenizer or image processor saved with a model, if it reads text or images and has one."""
    reads_text = getattr(module, "main_input_name", "") == "input_ids"
    if reads_text != (kind == "AutoTokenizer"):
        return None
    import transformers
    try:
        return getattr(transformers, kind).from_pretrained(source)
    except (OSError, ValueError, ImportError):
        return None
