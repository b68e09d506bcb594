"""A daemon whose transactions are broken on purpose: what `tests.faults.test_daemon_cycle` must be able to find.

Each breach commits the first half of a transaction, and the process is killed before the second.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import sync.candidate
import sync.inbox
import sync.lifecycle
from registry.store import Session
from tests.daemon_actors import up
from tests.faults.shim import Fault


@dataclass(frozen=True, slots=True)
class Breach:
    """Before which call of a module a transaction is cut in two, and what the checker says of it."""

    module: object
    name: str
    reported: str


TORN = {
    "a verdict without its leaf": Breach(sync.lifecycle, "append", "has no leaf"),
    "an update without its decision": Breach(sync.inbox, "record", "its decisions are []"),
    "a release without its updates": Breach(sync.candidate, "mark", "and in a release"),
}


def torn_up(what: str, home: Path, log: Path, fault: Fault | None, port: int) -> None:
    """`node up` with that breach."""
    breach = TORN[what]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(breach.module, breach.name, _cut_before(getattr(breach.module, breach.name)))
        up(home, log, fault, port)


def _cut_before(call: Callable[..., object]) -> Callable[..., object]:
    """A call of a transaction (the session comes first) that commits what stands before it, and ends there."""

    def cut(session: Session, *arguments: object, **options: object) -> object:
        session.commit()
        os.kill(os.getpid(), signal.SIGKILL)
        return call(session, *arguments, **options)

    return cut
