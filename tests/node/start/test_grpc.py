from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from node.api.openai.bodies import BODY_BYTES
from node.api.simple.answers import Answers
from node.api.simple.app import WithDefaults
from node.client import Client
from node.grpc import banyan_pb2 as wire
from node.grpc.banyan_pb2_grpc import BanyanStub
from node.grpc.server import Servicer, serving
from node.settings import Settings
from node.started import Started
from registry.errors import LocalFailure

ROOT = Path(__file__).parents[3]
TEXT = "open an account"


class Door:
    """A gRPC server with a loop of its own, so that a plain client can call it."""

    def __init__(self, models: Started, **settings: Any) -> None:
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(models, Settings(**settings)),))

    async def _serve(self, models: Started, settings: Settings) -> None:
        self._loop = asyncio.get_running_loop()
        async with serving(Answers(WithDefaults(models), models.names[0]), settings, 0) as self.port:
            self._ready.set()
            await self._end.wait()

    def __enter__(self) -> str:
        self._thread.start()
        assert self._ready.wait(30)
        return f"127.0.0.1:{self.port}"

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def address(models: Started, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Door(models, home=tmp_path_factory.mktemp("home"), drain_s=1) as address:
        yield address


@pytest.fixture
def stub(address: str) -> Iterator[BanyanStub]:
    with grpc.insecure_channel(address) as channel:
        yield BanyanStub(channel)


def test_both_doors_give_the_same_answers(stub: BanyanStub, url: str) -> None:
    settings = wire.Settings(
        max_tokens=8, ignore_eos=True, temperature=1.5, seed=4, stop=["zzz"], logit_bias={5: -50.0}
    )
    with Client(url) as client:
        plain = client.complete(TEXT, max_tokens=5)
        drawn = client.chat(
            "hello", max_tokens=8, ignore_eos=True, temperature=1.5, seed=4, stop=["zzz"], logit_bias={5: -50.0}
        )
        vectors = client.embed(["one", "two"])
    answer = stub.Complete(wire.CompleteRequest(prompt=TEXT, settings=wire.Settings(max_tokens=5)), timeout=60)
    assert (answer.model, answer.text, answer.finish) == ("tiny-llama", plain.text, plain.finish)
    turn = wire.Turn(role="user", content="hello")
    pieces = list(stub.Chat(wire.ChatRequest(messages=[turn], settings=settings), timeout=60))
    assert "".join(piece.text for piece in pieces) == drawn.text
    assert len(pieces) > 2
    assert (pieces[-1].finish, pieces[-1].usage.completion_tokens) == ("length", 8)
    found = stub.Embed(wire.EmbedRequest(texts=["one", "two"]), timeout=60)
    assert [list(vector.values) for vector in found.vectors] == [pytest.approx(one, abs=1e-5) for one in vectors]


def test_an_answer_follows_a_schema(stub: BanyanStub) -> None:
    schema = json.dumps({"enum": ["yes", "no"]})
    pieces = stub.Chat(wire.ChatRequest(prompt="hello", model="q", json_schema=schema), timeout=60)
    assert json.loads("".join(piece.text for piece in pieces)) in ("yes", "no")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (wire.CompleteRequest(prompt="x", model="nobody"), grpc.StatusCode.NOT_FOUND, "model_not_found"),
        (wire.CompleteRequest(), grpc.StatusCode.INVALID_ARGUMENT, "missing_required_parameter"),
        (wire.CompleteRequest(prompt="word " * 999), grpc.StatusCode.INVALID_ARGUMENT, "context_length_exceeded"),
        (
            wire.CompleteRequest(prompt="x", settings=wire.Settings(temperature=-1)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "invalid_value",
        ),
        (
            wire.CompleteRequest(prompt="x", settings=wire.Settings(temperature=float("nan"))),
            grpc.StatusCode.INVALID_ARGUMENT,
            "invalid_value",
        ),
        (wire.CompleteRequest(prompt="x", json_schema="{"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_value"),
    ],
)
def test_errors_have_a_status_a_code_and_a_hint(
    stub: BanyanStub, request_: Any, status: grpc.StatusCode, code: str
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        stub.Complete(request_, timeout=60)
    trailing = dict(failed.value.trailing_metadata())
    assert (failed.value.code(), trailing["banyan-code"]) == (status, code), failed.value.details()
    assert failed.value.details()
    assert trailing["banyan-hint-bin"].decode()


def test_a_message_that_is_too_large_is_refused(stub: BanyanStub) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        stub.Complete(wire.CompleteRequest(prompt="x" * (BODY_BYTES + 1)), timeout=60)
    assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_key_is_wanted_where_keys_are_set(models: Started, tmp_path: Path) -> None:
    with Door(models, home=tmp_path, api_keys=["a-long-key"]) as address, grpc.insecure_channel(address) as channel:
        stub, asked = BanyanStub(channel), wire.EmbedRequest(texts=["x"])
        for given in ((), (("authorization", "Bearer another-key"),)):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Embed(asked, metadata=given, timeout=60)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert stub.Embed(asked, metadata=(("authorization", "Bearer a-long-key"),), timeout=60).vectors


def idle(models: Started) -> bool:
    """Whether the engine has nothing to do any more, within half a minute."""
    engine, waited = models.engines["tiny-llama"], threading.Event()
    for _ in range(3_000):
        if not engine.statistics().num_requests_running:
            return True
        waited.wait(0.01)
    return False


def test_a_caller_that_leaves_ends_the_work(stub: BanyanStub, models: Started) -> None:
    call = stub.Chat(wire.ChatRequest(prompt="hello", settings=wire.Settings(max_tokens=100, ignore_eos=True)))
    next(call)
    call.cancel()
    assert idle(models)


class Endless:
    """Answers that never come; notes that the work was ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    async def pieces(self, *_: object) -> AsyncIterator[Any]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            self.ended.set()


async def called(answers: Any, call_s: float, call: Callable[[Any], Awaitable[Any]]) -> grpc.StatusCode:
    from node.grpc.banyan_pb2_grpc import add_BanyanServicer_to_server

    server = grpc.aio.server()
    add_BanyanServicer_to_server(Servicer(answers, [], call_s), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await call(BanyanStub(channel))
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        await server.stop(0)
    raise AssertionError("the call came to an end")


@pytest.mark.parametrize(("call_s", "timeout"), [(0.2, None), (60.0, 0.2)])
def test_a_deadline_ends_a_call_and_its_work(call_s: float, timeout: float | None) -> None:
    answers = Endless()

    async def call(stub: Any) -> None:
        async for _ in stub.Chat(wire.ChatRequest(prompt="hello"), timeout=timeout):
            pass

    assert asyncio.run(called(answers, call_s, call)) == grpc.StatusCode.DEADLINE_EXCEEDED
    assert answers.ended.wait(10)


def test_a_port_that_is_taken_is_said(models: Started, address: str, tmp_path: Path) -> None:
    async def again() -> None:
        port = int(address.rpartition(":")[2])
        async with serving(Answers(WithDefaults(models), "q"), Settings(home=tmp_path), port):
            pass

    with pytest.raises(LocalFailure, match="cannot listen"):
        asyncio.run(again())


def test_reflection_is_enough_to_call(address: str) -> None:
    """A client that has no .proto file finds service and messages, and calls."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "banyan.v1.Banyan" in database.get_services()
        service = DescriptorPool(database).FindServiceByName("banyan.v1.Banyan")
        method = service.FindMethodByName("Embed")
        asked, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/banyan.v1.Banyan/Embed",
            request_serializer=asked.SerializeToString,
            response_deserializer=reply.FromString,
        )
        assert len(call(asked(texts=["x"]), timeout=60).vectors[0].values) == 32


def test_the_generated_code_is_that_of_the_interface(tmp_path: Path) -> None:
    words = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    words = ["-m", "grpc_tools.protoc", f"-I{ROOT}", *words, "node/grpc/banyan.proto"]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, timeout=120)
    for name in ("banyan_pb2.py", "banyan_pb2.pyi", "banyan_pb2_grpc.py"):
        assert (tmp_path / "node/grpc" / name).read_text() == (ROOT / "node/grpc" / name).read_text()
