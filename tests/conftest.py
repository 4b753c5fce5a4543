"""What the tests share: where the real data sets lie, for the few tests that read them."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bnn_data() -> Path:
    """Folder of the real data sets, `$BNN_DATA`; a test that asks for it is skipped where there is none."""
    folder = os.environ.get("BNN_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data: set BNN_DATA to a folder with it (see README)")
    return Path(folder)
