"""What all tests share: no test writes outside its own folders."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Tokens are kept in a folder that goes when the tests are done."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("CUTAWAY_CACHE", str(folder))
        yield folder
