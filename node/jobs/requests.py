"""What a job can be asked for: one model of arguments per kind, and where its files may lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from registry.errors import BadData, BanyanError
from registry.home import Home
from registry.paths import NodePath, Ref

_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def _ref(text: str) -> str:
    try:
        return str(Ref.parse(text))
    except BanyanError as error:
        raise ValueError(error.message) from None


def _path(text: str) -> str:
    try:
        return str(NodePath.parse(text))
    except BanyanError as error:
        raise ValueError(error.message) from None


RefText = Annotated[
    str,
    Field(max_length=300, description="a model of the tree, such as en/finance or en/finance@v2"),
    AfterValidator(_ref),
]
PathText = Annotated[
    str, Field(max_length=300, description="a place of the tree, such as en/finance"), AfterValidator(_path)
]
FileText = Annotated[str, Field(min_length=1, max_length=1_000, description="a file of rows")]


class Request(BaseModel):
    """What all kinds share: no other fields, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class CloneArguments(Request):
    """Fetch a model of the tree, verify it, and write it as a folder that PEFT loads."""

    model: RefText
    out: Annotated[str, Field(max_length=1_000, description="a new folder; named after the model if not given")] = ""


class CloneRequest(CloneArguments):
    """A clone as a job."""

    kind: Literal["clone"] = "clone"


class FinetuneArguments(Request):
    """Train an adapter for a place of the tree on rows, which stay on this machine; the result is its new release."""

    model: PathText
    data: FileText
    method: Annotated[
        Literal["replay", "orthogonal", "osf", "plain"] | None,
        Field(description="go on beside the adapter that is there, by this method"),
    ] = None
    rank: Annotated[int, Field(ge=1, le=256)] | None = None
    epochs: Annotated[int, Field(ge=1, le=1_000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None


class FinetuneRequest(FinetuneArguments):
    """A fine-tune as a job."""

    kind: Literal["finetune"] = "finetune"


class EvaluateArguments(Request):
    """Measure a model of the tree on rows with input and output; the figures are kept as evidence."""

    model: RefText
    data: FileText


class EvaluateRequest(EvaluateArguments):
    """An evaluation as a job."""

    kind: Literal["evaluate"] = "evaluate"


JobRequest = Annotated[CloneRequest | FinetuneRequest | EvaluateRequest, Field(discriminator="kind")]
_REQUESTS: Final[TypeAdapter[CloneRequest | FinetuneRequest | EvaluateRequest]] = TypeAdapter(JobRequest)


def read_request(values: object) -> JobRequest:
    """A request from plain values. Raises BadData naming the field that does not fit."""
    try:
        return _REQUESTS.validate_python(values)
    except ValidationError as error:
        raise BadData(first_problem(error), "node jobs add --help") from None


def first_problem(error: ValidationError) -> str:
    """The first field that does not fit, and why."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("clone", "finetune", "evaluate"))
    return f"{where or 'the job'}: {first['msg'].removeprefix('Value error, ')}"


def placed(asked: JobRequest, home: Home, *, from_outside: bool) -> JobRequest:
    """The request with whole paths.

    Who asks from outside names files of the folder `data/` and folders in `clones/` of the home alone, so that nothing
    else on this machine is read or written for them. Raises BadData for other names, and where the file is not there.
    """
    changes: dict[str, Any] = {}
    if isinstance(asked, CloneRequest):
        if asked.out:
            changes["out"] = str(home.clones / _plain(asked.out) if from_outside else _whole(asked.out))
    else:
        file = home.data / _plain(asked.data) if from_outside else _whole(asked.data)
        if not file.is_file():
            where = " in the folder data/ of this node" if from_outside else ""
            raise BadData(f"there is no file {asked.data}{where}", "name a file of rows, such as rows.jsonl")
        changes["data"] = str(file)
    return asked.model_copy(update=changes)


def _whole(name: str) -> Path:
    return Path(name).expanduser().absolute()


def _plain(name: str) -> str:
    if _PLAIN_NAME.fullmatch(name) is None:
        raise BadData(f"not a plain name: {name!a:.100}", "letters, digits and . _ - alone, without folders")
    return name
