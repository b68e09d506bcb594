"""Distillation sets: prompts with a teacher's answers, and where tokenizers are the same, what else it might have said.

A line is that of a row (`registry.rows`) with `top`: for every token of the answer, its end mark included, the
likeliest tokens with their log-probabilities, in that order. Whether the student can use them is left to `sync.distil`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from registry.documents import MAX_TOP
from registry.errors import BadData
from registry.rows import Row, RowLine, read_lines, write_lines

TopTokens = tuple[tuple[int, float], ...]  # (token, its log-probability), the likeliest first

MAX_ANSWER_TOKENS: Final = 4096
MAX_TOKEN: Final = (1 << 31) - 1
SLACK: Final = 1e-2  # by which rounded probabilities may be more than one together
DIGITS: Final = 4

_Token = Annotated[int, Field(ge=0, le=MAX_TOKEN)]
_LogProbability = Annotated[float, Field(le=0, allow_inf_nan=False)]
_Top = Annotated[tuple[tuple[_Token, _LogProbability], ...], Field(min_length=1, max_length=MAX_TOP)]


@dataclass(frozen=True, slots=True)
class TaughtRow:
    """A prompt with its teacher's answer; `top` holds the teacher's choices at each token of it, or nothing."""

    row: Row
    top: tuple[TopTokens, ...] = ()


class _TaughtLine(RowLine):
    top: Annotated[tuple[_Top, ...], Field(min_length=1, max_length=MAX_ANSWER_TOKENS)] | None = None

    @classmethod
    def of_taught(cls, taught: TaughtRow) -> _TaughtLine:
        rounded = tuple(tuple((token, min(0.0, round(value, DIGITS))) for token, value in at) for at in taught.top)
        return cls.model_validate({**dict(RowLine.of(taught.row)), "top": rounded or None})


def write_taught(rows: Iterable[TaughtRow], file: Path) -> None:
    """Write a distillation set (U14); raises as `write_rows` does."""
    write_lines(_TaughtLine, (partial(_TaughtLine.of_taught, row) for row in rows), file)


def read_taught(file: Path, max_bytes: int, rows: int, top: int) -> list[TaughtRow]:
    """Read a set of so many rows with so many choices at each token (U14, C32).

    Raises BadData, naming the line: for another number of either, for choices that are no distribution, and for a
    prompt that is asked twice, which would contradict itself or count double; LocalFailure if the file cannot be read.
    """
    lines = read_lines(_TaughtLine, file, max_bytes, rows)
    if len(lines) != rows:
        raise BadData(f"{file.name} has {len(lines)} rows, {rows} were declared")
    found = [TaughtRow(line.row(), line.top or ()) for line in lines]
    first: dict[tuple[object, ...], int] = {}
    for number, taught in enumerate(found, 1):
        where, row = f"{file.name}, line {number}", taught.row
        before = first.setdefault((row.input, row.task, row.history, row.lang, row.domain, row.subdomain), number)
        if before != number:
            same = found[before - 1].row.output == row.output
            raise BadData(f"{where}: asks what line {before} asks" + ("" if same else ", and contradicts its answer"))
        if not row.output:
            raise BadData(f"{where}: has no answer")
        _check_top(taught.top, top, where)
    return found


def _check_top(choices: Sequence[TopTokens], top: int, where: str) -> None:
    """Raise BadData unless there are `top` different tokens at each place, and their probabilities can be some."""
    if bool(choices) != bool(top):
        raise BadData(f"{where}: {'no' if top else 'undeclared'} log-probabilities; {top} at each token were declared")
    for at, tokens in enumerate(choices, 1):
        values = [value for _, value in tokens]
        if len(tokens) != top:
            raise BadData(f"{where}: {len(tokens)} log-probabilities at token {at}, {top} were declared")
        if len({token for token, _ in tokens}) != len(tokens):
            raise BadData(f"{where}: a token is named twice at token {at}")
        if values != sorted(values, reverse=True):
            raise BadData(f"{where}: the likeliest is not the first at token {at}")
        if math.fsum(map(math.exp, values)) > 1 + SLACK:
            raise BadData(f"{where}: the probabilities at token {at} are more than one together")
