"""The CPU backend against dense float64 formulas: selection in both precisions, gradients, and the optimizer's rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cutaway import kernels
from cutaway.dictionaries import Dictionary, parts
from cutaway.kernels import cpu, reference
from cutaway.train.adam import BETAS, EPS, Adam

SHAPES = [(3, 8, 1024, 1), (65, 33, 1500, 7), (130, 64, 4096, 32), (40, 16, 300, 18)]  # n, d, width, k


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(n: int, d: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    return numbers(n, d), numbers(width, d, seed=1) / d**0.5, 0.1 * numbers(width, seed=2)


def pre_activations(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.double() @ weight.double().T + bias.double()


def share_found(found: Tensor, expected: Tensor) -> float:
    return float((found[:, :, None] == expected[:, None, :]).any(1).double().mean())


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize(("n", "d", "width", "k"), SHAPES)
def test_the_largest(n: int, d: int, width: int, k: int, magnitude: bool) -> None:
    x, weight, bias = case(n, d, width)
    z = pre_activations(x, weight, bias)
    expected = (z.abs() if magnitude else z).topk(k).indices
    for low, least in ((None, 1.0), (cpu.low_copy(weight), 0.97)):
        values, indices = cpu.largest(x, weight, bias, k, magnitude, low)
        assert all(len(set(row)) == k for row in indices.tolist())
        assert_close(values, z.gather(1, indices).float(), atol=1e-5, rtol=1e-5)   # exact whatever has selected
        assert share_found(indices, expected) >= least


def test_threads_change_nothing() -> None:
    x, weight, bias = case(300, 24, 2048)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        low = cpu.low_copy(weight)
        values, indices = cpu.largest(x, weight, bias, 9, False, low)
        found.append((values.sort().values, cpu.combine(values, indices, weight).sum(0),
                      cpu.transposed(values, indices, x, 2048), cpu.products(x, weight, indices).sum()))
    torch.set_num_threads(1)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_close(a, b)


def test_the_largest_of_hard_inputs() -> None:
    x, weight, bias = case(20, 32, 2048)
    for bad in (torch.zeros_like(x), -100 * x.abs(), 1e-20 * x):   # ties, and rows in which everything is negative
        for low in (None, cpu.low_copy(weight)):
            values, indices = cpu.largest(bad, weight, torch.zeros_like(bias), 16, False, low)
            z = pre_activations(bad, weight, torch.zeros_like(bias))
            assert all(len(set(row)) == 16 for row in indices.tolist())
            assert_close(values.sum(1), z.topk(16).values.sum(1).float(), atol=1e-4, rtol=0.02)
    assert cpu.largest(x[:0], weight, bias, 16)[0].shape == (0, 16)


@pytest.mark.parametrize("shift", [-2.0, -1.0, 0.5])
def test_above(shift: float) -> None:
    x, weight, bias = case(50, 24, 1100)
    threshold = 1.0 + 0.5 * numbers(1100, seed=3).abs()
    z = pre_activations(x, weight, bias + shift)
    expected = torch.where(z > threshold, z, 0)
    for low in (None, cpu.low_copy(weight)):
        values, indices = cpu.above(x, weight, bias + shift, threshold, low)
        made = reference.dense(values.double(), indices, 1100)
        near = (z - threshold).abs() < 1e-5
        assert_close(torch.where(near, 0, made), torch.where(near, 0, expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("n", "d", "width", "k"), SHAPES)
def test_products_sums_and_transposed(n: int, d: int, width: int, k: int) -> None:
    x, weight, _ = case(n, d, width)
    values = numbers(n, k, seed=4)
    indices = torch.stack([torch.randperm(width, generator=torch.Generator().manual_seed(i))[:k] for i in range(n)])
    codes = reference.dense(values.double(), indices, width)
    assert_close(cpu.combine(values, indices, weight), (codes @ weight.double()).float())
    assert_close(cpu.products(x, weight, indices), (x.double() @ weight.double().T).gather(1, indices).float(),
                 atol=1e-5, rtol=1e-5)
    assert_close(cpu.transposed(values, indices, x, width), (codes.T @ x.double()).float(), atol=1e-5, rtol=1e-5)


def test_the_kth_largest() -> None:
    z = numbers(50, 333)
    for k in (1, 7, 200, 333):
        assert torch.equal(kernels.mask_largest(z, k), z >= z.topk(k).values[:, -1:])
    assert kernels.mask_largest(torch.zeros(3, 40), 4).all()


ENCODERS = {
    "topk": lambda *g: kernels.encode_topk(*g[:3], 8, g[3]),
    "magnitude": lambda *g: kernels.encode_magnitude(*g[:3], 8, g[3]),
    "batch": lambda *g: kernels.encode_batch_topk(*g[:3], 8, g[3]),
    "groups": lambda *g: kernels.encode_groups(*g[:3], 16, g[3]),
    "above": lambda *g: kernels.encode_above(*g[:3], torch.full_like(g[2], 1.5), g[3]),
    "positive": lambda *g: kernels.encode_positive(*g[:3], g[3]),
}


def kept_by(name: str, z: Tensor) -> Tensor:
    """Which entries of the dense pre-activations each encoder keeps, by its definition."""
    if name in ("topk", "magnitude"):
        size = z.abs() if name == "magnitude" else z
        return size >= size.topk(8).values[:, -1:]
    if name == "batch":
        return z >= z.flatten().topk(8 * len(z)).values[-1]
    if name == "groups":
        best = z.unflatten(1, (16, -1))
        return (best == best.amax(-1, keepdim=True)).flatten(1)
    return z > (1.5 if name == "above" else 0)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_gradient_equals_that_of_the_dense_formula(name: str) -> None:
    n, d, width = 48, 20, 1024
    given = [*case(n, d, width), 0.3 * numbers(d, seed=5)]
    out = numbers(n, d, seed=6)
    own = [g.clone().requires_grad_() for g in given]
    values, indices = ENCODERS[name](*own)
    decoder = (numbers(width, d, seed=7) / d**0.5).requires_grad_()
    (kernels.decode(values, indices, decoder) * out).sum().backward()
    x, weight, bias, center = other = [g.double().requires_grad_() for g in given]
    z = (x - center) @ weight.T + bias
    other_decoder = decoder.detach().double().requires_grad_()
    (torch.where(kept_by(name, z), z, 0) @ other_decoder * out).sum().backward()
    for mine, theirs in zip([*own, decoder], [*other, other_decoder], strict=True):
        assert mine.grad is not None and theirs.grad is not None and theirs.grad.abs().max() > 0
        assert_close(mine.grad.double(), theirs.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("unit", [(), ("W_dec",)])
@pytest.mark.parametrize("fast", [(), ("W_enc",)])
@pytest.mark.parametrize("double", [False, True], ids=["numba", "reference"])
def test_collected_steps_equal_those_of_torchs_adam(unit: tuple[str, ...], fast: tuple[str, ...], double: bool) -> None:
    """Three steps with the auxiliary loss (blocks), L1 (a dense gradient) and the squared error (products)."""
    d, width = 24, 1024
    made = [Dictionary(d, width, parts.TopK(8)), Dictionary(d, width, parts.TopK(8)).double()]
    with torch.no_grad():
        for i, pair in enumerate(zip(made[0].parameters(), made[1].parameters(), strict=True)):
            rows = numbers(*pair[0].shape, seed=i)
            rows = rows / rows.norm(dim=1, keepdim=True) if rows.ndim == 2 else 0.1 * rows
            for p in pair:
                p.copy_(rows)
    own_dictionary = made[0].double() if double else made[0]
    own = Adam(dict(own_dictionary.named_parameters()), unit, fast)
    other = torch.optim.Adam(made[1].parameters(), lr=1e-3, betas=BETAS, eps=EPS)
    silent = torch.zeros(width, dtype=torch.int64)
    silent[::3] = 100

    def loss(dictionary: Dictionary, x: Tensor) -> Tensor:
        codes = dictionary.encode(x)
        p = parts.Pass(dictionary, x, codes, silent, float(d), 0.5)
        return parts.SquaredError()(p) + parts.L1(0.1)(p) + parts.AuxK(10)(p)

    for step in range(3):
        x = numbers(64, d, seed=20 + step)
        with own.collecting():
            loss(own_dictionary, x.to(own_dictionary.W_dec.dtype)).backward()
        own.step(1e-3)
        other.zero_grad()
        loss(made[1], x.double()).backward()
        with torch.no_grad():
            for name in unit:
                w = getattr(made[1], name)
                w.grad -= (w.grad * w).sum(1, keepdim=True) * w
            other.step()
            for name in unit:
                w = getattr(made[1], name)
                w.div_(w.norm(dim=1, keepdim=True))
    for mine, theirs in zip(own_dictionary.parameters(), made[1].parameters(), strict=True):
        assert mine.grad is None
        # A float32 gradient near zero can take the sign of its rounding, and Adam steps by its sign.
        assert ((mine.double() - theirs).abs() < 2e-5).double().mean() > (0.999 if not double else 0.9999)
    for name in fast:
        low = own.rows[name].low
        assert low is not None and torch.equal(low[:width], own.parameters[name].detach().bfloat16())


def test_nothing_dense_is_made_on_the_fast_path() -> None:
    """No float32 tensor of [batch, width] is made in a step that selects in low precision."""
    from torch.utils._python_dispatch import TorchDispatchMode
    most = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal most
            made = function(*args, **(kwargs or {}))
            for t in made if isinstance(made, tuple | list) else [made]:
                if isinstance(t, Tensor) and t.dtype == torch.float32:
                    most = max(most, t.untyped_storage().nbytes() // 4)
            return made

    from cutaway.dictionaries import TopK
    from cutaway.train.learner import Learner, Settings
    x = numbers(1024, 16)
    learner = Learner(TopK(2048, 8), x, 100, 1024, 0, Settings("fast"))
    learner.step(x)
    with Watch():
        learner.step(x)
    assert 0 < most < 1024 * 2048
