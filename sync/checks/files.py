"""The second stage of checks: that the file of an adapter is what its sender declared, and nothing else.

Our own header parser runs before any library sees the file, and the numbers are read once, in bounded chunks. Who
sent it and whether it may come is left to `envelope`; how large the change is, to `size`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

from registry.documents import MAX_RANK, Adapter, CheckResult
from registry.errors import LocalFailure
from sync.checks import expected, tensors
from sync.checks.finding import Finding, run_check

ALPHA_PER_RANK: Final = 4.0  # PEFT's and the LoRA papers' settings lie between 1 and 4


def check_files(
    file: Path,
    declared: Adapter,
    base_config: Mapping[str, Any],
    *,
    rank_limit: int = MAX_RANK,
    alpha_limit: float = ALPHA_PER_RANK,
    clock: Callable[[], float] = time.perf_counter,
) -> list[CheckResult]:
    """The checks of this stage in order, up to the first that fails: each rests on the ones before it.

    `base_config` is config.json of the base, `alpha_limit` the largest alpha / rank. A bad file gives a result that did
    not pass, never an exception; raises LocalFailure where our own copy cannot be read.
    """
    case = _Case(file, declared, base_config, rank_limit, alpha_limit)
    results: list[CheckResult] = []
    for name, check in CHECKS.items():
        results.append(run_check(f"files.{name}", partial(check, case), clock))
        if not results[-1].passed:
            break
    return results


@dataclass(frozen=True)
class _Case:
    """One file under check; what several checks need is read once."""

    file: Path
    declared: Adapter
    base_config: Mapping[str, Any]
    rank_limit: int
    alpha_limit: float

    @cached_property
    def header(self) -> tensors.Header:
        return tensors.read_header(self.file)

    @cached_property
    def expected(self) -> dict[str, tuple[int, int]]:
        return expected.expected_adapter_tensors(self.base_config, self.declared.shape)


def _rank(case: _Case) -> Finding:
    """The rank is within the limit (C12)."""
    rank, limit = case.declared.shape.rank, case.rank_limit
    return Finding(rank <= limit, f"rank {rank}; at most {limit} may be", rank, limit)


def _alpha(case: _Case) -> Finding:
    """The scale is within the limit (C12)."""
    shape, limit = case.declared.shape, case.alpha_limit
    scale = shape.alpha / shape.rank
    return Finding(scale <= limit, f"alpha / rank is {scale:g}; at most {limit:g} may be", scale, limit)


def _targets(case: _Case) -> Finding:
    """The base has every target (C13)."""
    return Finding(True, f"the base has every module that the adapter changes: {len(case.expected)} tensors")


def _size(case: _Case) -> Finding:
    """The size is the one that was signed (C14)."""
    try:
        size = case.file.stat().st_size
    except OSError as error:
        raise LocalFailure(f"{case.file} cannot be read: {error.strerror}") from error
    promised = case.declared.file.size
    return Finding(size == promised, f"the file has {size} bytes; {promised} were declared", size, promised)


def _digest(case: _Case) -> Finding:
    """The bytes are those that were signed (C14)."""
    try:
        with case.file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise LocalFailure(f"{case.file} cannot be read: {error.strerror}") from error
    promised = case.declared.file.sha256
    if found == promised:
        return Finding(True, "the file is the one that was signed")
    return Finding(False, f"the file's SHA-256 is {found}; {promised} was signed")


def _header(case: _Case) -> Finding:
    """The header is sound (C15)."""
    count = len(case.header.tensors)
    return Finding(True, f"a well-formed safetensors file of {count} tensors", count, tensors.MAX_TENSORS)


def _names(case: _Case) -> Finding:
    """The tensors are those that follow from the base (C16, R14)."""
    expected.check_names(case.header, case.expected)
    return Finding(True, "exactly the tensors of an adapter for this base")


def _shapes(case: _Case) -> Finding:
    """Their shapes follow from base and rank (C16)."""
    expected.check_shapes(case.header, case.expected)
    return Finding(True, f"every shape follows from the base and rank {case.declared.shape.rank}")


def _dtype(case: _Case) -> Finding:
    """Their dtype is the declared one (C16)."""
    expected.check_dtype(case.header, case.declared.shape.dtype)
    return Finding(True, f"every tensor holds {case.declared.shape.dtype}")


def _finite(case: _Case) -> Finding:
    """No number is NaN or infinite (C17)."""
    where = tensors.where_not_finite(case.file, case.header)
    if where is None:
        return Finding(True, "no NaN, no infinity")
    return Finding(False, f"{where} holds NaN or infinity: the training diverged, or the file is damaged")


CHECKS: Final[dict[str, Callable[[_Case], Finding]]] = {
    "rank": _rank,
    "alpha": _alpha,
    "targets": _targets,
    "size": _size,
    "digest": _digest,
    "header": _header,
    "names": _names,
    "shapes": _shapes,
    "dtype": _dtype,
    "finite": _finite,
}
