"""What the processes of `tests.daemon_tree` run, with a fault or without: a daemon, or the command that publishes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

import node.daemon
import node.publish
from node.context import opened_node
from node.settings import load_settings
from registry.errors import BanyanError
from registry.paths import NodePath
from tests.faults.shim import Fault, arm
from tests.world import utc_now

REFUSED = 4  # the exit code of a command that could not, for a reason that it names


def up(home: Path, log: Path, fault: Fault | None, port: int) -> None:
    """`node up`."""
    _begin(log, home, fault)
    try:
        with opened_node(load_settings({"home": home, "port": port})) as opened:
            node.daemon.run(opened)
    except BanyanError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(REFUSED)


def offer(home: Path, log: Path, fault: Fault | None, path: str, rows: Path) -> None:
    """`node publish PATH --transfer-set ROWS --yes`; ends with 0 once the parent has acknowledged it."""
    _begin(log, home, fault)
    try:
        with opened_node(load_settings({"home": home})) as opened:
            result = node.publish.publish(opened, NodePath.parse(path), rows, 0, lambda outgoing: True, now=utc_now())
    except BanyanError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(REFUSED)
    sys.exit(0 if result.state != node.publish.READY else REFUSED)


def _begin(log: Path, home: Path, fault: Fault | None) -> None:
    """Write to a log, not to the tests' output; then the fault is armed, so that it counts the opening too."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    torch.set_num_threads(1)
    if fault is not None:
        arm(fault, home)
