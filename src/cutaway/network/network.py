"""A network seen from inside: its sites by name, passes through it, and edits that are undone exactly."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from . import attention
from .edit import At, Edit, Touches, touching
from .families import Family, family_of, family_sites, inputs_of, outputs_of
from .site import Site, View

# What a class of models is for, by the end of its name.
KINDS = {"ForCausalLM": "causal", "LMHeadModel": "causal", "ForMaskedLM": "masked", "ForImageClassification": "image",
         "SentenceTransformer": "sentence"}
LOGITS = {"causal": "b t u -> b t u", "masked": "b t u -> b t u", "image": "b u -> b u"}


class Network:
    """Any PyTorch network, left exactly as it is and looked at through named sites.

    kind: `causal`, `masked`, `encoder` (text), `image` (classifier), `vision` (encoder), `sentence` or `module`.
    """

    def __init__(self, module: nn.Module, tokenizer: Any = None, processor: Any = None, name: str = ""):
        self.module, self.tokenizer, self.processor = module.eval(), tokenizer, processor
        self.name = name or type(module).__name__
        self.base, self.prefix = _base(module)
        self.config = getattr(self.base, "config", None)
        self.kind = _kind(module, self.config)
        self.family: Family | None = family_of(self.base)
        self.named: dict[str, Site] = family_sites(self.family, self.base, self.prefix) if self.family else {}
        if self.kind in LOGITS:
            pick = "logits" if self.config is not None else 0
            width = getattr(self.config, "num_labels" if self.kind == "image" else "vocab_size", None)
            self.named["logits"] = Site("logits", "", "out", View(LOGITS[self.kind], width), pick)
        if self.kind == "sentence":
            width = getattr(self.config, "hidden_size", None)
            self.named["embedding"] = Site("embedding", "", "out", View("b u -> b u", width), "sentence_embedding")
        self.parts: tuple[Network, ...] = ()     # where several networks are side by side, each of them
        self._touches = Touches(self.base)

    # --- what is inside -----------------------------------------------------------------------------------------------

    @property
    def n_blocks(self) -> int:
        """The number of blocks; 0 for a network without a family."""
        return sum(1 for site in self.named.values() if site.name.count(".") == 1 and site.block is not None)

    @property
    def d_model(self) -> int | None:
        """Width of the residual stream."""
        return getattr(self.config, "hidden_size", None)

    @property
    def n_heads(self) -> int | None:
        return getattr(self.config, "num_attention_heads", None)

    @property
    def context(self) -> int | None:
        """The longest input in tokens, where the configuration says so."""
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    def site(self, name: str | Site) -> Site:
        """The site of a name such as `blocks.3.attn.heads`, or of a module path with `:in`, `:out` or a parameter."""
        if isinstance(name, Site):
            return name
        if name in self.named:
            return self.named[name]
        path, _, io = name.partition(":")
        modules = dict(self.module.named_modules())
        if path in modules and path:
            flat = self.family is not None and path.endswith(tuple(f".{part}" for part in self.family.flat))
            return replace(_path_site(name, path, io or "out", modules[path]), flat=flat and io in ("", "in", "out"))
        known = [*self.named, *(f"{path}:out" for path in modules if path)]
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or known[:4]
        raise ValueError(f"there is no site {name!r} in {self.name}; the nearest are {', '.join(near)}.")

    def sites(self, names: str | Site | Iterable[str | Site]) -> list[Site]:
        """All sites that match names with wildcards, such as `blocks.*.mlp`; `*` stands for one part of a name."""
        found: dict[str, Site] = {}
        for name in [names] if isinstance(names, str | Site) else names:
            if isinstance(name, Site) or "*" not in name:
                site = self.site(name)
                found[site.name] = site
                continue
            matches = self._matches(name)
            if not matches:
                raise ValueError(f"no site of {self.name} matches {name!r}; it has {', '.join([*self.named][:6])}, ...")
            found.update((match, self.site(match)) for match in matches)
        return list(found.values())

    def _matches(self, name: str) -> list[str]:
        """The names of sites that fit a wildcard, part by part; a path may end in `:in`, `:out` or a parameter."""
        path, _, io = name.partition(":")

        def fits(known: str) -> bool:
            return known.count(".") == path.count(".") and fnmatch.fnmatchcase(known, path)

        found = [] if io else [known for known in self.named if fits(known)]
        for known, module in self.module.named_modules():
            has = ("in", "out", *dict(module.named_parameters(recurse=False)))
            if known and fits(known) and (io or "out") in has:
                found.append(f"{known}:{io or 'out'}")
        return found

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.module.parameters())
        family = f", family {self.family.name}, {self.n_blocks} blocks" if self.family else ""
        return f"Network({self.name}: {self.kind}{family}, {parameters / 1e6:.1f}M parameters)"

    # --- passes -------------------------------------------------------------------------------------------------------

    def forward(self, batch: Any) -> Any:
        """One pass over a batch, a dict of inputs, token ids [b, t], pixel values or a plain tensor."""
        inputs = getattr(batch, "inputs", batch)
        if isinstance(inputs, str) or (isinstance(inputs, list) and (not inputs or isinstance(inputs[0], str))):
            inputs = self.tokens(inputs)
        if isinstance(inputs, Tensor):
            main = getattr(self.base, "main_input_name", None)
            if main is None:
                return self.module(inputs.to(self.device))
            inputs = {main: inputs}
        if isinstance(inputs, Mapping):
            inputs = {key: x.to(self.device) if isinstance(x, Tensor) else x for key, x in inputs.items()}
            if self.kind == "sentence":
                inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
                return self.module(inputs)
            if self.kind == "causal":
                inputs.setdefault("use_cache", False)
            return self.module(**inputs)
        return self.module(*(x.to(self.device) for x in inputs))

    def logits(self, batch: Any) -> Tensor:
        """What the network says: logits [b, t, vocabulary] or [b, classes], an embedding, or its only output."""
        output = self.forward(batch)
        if isinstance(output, Tensor):
            return output
        for key in ("logits", "sentence_embedding", "last_hidden_state"):
            if key in output:
                return output[key]
        raise ValueError(f"{self.name} returns {type(output).__name__}, in which there are no logits.")

    def tokens(self, text: str | list[str]) -> dict[str, Tensor]:
        """Text as the network's inputs, padded on the left for networks that generate and on the right for others.

        Raises ValueError for a text that is longer than the network reads.
        """
        if self.tokenizer is None:
            raise ValueError(f"{self.name} was opened without a tokenizer, so it cannot read text; save its tokenizer in its "
                             "folder, or give token ids.")
        batch = list(text) if isinstance(text, list | tuple) else [text]
        if not batch or not all(isinstance(one, str) for one in batch):
            raise ValueError(f"a text is a string, or a list of at least one; found {str(text)[:60]!r}.")
        side = "left" if self.kind == "causal" else "right"
        most = self.context
        encoded = self.tokenizer(batch, return_tensors="pt", padding=len(batch) > 1, padding_side=side,
                                 truncation=most is not None, max_length=None if most is None else most + 1)
        if most is not None and encoded["input_ids"].shape[1] > most:
            raise ValueError(f"{self.name} reads at most {most} tokens; this text has more.")
        known = getattr(self.config, "vocab_size", None)
        if known is not None and encoded["input_ids"].numel() and int(encoded["input_ids"].max()) >= known:
            raise ValueError(f"{self.name} knows {known} tokens, and its tokenizer gives the token "
                             f"{int(encoded['input_ids'].max())}; it belongs to another network.")
        left_out = {"token_type_ids"} if self.kind == "causal" else set()
        return {key: value.to(self.device) for key, value in encoded.items() if key not in left_out}

    def generate(self, prompt: str | list[str] | Tensor, max_new_tokens: int = 40, temperature: float = 0.0,
                 seed: int = 0, cache: bool = True) -> Any:
        """Continue text (returned with its prompt) or token ids [b, t]; edits that are in force apply to every token.

        temperature: 0 takes the likeliest token; above 0 samples, the same for the same seed.
        """
        if self.kind != "causal":
            raise ValueError(f"{self.name} is of kind {self.kind!r}; only causal language models generate text.")
        if temperature < 0 or max_new_tokens < 1:
            raise ValueError("text is continued by one token or more, at a temperature of 0 or above; found max_new_tokens="
                             f"{max_new_tokens} and temperature={temperature}.")
        if isinstance(prompt, Tensor):
            ids = prompt.to(self.device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        else:
            inputs = self.tokens(prompt)
        n = inputs["input_ids"].shape[1]
        if self.context is not None and n + max_new_tokens > self.context:
            raise ValueError(f"{self.name} reads at most {self.context} tokens; this prompt has {n}, and {max_new_tokens} are "
                             "to follow.")
        sampling = {"temperature": temperature, "top_k": 0} if temperature > 0 else {}
        pad = getattr(self.tokenizer, "pad_token_id", None) if self.tokenizer is not None else 0
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model: Any = self.module
            ids = model.generate(**inputs, max_new_tokens=max_new_tokens, use_cache=cache, pad_token_id=pad or 0,
                                 do_sample=temperature > 0, **sampling)
        if isinstance(prompt, Tensor):
            return ids
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts[0] if isinstance(prompt, str) else texts

    # --- looking and editing ------------------------------------------------------------------------------------------

    @contextmanager
    def watched(self, watchers: Mapping[Any, Callable[[Tensor, At], Tensor | None]]) -> Iterator[Network]:
        """Call a function on the tensor of each site in every pass; what it returns, if anything, takes its place."""
        touches = [(self.site(site), fn) for site, fn in watchers.items()]
        with touching(self.module, self._touches, touches):
            yield self

    @contextmanager
    def edited(self, *edits: Edit | Iterable[Edit]) -> Iterator[Network]:
        """Put edits in force for the length of a `with` block; they may be nested and are undone exactly."""
        flat = [e for edit in edits for e in ([edit] if isinstance(edit, Edit) else edit)]
        placed = [self._placed(edit) for edit in flat]
        with touching(self.module, self._touches, [(edit.site, edit) for edit in placed]):  # type: ignore[misc]
            yield self

    def _placed(self, edit: Edit) -> Edit:
        site = self.site(edit.site)
        if not site.editable:
            raise ValueError(f"{site} can be read but not edited, because the network does not use it again; edit "
                             f"{site.name.rpartition('.')[0]}.experts, the weights that the router gives.")
        names, shape = edit.over.split(), tuple(getattr(edit.gate, "shape", ()))
        if len(names) != len(shape):
            raise ValueError(f"the gate at {site} has the shape {shape}, but is said to be over {edit.over!r}.")
        if "u" in names and site.n is not None and shape[names.index("u")] not in (1, site.n):
            found = shape[names.index("u")]
            raise ValueError(f"the gate at {site} has {found} values, but the site has {site.n} units.")
        return replace(edit, site=site)

    @contextmanager
    def as_it_is(self) -> Iterator[Network]:
        """Suspend the edits and watchers that are in force for the length of a `with` block; new ones may be put in."""
        self._touches.level += 1
        try:
            with attention.closed(self.module):
                yield self
        finally:
            self._touches.level -= 1

    def record(self, batch: Any, names: str | Site | Iterable[str | Site], grad: bool = False) -> dict[str, Tensor]:
        """The tensors at some sites in one pass, by site name; the pass stops after the last of them.

        grad: keep the very tensors of the pass, for `torch.autograd.grad`; without it they are copies, which nothing
            that the network does later in place can change.
        """
        kept: dict[str, Tensor] = {}
        sites = self.sites(names)

        def keeper(name: str) -> Callable[[Tensor, At], None]:
            def keep(x: Tensor, at: At) -> None:
                kept[name] = x if grad else x.detach().clone()
                if len(kept) == len(sites):
                    raise Enough
            return keep

        weights = [site for site in sites if site.is_weight]
        kept.update((site.name, getattr(self.module.get_submodule(site.path), site.io)) for site in weights)
        keepers = {site: keeper(site.name) for site in sites if not site.is_weight}
        with self.watched(keepers), torch.set_grad_enabled(grad):
            if len(kept) < len(sites):
                self.run_until_enough(batch)
        missing = [site.name for site in sites if site.name not in kept]
        if missing:
            raise ValueError(f"the network's pass did not reach {', '.join(missing)}.")
        return kept

    def run_until_enough(self, batch: Any) -> None:
        """A pass that a watcher may end by raising `Enough`."""
        with suppress(Enough):
            self.forward(batch)


class Enough(Exception):
    """Raised by a watcher when nothing later in the pass is needed."""


def _base(module: nn.Module) -> tuple[nn.Module, str]:
    """The part of a network that holds the blocks, and its path with a dot at the end."""
    if type(module).__name__ == "SentenceTransformer":
        inner: Any = module.get_submodule("0").auto_model
        path = next(path for path, m in module.named_modules() if m is inner)
        return inner, f"{path}."
    prefix = getattr(module, "base_model_prefix", "")
    if prefix and hasattr(module, prefix):
        return module.get_submodule(prefix), f"{prefix}."
    return module, ""


def _kind(module: nn.Module, config: Any) -> str:
    for end, kind in KINDS.items():
        if type(module).__name__.endswith(end):
            return kind
    if config is None or not hasattr(module, "main_input_name"):
        return "module"
    return "vision" if module.main_input_name == "pixel_values" else "encoder"


def _path_site(name: str, path: str, io: str, module: nn.Module) -> Site:
    """A site by module path; the axis of units follows from the kind of module."""
    if io in ("in", "out"):
        image = type(module).__name__.endswith("2d")
        try:
            n = inputs_of(module) if io == "in" else outputs_of(module)
        except (AttributeError, IndexError):
            n = None
        return Site(name, path, io, View("b u h w -> b u h w" if image else "... u -> ... u", n))
    parameters = dict(module.named_parameters(recurse=False))
    if io not in parameters:
        has = ", ".join(["in", "out", *parameters])
        raise ValueError(f"{path} has no {io!r}; a site there can be {has}.")
    shape = parameters[io].shape
    axes = {1: "u", 2: "u i", 3: "e u i", 4: "u i h w"}[len(shape)]
    if type(module).__name__ == "Conv1D" and len(shape) == 2:
        axes = "i u"
    return Site(name, path, io, View(f"{axes} -> {axes}", shape[axes.split().index("u")]))
