"""What is explained: one number for each row of a batch, differentiable, such as a logit or "why this rather than that"."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..dictionaries import Direction
from ..network import Network

Measure = Callable[[Network, Any], Tensor]


def _picked(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-1, index[:, None])[:, 0]


# What is read of a token's or class's logits [n, classes].
OF: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logit": _picked,
    "probability": lambda logits, index: _picked(logits.softmax(-1), index),
    "log-probability": lambda logits, index: _picked(F.log_softmax(logits, -1), index),
    "loss": lambda logits, index: -_picked(F.log_softmax(logits, -1), index),
}
EMBEDDING = ("sentence", "encoder", "vision")     # kinds of network whose outputs are neither tokens nor classes
CLASSES = "Classification"                        # in the names of transformers' classes with a head of classes on them


@dataclass(frozen=True, eq=False)
class Target:
    """One number for each row of a batch.

    of: `logit`, `probability`, `log-probability` or `loss` (nats) of a token or class; or the name of a function of your own.
    index: int64 [rows], the token or class; against: [rows], the one it is contrasted with, whose number is taken away;
    position: [rows], where text's logits are read, none where a row has one prediction.
    measure: the function of your own, `(network, batch) -> [rows]`, in the place of all that.
    feature: a feature of a dictionary, whose activation at `position` is the number.
    """

    of: str = "logit"
    index: Tensor | None = None
    against: Tensor | None = None
    position: Tensor | None = None
    measure: Measure | None = None
    feature: Direction | None = None

    def values(self, net: Network, batch: Any) -> Tensor:
        """The numbers of a batch with as many rows as the target: [rows], differentiable."""
        if self.feature is not None:
            return _at(activations(net, batch, self.feature), self.position)
        if self.measure is None:
            return self.read(net.logits(batch))
        values = self.measure(net, batch)
        if not isinstance(values, Tensor) or values.shape != (len(batch.rows),):
            found = f"the shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
            raise ValueError(f"the target {self.of} must give one number for each of a batch's {len(batch.rows)} rows; it "
                             f"gave {found}.")
        return values

    def read(self, logits: Tensor) -> Tensor:
        """The numbers from logits [rows, classes] or [rows, tokens, classes]: [rows]."""
        if self.index is None:
            raise ValueError(f"the target, {self.of}, cannot be read off logits, and this method explains logits; use another "
                             "one, such as integrated-gradients or leave-one-out.")
        logits = _at(logits, self.position).to(torch.promote_types(logits.dtype, torch.float32))
        values = OF[self.of](logits, self.index.to(logits.device))
        return values if self.against is None else values - OF[self.of](logits, self.against.to(logits.device))

    def select(self, rows: Tensor) -> Target:
        """The target of some rows, which may come several times."""
        def chosen(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[rows.to(x.device)]
        return replace(self, index=chosen(self.index), against=chosen(self.against), position=chosen(self.position))

    def read_as(self, of: str) -> Target:
        """The same tokens or classes, read as another number; a feature or a function of your own stays what it is."""
        return self if self.index is None else replace(self, of=of)

    @property
    def linear(self) -> bool:
        """Whether it is a weighted sum of logits, as rules that are carried backwards from logits need it."""
        return self.index is not None and self.of == "logit"

    def names(self, net: Network) -> list[str]:
        """What is explained of each row, in words: "logit of ' self' rather than ' x'"."""
        if self.index is None:
            return [self.of]
        others = [None] * len(self.index) if self.against is None else self.against.tolist()
        return [f"{self.of} of {name(net, int(i))}" + ("" if j is None else f" rather than {name(net, int(j))}")
                for i, j in zip(self.index.tolist(), others, strict=True)]


def name(net: Network, index: int) -> str:
    """A token as its text in quotes, a class by its name."""
    if net.tokenizer is not None and net.kind in ("causal", "masked"):
        return repr(net.tokenizer.decode([index]))
    labels = getattr(net.config, "id2label", None) if net.kind == "image" or _has_classes(net) else None
    return str((labels or {}).get(index, index))


def _has_classes(net: Network) -> bool:
    return CLASSES in type(net.module).__name__


def activations(net: Network, batch: Any, feature: Direction) -> Tensor:
    """The activation of a dictionary's feature at every token, [rows, tokens], differentiable."""
    sites = list(feature.dictionary.reads)
    found = net.record(batch, sites, grad=torch.is_grad_enabled())
    return feature.dictionary.encoded([found[site] for site in sites]).of(feature.index)


