from __future__ import annotations

import pytest

from tests.faults.shim import compiled, compiler
from tests.forks import prepare


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The server that processes are forked from, with the shim where it can be built."""
    prepare(compiled(tmp_path_factory.mktemp("shim")) if compiler() else None)
