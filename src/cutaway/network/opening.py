"""Open a network: a module, a folder, a hub id, or a bundled model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
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
    _check_device(device)
    if isinstance(model, nn.Module):
        return Network(model.to(device), tokenizer or getattr(model, "tokenizer", None))
    if not isinstance(model, str | Path):
        raise ValueError(f"a network is a torch.nn.Module, a folder, a hub id or {' or '.join(map(repr, BUNDLED))}; found a "
                         f"{type(model).__name__}.")
    name, path = str(model), BUNDLED.get(str(model), Path(model))
    if not path.exists() and (path.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise FileNotFoundError(f"there is no folder {path}; give a folder with a config.json, a hub id or "
                                f"{' or '.join(map(repr, BUNDLED))}.")
    if path.is_dir() and not (path / "config.json").exists() and not (path / "modules.json").exists():
        raise FileNotFoundError(f"{path} holds no config.json, so it is not a saved transformers model.")
    if path.is_dir() and not pickle and not any(path.rglob("*.safetensors")):
        raise ValueError(f"{path} holds no safetensors weights. If its weights are a pickle that you trust, open it "
                         "with pickle=True (on the command line --pickle).")
    source = str(path) if path.is_dir() else name
    build = _sentence_model if (path / "modules.json").exists() else _transformers_model
    with _quietly():
        module = _explained(build, source, {"dtype": dtype or "auto", "use_safetensors": None if pickle else True})
        if device == "cpu" and dtype is None and next(module.parameters()).dtype == torch.float16:
            module = module.float()
        tokenizer = tokenizer or getattr(module, "tokenizer", None) or _optional("AutoTokenizer", source, module)
        processor = _optional("AutoImageProcessor", source, module)
    return Network(module.to(device), tokenizer, processor, name=name)


def _check_device(device: str | torch.device) -> None:
    """Refuse a device that this machine or this PyTorch does not have."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        known, why = "cpu or cuda" if torch.cuda.is_available() else "cpu", _first_line(error)
        said = "" if why.startswith("Expected one of") else f" ({why.rstrip('.')})"     # no list of all that there could be
        raise ValueError(f"there is no device {str(device)!r} here{said}; give {known}.") from error


def _transformers_model(source: str, options: dict[str, Any]) -> nn.Module:
    import transformers
    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    architecture = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
    return architecture.from_pretrained(source, **options)


def _sentence_model(source: str, options: dict[str, Any]) -> nn.Module:
    from sentence_transformers import SentenceTransformer
    return SentenceTransformer(source, device="cpu", model_kwargs=options)


def _explained(build: Callable[[str, dict[str, Any]], nn.Module], source: str, options: dict[str, Any]) -> nn.Module:
    """Build a model, and say in one sentence why it could not be built."""
    from safetensors import SafetensorError
    try:
        return build(source, options)
    except OSError as error:
        near = get_close_matches(source, BUNDLED, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f": {_first_line(error)}"
        raise FileNotFoundError(f"{source!r} could not be opened as a local folder or from the hub{hint}") from error
    except UnpicklingError as error:
        raise ValueError(f"{source!r} holds a pickle with more in it than weights, and that is never run.") from error
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{source!r} is not a model that transformers can read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _optional(kind: str, source: str, module: nn.Module) -> Any:
    """The tokenizer or image processor saved with a model, if it reads text or images and has one."""
    reads = {"input_ids": "AutoTokenizer", "pixel_values": "AutoImageProcessor"}
    if reads.get(getattr(module, "main_input_name", "")) != kind:
        return None
    import transformers
    try:
        found = getattr(transformers, kind).from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError):
        return None
    # Where a model was saved without its tokenizer, transformers makes one that knows no words.
    wordless = kind == "AutoTokenizer" and set(found.get_vocab()) <= set(found.all_special_tokens)
    return None if wordless else found


def _not_about_torchvision(record: logging.LogRecord) -> bool:
    """Everything but transformers' advice to install torchvision, which nothing here needs."""
    return "requires torchvision" not in record.getMessage()


logging.getLogger("transformers.utils.import_utils").addFilter(_not_about_torchvision)


@contextmanager
def _quietly() -> Iterator[None]:
    """Show transformers' progress bars only for what takes longer than two seconds."""
    from transformers.utils import logging as bars
    before = bars.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **{"delay": 2, **kwargs}))
    try:
        yield
    finally:
        bars.set_tqdm_hook(before)
