"""Working for Flower's SuperLink and SuperNode as their executor: our app runs, and no code that came over the wire.

Flower ships an app as an archive from server to client and runs it there. Here SuperLink and SuperNode run with
`--isolation process`, which leaves the running to whoever holds their secret; that is this module, with the app of this
installation. The archive that a run must have holds a name and no code. What is used of Flower here is not its public
interface, so the extra pins its exact version. Starting the processes is left to `node.federation`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import httpx
from flwr.app import Error, Message
from flwr.cli.build import build_fab_from_files
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import context_from_proto, fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest, StopRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from registry.errors import LocalFailure

log = logging.getLogger(__name__)

T = TypeVar("T")

ACQUIRE: Final = frozenset({"/flwr.proto.Runtime/AcquireTask"})
APP: Final = b"""[project]
name = "banyan-rounds"
version = "1.0.0"
description = "The app of federated rounds is part of every node; this archive only names it."
license = "Apache-2.0"
[tool.flwr.app]
publisher = "banyan"
[tool.flwr.app.components]
serverapp = "named:nothing"
clientapp = "named:nothing"
"""
MAX_REASON: Final = 300


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A SuperLink or SuperNode of this machine: host:port, its certificate in PEM where it has TLS, its secret."""

    address: str
    secret: bytes
    certificate: bytes | None = None

    def runtime(self, token: str = "") -> RuntimeHttpClient:
        """A client of its Runtime API: with a task's token, or with the secret, to be given tasks."""
        proof = (
            RuntimeTokenHttpInterceptor(token)
            if token
            else SuperExecAuthHttpInterceptor(master_secret=self.secret, protected_methods=ACQUIRE)
        )
        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=self.certificate is None,
            root_certificates=self.certificate,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), proof],
        )

    @contextmanager
    def control(self) -> Iterator[ControlHttpClient]:
        """A client of its Control API. Raises LocalFailure where it does not answer as it should."""
        client = ControlHttpClient.from_server_address(
            server_address=self.address,
            insecure=self.certificate is None,
            root_certificates=self.certificate,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
        try:
            yield client
        except httpx.HTTPError as error:
            raise LocalFailure(f"the SuperLink at {self.address} refused: {error}", "node federate serve") from error
        finally:
            client.close()

    def register(self, public_key: bytes) -> int:
        """Let a SuperNode in, by its key in PEM; the number that it will have."""
        with self.control() as client:
            return int(client.RegisterNode(request=RegisterNodeRequest(public_key=public_key)).node_id)

    def start_run(self) -> int:
        """Begin a run of our app; its number."""
        content, _ = build_fab_from_files({"pyproject.toml": APP, "named.py": b"nothing = None\n"})
        with self.control() as client:
            fab = fab_to_proto(Fab("", content, {}))
            return int(client.StartRun(StartRunRequest(fab=fab)).run_id)

    def stop_run(self, run: int) -> None:
        """End a run, so that no client waits for more of it."""
        with self.control() as client:
            client.StopRun(StopRunRequest(run_id=run))


def serve_run(at: Endpoint, run: int, work: Callable[[Grid], T], within_s: float) -> T:
    """Take the server's task of a run and do the work with Flower's grid; tasks of other runs are left lying.

    Raises LocalFailure where the task does not come in time, and what the work raises.
    """
    token = _acquire_of(at, run, within_s)
    client, grid = at.runtime(token), HttpGrid(at.address, at.certificate is None, at.certificate, token=token)
    outcome = SubStatus.FAILED
    with _alive(client):
        try:
            given = client.PullTaskInput(PullTaskInputRequest())
            _be(given.task_id, given.run.run_id, given.context.node_id)
            grid.set_run(run_from_proto(given.run))
            done = work(grid)
            outcome = SubStatus.COMPLETED
            return done
        finally:
            push_task_output(client, context_from_proto(given.context), outcome, "")
            grid.close()
            client.close()


def serve_client(at: Endpoint, app: ClientApp, stop: threading.Event, every_s: float = 0.5) -> None:
    """Do what a SuperNode has to do, one task after the other, until `stop` is set.

    A task that fails becomes an error reply. A SuperNode that does not answer is asked again: whoever started it sees
    its end.
    """
    waiting = at.runtime()
    try:
        while not stop.is_set():
            try:
                given = waiting.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
                if given.token:
                    _do(at, given.token, app)
                    continue
            except httpx.HTTPError as error:
                log.info("the SuperNode does not answer: %s", error)
            stop.wait(every_s)
    finally:
        waiting.close()


def _do(at: Endpoint, token: str, app: ClientApp) -> None:
    client = at.runtime(token)
    with _alive(client):
        message, context, _, _ = pull_task_input(client)
        outcome, details = SubStatus.COMPLETED, ""
        try:
            reply = app(message, context)
        except Exception as error:  # the parent is told; this node goes on
            log.exception("a round could not be worked on")
            outcome, details = SubStatus.FAILED, f"{type(error).__name__}: {error}"[:MAX_REASON]
            reply = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=details), reply_to=message)
        push_message(client, reply, context)
        push_task_output(client, context, outcome, details)
    client.close()


def _acquire_of(at: Endpoint, run: int, within_s: float) -> str:
    until = time.monotonic() + within_s
    client = at.runtime()
    try:
        while time.monotonic() < until:
            given = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
            if given.token and given.task.run_id == run:
                return str(given.token)
            time.sleep(0.2)
    except httpx.HTTPError as error:
        raise LocalFailure(f"the SuperLink at {at.address} refused: {error}", "node federate serve") from error
    finally:
        client.close()
    raise LocalFailure(f"the SuperLink at {at.address} gave no task of run {run} within {within_s:g} s")


@contextmanager
def _alive(client: RuntimeHttpClient) -> Iterator[None]:
    """Tell that the task is worked on, for as long as it is."""
    beats = HeartbeatSender(make_task_heartbeat_fn_http(client))
    beats.start()
    try:
        yield
    finally:
        beats.stop()


def _be(task: int, run: int, node: int) -> None:
    """Flower's messages take from here whose they are."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task, run, node
