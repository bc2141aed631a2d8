"""Codebook features: the activations at a site are replaced by a few entries of a codebook, and the network learns with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..catalogue import method
from ..network import At, Edit, Network
from .dictionary import raw

Choose = Callable[[str, Tensor], Tensor]


class Snapped(NamedTuple):
    """written: [..., d], what takes the activation's place; ids: [..., groups, k], the codes; pull: mean |written - v|^2."""

    written: Tensor
    ids: Tensor
    pull: Tensor


class Codebook(nn.Module):
    """The k nearest of some codes, by cosine, in the place of an activation (arXiv 2310.17230, section 3).

    v = LayerNorm(a), written = mean of the k codes e_c with the largest v . e_c / |e_c|. Gradients go to v as if nothing had
    been replaced (straight through), and to the chosen codes both from the task and from `pull`, which has none for v.
    codes: [groups, codes, d / groups]; groups: codebooks side by side, such as one for each head.
    """

    def __init__(self, d: int, codes: int, k: int = 1, groups: int = 1):
        super().__init__()
        self.k, self.norm = k, nn.LayerNorm(d)
        self.codes = nn.Parameter(torch.randn(groups, codes, d // groups))

    def snap(self, a: Tensor, choose: Callable[[Tensor], Tensor] = lambda ids: ids) -> Snapped:
        """a: [..., d]; choose: takes the ids [..., groups, k] that were found and gives those to write."""
        v = self.norm(a)
        parts = v.unflatten(-1, (len(self.codes), -1))
        likeness = torch.einsum("...gd,gcd->...gc", parts.detach(), F.normalize(self.codes.detach(), dim=-1))
        ids = choose(likeness.topk(self.k, dim=-1).indices)
        groups, codes, _ = self.codes.shape
        first = codes * torch.arange(groups, device=ids.device)[:, None]      # where each group's codes begin
        picked = F.embedding(ids + first, self.codes.flatten(0, 1)).mean(-2).flatten(-2)
        pull = (picked - v.detach()).pow(2).sum(-1).mean()
        return Snapped(picked + v - v.detach(), ids, pull)


class Codebooks(nn.Module):
    """A codebook for each of some sites of a network; `edits` puts them in, and the network itself is not changed.

    at: names of sites; codes, k: of each codebook; heads: attention sites have one codebook a head.
    """

    def __init__(self, net: Network, at: Sequence[str], codes: int, k: int = 1):
        super().__init__()
        sites = [site for pattern in at for site in net.sites(pattern)]
        widths = {site.name: _width(net, site.name) for site in sites}
        self.books = nn.ModuleDict({_key(site.name): Codebook(
            widths[site.name], codes, k, (site.n or 1) if site.name.endswith(".heads") else 1) for site in sites})
        self.names = tuple(site.name for site in sites)

    @torch.no_grad()
    def settle(self, net: Network, batch: object, seed: int = 0) -> None:
        """Begin with the centres of k-means of what the network writes at each site on a batch, as yet without codebooks."""
        from sklearn.cluster import KMeans
        for name, x in net.record(batch, list(self.names)).items():
            book = self.books[_key(name)]
            assert isinstance(book, Codebook)
            v = book.norm(x.reshape(-1, book.norm.normalized_shape[0])).unflatten(-1, (len(book.codes), -1))
            for group, codes in enumerate(book.codes):
                part = v[:, group].numpy()
                n = min(len(codes), len(v[:, group].unique(dim=0)))      # what is left over stays random
                codes[:n] = torch.from_numpy(KMeans(n, n_init=1, max_iter=20, random_state=seed).fit(part).cluster_centers_)

    def edits(self, net: Network, seen: dict[str, Snapped] | None = None, choose: Choose = lambda site, ids: ids) -> list[Edit]:
        """One edit for each site. seen: is filled with what was snapped, by site; choose: (site, ids) -> the ids to write."""
        def edit(name: str) -> Edit:
            def ref(x: Tensor, at: At) -> Tensor:
                found = self.books[_key(name)].snap(x, lambda ids: choose(name, ids))  # type: ignore[operator]
                if seen is not None:
                    seen[name] = found
                return found.written
            return Edit(raw(net.site(name)), ref)
        return [edit(name) for name in self.names]


def _key(name: str) -> str:
    return name.replace(".", "/")


def _width(net: Network, name: str) -> int:
    """How wide a site's raw activations are, from one short pass."""
    site = net.site(name)
    found: list[int] = []

    def look(x: Tensor, at: At) -> Tensor:
        found.append(x.shape[-1])
        return x
    with torch.no_grad(), net.edited(Edit(raw(site), look)):
        net.logits({"input_ids": torch.zeros(1, 2, dtype=torch.long)})
    return found[0]


@method("codebook", family="dictionary", title="Codebook features: sparse and discrete interpretability for neural networks",
        paper="arXiv 2310.17230", roster="111")
def CodebookFeatures(net: Network, at: Sequence[str] = ("blocks.*.attn.heads", "blocks.*.mlp"), codes: int = 1000,
                     k: int = 1) -> Codebooks:
    """Each layer may only write a few of many codes, which a network learns together with its weights.

    Train it with `net.edited(*books.edits(net, seen))` around each pass, over the parameters of both, with the task's loss plus
    the sum of `pull` in `seen` (the authors' default, without a commitment term).

    net: a network. at: sites, by default every head before the output projection and every MLP's output, as in the paper.
    codes, k: codes in each codebook, and how many are written at once. To intervene, give `edits` a `choose`.
    Differs from the authors' code: dead codes are not replaced (nor are they by its default), and codes have no weight decay.
    """
    if not 1 <= k <= codes:
        raise ValueError(f"k must be between 1 and the {codes} codes; found {k}.")
    return Codebooks(net, at, codes, k)
