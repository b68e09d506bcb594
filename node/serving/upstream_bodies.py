"""Bodies of requests to an OpenAI-compatible server, from neutral requests.

Fields that are not in the OpenAI documents (top_k, min_p, ...) are sent where the asker set them: vLLM, SGLang and
llama-server know them, a server that does not has to say so.
"""

from __future__ import annotations

import json
from typing import Any

from node.serving.errors import Refused
from node.serving.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Format,
    Message,
    NamedTool,
    Sampling,
    Tool,
    ToolChoice,
)

SAME_NAME = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


def chat_body(request: ChatRequest) -> dict[str, Any]:
    """The body of POST /chat/completions, streamed. Raises Refused for what the wire format cannot say."""
    body = _common(request)
    body["messages"] = [_message(message) for message in request.messages]
    if request.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.sampling.logprobs}
    if request.tools:
        body["tools"] = [{"type": "function", "function": _tool(tool)} for tool in request.tools]
        body["tool_choice"] = _choice(request.tool_choice)
        if not request.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    return body


def completion_body(request: CompletionRequest) -> dict[str, Any]:
    """The body of POST /completions, streamed. Raises Refused for what the wire format cannot say."""
    body = _common(request)
    body["prompt"] = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
    if request.echo:
        body["echo"] = True
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    return body


def embedding_body(request: EmbeddingRequest) -> dict[str, Any]:
    """The body of POST /embeddings."""
    inputs = [text if isinstance(text, str) else list(text) for text in request.inputs]
    body = {"model": request.model, "input": inputs, "encoding_format": "float"}
    return body if request.dimensions is None else body | {"dimensions": request.dimensions}


def _common(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {"model": request.model, "stream": True, "stream_options": {"include_usage": True}}
    body |= {name: value for name in SAME_NAME if (value := getattr(sampling, name)) is not None}
    body |= _sets(sampling)
    if request.n != 1:
        body["n"] = request.n
    if request.format is not None:
        body["response_format"] = _format(request.format)
    return body


def _sets(sampling: Sampling) -> dict[str, Any]:
    """What holds several values, where it holds any."""
    given: dict[str, Any] = {
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias.items()},
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "ignore_eos": sampling.ignore_eos,
    }
    return {name: value for name, value in given.items() if value}


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    if wanted.kind != "json_schema":
        raise Refused("format", f"a {wanted.kind} cannot be sent to another server", "use a JSON schema")
    described = {"name": wanted.name, "schema": json.loads(wanted.text)}
    strict = {} if wanted.strict is None else {"strict": wanted.strict}
    return {"type": "json_schema", "json_schema": described | strict}


def _choice(choice: ToolChoice) -> Any:
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedTool) else choice


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        body["name"] = message.name
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        calls = [(call.id, {"name": call.name, "arguments": call.arguments}) for call in message.tool_calls]
        body["tool_calls"] = [{"id": own, "type": "function", "function": function} for own, function in calls]
    return body


def _tool(tool: Tool) -> dict[str, Any]:
    body: dict[str, Any] = {"name": tool.name, "parameters": dict(tool.parameters)}
    if tool.description:
        body["description"] = tool.description
    return body | ({"strict": True} if tool.strict else {})
