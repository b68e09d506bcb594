"""One look at a parent: does it answer, who is it, what does its clock say. For the doctor; changes nothing."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpcore
import httpx

from registry.errors import BadData, LocalFailure
from sync.address import Network, Reach, read_url
from sync.wire import BoundedTransport, Deadline

MAX_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What the parent said of itself; `date` is None where it sent no readable `Date`."""

    name: str
    key: str
    date: datetime | None


def probe(url: str, timeout_s: float, networks: tuple[Network, ...] = ()) -> Answer:
    """Ask `url` who it is. Raises LocalFailure when it cannot be reached in time, BadData when it is not a node."""
    import ssl

    peer = read_url(url)
    context = ssl.create_default_context() if peer.scheme == "https" else None
    transport = BoundedTransport(Deadline(timeout_s, time.monotonic), peer, Reach(True, networks), context)
    address = f"{url}/v1/node"
    try:
        with httpx.Client(transport=transport, trust_env=False) as client, client.stream("GET", address) as response:
            head, body = response, _body(response)
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        reason = str(error) or "no answer in time"
        raise LocalFailure(f"{url} does not answer: {reason}", "is the parent up, and parent_url right?") from error
    if head.status_code != httpx.codes.OK:
        raise BadData(f"{address} answered {head.status_code}", "is parent_url the address of a node?")
    return _answer(body, head.headers.get("date", ""), address)


def _body(response: httpx.Response) -> bytes:
    body = b""
    for piece in response.iter_raw():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise BadData("the parent's answer is too large", "is parent_url the address of a node?")
    return body


def _answer(body: bytes, date: str, address: str) -> Answer:
    try:
        said: Any = json.loads(body)
        name, key = str(said["name"]), str(said["key"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadData(f"{address} is not a node's answer", "is parent_url the address of a node?") from error
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        moment = None
    printable = "".join(char if char.isprintable() else " " for char in name)[:80]
    return Answer(printable, key, moment if moment and moment.tzinfo else None)
