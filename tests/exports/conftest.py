from __future__ import annotations

from pathlib import Path

import pytest

from tests.exports.pools import make_run


@pytest.fixture(scope="package")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run over two databases, beside their file."""
    return make_run(tmp_path_factory.mktemp("runs"))
