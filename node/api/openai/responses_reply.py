"""The reply of /v1/responses as it grows: its events in OpenAI's order, and the whole at the end."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from node.api.openai.responses_body import ResponseBody
from node.serving.requests import Delta, FinishReason, TokenLogprob, ToolCallDelta, Usage

Value = dict[str, Any]


class ResponseWriter:
    """One reply: `begin`, then `add` for each piece, then `end`; each gives the events that follow.

    A reply is a list of items, each a message with one part of text or a call; an item ends where the next begins.
    """

    def __init__(self, body: ResponseBody, created: int) -> None:
        self._body = body
        self._number = 0
        self._item: Value | None = None
        self._call: int | None = None  # which call the open item is
        self._finish = FinishReason.STOP
        self._usage: Usage | None = None
        self.response = _empty(body, created)

    def begin(self) -> Iterator[Value]:
        """The events before any text."""
        yield self._event("response.created", response=self._snapshot())
        yield self._event("response.in_progress", response=self._snapshot())

    def add(self, delta: Delta) -> Iterator[Value]:
        """The events of one piece."""
        if delta.text or (delta.logprobs and self._in_message):
            yield from self._text(delta)
        for call in delta.tool_calls:
            yield from self._called(call)
        self._finish = delta.finish or self._finish
        self._usage = delta.usage or self._usage

    def end(self) -> Iterator[Value]:
        """The last events; `response` is whole then."""
        cut = self._finish == FinishReason.LENGTH
        if not self.response["output"]:
            yield from self._open(_message())
            yield from self._open_part()
        yield from self._close("incomplete" if cut else "completed")
        self.response["status"] = "incomplete" if cut else "completed"
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        self.response["usage"] = _usage(self._usage or Usage(0, 0))
        yield self._event(f"response.{self.response['status']}", response=self._snapshot())

    @property
    def _in_message(self) -> bool:
        return self._item is not None and self._item["type"] == "message"

    def _text(self, delta: Delta) -> Iterator[Value]:
        if not self._in_message:
            yield from self._close("completed")
            yield from self._open(_message())
            yield from self._open_part()
        assert self._item is not None  # noqa: S101  for the type checker: it was opened above
        part, logprobs = self._item["content"][0], _logprobs(delta.logprobs)
        part["text"] += delta.text
        part["logprobs"] += logprobs
        yield self._event("response.output_text.delta", **self._place, delta=delta.text, logprobs=logprobs)

    def _called(self, call: ToolCallDelta) -> Iterator[Value]:
        if self._item is None or self._item["type"] != "function_call" or self._call != call.index:
            yield from self._close("completed")
            self._call = call.index
            item = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": "in_progress"}
            yield from self._open({**item, "call_id": call.id, "name": call.name, "arguments": ""})
        if self._item is not None and call.arguments:
            self._item["arguments"] += call.arguments
            place = {"item_id": self._item["id"], "output_index": len(self.response["output"]) - 1}
            yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)

    def _open(self, item: Value) -> Iterator[Value]:
        self._item = item
        self.response["output"].append(item)
        shown = {**item, "content": []} if item["type"] == "message" else dict(item)
        yield self._event("response.output_item.added", output_index=len(self.response["output"]) - 1, item=shown)

    def _open_part(self) -> Iterator[Value]:
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        if self._item is not None:
            self._item["content"].append(part)
        yield self._event(
            "response.content_part.added", **self._place, part={**part, "annotations": [], "logprobs": []}
        )

    def _close(self, status: str) -> Iterator[Value]:
        item, self._item = self._item, None
        if item is None:
            return
        item["status"] = status
        index = len(self.response["output"]) - 1
        place = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            part = item["content"][0]
            within = {**place, "content_index": 0}
            yield self._event("response.output_text.done", **within, text=part["text"], logprobs=part["logprobs"])
            yield self._event("response.content_part.done", **within, part=part)
        else:
            yield self._event(
                "response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"]
            )
        yield self._event("response.output_item.done", output_index=index, item=item)

    @property
    def _place(self) -> Value:
        item_id = self._item["id"] if self._item is not None else ""
        return {"item_id": item_id, "output_index": len(self.response["output"]) - 1, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> Value:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _snapshot(self) -> Value:
        return {**self.response, "output": list(self.response["output"])}


def _message() -> Value:
    return {
        "id": f"msg_{uuid.uuid4().hex}", "type": "message", "status": "in_progress", "role": "assistant", "content": [],
    }  # fmt: skip


def _empty(body: ResponseBody, created: int) -> Value:
    said = body.model_dump(mode="json", by_alias=True)
    wanted = (said["text"] or {}).get("format") or {"type": "text"}
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "store": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": wanted},
        "tool_choice": said["tool_choice"] or "auto",
        "tools": said["tools"] or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
    }


def _usage(usage: Usage) -> Value:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _logprobs(found: Sequence[TokenLogprob]) -> list[Value]:
    return [
        {
            "token": one.token,
            "bytes": list(one.bytes or b""),
            "logprob": one.logprob,
            "top_logprobs": [
                {"token": other.token, "bytes": list(other.bytes or b""), "logprob": other.logprob} for other in one.top
            ],
        }
        for one in found
    ]
