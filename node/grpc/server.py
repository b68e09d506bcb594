"""The gRPC server: messages to the bodies of the small interface, its replies and errors back. No rules of its own.

Messages have a limit of bytes, calls one of number and of time (the caller's deadline where it is earlier). A caller
that leaves, or whose deadline passes, ends the work.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection

from node.api.errors import answer_to
from node.api.openai.bodies import BODY_BYTES, body_of
from node.api.simple.admission import admission
from node.api.simple.answers import Answers
from node.api.simple.bodies import ChatBody, CompleteBody, EmbedBody, UsageReply
from node.grpc import banyan_pb2 as wire
from node.grpc import banyan_pb2_grpc
from node.settings import Settings
from registry.errors import LocalFailure

log = logging.getLogger(__name__)

REPLY_BYTES: Final = 64 << 20
CALLS_AT_A_TIME: Final = 384
CALL_S: Final = 3_600.0  # for callers that give no deadline

# The status of an answer over HTTP as one of gRPC (https://grpc.github.io/grpc/core/md_doc_statuscodes.html).
CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
BUSY: Final = "overloaded"  # one of the reasons of a 503, which has a code of its own here


class Servicer:
    """The calls of the interface."""

    def __init__(self, answers: Answers, keys: Sequence[str], call_s: float = CALL_S) -> None:
        self._answers = answers
        self._admit = admission(keys)
        self._call_s = call_s

    async def Chat(self, request: Message, context: Any) -> AsyncGenerator[Message, None]:  # noqa: N802  gRPC's names
        """The next turn of a conversation, piece by piece."""
        async with self._call(context) as tenant:
            body = body_of(ChatBody)(_json(request))
            async with aclosing(self._answers.pieces(body, tenant)) as pieces:
                async for piece in pieces:
                    yield wire.Piece(text=piece.text, finish=piece.finish or "", usage=_usage(piece.usage))

    async def Complete(self, request: Message, context: Any) -> Message:  # noqa: N802
        """The continuation of a text."""
        async with self._call(context) as tenant:
            found = await self._answers.complete(body_of(CompleteBody)(_json(request)), tenant)
            return wire.Answer(model=found.model, text=found.text, finish=found.finish, usage=_usage(found.usage))

    async def Embed(self, request: Message, context: Any) -> Message:  # noqa: N802
        """The vectors of texts."""
        async with self._call(context) as tenant:
            found = await self._answers.embed(body_of(EmbedBody)(_json(request)), tenant)
            vectors = [wire.Vector(values=vector) for vector in found.vectors]
            return wire.Vectors(model=found.model, vectors=vectors, prompt_tokens=found.prompt_tokens)

    @asynccontextmanager
    async def _call(self, context: Any) -> AsyncIterator[str]:
        """One call of a tenant: admitted, bounded in time, its errors as statuses."""
        try:
            async with asyncio.timeout(self._call_s):
                yield self._tenant(context)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"the call took more than {self._call_s:g} s")
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            status, body = answer_to(error)
            said = body["error"]
            if status == 500:
                log.exception("a call failed")
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if said["code"] == BUSY else CODES.get(status)
            trailing = (("banyan-code", said["code"]), ("banyan-hint-bin", said["hint"].encode()))
            await context.abort(code or grpc.StatusCode.INTERNAL, said["message"], trailing)

    def _tenant(self, context: Any) -> str:
        """Whose call it is. Raises Unauthorized."""
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        return self._admit(_address(context.peer()), str(given))


@asynccontextmanager
async def serving(answers: Answers, settings: Settings, port: int) -> AsyncIterator[int]:
    """Serve on a port of the node's host (0 for a free one, which is given back) until the end, then drain.

    Raises LocalFailure when the port is taken.
    """
    options = (
        ("grpc.max_receive_message_length", BODY_BYTES),
        ("grpc.max_send_message_length", REPLY_BYTES),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.so_reuseport", 0),  # or a second server would take a part of the calls, unnoticed
    )
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=CALLS_AT_A_TIME)
    banyan_pb2_grpc.add_BanyanServicer_to_server(Servicer(answers, settings.api_keys), server)  # type: ignore[no-untyped-call]
    names = [service.full_name for service in wire.DESCRIPTOR.services_by_name.values()]
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise LocalFailure(f"gRPC cannot listen on {host}:{port}", "choose another port: --grpc PORT") from error
    await server.start()
    log.info("gRPC on %s:%d", host, bound)
    try:
        yield bound
    finally:
        await server.stop(settings.drain_s)


def _json(request: Message) -> bytes:
    """A message as the JSON body that the HTTP door would have got, with what was not said left out."""
    return json.dumps(dict(_said(request))).encode("utf-8", "replace")


def _said(message: Message) -> Iterator[tuple[str, Any]]:
    """The fields that were set; those of `settings` stand among the others."""
    for field, value in message.ListFields():
        if field.name == "settings":
            yield from _said(value)
        elif field.name == "json_schema":
            yield field.name, _schema(value)
        elif field.name == "messages":
            yield field.name, [{"role": turn.role, "content": turn.content} for turn in value]
        elif isinstance(value, str | int | float):
            yield field.name, value
        else:
            yield field.name, dict(value) if isinstance(value, Mapping) else list(value)


def _schema(text: str) -> Any:
    """The schema; text that is no JSON stays text, which the body refuses by its type."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _usage(usage: UsageReply | None) -> Message | None:
    return wire.Usage(**usage.model_dump()) if usage is not None else None


def _address(peer: str) -> str:
    """`ipv4:127.0.0.1:50000` or `ipv6:[::1]:50000` (percent-encoded) as the address alone."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""
