"""The Triton kernels against plain float64 formulas; `test_kernels_gpu` runs these in Triton's interpreter, or on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from cutaway import kernels
from cutaway.kernels import gpu, gpu_select, sparse
from cutaway.kernels.reference import DENSE, Product

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT = dict(rtol=1e-5, atol=1e-5)
# n, width, d, k, kind of x, by magnitude, with a low-precision copy. No multiples of a block; widths below one block and of
# several; k = 1, and k too large for sparse products; d below one block and above.
SHAPES = [(3, 300, 20, 7, torch.float32, False, True), (2, 1100, 33, 5, torch.bfloat16, True, True),
          (4, 50, 7, 3, torch.float32, True, True), (1, 17, 5, 1, torch.float32, False, False),
          (2, 40, 8, 40, torch.float32, True, True), (2, 2500, 530, 33, torch.float32, False, True),
          (3, 300, 20, 7, torch.bfloat16, False, False)]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def layer(n: int, width: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias, and z in float64."""
    x, weight, bias = numbers(n, d).to(dtype), numbers(width, d, seed=1), 0.3 * numbers(width, seed=2)
    return x, weight, bias, x.double() @ weight.double().T + bias.double()


def code(n: int, k: int, width: int, padding: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Values and different indices, of which the last `padding` of each row are zeros at index 0."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(width, generator=generator)[:k] for _ in range(n)]).to(DEVICE)
    values = numbers(n, k, seed=seed)
    if padding:
        values[:, -padding:], indices[:, -padding:] = 0, 0
    return values, indices


def dense(values: Tensor, indices: Tensor, width: int) -> Tensor:
    return torch.zeros(len(values), width, dtype=torch.float64, device=DEVICE).scatter_add(1, indices, values.double())


def assert_values_of(z: Tensor, values: Tensor, indices: Tensor) -> None:
    """Values are those of z at different indices."""
    assert values.dtype == torch.float32 and indices.dtype == torch.int64
    assert all(len(set(row)) == len(row) for row in indices.tolist())
    assert_close(values.double(), z.gather(1, indices), **FLOAT)


def assert_largest(z: Tensor, values: Tensor, indices: Tensor, k: int, magnitude: bool = False, **tolerance: float) -> None:
    assert values.shape == indices.shape == (len(z), k)
    assert_values_of(z, values, indices)
    key, made = (z.abs(), values.abs()) if magnitude else (z, values)
    assert_close(made.double().sort(descending=True).values, key.topk(k).values, **(tolerance or FLOAT))


# --- selection ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("n", "width", "d", "k", "dtype", "magnitude", "low"), SHAPES)
def test_largest(n: int, width: int, d: int, k: int, dtype: torch.dtype, magnitude: bool, low: bool) -> None:
    x, weight, bias, z = layer(n, width, d, dtype)
    found = gpu.largest(x, weight, bias, k, magnitude, gpu.low_copy(weight) if low else None)
    assert_largest(z, *found, k, magnitude)


def test_a_low_copy_may_have_rows_added() -> None:
    x, weight, bias, z = layer(2, 300, 20)
    low = torch.cat([gpu.low_copy(weight), torch.full((84, 20), 100.0, device=DEVICE).bfloat16()])
    assert_largest(z, *gpu.largest(x, weight, bias, 7, low=low), 7)


def test_large_biases_that_cancel_do_not_hide_the_largest() -> None:
    x, weight, _, _ = layer(3, 512, 1024)
    x, weight[:, 0] = 0.03 * x, 60 * numbers(512, seed=4)
    x[:, 0] = 1
    bias = -weight[:, 0].clone()
    z = x.double() @ weight.double().T + bias.double()
    assert_largest(z, *gpu.largest(x, weight, bias, 6, low=gpu.low_copy(weight)), 6)


def test_more_rows_than_the_buffer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, z = layer(5, 300, 20)
    monkeypatch.setattr(gpu_select, "BUFFER", 2 * 2 * 300)   # two rows of bfloat16
    assert_largest(z, *gpu.largest(x, weight, bias, 7, low=gpu.low_copy(weight)), 7)
    values, indices = gpu.above(x, weight, bias, torch.full_like(bias, 8), gpu.low_copy(weight))
    assert_above(z, values, indices, 8)


def test_ties() -> None:
    """Where all latents are equal, k different ones come back; where each has a twin, as many of the right value."""
    bias = torch.full((1500,), 0.25, device=DEVICE)
    values, indices = gpu.largest(torch.zeros(2, 9, device=DEVICE), numbers(1500, 9), bias, 5, low=numbers(1500, 9).bfloat16())
    assert (values == 0.25).all() and all(len(set(row)) == 5 for row in indices.tolist())
    x, weight, bias, _ = layer(3, 128, 9)
    weight, bias = weight.repeat(4, 1), bias.repeat(4)
    z = x.double() @ weight.double().T + bias.double()
    assert_largest(z, *gpu.largest(x, weight, bias, 6, low=gpu.low_copy(weight)), 6)


def test_more_candidates_than_room_keep_the_largest_of_low_precision() -> None:
    """600 latents nearer to each other than bfloat16 can tell: what is found is as large as that can say, and true."""
    x, weight, bias = numbers(2, 16).abs(), 1 + 1e-3 * numbers(600, 16, seed=1), torch.zeros(600, device=DEVICE)
    z = x.double() @ weight.double().T
    assert_largest(z, *gpu.largest(x, weight, bias, 4, low=gpu.low_copy(weight)), 4, rtol=2**-7, atol=0)
    assert_largest(z, *gpu.largest(x, weight, bias, 4), 4)   # without the low-precision copy, exactly
    weight[[3, 77, 500, 599]] += 1                           # four that stand out are found among the others
    z = x.double() @ weight.double().T
    assert_largest(z, *gpu.largest(x, weight, bias, 4, low=gpu.low_copy(weight)), 4)


def test_nan_and_infinity_stay_in_their_rows() -> None:
    x, weight, bias, z = layer(3, 300, 20)
    x[0, 3], x[2, 5] = torch.nan, torch.inf
    values, indices = gpu.largest(x, weight, bias, 7, low=gpu.low_copy(weight))
    assert values[0].isnan().all() and (values[2] == torch.inf).all()
    assert (indices >= 0).all() and (indices < 300).all()
    assert_largest(z[1:2], values[1:2], indices[1:2], 7)


def test_latents_shut_off_by_their_bias_come_last() -> None:
    """Only the last 3 of 1,023 are open: others fill up, each once, and the end of the last group is not taken for a latent."""
    x, weight, bias, z = layer(2, 1023, 20)
    bias[:-3], z[:, :-3] = -torch.inf, -torch.inf
    values, indices = gpu.largest(x, weight, bias, 8, low=gpu.low_copy(weight))
    assert (values == -torch.inf).sum(1).tolist() == [5, 5]
    assert_largest(z, values, indices, 8)


@pytest.mark.parametrize(("width", "n"), [(300, 4), (35, 35), (640, 1)])
def test_groups(width: int, n: int) -> None:
    x, weight, bias, z = layer(2, width, 20)
    values, indices = gpu.groups(x, weight, bias, n, gpu.low_copy(weight))
    assert_values_of(z, values, indices)
    assert torch.equal(indices // (width // n), torch.arange(n, device=DEVICE).expand(2, n))
    assert_close(values.double(), z.view(2, n, -1).amax(-1), **FLOAT)


@pytest.mark.parametrize(("n", "width", "k"), [(5, 37, 37), (9, 1500, 4), (3, 20, 1)])
def test_kth_largest(n: int, width: int, k: int) -> None:
    z = numbers(n, width).round(decimals=1)   # with ties, and zeros of both signs
    assert torch.equal(gpu.kth_largest(z, k), z.topk(k).values[:, -1])


def assert_above(z: Tensor, values: Tensor, indices: Tensor, threshold: Any) -> None:
    assert values.shape == indices.shape
    over = z > threshold
    most = max(1, int(over.sum(1).max()))
    assert values.shape[1] == (z.shape[1] if most * DENSE > z.shape[1] else most)
    assert_close(dense(values, indices, z.shape[1]), torch.where(over, z, 0), **FLOAT)


@pytest.mark.parametrize("threshold", [-100.0, 0.0, 7.0, 100.0], ids=["all", "half", "few", "none"])
@pytest.mark.parametrize(("shape", "dtype", "low"), [((4, 300, 20), torch.float32, True), ((3, 2100, 33), torch.bfloat16, True),
                                                     ((2, 11, 5), torch.float32, True), ((2, 300, 20), torch.float32, False)])
def test_above(shape: tuple[int, int, int], dtype: torch.dtype, low: bool, threshold: float) -> None:
    x, weight, bias, z = layer(*shape, dtype)
    own = threshold + numbers(shape[1], seed=5).abs()
    assert_above(z, *gpu.above(x, weight, bias, own, gpu.low_copy(weight) if low else None), own.double())


def test_above_makes_room_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, z = layer(3, 1100, 20)
    rooms = []
    monkeypatch.setattr(gpu_select, "FIRST_GUESS", 2)
    fired = gpu_select._fired
    monkeypatch.setattr(gpu_select, "_fired", lambda *given: rooms.append(given[-1]) or fired(*given))
    values, indices = gpu.above(x, weight, bias, torch.full_like(bias, 8), gpu.low_copy(weight))
    assert len(rooms) == 2 and rooms[0] == 2 and values.shape[1] > 2
    assert_above(z, values, indices, 8)


def test_impossible_requests_are_refused() -> None:
    x, weight, bias, _ = layer(2, 30, 4)
    with pytest.raises(ValueError, match="k of at most the width, 30, found 31"):
        gpu.largest(x, weight, bias, 31)
    with pytest.raises(ValueError, match="7 equal parts, found 30"):
        gpu.groups(x, weight, bias, 7)


# --- products -------------------------------------------------------------------------------------------------------------

PRODUCTS = [(5, 130, 20, 7, 2), (3, 49, 1030, 3, 0), (2, 64, 3, 4, 3), (6, 12, 5, 8, 0)]


@pytest.mark.parametrize(("n", "width", "d", "k", "padding"), PRODUCTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_products_combine_and_transposed(n: int, width: int, d: int, k: int, padding: int, dtype: torch.dtype) -> None:
    x, weight = numbers(n, d).to(dtype), numbers(width, d, seed=1)
    values, indices = code(n, k, width, padding)
    matrix, tolerance = dense(values, indices, width), dict(rtol=1e-5, atol=1e-4)
    assert_close(gpu.products(x, weight, indices).double(), (x.double() @ weight.double().T).gather(1, indices), **tolerance)
    assert_close(gpu.combine(values, indices, weight.to(dtype)).double(), matrix @ weight.to(dtype).double(), **tolerance)
    assert_close(gpu.transposed(values, indices, x, width).double(), matrix.T @ x.double(), **tolerance)
    assert_close(gpu.sums(values, indices, width).double(), matrix.sum(0), **tolerance)


def test_views_are_read_as_what_they_show() -> None:
    x, weight = numbers(20, 4).T, numbers(20, 130, seed=1).T
    values, indices = code(4, 14, 130, 0)
    values, indices = values[:, ::2], indices[:, ::2]
    matrix, z = dense(values, indices, 130), x.double() @ weight.double().T
    assert_close(gpu.products(x, weight, indices).double(), z.gather(1, indices), **FLOAT)
    assert_close(gpu.combine(values, indices, weight).double(), matrix @ weight.double(), **FLOAT)
    assert_close(gpu.transposed(values, indices, x, 130).double(), matrix.T @ x.double(), **FLOAT)
    assert_largest(z, *gpu.largest(x, weight, torch.zeros(130, device=DEVICE), 7), 7)


def test_a_latent_that_fires_in_every_row() -> None:
    values, indices, x = numbers(19, 3), torch.tensor([[5, 90, 1]], device=DEVICE).repeat(19, 1), numbers(19, 20, seed=1)
    made = gpu.transposed(values, indices, x, 91)
    assert_close(made.double(), dense(values, indices, 91).T @ x.double(), **FLOAT)
    assert made.any(1).nonzero().flatten().tolist() == [1, 5, 90]


# --- Adam -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("given", "d", "unit_norm"), [("products", 20, False), ("products", 20, True), ("nothing", 20, True),
                                                       ("all", 1030, False), ("all", 1030, True)])
def test_adam(given: str, d: int, unit_norm: bool) -> None:
    """Three steps, as torch.optim.Adam in float64 takes them on the gradient written out."""
    width, rate, betas = 19, 0.02, (0.9, 0.99)
    weight = numbers(width, d)
    weight /= weight.norm(dim=1, keepdim=True)
    m, v, low = torch.zeros_like(weight), torch.zeros_like(weight), torch.zeros(width + 3, d, device=DEVICE).bfloat16()
    other = weight.double().clone().requires_grad_()
    adam = torch.optim.Adam([other], lr=rate, betas=betas, eps=1e-6)
    for step in range(1, 4):
        rows = torch.randperm(width, generator=torch.Generator().manual_seed(step))[:9].to(DEVICE)
        block = (rows, numbers(9, d, seed=step)) if given == "all" else None
        matrix = numbers(width, d, seed=50 + step) if given == "all" else None
        grads = [] if given == "nothing" else [Product(*code(6, 4, width, 1, step), numbers(6, d, seed=step)),
                                               Product(*code(3, 2, width, 0, step + 9), numbers(3, d, seed=step).bfloat16())]
        gradient = torch.zeros_like(other) if matrix is None else matrix.double()
        for product in grads:
            gradient = gradient + dense(product.values, product.indices, width).T @ product.x.double()
        if block is not None:
            gradient = gradient.index_add(0, rows, block[1].double())
        if unit_norm:
            gradient = gradient - (gradient * other.detach()).sum(1, keepdim=True) * other.detach()
        other.grad = gradient
        adam.step()
        if unit_norm:
            other.data /= other.data.norm(dim=1, keepdim=True)
        gpu.adam_rows(weight, m, v, low, grads, matrix, block, rate, betas, 1e-6, step, unit_norm)
    assert_close(weight.double(), other.detach(), rtol=1e-4, atol=2e-5)
    assert_close(m.double(), adam.state[other]["exp_avg"], rtol=1e-4, atol=1e-5)
    assert_close(v.double(), adam.state[other]["exp_avg_sq"], rtol=1e-4, atol=1e-5)
    assert_close(low[:width].float(), weight, rtol=2**-7, atol=0)   # one unit in the last place: the interpreter truncates
    assert not low[width:].any()
    if given != "nothing":
        assert (other.detach() - numbers(width, d).double()).abs().max() > rate


def test_adam_needs_tensors_that_it_can_change() -> None:
    weight, m = numbers(20, 30).T, torch.zeros(30, 20, device=DEVICE)
    with pytest.raises(ValueError, match="expected a contiguous weight"):
        gpu.adam_rows(weight, m, m.clone(), None, [], None, None, 0.1, (0.9, 0.99), 1e-8, 1, False)


# --- together -------------------------------------------------------------------------------------------------------------

def test_gradients_of_an_autoencoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the differentiable functions, on this backend: all gradients are those of autograd on the dense formula."""
    monkeypatch.setattr(sparse, "backend_of", lambda weight: gpu)
    shapes = ((3, 12), (64, 12), (64,), (64, 12))
    given = [numbers(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    x, encoder, bias, decoder = given
    values, indices = kernels.encode_topk(x, encoder, bias, 3)
    made = torch.autograd.grad((kernels.decode(values, indices, decoder) - x).pow(2).sum(), given)
    x, encoder, bias, decoder = exact = [tensor.detach().double().requires_grad_() for tensor in given]
    z = x @ encoder.T + bias
    z = torch.where(z >= z.topk(3).values[:, -1:], z, 0)
    expected = torch.autograd.grad((z @ decoder - x).pow(2).sum(), exact)
    for own, other in zip(made, expected, strict=True):
        assert other.abs().max() > 0
        assert_close(own.double(), other, rtol=1e-4, atol=1e-3)


# --- all ------------------------------------------------------------------------------------------------------------------

def test_no_rows() -> None:
    x, weight, bias = numbers(0, 20), numbers(120, 20), numbers(120)
    values, indices = torch.zeros(0, 7, device=DEVICE), torch.zeros(0, 7, dtype=torch.int64, device=DEVICE)
    assert [t.shape for t in gpu.largest(x, weight, bias, 7)] == [(0, 7), (0, 7)]
    assert [t.shape for t in gpu.groups(x, weight, bias, 3)] == [(0, 3), (0, 3)]
    assert all(len(t) == 0 and t.ndim == 2 for t in gpu.above(x, weight, bias, bias))
    assert gpu.kth_largest(numbers(0, 9), 3).shape == (0,)
    assert gpu.products(x, weight, indices).shape == (0, 7)
    assert gpu.combine(values, indices, weight).shape == (0, 20)
    assert torch.equal(gpu.transposed(values, indices, x, 120), torch.zeros(120, 20, device=DEVICE))
    assert torch.equal(gpu.sums(values, indices, 120), torch.zeros(120, device=DEVICE))


class Watch(TorchDispatchMode):
    """Notes the largest float32 tensor that is made, and every operation for which the host would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.waits = 0, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(word in func.name() for word in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount")):
            self.waits.append(func.name())
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float32:
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.fixture
def watch() -> Iterator[Watch]:
    with Watch() as watch:
        yield watch


def test_the_hot_path_holds_nothing_as_large_as_the_product_and_waits_for_nothing(watch: Watch) -> None:
    n, width, d, k = 4, 4096, 3, 4
    x, weight, bias, low = numbers(n, d), numbers(width, d), numbers(width), numbers(width, d).bfloat16()
    watch.largest = 0
    values, indices = gpu.largest(x, weight, bias, k, low=low)
    assert 0 < watch.largest < n * width
    gpu.products(x, weight, indices)
    made, indices = gpu.combine(values, indices, weight), indices % 70
    weight, block = weight[:70].clone(), (torch.arange(4, device=DEVICE), made)
    gpu.transposed(values, indices, x, 70)
    gpu.adam_rows(weight, torch.zeros_like(weight), torch.zeros_like(weight), low[:70], [Product(values, indices, made)], None,
                  block, 0.1, (0.9, 0.99), 1e-8, 1, True)
    assert watch.waits == []
    torch.ones(1, device=DEVICE).item()
    assert watch.waits   # the watch sees what it should


def test_the_same_bits_every_time() -> None:
    x, weight, bias, _ = layer(4, 50, 20)
    values, indices = code(4, 3, 50, 1)
    low = gpu.low_copy(weight)
    for make in (lambda: gpu.largest(x, weight, bias, 3, low=low), lambda: gpu.combine(values, indices, weight),
                 lambda: gpu.transposed(values, indices, x, 50), lambda: gpu.sums(values, indices, 50)):
        assert all(torch.equal(a, b) for a, b in zip(make(), make(), strict=True))
