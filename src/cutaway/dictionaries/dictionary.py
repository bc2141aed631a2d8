"""A dictionary of features at one site, and the file that it is kept in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..data import below
from ..files import write_safetensors
from ..network import At, Edit, Network, Site, View
from .codes import Codes
from .parts import TopK, part_to_json, sparsifier_from_json
from .through import raw, replaced

FORMAT = 1


@dataclass(frozen=True)
class Facts:
    """What a dictionary's file says about itself besides its numbers.

    site: Cutaway's name of the site; path: the model's own name of the module.
    max_norm: activations of a greater norm (attention sinks) are left alone, in training, evaluation and display alike.
    skip_tokens: ids of special tokens, which are left alone in the same way.
    """

    site: str = ""
    path: str = ""
    network: str = ""
    data: str = ""
    tokens: int = 0
    max_norm: float = float("inf")
    skip_tokens: tuple[int, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)


class Dictionary(nn.Module):
    """Sparse features of the activations x [..., d] at one site.

    codes = sparsify((x - b_dec) @ W_enc.T + b_enc); reconstruction = codes @ W_dec + b_dec. W_enc, W_dec: [width, d]; b_enc:
    [width]; b_dec: [d]; extra: tensors that the sparsifier adds, such as thresholds. All in the site's own units: nothing is
    scaled at run time. kinds: subclasses by the name that their files give them; readers: of files of other kinds; settings:
    what a subclass is made with besides; says: what its file says of its conventions.
    """

    kinds: ClassVar[dict[str, type[Dictionary]]] = {}
    readers: ClassVar[dict[str, Callable[[Path], Any]]] = {}
    kind: ClassVar[str] = ""
    says: ClassVar[dict[str, str]] = {
        "layout": "W_enc and W_dec are [width, d]", "b_dec": "subtracted from the input and added to the output",
        "input_scale": "none: folded into the weights"}

    def __init_subclass__(cls, kind: str = "", **rest: Any):
        super().__init_subclass__(**rest)
        if kind:
            cls.kind = kind
            Dictionary.kinds[kind] = cls

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def __init__(self, d: int, width: int, sparsify: Any = None, facts: Facts = Facts(), tied: bool = False):  # noqa: B008
        super().__init__()
        self.sparsify = sparsify or TopK(32)
        self.facts, self.tied = facts, tied
        self._make_rows(width, d)
        self.W_enc = self.W_dec if tied else nn.Parameter(torch.zeros(width, d))
        self.b_enc = nn.Parameter(torch.zeros(width))
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.extra = nn.ParameterDict(getattr(self.sparsify, "tensors", lambda width: {})(width))

    def _make_rows(self, width: int, d: int) -> None:
        """The decoder's tensors; a subclass may make its rows from others."""
        self.W_dec = nn.Parameter(torch.zeros(width, d))

    def settle(self) -> None:
        """Put what a step of training has moved back to where this kind of dictionary allows it: here, anywhere."""

    @property
    def width(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d(self) -> int:
        return self.W_enc.shape[1]

    @property
    def site(self) -> str:
        return self.facts.site

    @property
    def reads(self) -> tuple[str, ...]:
        """The sites whose activations lie side by side in x."""
        return (self.site,)

    @property
    def writes(self) -> tuple[str, ...]:
        """The sites whose activations lie side by side in what is reconstructed."""
        return (self.site,)

    @property
    def guards(self) -> tuple[int, ...]:
        """The numbers of those sites of `writes`, not read besides, whose attention sinks it leaves alone."""
        return ()

    def rows_into(self, j: int) -> Tensor:
        """The decoder rows into the site `writes[j]`: [width, d]."""
        return self.W_dec

    def units(self) -> Tensor:
        """The units in which decoder rows are compared, so that the sites that are written count alike: [width of a row]."""
        return self.W_dec.new_ones(self.W_dec.shape[1])

    def norms(self) -> Tensor:
        """How much of what is written a latent moves by one unit of activation: [width]."""
        return self.W_dec.norm(dim=1)

    def encoders(self) -> tuple[Tensor, ...]:
        """The matrices [width, d] by which latents are found."""
        return (self.W_enc,)

    def centred(self, x: Tensor) -> Tensor:
        """What the encoder's rows are multiplied with: [n, d]."""
        return x - self.b_dec

    def encode(self, x: Tensor, progress: float = 1.0) -> Codes:
        """x: [..., d] -> values and indices [..., k]."""
        if x.shape[-1] != self.d:
            raise ValueError(f"this dictionary was learned on activations of width {self.d}; found {x.shape[-1]}.")
        self.by_rows()
        flat = x.reshape(-1, self.d)
        codes = self.sparsify(flat, self, progress)
        return Codes(codes.values.view(*x.shape[:-1], -1), codes.indices.reshape(*x.shape[:-1], -1), codes.aside)

    def by_rows(self) -> None:
        """Copy finished weights that lie by columns in the file that they are mapped to, once, as computing goes by rows."""
        for p in self.parameters(recurse=False):
            if not p.requires_grad and not p.is_contiguous():
                p.data = p.data.contiguous()

    def decode(self, codes: Codes) -> Tensor:
        """values and indices [..., k] -> [..., d]."""
        return self.directions(codes) + self.b_dec

    def directions(self, codes: Codes) -> Tensor:
        """The weighted sum of decoder rows without the bias: what a change of the codes changes."""
        from ..kernels import decode
        k = codes.values.shape[-1]
        flat = decode(codes.values.reshape(-1, k), codes.indices.reshape(-1, k), self.W_dec)
        return flat.view(*codes.values.shape[:-1], self.d)

    def squared_error(self, codes: Codes, x: Tensor) -> tuple[Tensor, Tensor]:
        """The summed squared error of the reconstruction of x [n, d], and the residual [n, d], which has no gradient.

        One that decodes in another way measures its own reconstruction.
        """
        if type(self).decode is not Dictionary.decode or type(self).directions is not Dictionary.directions:
            residual = self.decode(codes) - x
            return residual.pow(2).sum(), residual.detach()
        from ..kernels import squared_error
        return squared_error(codes.values, codes.indices, self.W_dec, self.b_dec, x)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x."""
        return self.decode(self.encode(x))

    def encoded(self, x: Sequence[Tensor]) -> Codes:
        """The codes of what was read at each site of `reads`."""
        return self.encode(x[0])

    def passed(self, x: Sequence[Tensor]) -> tuple[Codes, list[Tensor]]:
        """The codes of what was read at each site of `reads`, and what is reconstructed at each of `writes`."""
        codes = self.encode(x[0])
        return codes, [self.decode(codes)]

    def speaks_for(self, x: Sequence[Tensor], y: Mapping[int, Tensor], tokens: Tensor | None = None) -> Tensor:
        """Which tokens the dictionary speaks for [...], from what is at the sites of `reads` and, by number, of `writes`."""
        return self.keeps(x[0], tokens)

    def fold(self, scales: Sequence[float]) -> None:
        """Turn weights that were learned from activations divided by a scale into those of the activations themselves.

        scales: one for each tensor of a token that was learned from; codes are then in the units of what is written.
        """
        scale = scales[0]
        self.b_dec.mul_(scale)
        self.b_enc.mul_(scale)
        for name in getattr(self.sparsify, "units", ()):
            self.extra[name].mul_(scale)

    def keeps(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Which activations the dictionary speaks for: [...] bool; not special tokens and not attention sinks."""
        return self._without_special(below(x, self.facts.max_norm), tokens)

    def keeps_written(self, y: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The same of what is at the one site that is written."""
        return self.keeps(y, tokens)

    def _without_special(self, keep: Tensor, tokens: Tensor | None) -> Tensor:
        if tokens is not None and self.facts.skip_tokens and tokens.shape == keep.shape:
            keep = keep & ~torch.isin(tokens, torch.tensor(self.facts.skip_tokens, device=tokens.device))
        return keep

    def with_sparsifier(self, sparsify: Any, extra: dict[str, Tensor], **changed: Tensor) -> Dictionary:
        """The same dictionary with another sparsifier and its tensors, and with some of its own tensors changed.

        A tied dictionary that is given an encoder is no longer tied.
        """
        tied = self.tied and "W_enc" not in changed
        made = type(self)(self.d, self.width, sparsify, self.facts, tied, **self.settings)
        own = [name for name, _ in made.named_parameters() if not name.startswith("extra.")]
        with torch.no_grad():
            for name in own:
                getattr(made, name).copy_(changed.get(name, getattr(self, name)))
            for name, value in extra.items():
                made.extra[name].copy_(value)
        return made

    # --- as a site and as an edit -------------------------------------------------------------------------------------

    def features(self, net: Network) -> Site:
        """This dictionary's features as a site: its units are the latents, and the error of reconstruction is kept."""
        site = self.placed(net)
        return replace(site, name=f"{site.name}.features", cut=Latents(self))

    def splice(self, net: Network) -> Edit | list[Edit]:
        """The edit (several, of some kinds) that puts the reconstruction in the place of what the dictionary speaks for."""
        def reconstruction(x: Tensor, at: At) -> Tensor:
            return torch.where(self.keeps(x, at.tokens)[..., None], self(x.to(self.W_dec.dtype)).to(x.dtype), x)
        return Edit(raw(self.placed(net)), reconstruction)

    def instead(self, net: Network, values: Sequence[Tensor | float]) -> list[Edit]:
        """The edits that put a number or a vector [d] in the place of each of `writes`, where the dictionary speaks for it."""
        return [replaced(self, self.placed(net), values[0])]

    def placed(self, net: Network) -> Site:
        """The site in a network that this dictionary belongs to, with a check of its width."""
        if not self.site:
            raise ValueError("this dictionary's file does not say at which site it was learned; give facts with a site.")
        site = net.site(self.site)
        if isinstance(site.cut, View) and "(u d)" not in site.cut.pattern and site.n not in (None, self.d):
            raise ValueError(f"this dictionary was learned on activations of width {self.d}, but {site} of {net.name} has "
                             f"{site.n}; it belongs to another network.")
        return site

    def written(self, net: Network) -> Site:
        """The site whose activations the dictionary reconstructs: its own."""
        return self.placed(net)

    # --- file ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file that states its own conventions in its header."""
        path = Path(path)
        tensors = {name: p.detach().contiguous().cpu() for name, p in self.named_parameters()}
        header = {
            "format": FORMAT, "d": self.d, "width": self.width, "sparsify": part_to_json(self.sparsify), "tied": self.tied,
            "kind": self.kind, "settings": self.settings, **self.says, **vars(self.facts)}
        write_safetensors(path, tensors, {"cutaway": json.dumps(header)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Dictionary:
        """Read a dictionary that `save` wrote."""
        from safetensors import SafetensorError, safe_open
        try:
            with safe_open(str(path), "pt") as file:
                header = json.loads((file.metadata() or {}).get("cutaway", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no dictionary at {path}.") from error
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}); only safetensors are read here.") from error
        if header is None:
            raise ValueError(f"{path} holds tensors but not Cutaway's header, so its conventions are unknown.")
        if header.get("kind") in Dictionary.readers:
            return Dictionary.readers[header["kind"]](Path(path))
        if header["format"] > FORMAT:
            raise ValueError(f"{path} has format {header['format']}; this version of Cutaway reads up to {FORMAT}.")
        facts = Facts(**{name: header[name] for name in Facts.__dataclass_fields__})
        facts = replace(facts, skip_tokens=tuple(facts.skip_tokens))
        made = Dictionary.kinds.get(header.get("kind", ""), Dictionary)
        dictionary = made(header["d"], header["width"], sparsifier_from_json(header["sparsify"]), facts, header["tied"],
                          **header.get("settings", {}))
        if header["tied"]:
            tensors["W_enc"] = tensors["W_dec"]
        dictionary.load_state_dict(tensors)
        return dictionary.requires_grad_(False)

    def extra_repr(self) -> str:
        return f"d={self.d}, width={self.width}, {self.sparsify}, site={self.site!r}"


@dataclass(frozen=True)
class Latents:
    """The cut of a site by a dictionary: z is the codes' values [b, t, k], and a gate over `u` is read at their indices."""

    dictionary: Dictionary

    @property
    def n(self) -> int:
        return self.dictionary.width

    def split(self, x: Tensor, at: At) -> tuple[Tensor, Any]:
        codes = self.dictionary.encode(x.to(self.dictionary.W_dec.dtype))
        keep = self.dictionary.keeps(x, at.tokens)
        values = torch.where(keep[..., None], codes.values, 0)
        return values, (x, Codes(values, codes.indices))

    def join(self, z: Tensor, rest: Any) -> Tensor:
        x, codes = rest
        return x + self.dictionary.directions(Codes(z - codes.values, codes.indices)).to(x.dtype)

    def spread(self, gate: Tensor, over: str, z: Tensor, rest: Any, at: At) -> Tensor:
        names, indices = over.split(), rest[1].indices
        if not names:
            return gate
        if not set(names) <= {"b", "t", "u"} or names != [n for n in ("b", "t", "u") if n in names]:
            raise ValueError(f"a gate on features is over 'u', 'b u' or 'b t u'; found {over!r}.")
        if "t" in names and not at.whole(gate.shape[names.index("t")]):
            raise ValueError("a gate on features by position needs a pass over whole rows, without a cache.")
        if "u" not in names:
            return gate.reshape([gate.shape[names.index(n)] if n in names else 1 for n in ("b", "t", "u")])
        shape = [gate.shape[names.index(n)] if n in names else 1 for n in ("b", "t")]
        if indices.ndim == 2:
            shape = shape[:1]
        return gate.reshape(*shape, self.n).expand(*indices.shape[:-1], self.n).gather(-1, indices)
