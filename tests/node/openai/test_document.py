"""Requests made from the OpenAPI document, good and bad ones: no error of ours, and nothing bad is taken."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, response_schema_conformance

from tests.node.openai.conftest import World

PLACES = {
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/embeddings": None,
}
CHECKS = [not_a_server_error, negative_data_rejection, response_schema_conformance]
EXAMPLES = 25


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("place", PLACES)
def test_the_interface_keeps_to_its_document(world: World, place: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_url(f"{world.url}/openapi.json")[place]["POST"]
    taken = 0

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        nonlocal taken
        name = case.body.get("model") if isinstance(case.body, dict) else None
        if isinstance(name, str) and 1 <= len(name) <= 300:
            case.body["model"] = "en"  # no made-up name is a model
            if (limit := PLACES[place]) is not None and mode is GenerationMode.POSITIVE:
                case.body[limit] = 2
        reply = case.call_and_validate(checks=CHECKS)
        taken += reply.status_code == 200

    ask()
    assert taken or mode is GenerationMode.NEGATIVE


@pytest.mark.parametrize("place", PLACES)
def test_every_body_is_in_the_document_and_refuses_unknown_fields(world: World, place: str) -> None:
    document = httpx.get(f"{world.url}/openapi.json").json()
    name = document["paths"][place]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][name.rpartition("/")[2]]
    assert schema["additionalProperties"] is False
    assert "model" in schema["required"]
