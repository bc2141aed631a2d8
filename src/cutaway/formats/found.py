"""What a file says: its tensors in one layout, and its conventions; and how a dictionary is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..dictionaries import Dictionary, Facts
from ..dictionaries.abs_topk import LargestMagnitude
from ..dictionaries.anchored import NORMS, Normed
from ..dictionaries.group_max import GroupLargest
from ..dictionaries.jump import Jump
from ..dictionaries.mp_sae import Pursuit
from ..dictionaries.parts import ReLU, TopK
from ..dictionaries.transcoder import Transcoder

# Which latents fire: Cutaway's sparsifier, from k and what else there is to say of it.
ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "relu": lambda k: ReLU(), "topk": TopK, "jumprelu": lambda k: Jump(), "abstopk": LargestMagnitude,
    "groupmax": GroupLargest, "matching-pursuit": Pursuit}
COUNTED = ("topk", "abstopk", "groupmax", "matching-pursuit")

# What the user must say where a file does not: the question and the choices.
QUESTIONS = {
    "center": "whether b_dec is taken from the input before the encoder: center=True or center=False",
    "activation": f"which latents fire: activation={' or '.join(map(repr, ACTIVATIONS))}",
    "k": "how many latents fire for each token: k=32, for example",
    "threshold": "above which pre-activation a latent fires: threshold=0.1, for example",
    "scale": "by what the input is multiplied first: scale=1.0 (nothing), another number, "
             f"or for each token scale={' or '.join(map(repr, NORMS))}",
    "by_norm": "whether latents are chosen by their pre-activation times the norm of their decoder row: by_norm=True or False"}


@dataclass(frozen=True)
class Found:
    """A file's tensors in Cutaway's layout and its conventions; None where the file does not say.

    W_enc: [width, d]; W_dec: [width, d_out]; b_enc: [width]; b_dec: [d_out]; W_skip: [d_out, d]; threshold: [width] or a
    number. center: b_dec is taken from the input. activation: a name in ACTIVATIONS. scale: what the input is multiplied by,
    or a name in NORMS; scale_out: the same for the output, where it differs. by_norm: latents are chosen by pre-activation
    times the norm of their decoder row. site, target: in Cutaway's names; path: the model's own. skip_tokens: ids of
    tokens that it was not trained on. rule: settings of the activation besides k. tied: the decoder's rows are the encoder's.
    hook: TransformerLens's name of where it reads, which says whether that is before a norm's gain. choices: other words for a
    question of this format.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    center: bool | None
    activation: str | None
    k: int | None = None
    threshold: Any = None
    scale: float | str | None = 1.0
    scale_out: float | None = None
    by_norm: bool | None = False
    W_skip: Tensor | None = None
    transcoder: bool = False
    site: str = ""
    target: str = ""
    path: str = ""
    skip_tokens: tuple[int, ...] = ()
    network: str = ""
    data: str = ""
    rule: dict[str, Any] = field(default_factory=dict)
    tied: bool = False
    hook: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)

    def settled(self, name: Path, said: dict[str, Any]) -> Found:
        """With what the user says where the file does not; ValueError where that is lacking or contradicts the file."""
        for key, value in said.items():
            own = getattr(self, key)
            if value is not None and own is not None and not same(own, value):
                raise ValueError(f"{name} says {key}={short(own)}, but {key}={short(value)} was given; leave it out, or "
                                 "look whether this is the file that you mean.")
        told = replace(self, **{key: value for key, value in said.items() if value is not None})
        if told.activation is not None and told.activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}; found {told.activation!r}.")
        if isinstance(told.scale, str) and told.scale not in NORMS:
            raise ValueError(f"scale is a number or one of {', '.join(NORMS)}; found {told.scale!r}.")
        idle = [key for key, value in said.items() if value is not None and not told.needs(key)]
        if idle:
            raise ValueError(f"{name} is {told.activation}{' and a transcoder' if told.transcoder else ''}, for which "
                             f"{', '.join(idle)} has no meaning; leave it out.")
        lacking = [key for key in QUESTIONS if getattr(told, key) is None and told.needs(key)]
        if lacking:
            questions = "; ".join(self.choices.get(key, QUESTIONS[key]) for key in lacking)
            raise ValueError(f"{name} does not say {questions}.")
        return told

    def needs(self, key: str) -> bool:
        """Whether a convention matters here."""
        return {"k": self.activation in COUNTED, "threshold": self.activation == "jumprelu",
                "center": not self.transcoder}.get(key, True)

    def checked(self, name: Path) -> Found:
        """With shapes that fit each other; ValueError with what was found otherwise."""
        for key in ("W_enc", "W_dec"):
            axes = list(getattr(self, key).shape)
            if len(axes) != 2:
                raise ValueError(f"{name} should have an encoder and a decoder of two axes; its {key} is {axes}, as those of "
                                 "dictionaries of several sites are, which are not read from this format.")
        width, d = self.W_enc.shape
        d_out = self.W_dec.shape[1]
        wanted: dict[str, tuple[int, ...]] = {"W_dec": (width, d_out), "b_enc": (width,), "b_dec": (d_out,)}
        if self.W_skip is not None:
            wanted["W_skip"] = (d_out, d)
        if isinstance(self.threshold, Tensor) and self.threshold.ndim:
            wanted["threshold"] = (width,)
        for key, shape in wanted.items():
            if tuple(getattr(self, key).shape) != shape:
                raise ValueError(f"{name} does not fit together: {key} should be {list(shape)} for an encoder of {width} "
                                 f"latents and width {d}; found {list(getattr(self, key).shape)}.")
        most = d if self.activation == "matching-pursuit" else width   # steps, in which latents may come again
        if self.needs("k") and (not isinstance(self.k, int | float) or self.k not in range(1, max(most, width) + 1)):
            raise ValueError(f"{name} should say a whole number of latents for each token, from 1 to {width}; found "
                             f"k={self.k!r}.")
        if not self.transcoder and d_out != d:
            raise ValueError(f"{name} reads width {d} and writes width {d_out}, so it is a transcoder and not an autoencoder.")
        return self


