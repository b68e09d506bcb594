"""How answers of `node start` are made: one model of settings for each family, and where their values come from.

Strongest first: flags, environment `BANYAN_START_*`, a TOML file, the model's own generation_config.json, the defaults
of its family (what its makers recommend). A key that nobody knows is an error that names the nearest.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.config_file import read_config
from node.settings import START_PREFIX
from registry.errors import BadData

GENERATION_CONFIG: Final = "generation_config.json"
MAX_BYTES: Final = 1 << 20
TokenId = Annotated[int, Field(ge=0, le=1 << 24)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class GenerationSettings(BaseModel):
    """What holds for a request that does not say otherwise. The fields are those that requests have as well."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    max_tokens: int = Field(256, ge=1, le=1 << 24, description="Longest answer, in tokens")
    temperature: float = Field(1.0, ge=0, le=2, description="Spread of the draw; 0 takes the likeliest token")
    top_k: int = Field(0, ge=0, le=1 << 24, description="Draw among so many likeliest tokens; 0 for all")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw among the likeliest tokens of so much probability together")
    min_p: float = Field(0.0, ge=0, le=1, description="Least probability of a token, as a share of the likeliest one's")
    repetition_penalty: float = Field(
        1.0, ge=0.01, le=100, description="Divides what was in prompt or answer already; 1 for none"
    )
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Taken off each token that was in the answer already")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="The same, once for each time that it was")
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] = Field(
        {}, max_length=1024, description='Added to tokens by their id, as JSON: {"17": -5}'
    )
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63, description="Same seed, same answer; none by default")
    stop: tuple[StopText, ...] = Field((), max_length=16, description="Texts that end an answer; may be repeated")
    stop_token_ids: tuple[TokenId, ...] = Field(
        (), max_length=1024, description="Tokens that end an answer; may be repeated"
    )
    ignore_eos: bool = Field(False, description="Go on to the length limit, past the model's own end (true or false)")


class LlamaSettings(GenerationSettings):
    """Llama, by the generation_config.json of Llama-3.1-8B-Instruct."""

    temperature: float = Field(0.6, ge=0, le=2)
    top_p: float = Field(0.9, gt=0, le=1)


class SmolSettings(GenerationSettings):
    """SmolLM3, by its model card."""

    temperature: float = Field(0.6, ge=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)


class MistralSettings(GenerationSettings):
    """Mistral, by the default of its makers' API."""

    temperature: float = Field(0.7, ge=0, le=2)


class Qwen2Settings(GenerationSettings):
    """Qwen 2.5, by the generation_config.json of Qwen2.5-7B-Instruct."""

    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(0.8, gt=0, le=1)
    top_k: int = Field(20, ge=0, le=1 << 24)
    repetition_penalty: float = Field(1.05, ge=0.01, le=100)


class Qwen3Settings(GenerationSettings):
    """Qwen 3, by the generation_config.json of Qwen3-8B."""

    temperature: float = Field(0.6, ge=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(20, ge=0, le=1 << 24)


class GemmaSettings(GenerationSettings):
    """Gemma, by the generation_config.json of gemma-3-4b-it."""

    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(64, ge=0, le=1 << 24)


# By `model_type`; every other family has the settings without an opinion.
FAMILIES: Final[Mapping[str, type[GenerationSettings]]] = {
    "llama": LlamaSettings,
    "smollm3": SmolSettings,
    "mistral": MistralSettings,
    "qwen2": Qwen2Settings,
    "qwen3": Qwen3Settings,
    "gemma": GemmaSettings,
    "gemma2": GemmaSettings,
    "gemma3_text": GemmaSettings,
}
# What generation_config.json calls the settings that it may hold; all else in it is not about sampling.
NAMES_THERE: Final = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
}


class Said(BaseModel):
    """What a person said: values by key, and where each was said."""

    model_config = ConfigDict(frozen=True)

    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def settings(self, family: str, model_says: Mapping[str, Any]) -> GenerationSettings:
        """The settings of a model. Raises BadData naming the key, its origin and the reason."""
        kind = FAMILIES.get(family, GenerationSettings)
        try:
            return kind.model_validate({**_sound(kind, model_says), **self.values})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = str(first["loc"][0])
            where = self.origins.get(key, "default")
            raise BadData(
                f"{key} = {str(self.values.get(key))[:80]} ({where}) does not fit: {first['msg']}", "node start --help"
            ) from error


def said_by(flags: Mapping[str, Any], environment: Mapping[str, str] | None = None, file: Path | None = None) -> Said:
    """Everything that was said about generation, the strongest place winning; a flag that is None was not said.

    Raises BadData when a key is not known or the file is not TOML, LocalFailure when the file cannot be read.
    """
    variables = os.environ if environment is None else environment
    by_variable = {
        name: (name.removeprefix(START_PREFIX).lower(), text)
        for name, text in variables.items()
        if name.startswith(START_PREFIX)
    }
    if file is not None and not file.is_file():
        raise BadData(f"there is no file {file}", "give a TOML file with generation settings")
    stored = read_config(file) if file is not None else {}
    given = {key: value for key, value in flags.items() if value not in (None, ())}
    places = (
        [(key, value, f"{key} in {file}") for key, value in stored.items()],
        [(key, text, name) for name, (key, text) in by_variable.items()],
        [(key, value, f"--{key.replace('_', '-')}") for key, value in given.items()],
    )
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key, value, origin in (one for place in places for one in place):
        if key not in GenerationSettings.model_fields:
            raise BadData(f"unknown generation setting: {origin}", nearest(key))
        values[key], origins[key] = _value(key, value, origin), origin
    Said(values=values, origins=origins).settings("", {})  # refused now, not when the first model is loaded
    return Said(values=values, origins=origins)


def model_says(folder: Path) -> dict[str, Any]:
    """What a model's folder says in generation_config.json, by our keys; an unreadable file says nothing.

    `do_sample: false` means that the makers take the likeliest token; where it is left out, nothing is known.
    """
    try:
        with (folder / GENERATION_CONFIG).open("rb") as source:
            config = json.loads(source.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    found = {ours: config[theirs] for theirs, ours in NAMES_THERE.items() if config.get(theirs) is not None}
    return {**found, "temperature": 0.0} if config.get("do_sample") is False else found


def nearest(key: str) -> str:
    """The end of a sentence that names the setting most like this one."""
    close = difflib.get_close_matches(key.lower(), GenerationSettings.model_fields, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "see: node start --help"


def is_many(key: str) -> bool:
    """Whether a setting is a list, whose flag may be repeated."""
    return get_origin(GenerationSettings.model_fields[key].annotation) is tuple


def _value(key: str, value: Any, origin: str) -> Any:
    """Text of a flag or variable as what it writes: JSON for lists and tables, a single text as a list of one."""
    is_table = get_origin(GenerationSettings.model_fields[key].annotation) is dict
    if isinstance(value, str) and ((is_many(key) and value.startswith("[")) or is_table):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadData(f"{origin} is not JSON: {value[:80]}", 'such as {"17": -5}, or ["one", "two"]') from error
    return [value] if isinstance(value, str) and is_many(key) else value


def _sound(kind: type[GenerationSettings], found: Mapping[str, Any]) -> dict[str, Any]:
    """What a model says, without values that no setting may have: its maker is not here to be told of an error."""
    sound = {}
    for key, value in found.items():
        try:
            kind.model_validate({key: value})
        except ValidationError:
            continue
        sound[key] = value
    return sound
