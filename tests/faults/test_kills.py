"""A sample of what `python -m tests.kill_test` does in earnest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kill_test import kill_test
from tests.killed_work import WORKS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", WORKS)
def test_work_killed_at_any_moment_is_finished_by_the_same_command(forks: None, tmp_path: Path, name: str) -> None:
    assert kill_test(name, tmp_path, times=2, seed=1).problems == []
