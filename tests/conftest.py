"""What all tests share: no test writes outside its own folders."""

from __future__ import annotations

import os

# One thread a process: workers share the cores, and what a test compares between processes must not depend on how many.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Tokens are kept in a folder that goes when the tests are done."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("CUTAWAY_CACHE", str(folder))
        yield folder
