"""The kernels against the dense formulas and autograd, in float64: values and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cutaway import kernels
from cutaway.kernels import reference

N, D = 37, 12
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
    return torch.zeros(len(values), width, dtype=values.dtype).scatter(-1, indices, values)


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
    z = numbers(200, 512).detach().to(give)
    for k in (1, 5, 8, 9, 100, 512):
        values, indices = reference.largest(z, k)
        assert torch.equal(z.gather(-1, indices), values)
        assert torch.equal(values.sort().values, z.topk(k).values.flip(-1))


def test_gradients_are_exact_to_second_order_differences() -> None:
    weight, bias = numbers(64, D, seed=1), numbers(64, seed=2)

    def autoencoder(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values, indices = kernels.encode_topk(x, weight, bias, 4)
        return kernels.decode(values.relu(), indices, weight)

    fn: Callable[..., Tensor] = autoencoder
    assert torch.autograd.gradcheck(fn, (numbers(3, D), weight, bias))
