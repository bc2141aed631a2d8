"""Methods that are no recipes: bilinear autoencoders, factorisations, the classical ones and codebooks, at known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_llama
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from cutaway import methods
from cutaway.dictionaries import Dictionary
from cutaway.dictionaries.bilinear import Bilinear, BilinearAE, density
from cutaway.dictionaries.classical import ICA, NMF, KMeans
from cutaway.dictionaries.codebook import Codebook, CodebookFeatures
from cutaway.dictionaries.mp_sae import Pursuit, merged
from cutaway.dictionaries.non_negative import fitted
from cutaway.dictionaries.snmf import SNMF, factorise
from cutaway.dictionaries.truth import matched
from cutaway.dictionaries.truth.worlds import superposed

CLASSICAL = ("pca", "ica", "k-means", "nmf", "semi-nmf", "snmf")


def number(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- matching pursuit ---------------------------------------------------------------------------------------------------


def pursuit(k: int, width: int = 30, d: int = 12) -> Dictionary:
    made = Dictionary(d, width, Pursuit(k), tied=True)
    with torch.no_grad():
        made.W_dec.copy_(F.normalize(number(width, d), dim=1))
        made.b_dec.copy_(number(d, seed=2))
    return made


def test_pursuit_is_the_algorithm_written_out():
    made, x = pursuit(5), number(40, 12, seed=1)
    dense = made.encode(x).dense(30)
    for row, code in zip(x, dense, strict=True):
        left, expected = row - made.b_dec, torch.zeros(30)
        for _ in range(5):
            products = made.W_dec @ left
            j = int(products.argmax())
            if products[j] <= 0:
                break
            expected[j] += products[j].detach()
            left = left - products[j] * made.W_dec[j]
        assert_close(code, expected, atol=1e-5, rtol=1e-5)


def test_more_steps_lower_the_error_and_gradients_pass_through_all():
    x = number(64, 12, seed=1)
    errors = [float((pursuit(k)(x) - x).pow(2).sum().detach()) for k in range(1, 9)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 2
    made = pursuit(3).double()
    x = x.double()

    def loss(rows: Tensor) -> Tensor:     # with the choices fixed
        left, indices = x - made.b_dec.detach(), made.encode(x).indices
        for j in indices.T:
            left = left - (left * rows[j]).sum(1, keepdim=True).relu() * rows[j]
        return left.pow(2).sum()
    (made(x) - x).pow(2).sum().backward()
    rows = made.W_dec.detach().clone().requires_grad_()
    loss(rows).backward()
    assert_close(made.W_dec.grad, rows.grad)


def test_a_latent_chosen_twice_counts_once():
    codes = merged(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[7, 3, 7]]))
    assert codes.values.tolist() == [[5.0, 2.0, 0.0]] and codes.l0.tolist() == [2]


# --- bilinear autoencoders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forms", [None, 5])
@pytest.mark.parametrize("ordered", [False, True])
def test_the_kernel_trick_is_the_error_of_the_products(forms: int | None, ordered: bool):
    n, d, width = 6, 7, 9
    importance = 1 - torch.arange(width) / width if ordered else None
    model, x = Bilinear(d, width, forms, importance), number(n, d)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(0.4 * number(*parameter.shape, seed=i + 1))
    unit = F.normalize(x, dim=1)
    f = torch.stack([(unit @ left) * (unit @ right) for left, right in zip(model.left, model.right, strict=True)], 1)
    g = f if model.mix is None else f @ model.mix.T @ model.mix
    products = torch.einsum("nd,ne->nde", unit, unit)
    forms_of = torch.einsum("jd,je->jde", model.left, model.right)
    ends = range(1, width + 1) if ordered else [width]
    # A prefix's error, with the cross term that its latents have with the true product.
    explicit = torch.stack([(torch.einsum("nj,jde->nde", g[:, :m], forms_of[:m]) - products).pow(2).sum((1, 2))
                            for m in ends]).mean(0)
    assert_close(model.errors(x), explicit, atol=1e-5, rtol=1e-5)
    if forms is None:
        assert_close(model.prefix_errors(x)[-1], Bilinear.errors(model, x).mean() if not ordered else
                     (torch.einsum("nj,jde->nde", f, forms_of) - products).pow(2).sum((1, 2)).mean(), atol=1e-5, rtol=1e-5)
    h = model.encode(x)
    assert_close(torch.einsum("nd,fde,ne->nf", unit, model.forms(), unit), h, atol=1e-5, rtol=1e-5)


def test_density_lies_between_one_token_and_all():
    assert_close(density(torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, -1.0]])), torch.tensor([0.0, 1.0]))


def test_a_bilinear_autoencoder_learns():
    x = number(400, 3) @ number(3, 10, seed=1)
    model, losses = BilinearAE(x, width=12, steps=150, batch=128, penalty=0.0)
    assert losses.error[-1] < 0.3 * losses.error[0] and not model.left.requires_grad
    with pytest.raises(ValueError, match="a batch is of 1 to 400"):
        BilinearAE(x, batch=401)


# --- factorisations -----------------------------------------------------------------------------------------------------


def test_fitted_is_non_negative_least_squares():
    from scipy.optimize import nnls
    x, rows = number(20, 15), number(8, 15, seed=1)
    expected = np.stack([nnls(rows.T.numpy().astype(float), row.numpy().astype(float))[0] for row in x])
    assert_close(fitted(x, rows, 500), torch.from_numpy(expected).float(), atol=1e-4, rtol=1e-3)


def test_factorise_finds_planted_groups_of_neurons():
    features = torch.zeros(6, 100)
    for i in range(6):
        features[i, 5 * i: 5 * i + 5] = number(5, seed=i).sign()
    uses = number(600, 6, seed=9).relu() * (number(600, 6, seed=10) > 0)
    x = uses @ features + 0.02 * number(600, 100, seed=11)
    found = factorise(x, 6, keep=0.05, iterations=200)
    cosines = (F.normalize(found.features, dim=1) @ F.normalize(features, dim=1).T).abs()
    assert (matched(cosines).cosines > 0.99).sum() >= 4      # where uses begin decides whether two features share a group
    assert (found.features != 0).sum(1).max() <= 5 and (found.uses >= 0).all()
    # Uses and features that are not cut are a descent.
    errors = factorise(x, 6, keep=1.0, iterations=30).error
    assert all(b <= a * 1.001 for a, b in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize("id", CLASSICAL)
def test_every_decomposition_is_a_dictionary(id: str, tmp_path: Path):
    x = superposed(0.5, d=24).sample(1500, 1).x + (0 if id == "snmf" else 3)    # snmf takes activations as they are
    method = methods("dictionary")[id]
    options = {"width": 12, "k": 6, "keep": 1.0}
    made = method.object(x, **{name: value for name, value in options.items() if name in method.signature.parameters})
    codes = made.encode(x)
    assert codes.l0.max() <= 6 and made.width == 12
    if id != "k-means":
        assert_close(made.W_dec.norm(dim=1), torch.ones(12))
    fvu = float((made.decode(codes) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum())
    assert fvu < 0.7
    assert_close(made.encode(x[:5]).dense(12), codes.dense(12)[:5], atol=1e-3, rtol=1e-3)
    again = Dictionary.load(made.save(tmp_path / "d.safetensors"))
    assert torch.equal(again(x), made(x)) and again.sparsify == made.sparsify


def test_nmf_finds_parts_and_is_no_worse_than_the_mean_on_activations_of_both_signs():
    parts = number(5, 30).relu() * (number(5, 30, seed=1) > 0)
    uses = number(800, 5, seed=2).relu() * (number(800, 5, seed=3) > 0)
    found = NMF(uses @ parts, 5)
    assert matched(F.normalize(parts, dim=1) @ found.W_dec.T).cosines.mean() > 0.98 and not found.b_dec.any()
    x = superposed(2, d=24).sample(1500, 1).x       # few of many features at a time, so that a far origin would be ruinous
    made = NMF(x, 48, k=4)
    fvu = float((made(x) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum())
    assert fvu < 0.75 and (made.encode(x).values >= 0).all()


def test_ica_finds_independent_directions_and_k_means_centres():
    world = superposed(1, d=10, active=0.7)
    made = ICA(world.sample(4000, 0).x, 10, 10)
    assert matched(world.cosines(made.W_dec)).cosines.mean() > 0.97
    centers = 5 * number(4, 6)
    x = centers[torch.arange(400) % 4] + 0.1 * number(400, 6, seed=3)
    made = KMeans(x, 4)
    assert float((made(x) - x).pow(2).mean()) < 0.02 and made.encode(x).l0.unique().tolist() == [1]


def test_a_width_below_one_is_said():
    with pytest.raises(ValueError, match="at least one feature"):
        SNMF(number(10, 4), 0)


# --- codebooks ----------------------------------------------------------------------------------------------------------


def test_a_codebook_writes_the_nearest_codes_and_passes_gradients_straight():
    book, a = Codebook(8, codes=6, k=2, groups=2), number(5, 3, 8).requires_grad_()
    found = book.snap(a)
    v = book.norm(a)
    for group in range(2):
        part = v[0, 0, 4 * group: 4 * group + 4]
        nearest = (book.codes[group] @ part / book.codes[group].norm(dim=1)).topk(2).indices
        assert set(found.ids[0, 0, group].tolist()) == set(nearest.tolist())
        assert_close(found.written[0, 0, 4 * group: 4 * group + 4], book.codes[group][nearest].mean(0))
    weights = number(5, 3, 8, seed=4)
    (found.written * weights).sum().backward()
    own = number(5, 3, 8).requires_grad_()
    (book.norm(own) * weights).sum().backward()
    assert_close(a.grad, own.grad)
    used = torch.zeros(2, 6).index_put((torch.arange(2).expand(5, 3, 2)[..., None].expand(-1, -1, -1, 2), found.ids),
                                       torch.tensor(1.0), accumulate=True)
    assert torch.equal(book.codes.grad.abs().sum(2) > 0, used > 0)
    book.zero_grad()
    book.snap(a).pull.backward()
    assert book.norm.weight.grad is None and book.codes.grad.abs().sum() > 0


def test_codebooks_are_edits_of_a_network_that_stays_as_it_is():
    net, ids = tiny_llama(), {"input_ids": torch.arange(2, 14).view(2, 6)}
    before = net.logits(ids)
    books = CodebookFeatures(net, codes=16)
    assert {len(book.codes) for book in books.books.values()} == {1, net.site("blocks.0.attn.heads").n}
    seen: dict = {}
    with net.edited(*books.edits(net, seen)):
        snapped = net.logits(ids)
    assert set(seen) == set(books.names) and not torch.allclose(snapped, before)
    assert torch.equal(net.logits(ids), before)
    forced = {}
    with net.edited(*books.edits(net, forced, lambda site, ids: torch.zeros_like(ids))):
        net.logits(ids)
    assert all((found.ids == 0).all() for found in forced.values())
    with pytest.raises(ValueError, match="between 1 and the 4 codes"):
        CodebookFeatures(net, codes=4, k=5)


# --- p-annealing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [0.1, 0.55, 1.0])
def test_p_annealing_keeps_the_size_of_l1_and_bends_its_slope(progress: float):
    from cutaway.dictionaries import Codes, parts
    from cutaway.dictionaries.p_annealed import Annealed
    made, x = Dictionary(6, 4, parts.ReLU()), number(2, 6)
    with torch.no_grad():
        made.W_dec.copy_(F.normalize(number(4, 6), dim=1))
    values = torch.tensor([[0.5, 2.0], [1.0, 0.0]], requires_grad=True)
    codes = Codes(values, torch.tensor([[0, 1], [2, 3]]))
    loss = Annealed(0.7)(parts.Pass(made, x, codes, torch.zeros(4), 4.0, progress))
    assert_close(loss, 0.7 * values.sum().detach() / 2 / 2)
    slope, = torch.autograd.grad(loss, values)
    p = {0.1: 1.0, 0.55: 0.6, 1.0: 0.2}[progress]
    assert float(slope[0, 0] / slope[0, 1]) == pytest.approx(4 ** (1 - p), rel=1e-4) and slope[1, 1] == 0
