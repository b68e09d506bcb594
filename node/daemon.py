"""`node up`: the HTTP interface and the rounds of the daemon, in one process, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from functools import partial

from node.api.app import create_app
from node.api.server import make_server
from node.context import Node
from node.leftovers import sweep
from node.logs import set_up_logs
from node.promotions import parent_round, promoter
from node.rebasing import child_round
from node.serving.models import Models
from registry.errors import BanyanError
from sync.daemon import Duty, only_daemon, run_rounds

log = logging.getLogger(__name__)


def run(node: Node) -> None:
    """Serve and follow until the process is told to end. Raises LocalFailure when a daemon runs on this home."""
    set_up_logs(node.settings.log_format)
    stop, wake = threading.Event(), threading.Event()
    with only_daemon(node.home.daemon_lock):
        _tidy(node)
        rounds = threading.Thread(
            target=run_rounds,
            args=(_duties(node), stop, wake, node.settings.poll_interval_s, lambda: datetime.now(UTC)),
            name="rounds",
            daemon=True,  # a long consolidation does not keep the process: it resumes from its checkpoint
        )
        rounds.start()
        try:
            serve(node)
        finally:
            stop.set()
            wake.set()
            rounds.join(timeout=5)


def _tidy(node: Node) -> None:
    """Remove what ended processes left; what that cannot do is no reason not to start."""
    try:
        log.info("%d left-overs of ended processes removed", sweep(node, datetime.now(UTC)))
    except BanyanError as error:
        log.warning("left-overs: %s (%s)", error.message, error.hint)


def serve(node: Node) -> None:
    """Answer requests until the process is told to end, then let those that run come to their end."""
    settings = node.settings
    models = Models(node) if settings.serve != "off" else None
    if models is not None and settings.serve == "eager":
        threading.Thread(target=models.load_all, name="load", daemon=True).start()
    try:
        make_server(create_app(node, models), settings.host, settings.port, settings.drain_s).run()
    finally:
        if models is not None:
            models.close()


def _duties(node: Node) -> list[Duty]:
    """What this node is: a parent of whoever is enrolled, and a child where it has a parent."""
    duties: list[Duty] = [partial(parent_round, node, promoter(node))]
    if node.settings.parent_url and node.settings.follow_parent:
        duties.append(partial(child_round, node))
    return duties
