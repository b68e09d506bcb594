"""What the name of a model's file says of its size: "Qwen3-30B-A3B-Q4_K_M.gguf" has 30 billion parameters, 3 at work.

Names round, and some say nothing; `data/model_sizes.csv` holds those that need more than their name.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

TABLE: Final = Path(__file__).parent / "data" / "model_sizes.csv"

_QUANTISATION: Final = re.compile(
    r"(?<![a-z0-9])(UD-)?(I?Q[2-8]_(?:K_XL|K_[SML]|K|[01]|NL|XS|XXS|S|M)|MXFP[48]|NVFP4|BF16|F16|F32|FP16|FP8|[48]bit|AWQ|GPTQ|INT4)(?![a-z0-9])",
    re.IGNORECASE,
)
_EXPERTS: Final = re.compile(r"(?<![a-z0-9.])(\d+)x(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)
_TOTAL: Final = re.compile(r"(?<![a-z0-9.])e?(\d+(?:[._]\d+)?)\s?(b|m)(?=[^a-z0-9]|$|a\d)", re.IGNORECASE)
_ACTIVE: Final = re.compile(r"(?:-|(?<=\db))a(\d+(?:\.\d+)?)(b|m)(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NamedSize:
    """Parameters in billions, those at work for one token, and the quantisation; None where the name does not say."""

    parameters_b: float | None
    active_b: float | None
    quantisation: str | None


def size_in_name(name: str) -> NamedSize:
    """What a name says; the table of names is asked first."""
    found = _QUANTISATION.search(name)
    quantisation = found.group(2).upper() if found else None
    plain = _QUANTISATION.sub("", name)
    for pattern, total, active in _table():
        if pattern.search(plain):
            return NamedSize(total, active, quantisation)
    if experts := _EXPERTS.search(plain):
        count, each = int(experts.group(1)), float(experts.group(2))
        return NamedSize(0.83 * count * each, 0.23 * count * each, quantisation)  # Mixtral's share of what is common
    numbers = [_billions(match) for match in _TOTAL.finditer(plain)]
    at_work = _ACTIVE.search(plain)
    total_b = max(numbers, default=None)
    return NamedSize(total_b, _billions(at_work) if at_work else total_b, quantisation)


def _billions(found: re.Match[str]) -> float:
    return float(found.group(1).replace("_", ".")) / (1000 if found.group(2).lower() == "m" else 1)


@lru_cache(maxsize=1)
def _table() -> tuple[tuple[re.Pattern[str], float, float], ...]:
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return tuple(
        (re.compile(row["name"], re.IGNORECASE), float(row["parameters_b"]), float(row["active_b"])) for row in rows
    )