def same(own: Any, value: Any) -> bool:
    if isinstance(own, Tensor) or isinstance(value, Tensor):
        return bool(torch.equal(torch.as_tensor(own).float().expand_as(torch.as_tensor(value)), torch.as_tensor(value).float()))
    return own == value


def short(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) and value.ndim else repr(value)


def gated(found: Found, r_mag: Tensor, b_gate: Tensor, b_mag: Tensor) -> Found:
    """The JumpReLU dictionary that computes the same as a gated one (arXiv 2404.16014, appendix H).

    relu(exp(r) Wx + b_mag) where Wx + b_gate > 0 is z where z > max(0, b_mag - exp(r) b_gate), with z = exp(r) Wx + b_mag.
    """
    scale = r_mag.exp()
    return replace(found, W_enc=found.W_enc * scale[:, None], b_enc=b_mag, threshold=b_mag - scale * b_gate,
                   activation="jumprelu")


def built(found: Found, dtype: torch.dtype | None) -> Dictionary:
    """The smallest dictionary that computes what the file means; scales and what is not subtracted go into the weights.

    dtype: of the tensors; None leaves the file's. Nothing is copied that need not be: tensors stay mapped to the file, and one
    that lies there by columns is copied into rows when it is first computed with.
    """
    def ours(x: Tensor) -> Tensor:
        return x if dtype is None else x.to(dtype)

    W_enc, b_enc, W_dec, b_dec = (ours(x) for x in (found.W_enc, found.b_enc, found.W_dec, found.b_dec))
    threshold = None
    if found.activation == "jumprelu":
        threshold = ours(torch.as_tensor(found.threshold, dtype=b_enc.dtype)).expand(len(b_enc)).clamp(min=0)
    if found.by_norm:
        W_enc, b_enc, W_dec = unit_rows(W_enc, b_enc, W_dec)
    skip = None if found.W_skip is None else ours(found.W_skip)
    if isinstance(found.scale, int | float) and (found.scale != 1 or found.scale_out not in (None, 1)):
        out = found.scale if found.scale_out is None else found.scale_out
        W_enc, W_dec, b_dec = W_enc * found.scale, W_dec / out, b_dec / out
        skip = None if skip is None else skip * (found.scale / out)
    if not found.transcoder and not found.center:
        b_enc = b_enc + W_enc @ b_dec   # so that it may be taken from the input, as everywhere in Cutaway
    (width, d), sparsify = W_enc.shape, ACTIVATIONS[str(found.activation)](found.k and int(found.k), **found.rule)
    facts = Facts(found.site, found.path, found.network, found.data, skip_tokens=found.skip_tokens, recipe=found.more)
    if found.transcoder and isinstance(found.scale, str):
        raise ValueError(f"a transcoder whose input is normalised by {found.scale} for each token cannot be read.")
    with torch.device("meta"):   # the file's own tensors are put in, so that none is filled first
        made: Dictionary
        if found.transcoder:
            made = Transcoder(d, width, sparsify, facts, d_out=W_dec.shape[1], skip=skip is not None, target=found.target)
        elif isinstance(found.scale, str):
            made = Normed(d, width, sparsify, facts, found.tied, norm=found.scale)
        else:
            made = Dictionary(d, width, sparsify, facts, found.tied)
    own = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "W_skip": skip}
    for name, value in own.items():
        if value is not None:
            setattr(made, name, nn.Parameter(value, requires_grad=False))
    if found.tied:
        made.W_enc = made.W_dec
    if threshold is not None:
        made.extra["threshold"] = nn.Parameter(threshold.contiguous(), requires_grad=False)
    return made.requires_grad_(False)