def feature_target(net: Network, batch: Any, feature: Direction, position: Any = None) -> Target:
    """A feature's activation at a position; left out, where in each row it fires most among the tokens that count."""
    fires = activations(net, batch, feature)
    if fires.ndim != 2:
        raise ValueError(f"a feature is explained at one of a row's tokens; at {feature.dictionary.site} its activations have "
                         f"the shape {list(fires.shape)}.")
    where = _positions(position, *fires.shape) if position is not None else fires.masked_fill(
        torch.zeros_like(fires, dtype=torch.bool) if batch.keep is None else ~batch.keep.to(fires.device), -torch.inf).argmax(1)
    silent = (_at(fires, where) == 0).nonzero()[:, 0]
    if len(silent):
        raise ValueError(f"feature {feature.index} does not fire in row {int(silent[0])}"
                         f"{' at that position' if position is not None else ''}, so there is nothing to explain; give text in "
                         "which it does, such as one of its contexts.")
    return Target(f"activation of feature {feature.index} at {feature.dictionary.site}", position=where.cpu(), feature=feature)


def target_of(net: Network, batch: Any, logits: Tensor, target: Any = None, contrast: Any = None, of: str = "logit",
              position: Any = None) -> Target:
    """The target that a user asked for, checked against the network's logits on the batch.

    target, contrast: a token as text, a class's name, a number, one of these for each row, or none: what the network finds
    likeliest (and no contrast). A feature of a dictionary stands for its activation, where it fires most. position: where
    text's logits are read, one or one for each row, negative from the end; none for each row's last token, or for a masked
    network its first masked token.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, Direction):
        if contrast is not None:
            raise ValueError("a feature's activation has no contrast; leave it out, or give a function of yours as the target.")
        return feature_target(net, batch, target, position)
    if callable(target):
        if contrast is not None:
            raise ValueError("a target that is a function of yours has no contrast; take the difference in the function.")
        if position is not None:
            raise ValueError("a target that is a function of yours reads where it likes; leave position= out.")
        return Target(getattr(target, "__name__", type(target).__name__), measure=target)
    if of not in OF:
        raise ValueError(f"what is explained is {', '.join(OF)}; found {of!r}.")
    if logits.ndim not in (2, 3):
        raise ValueError(f"{net.name} gives one output of the shape {tuple(logits.shape)}; give target= as a function "
                         "(network, batch) that returns one number a row.")
    if target is None and net.kind in EMBEDDING and not _has_classes(net):
        raise ValueError(f"{net.name} gives an embedding, of which nothing is the likeliest; give target= as a function "
                         "(network, batch) that returns one number a row, such as a similarity, or a dimension's number.")
    where = _position(net, batch, logits, position)
    at = _at(logits, where)
    index = at.argmax(-1) if target is None else _index(net, target, len(at), at.shape[-1], "target")
    against = None if contrast is None else _index(net, contrast, len(at), at.shape[-1], "contrast")
    if against is not None and bool((index.cpu() == against.cpu()).any()):
        row = int((index.cpu() == against.cpu()).nonzero()[0])
        raise ValueError(f"the target and its contrast are both {name(net, int(index[row]))} in row {row}; give two that "
                         "differ.")
    return Target(of, index.cpu(), None if against is None else against.cpu(), where)


def _at(logits: Tensor, position: Tensor | None) -> Tensor:
    """What is at the rows' positions: logits [rows, classes], or numbers [rows]."""
    if position is None:
        return logits
    return logits[torch.arange(len(logits), device=logits.device), position.to(logits.device)]


