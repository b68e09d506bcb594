"""Dialogues as JSON Lines: `{"turns": ["...", "..."]}` on each line; other keys are passed over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Final

from registry.errors import BadData

MAX_LINE_BYTES: Final = 1_000_000
MAX_DIALOGUES: Final = 100_000
_FORM: Final = 'a line is {"turns": ["first thing the user said", "second thing"]}'


def read_dialogues(lines: IO[bytes]) -> Iterator[list[str]]:
    """The user's turns of each dialogue, in order; empty lines are passed over.

    Raises:
        BadData: a line is too long or not of the form, or there are more than `MAX_DIALOGUES`.
    """
    number = count = 0
    while line := lines.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise BadData(f"line {number} is longer than {MAX_LINE_BYTES} bytes", hint=_FORM)
        if not line.strip():
            continue
        count += 1
        if count > MAX_DIALOGUES:
            raise BadData(f"more than {MAX_DIALOGUES} dialogues at once", hint="split them over several calls")
        yield _turns(line, number)


def _turns(line: bytes, number: int) -> list[str]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError too
        raise BadData(f"line {number} is not JSON: {error}", hint=_FORM) from error
    turns = found.get("turns") if isinstance(found, dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise BadData(f'line {number} has no "turns" that are a list of texts', hint=_FORM)
    return turns
