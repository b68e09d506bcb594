"""Which checker decided: the version of this program and a digest of the code of its checks, for the log."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

DECIDING: Final = ("checks/*.py", "gate.py", "verdict.py")  # in this package


@cache
def checker_version() -> str:
    """As in `banyan 0.1.0 checks 3f2a91c0b7d4`: no check can change without it."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for pattern in DECIDING:
        for file in sorted(package.glob(pattern)):
            digest.update(file.read_bytes())
    try:
        program = version("banyan-node")
    except PackageNotFoundError:  # run from a source tree that was not installed
        program = "0"
    return f"banyan {program} checks {digest.hexdigest()[:12]}"
