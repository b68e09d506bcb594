"""What request bodies share: strict models, and reading one from the bytes of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from fastapi import Depends
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from node.api.bodies import bounded_body
from node.serving.errors import Refused, UnknownModel
from node.serving.requests import Sampling

BODY_BYTES: Final = 4 << 20  # several times the longest context, in any language
MAX_N: Final = 128
ModelName = Annotated[str, Field(min_length=1, max_length=300)]
Count = Annotated[int, Field(ge=0, le=1 << 24)]
TokenId = Annotated[int, Field(ge=0, le=1 << 24)]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]


class Body(BaseModel):
    """A JSON object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class StreamOptions(Body):
    """How to stream. `include_obfuscation` has no effect: nothing is padded here."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SamplingBody(Body):
    """How tokens are chosen. From top_k on, the fields are those that vLLM and others have beside OpenAI's."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=4096)] | None = None
    top_k: Count | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024)] | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def _options_only_of_streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for requests with stream: true")
        return self

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with a piece that counts tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_tokens: int | None, logprobs: int | None) -> Sampling:
        """The neutral form."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=self.logit_bias or {},
            seed=self.seed,
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
        )


class TextPart(Body):
    """A part of a turn that is text; images, sounds and files are not read here."""

    type: Literal["text"]
    text: str


AnyBody = TypeVar("AnyBody", bound=BaseModel)


def body_of(model: type[AnyBody]) -> Callable[[bytes], AnyBody]:
    """A dependency that gives the body of a request as a model. Raises Refused naming the field that does not fit."""

    def read(data: Annotated[bytes, Depends(bounded_body(BODY_BYTES))]) -> AnyBody:
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise _as_refused(error.errors(include_url=False, include_input=False, include_context=False)[0]) from None

    return read


def described(model: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route with this body; the schema itself is added by `node.api.document`."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@contextmanager
def called(names: Mapping[str, str]) -> Iterator[None]:
    """Refusals under the names that the fields have in this interface."""
    try:
        yield
    except UnknownModel:
        raise
    except Refused as error:
        raise Refused(names.get(error.field, error.field), error.message, error.hint, error.code) from error


def _as_refused(error: ErrorDetails) -> Refused:
    where = [str(part) for part in error["loc"]]
    field = ".".join(where)[:200]
    if error["type"] == "json_invalid":
        return Refused("", f"the body is not JSON in UTF-8: {error['msg']}", "send a JSON object", "invalid_json")
    if error["type"] == "extra_forbidden":
        message = f"{field!a} is not a field that is known or supported here"
        return Refused(field, message, "leave it out; see /openapi.json", "unknown_parameter")
    if error["type"] == "missing":
        return Refused(field, f"{field} is missing", "see /openapi.json", "missing_required_parameter")
    message = error["msg"].removeprefix("Value error, ")
    return Refused(field, f"{field or 'the body'}: {message}", "see /openapi.json")
