"""`response_format`: what an answer has to follow."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from node.api.openai.bodies import Body
from node.serving.requests import Format

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextFormat(Body):
    """Plain text."""

    type: Literal["text"]


class ObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A JSON schema under a name; it is followed exactly whether `strict` or not. `description` has no effect."""

    name: FunctionName
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Body):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(Body):
    """Text that matches a regular expression as a whole. Not in OpenAI's documents."""

    type: Literal["regex"]
    regex: Annotated[str, Field(min_length=1)]


class GrammarFormat(Body):
    """Text by a grammar in Lark's notation, as llguidance reads it. Not in OpenAI's documents."""

    type: Literal["grammar"]
    grammar: Annotated[str, Field(min_length=1)]


ResponseFormat = Annotated[
    TextFormat | ObjectFormat | SchemaFormat | RegexFormat | GrammarFormat, Field(discriminator="type")
]


def format_of(wanted: ResponseFormat | None) -> Format | None:
    """The neutral form of what an answer must follow."""
    match wanted:
        case SchemaFormat(json_schema=named):
            return Format("json_schema", json.dumps(named.schema_), named.name, named.strict)
        case ObjectFormat():
            return Format("json_object")
        case RegexFormat(regex=text):
            return Format("regex", text)
        case GrammarFormat(grammar=text):
            return Format("lark", text)
        case _:
            return None