def _position(net: Network, batch: Any, logits: Tensor, asked: Any) -> Tensor | None:
    if logits.ndim == 2:
        if asked is not None:
            raise ValueError(f"{net.name} gives one prediction a row, so there is no position to choose.")
        return None
    rows, tokens = logits.shape[:2]
    return _usual_position(net, batch, rows, tokens) if asked is None else _positions(asked, rows, tokens)


def _positions(asked: Any, rows: int, tokens: int) -> Tensor:
    """Positions that were asked for, one for all or one for each row, negative from the end: [rows]."""
    found = torch.as_tensor(asked).reshape(-1)
    found = found.expand(rows) if len(found) == 1 else found
    if len(found) != rows or bool(((found < -tokens) | (found >= tokens)).any()):
        raise ValueError(f"the batch has {rows} rows of {tokens} tokens; found the positions {found.tolist()}.")
    return found.long() % tokens


def _usual_position(net: Network, batch: Any, rows: int, tokens: int) -> Tensor:
    """The last token of each row that is not padding; for a masked network the first masked one."""
    inputs = batch.inputs if isinstance(batch.inputs, dict) else {}
    if net.kind == "masked":
        hidden = inputs["input_ids"].cpu() == getattr(net.tokenizer, "mask_token_id", None)
        if not isinstance(hidden, Tensor) or not bool(hidden.any(1).all()):
            raise ValueError("a masked language model explains a masked token, and a row has none; put its mask token into "
                             "the text or give position=.")
        return hidden.long().argmax(1)
    mask = inputs.get("attention_mask")
    if mask is None:
        return torch.full((rows,), tokens - 1)
    return tokens - 1 - mask.cpu().long().flip(1).argmax(1)


def _index(net: Network, asked: Any, rows: int, size: int, what: str) -> Tensor:
    given = asked.tolist() if isinstance(asked, Tensor) else asked
    one = isinstance(given, str) or not isinstance(given, Sequence)
    found = [_number(net, each, size, what) for each in ([given] if one else given)]
    if len(found) not in (1, rows):
        raise ValueError(f"a {what} is one for all or one for each of {rows} rows; found {len(found)}.")
    return torch.tensor(found * (rows if len(found) == 1 else 1))


def _number(net: Network, asked: Any, size: int, what: str) -> int:
    words = net.tokenizer is not None and net.kind in ("causal", "masked")
    if isinstance(asked, str):
        return _token(net, asked, what) if words else _class(net, asked, what)
    number = int(asked)
    if number != asked or not 0 <= number < size:
        things = "vocabulary has the tokens" if words else "network has the classes"
        raise ValueError(f"the {what} {asked} is not there: the {things} 0 to {size - 1}.")
    return number


def _token(net: Network, text: str, what: str) -> int:
    tokenizer: Any = net.tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False)
    unknown = getattr(tokenizer, "unk_token_id", None)
    if len(ids) != 1 or ids[0] == unknown:
        pieces = ", ".join(repr(tokenizer.decode([i])) for i in ids)
        raise ValueError(f"the {what} {text!r} is not one token of the vocabulary but {len(ids)} ({pieces}); give one of its "
                         "tokens, with its leading space if it has one.")
    return int(ids[0])


def _class(net: Network, label: str, what: str) -> int:
    known: dict[str, int] = getattr(net.config, "label2id", None) or {}
    if label not in known:
        near = difflib.get_close_matches(label, known, n=3, cutoff=0.3) or list(known)[:3]
        hint = f"the nearest are {', '.join(near)}" if known else "its classes have no names, so give a number"
        raise ValueError(f"the {what} {label!r} is no class of {net.name}; {hint}.")
    return int(known[label])
