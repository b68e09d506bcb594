"""What a node says is done survives a power cut: everything that was not synced is dropped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.durable import ACTS
from tests.faults.shim import Fault, compiled, compiler, survived
from tests.processes import ROOT

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler to build the shim with")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize("act", ACTS)
def test_what_was_done_is_still_there(act: str, library: Path, tmp_path: Path) -> None:
    folder, beside = tmp_path / "folder", tmp_path / "beside"
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "tests.faults.durable", act, folder, beside],
        check=True,
        timeout=60,
        cwd=ROOT,
        env={"LD_PRELOAD": str(library), "PATH": os.environ["PATH"]},
    )
    survived(Fault("power", 0, beside).shadow, folder)
    assert ACTS[act][1](folder)
