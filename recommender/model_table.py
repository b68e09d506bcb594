"""A user's own table of models and scores, in CSV (with a first line of names) or JSON (a list of objects).

    model             the name; the one thing that must be there
    kind              generative (if not said), encoder or embedding
    parameters_b      billions of parameters        active_b           of these at work, in mixtures of experts
    context_tokens    longest text                  memory_gb          published figure for inference
    license           SPDX                          languages          ISO 639-1, such as: de en
    tasks domains subdomains                        released           such as 2026-11-21
    weights           local (if not said) or api    price_usd_per_mtok of a rented one

and, to state a score, on a line of its own if there are several:

    score             0 to 100                      benchmark          what it is called
    task              what it is of                 rows               how many there were
    half_width        of its 95 % interval          source             who measured it, and score_license its licence

Several words stand in one cell with spaces, commas, semicolons or bars between them. A model may stand on several
lines: the first that states a fact counts.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from recommender.candidate import MAX_ID_CHARS, Candidate, Kind
from recommender.snapshot.files import merged
from recommender.snapshot.licences import licence, sellable
from registry.errors import BadData

MAX_TABLE_BYTES: Final = 32 << 20
MAX_LINES: Final = 100_000
_BETWEEN: Final = re.compile(r"[\s,;|]+")


def _split(value: Any) -> Any:
    return [word for word in _BETWEEN.split(value) if word] if isinstance(value, str) else value


Word = Annotated[str, Field(min_length=1, max_length=100)]
Words = Annotated[tuple[Word, ...], BeforeValidator(_split), Field(max_length=200)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Line(BaseModel):
    """One line of a table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
    kind: Kind = "generative"
    parameters_b: Number | None = None
    active_b: Number | None = None
    context_tokens: Annotated[int, Field(gt=0, le=1 << 40)] | None = None
    memory_gb: Number | None = None
    license: Annotated[str, Field(max_length=200)] | None = None
    languages: Words = ()
    tasks: Words = ()
    domains: Words = ()
    subdomains: Words = ()
    released: date | None = None
    weights: Literal["local", "api"] = "local"
    price_usd_per_mtok: Number | None = None
    score: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    benchmark: Annotated[str, Field(max_length=200)] = ""
    task: Annotated[str, Field(max_length=100)] = ""
    rows: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    half_width: Annotated[float, Field(ge=0, le=100)] | None = None
    source: Annotated[str, Field(max_length=200)] = ""
    score_license: Annotated[str, Field(max_length=200)] = ""

    def candidate(self) -> Candidate:
        """The facts of the line. Raises BadData for a licence that SPDX does not list."""
        spdx = licence(self.license or "")
        if self.license and spdx is None:
            raise BadData(
                f"license: {self.license!a:.60} is no SPDX identifier", "such as Apache-2.0; leave it out else"
            )
        return Candidate(
            self.model,
            "import",
            self.kind,
            parameters_b=self.parameters_b,
            active_b=self.active_b,
            context_tokens=self.context_tokens,
            license=spdx,
            commercial=sellable(spdx),
            languages=self.languages,
            tasks=self.tasks,
            domains=self.domains,
            subdomains=self.subdomains,
            weights=self.weights,
            price_usd_per_mtok=self.price_usd_per_mtok,
            released=self.released,
            memory_gb=self.memory_gb,
        )


@dataclass(frozen=True, slots=True)
class ModelTable:
    """What a table says: the models by name, and the lines with a score."""

    candidates: Mapping[str, Candidate]
    scores: tuple[Line, ...]


def read_table(data: bytes, name: str) -> ModelTable:
    """Read a table; raises BadData naming the line and the column that cannot be read."""
    if len(data) > MAX_TABLE_BYTES:
        raise BadData(f"{name} is larger than {MAX_TABLE_BYTES >> 20} MiB", "divide it")
    parts, lines = [], []
    for where, record in _records(data, name):
        try:
            line = Line.model_validate(record)
            parts.append({line.model: line.candidate()})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            column = ".".join(map(str, first["loc"]))
            known = f"the columns are {', '.join(Line.model_fields)}"
            raise BadData(f"{name}, {where}: {column!a:.60}: {first['msg']}", known) from None
        except BadData as error:
            raise BadData(f"{name}, {where}: {error.message}", error.hint) from None
        if line.score is not None:
            lines.append(line)
    if not parts:
        raise BadData(f"{name} names no model", "its first line names the columns, each other line a model")
    return ModelTable(merged(parts), tuple(lines))


def _records(data: bytes, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each record with the place where it stands."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadData(f"{name}, line {line}: not UTF-8", "save it as UTF-8") from None
    read = _of_json if text.lstrip().startswith(("[", "{")) else _of_csv
    for count, found in enumerate(read(text, name)):
        if count >= MAX_LINES:
            raise BadData(f"{name} has more than {MAX_LINES:,} lines", "divide it")
        yield found


def _of_json(text: str, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise BadData(f"{name}, line {line}: not JSON", "a list of objects, one for each model or score") from None
    if not isinstance(items, list):
        raise BadData(f"{name} is no list", "a list of objects, one for each model or score")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise BadData(f"{name}, item {number}: not an object", "one object for each model or score")
        yield f"item {number}", item


def _of_csv(text: str, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row:
                raise BadData(f"{name}, {where}: more cells than columns", "put texts with commas in double quotes")
            said = {column.strip(): value.strip() for column, value in row.items() if value and value.strip()}
            if said:
                yield where, said
    except csv.Error as error:
        raise BadData(f"{name}, line {reader.line_num}: {error}", "is it a CSV file?") from None
