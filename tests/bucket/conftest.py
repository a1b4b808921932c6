from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.object_storage import Storage, reached, serving


@pytest.fixture(scope="session")
def storage() -> Iterator[Storage]:
    """Yield a server of S3 that the tests' process can use."""
    with serving() as storage, reached(storage):
        yield storage
