"""The values that documents are made of: digests, keys, paths, names, texts and times, bounded, in one spelling.

What documents there are is left to `registry.documents`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from registry.errors import BadData
from registry.keys import PublicKey
from registry.paths import MAX_VERSION, NodePath

MAX_COUNT: Final = 2**53 - 1  # what every JSON reader keeps exact
_DEVICE_NAMES: Final = frozenset({"con", "prn", "aux", "nul", *(f"{n}{i}" for n in ("com", "lpt") for i in range(10))})


def _one_spelling(path: str) -> str:
    try:
        return str(NodePath.parse(path))
    except BadData as error:
        raise ValueError(error.message) from error


def _safe_key(text: str) -> str:
    try:
        return PublicKey.from_hex(text).hex
    except BadData as error:
        raise ValueError(error.message) from error


def _portable(name: str) -> str:
    """A name that is a file's name everywhere (D8)."""
    if name.endswith(".") or name.partition(".")[0].lower() in _DEVICE_NAMES:
        raise ValueError("not a file name on every system")
    return name


def _in_utc(moment: datetime) -> datetime:
    """A moment in UTC (D4)."""
    if moment.utcoffset() is None or moment.utcoffset() != UTC.utcoffset(None):
        raise ValueError("a time is given in UTC")
    return moment.astimezone(UTC)


# No control characters and no marks that change the direction of writing: texts of peers end up on terminals.
_UNPRINTABLE: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"
_BAD_CHARACTER: Final = re.compile(f"[{_UNPRINTABLE}\\ud800-\\udfff]")
MAX_REASON_CHARS: Final = 1000


def _printable(reason: object) -> object:
    """Make a reason fit to be signed: it may quote what a bad peer sent, and must not fail for that."""
    if not isinstance(reason, str):
        return reason
    return _BAD_CHARACTER.sub("\ufffd", reason)[:MAX_REASON_CHARS]


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # SHA-256 in hex
KeyHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), AfterValidator(_safe_key)]
PathText = Annotated[str, StringConstraints(min_length=1, max_length=250), AfterValidator(_one_spelling)]
# D7: names and reasons; D6: versions.
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=rf"^[^\t\n{_UNPRINTABLE}]+$")]
Reason = Annotated[
    str, BeforeValidator(_printable), StringConstraints(max_length=MAX_REASON_CHARS, pattern=f"^[^{_UNPRINTABLE}]*$")
]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,59}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$"), AfterValidator(_portable)]
Target = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")]
Url = Annotated[str, StringConstraints(max_length=300, pattern=r"^https?://[A-Za-z0-9._~:/\[\]%@-]+$")]
Moment = Annotated[datetime, AfterValidator(_in_utc)]
Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Part(BaseModel):
    """What every part of a document has (D3): no unknown field, no conversion, no NaN, no change after it is made."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