def unit_rows(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same function with decoder rows of norm 1, whose norms are the codes' units."""
    norms = W_dec.norm(dim=1)
    return W_enc * norms[:, None], b_enc * norms, W_dec / norms[:, None]


@dataclass(frozen=True)
class Plain:
    """A dictionary taken apart for writing: Cutaway's layout, the activation's name, and everything contiguous."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    activation: str
    k: int | None
    threshold: Tensor | None
    W_skip: Tensor | None
    transcoder: bool
    dictionary: Dictionary


PARTS: dict[type, str] = {ReLU: "relu", TopK: "topk", Jump: "jumprelu", LargestMagnitude: "abstopk", GroupLargest: "groupmax",
                          Pursuit: "matching-pursuit"}


def plain(dictionary: Dictionary, format: str, activations: tuple[str, ...], center: bool = True,
          kinds: tuple[type, ...] = (Dictionary,)) -> Plain:
    """A dictionary's parts as a format wants them; ValueError where the format cannot hold it.

    center: whether the format takes b_dec from the input; where not, that goes into b_enc.
    """
    finish = getattr(dictionary.sparsify, "inference", None)
    if finish is not None:
        dictionary = finish(dictionary)
    if type(dictionary) not in kinds:
        what = {Normed: "a dictionary that normalises each token", Transcoder: "a transcoder"}.get(
            type(dictionary), "an autoencoder")
        raise ValueError(f"{format} files do not hold {what}; write another format, or cutaway's own.")
    name = PARTS.get(type(dictionary.sparsify), type(dictionary.sparsify).__name__)
    if name not in activations:
        raise ValueError(f"{format} files hold {', '.join(activations)} dictionaries; this one is {name}. "
                         "Write another format, or cutaway's own.")
    own = {f.name: getattr(dictionary, f.name).detach().cpu().float() for f in fields(Plain)[:4]}
    is_transcoder = isinstance(dictionary, Transcoder)
    if not center and not is_transcoder:
        own["b_enc"] = own["b_enc"] - own["W_enc"] @ own["b_dec"]
    skip = getattr(dictionary, "W_skip", None)
    threshold = dictionary.extra["threshold"].detach().cpu().float() if name == "jumprelu" else None
    return Plain(**own, activation=name, k=getattr(dictionary.sparsify, "k", None), threshold=threshold,
                 W_skip=None if skip is None else skip.detach().cpu().float(), transcoder=is_transcoder, dictionary=dictionary)
