"""The bodies and replies of the small interface."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from node.generation import GenerationSettings
from node.serving.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    FinishReason,
    Format,
    Message,
    Sampling,
    Usage,
)

MOST_TURNS = 4_096
MOST_TEXTS = 2_048
ModelName = Annotated[str, Field(max_length=300, description="Which model; empty for the first that was started")]
Schema = Annotated[dict[str, Any] | None, Field(description="JSON schema that the answer follows")]
Text = Annotated[str, Field(min_length=1)]


class Asked(GenerationSettings):
    """What every question has: the model, and the generation settings that differ from the server's."""

    model_config = ConfigDict(strict=True)

    model: ModelName = ""
    json_schema: Schema = None

    def sampling(self) -> Sampling:
        """What was said of the settings, and nothing where nothing was."""
        said = self.model_dump(include=self.model_fields_set & GenerationSettings.model_fields.keys())
        return Sampling(**said)

    def format(self) -> Format | None:
        """What the answer follows."""
        return Format("json_schema", json.dumps(self.json_schema)) if self.json_schema is not None else None


class Turn(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class ChatBody(Asked):
    """A conversation to be continued, or one question as `prompt`."""

    messages: Annotated[tuple[Turn, ...], Field(max_length=MOST_TURNS)] = ()
    prompt: str = ""

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        if bool(self.messages) == bool(self.prompt):
            raise ValueError("give messages, or one question as prompt")
        return self

    def request(self, model: str, tenant: str) -> ChatRequest:
        """The neutral form."""
        turns = tuple(Message(turn.role, turn.content) for turn in self.messages) or (Message("user", self.prompt),)
        return ChatRequest(model, turns, self.sampling(), format=self.format(), tenant=tenant)


class CompleteBody(Asked):
    """A text to be continued."""

    prompt: Text

    def request(self, model: str, tenant: str) -> CompletionRequest:
        """The neutral form."""
        return CompletionRequest(model, self.prompt, self.sampling(), format=self.format(), tenant=tenant)


class EmbedBody(BaseModel):
    """Texts to be turned into vectors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    model: ModelName = ""
    texts: Annotated[tuple[Text, ...], Field(min_length=1, max_length=MOST_TEXTS)]

    def request(self, model: str, tenant: str) -> EmbeddingRequest:
        """The neutral form."""
        return EmbeddingRequest(model, self.texts, tenant=tenant)


class UsageReply(BaseModel):
    """Tokens of a request; `cached_tokens` of the prompt's needed no computation."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """As it is said here."""
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
        )


class AnswerReply(BaseModel):
    """A whole answer, and why it ended: `stop` by itself, `length` at a limit."""

    model: str
    text: str
    finish: FinishReason
    usage: UsageReply


class PieceReply(BaseModel):
    """A piece of an answer; the last one has `finish` and `usage`."""

    text: str
    finish: FinishReason | None = None
    usage: UsageReply | None = None


class EmbedReply(BaseModel):
    """One vector of length 1 for each text."""

    model: str
    vectors: list[list[float]]
    prompt_tokens: int
