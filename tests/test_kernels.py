"""Kernels and loss terms against the dense formulas and autograd, in float64: values and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cutaway import kernels
from cutaway.dictionaries import Dictionary, parts
from cutaway.kernels import reference

N, D, WIDTH = 37, 12, 64
SHAPES = [(256, 3), (96, 20), (40, 40), (50, 1)]  # width and k: grouped search, plain search, everything, and one


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.fixture(params=[1, 10**9], ids=["dense", "sparse"], autouse=True)
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs with products of dense matrices and with sparse ones, whatever the shape."""
    monkeypatch.setattr(reference, "is_dense", lambda k, width: request.param == 1)
    yield


def same_gradients(made: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Two values and their gradients under the same random weights of the output."""
    assert_close(made, expected)
    weights = numbers(*made.shape, seed=9).detach()
    for own, other in zip(torch.autograd.grad((made * weights).sum(), inputs),
                          torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        assert other.abs().max() > 0
        assert_close(own, other)


def dense_codes(values: Tensor, indices: Tensor, width: int) -> Tensor:
    return torch.zeros(len(values), width, dtype=values.dtype).scatter_add(-1, indices, values)


@pytest.mark.parametrize(("width", "k"), SHAPES)
def test_encode_topk(width: int, k: int) -> None:
    x, weight, bias = numbers(N, D), numbers(width, D, seed=1), numbers(width, seed=2)
    values, indices = kernels.encode_topk(x, weight, bias, k)
    assert values.shape == indices.shape == (N, k)
    assert all(len(set(row)) == k for row in indices.tolist())
    z = x @ weight.T + bias
    lowest = z.topk(k).values[:, -1:]
    same_gradients(dense_codes(values, indices, width), torch.where(z >= lowest, z, 0), [x, weight, bias])


@pytest.mark.parametrize("shift", [-3.0, 0.0, -100.0])
def test_encode_positive(shift: float) -> None:
    x, weight, bias = numbers(N, D), numbers(256, D, seed=1), numbers(256, seed=2)
    values, indices = kernels.encode_positive(x, weight, bias + shift)
    expected = (x @ weight.T + bias + shift).relu()
    made = dense_codes(values, indices, 256)
    if shift == -100.0:  # nothing fires
        assert not made.any() and values.shape == (N, 1 if not reference.is_dense(1, 256) else 256)
        assert not any(g.any() for g in torch.autograd.grad(made.sum(), [x, weight, bias]))
    else:
        same_gradients(made, expected, [x, weight, bias])


@pytest.mark.parametrize(("width", "k"), SHAPES)
def test_decode(width: int, k: int) -> None:
    values, weight = numbers(N, k), numbers(width, D, seed=1)
    indices = torch.stack([torch.randperm(width, generator=torch.Generator().manual_seed(i))[:k] for i in range(N)])
    same_gradients(kernels.decode(values, indices, weight), dense_codes(values, indices, width) @ weight, [values, weight])


@pytest.mark.parametrize("give", [torch.float32, torch.float64])
def test_the_largest_are_those_of_topk(give: torch.dtype) -> None:
    x, weight, bias = (numbers(*shape, seed=i).detach().to(give) for i, shape in enumerate([(200, D), (512, D), (512,)]))
    z = torch.nn.functional.linear(x, weight, bias)
    for k in (1, 5, 8, 9, 100, 512):
        values, indices = reference.largest(x, weight, bias, k)
        assert torch.equal(z.gather(-1, indices), values)
        assert torch.equal(values.sort().values, z.topk(k).values.flip(-1))
        values, indices = reference.largest(x, weight, bias, k, magnitude=True)
        assert torch.equal(values.abs().sort().values, z.abs().topk(k).values.flip(-1))


def test_gradients_are_exact_to_second_order_differences() -> None:
    weight, bias = numbers(64, D, seed=1), numbers(64, seed=2)

    def autoencoder(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values, indices = kernels.encode_topk(x, weight, bias, 4)
        return kernels.decode(values.relu(), indices, weight)

    fn: Callable[..., Tensor] = autoencoder
    assert torch.autograd.gradcheck(fn, (numbers(3, D), weight, bias))


# --- loss terms -------------------------------------------------------------------------------------------------------

def passed(sparsify: Any, silent: Tensor | None = None) -> tuple[Dictionary, parts.Pass]:
    made = Dictionary(D, WIDTH, sparsify).double()
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter.copy_(numbers(*parameter.shape, seed=i) * (0.5 if parameter.ndim == 1 else D**-0.5))
    x = numbers(N, D, seed=7).detach()
    codes = made.encode(x)
    silent = torch.zeros(WIDTH, dtype=torch.int64) if silent is None else silent
    return made, parts.Pass(made, x, codes, silent, float(D), 0.5)


def z_of(made: Dictionary, x: Tensor) -> Tensor:
    return (x - made.b_dec) @ made.W_enc.T + made.b_enc


def kept(z: Tensor, k: int) -> Tensor:
    return torch.where(z >= z.topk(k).values[:, -1:], z, 0)


def same_parameter_gradients(made: Tensor, expected: Tensor, d: Dictionary) -> dict[str, Tensor]:
    assert_close(made, expected)
    names, parameters = zip(*d.named_parameters(), strict=True)
    own, other = (torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True) for loss in (made, expected))
    for name, a, b in zip(names, own, other, strict=True):
        assert_close(torch.zeros(()) if a is None else a, torch.zeros(()) if b is None else b, msg=name, check_dtype=False)
    return dict(zip(names, own, strict=True))


@pytest.mark.parametrize("sparsify", [parts.TopK(4), parts.ReLU(), parts.LargestLinear(4)], ids=str)
def test_squared_error_is_that_of_the_dense_formula(sparsify: Any) -> None:
    made, p = passed(sparsify)
    z = z_of(made, p.x)
    codes = {parts.TopK: kept(z, 4).relu(), parts.ReLU: z.relu(), parts.LargestLinear: kept(z, 4)}[type(sparsify)]
    loss = (codes @ made.W_dec + made.b_dec - p.x).pow(2).sum(1).mean() / D
    gradients = same_parameter_gradients(parts.SquaredError()(p), loss, made)
    assert all(g.abs().max() > 0 for g in gradients.values())


def test_l1_is_that_of_the_dense_formula() -> None:
    made, p = passed(parts.ReLU())
    loss = 0.3 * (z_of(made, p.x).relu() * made.W_dec.norm(dim=1)).sum(1).mean() / D**0.5
    gradients = same_parameter_gradients(parts.L1(0.3)(p), loss, made)
    assert all(g.abs().max() > 0 for g in gradients.values())
    early = replace(p, progress=0.01, penalty=2.0)
    assert_close(parts.L1(0.3, warmup=0.05)(early), loss * 2 * 0.2)


@pytest.mark.parametrize("n_dead", [40, 5])
def test_auxk_is_that_of_the_dense_formula(n_dead: int) -> None:
    """Dead latents' encoder, bias and decoder are pulled towards the residual; the residual itself is no lever."""
    silent = torch.where(torch.arange(WIDTH) < n_dead, 1000, 3)
    made, p = passed(parts.TopK(4), silent)
    dead = torch.arange(n_dead)
    k = D // 2
    residual = (p.x - (kept(z_of(made, p.x), 4).relu() @ made.W_dec + made.b_dec)).detach()
    z = kept(z_of(made, p.x)[:, dead], min(k, n_dead)).relu()
    loss = (z @ made.W_dec[dead] - residual).pow(2).sum(1).mean() / (residual - residual.mean(0)).pow(2).sum(1).mean()
    gradients = same_parameter_gradients(parts.AuxK(1000, weight=0.1)(p), 0.1 * min(1, n_dead / k) * loss, made)
    for name in ("W_enc", "b_enc", "W_dec"):
        assert gradients[name][:n_dead].abs().sum() > 0 and not gradients[name][n_dead:].any(), name


def test_auxk_is_zero_while_nothing_is_dead() -> None:
    _, p = passed(parts.TopK(4))
    assert parts.AuxK(10)(p) == 0


def test_k_falls_over_the_first_half() -> None:
    made, p = passed(parts.TopK(4))
    part = parts.LargestLinear(4, first=16)
    found = [part(p.x, made, progress).values.shape[1] for progress in (0.0, 0.25, 0.5, 1.0)]
    assert found == [16, 10, 4, 4]
