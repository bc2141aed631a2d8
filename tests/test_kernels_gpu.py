"""The Triton backend without a GPU: its cases run in Triton's interpreter, its kernels compile, and nothing else needs it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton has no build for this system")
CASES = Path(__file__).with_name("gpu_cases.py")
GPU = pytest.param("0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"))


def python(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], env=os.environ | settings, capture_output=True, text=True, timeout=600)


@needs_triton
@pytest.mark.parametrize("interpreted", ["1", GPU], ids=["interpreter", "gpu"])
def test_all_cases(interpreted: str, tmp_path: Path) -> None:
    """In a process of its own, since Triton reads at import whether to interpret, and that would hold for every other test."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if interpreted == "1" else {}
    done = python("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(CASES), f"--basetemp={tmp_path / 'cases'}",
                  TRITON_INTERPRET=interpreted, **hidden)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout or "[100%]" in done.stdout


F32, BF16, I32, I64, INT, FLOAT = "*fp32", "*bf16", "*i32", "*i64", "i32", "fp32"
RATES = dict.fromkeys(("rate", "keep1", "add1", "keep2", "add2", "root", "eps"), FLOAT)
NAMED = {"z": BF16, "low": BF16, "places": I64, "chosen": I64, "indices": I64, **RATES}
NUMBERS = ("n", "width", "parts", "size", "groups", "room", "stride", "k", "d")
INDICES = ("lengths", "kept", "counts", "rows", "starts", "place")
ABSENT = dict(dense=None, block=None, place=None)
KERNELS: list[tuple[str, str, int, dict[str, Any]]] = [   # module, name, warps; constants of d 4,096, width 131,072
    ("gpu_select", "_kth", 4, dict(ROWS=4, BLOCK=1024)),
    ("gpu_select", "_keep", 4, dict(ROWS=4, BLOCK=1024)),
    ("gpu_select", "_maxima", 4, dict(MAGNITUDE=False, GROUP=64, ROWS=4, BLOCK=16)),
    ("gpu_select", "_entries", 4, dict(MAGNITUDE=True, LEAST=-3.4e38, GROUP=64, BLOCK=16)),
    ("gpu_select", "_near", 4, dict(BLOCK=1024)),
    ("gpu_products", "_products", 4, dict(BLOCK_K=4, BLOCK_D=1024)),
    ("gpu_products", "_combine", 4, dict(BLOCK_K=4, BLOCK_D=1024)),
    ("gpu_update", "_transposed", 4, dict(BLOCK_E=4, BLOCK_D=1024)),
    ("gpu_update", "_adam", 8, dict(UNIT_NORM=True, BLOCK_E=2, BLOCK_D=4096, **ABSENT)),
    ("gpu_update", "_adam", 4, dict(UNIT_NORM=False, BLOCK_E=2, BLOCK_D=1024)),
]


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="an interpreted kernel cannot be compiled")
@pytest.mark.parametrize(("module", "name", "warps", "constants"), KERNELS, ids=[f"{k[1]}-{k[2]}" for k in KERNELS])
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_kernels_compile_for_compute_capability_9(module: str, name: str, warps: int, constants: dict[str, Any], tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes programs that the compiler does not; this needs no GPU either."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"cutaway.kernels.{module}"), name)
    kernel = getattr(kernel, "fn", kernel) if hasattr(kernel, "configs") else kernel
    types = {a: NAMED.get(a) or (INT if a in NUMBERS else I32 if a in INDICES else F32) for a in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types | dict.fromkeys(constants, "constexpr"),
                       constexprs={(kernel.arg_names.index(a),): value for a, value in constants.items()})
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert len(made.asm["cubin"]) > 1000
    assert "atom" not in made.asm["ptx"] and "red.global" not in made.asm["ptx"]   # so that results are deterministic


def test_the_package_works_without_triton() -> None:
    done = python("-c", "import sys; sys.modules['triton'] = None\n"
                        "import torch, cutaway\nfrom cutaway import kernels\n"
                        "print(kernels.encode_topk(torch.ones(2, 3), torch.ones(40, 3), torch.zeros(40), 2)[0].tolist())")
    assert done.returncode == 0 and done.stdout.strip() == "[[3.0, 3.0], [3.0, 3.0]]", done.stderr[-2000:]
