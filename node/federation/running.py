"""`node federate run`: one federated run over the rounds that are served here, to an ordinary release; its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from node.context import Node
from node.federation.certificates import write_private
from node.federation.places import Places, places_of, superlink_of
from node.federation.processes import flower_logs
from node.promotions import promoter
from registry.errors import BanyanError, LocalFailure
from registry.paths import NodePath
from sync.federation.desk import Ruling
from sync.federation.plan import RoundsPlan
from sync.federation.rounds import prepare, run_rounds
from sync.federation.runtime import Endpoint, serve_run
from sync.promote import Promotion

ACQUIRE_S = 60.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: its name, the promotion, what became of every answer."""

    run: str
    promotion: Promotion
    rulings: list[Ruling]


def run_federation(
    node: Node,
    path: NodePath,
    plan: RoundsPlan,
    tell: Callable[[Ruling], None] = lambda ruling: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> RunResult:
    """Go through federated rounds with the children that have joined; the release, or why there is none.

    Raises LocalFailure where no rounds are served here or there is no release at the path, TooFew where children are
    missing. The record of the run is kept, however it ends.
    """
    places = places_of(node)
    at = Endpoint(superlink_of(node), places.secret.read_bytes(), places.certificate.read_bytes())
    prepared = prepare(promoter(node), path, plan, tell=tell)
    desk, promotion, problem = prepared.desk, None, ""
    started, number = now(), at.start_run()
    try:
        with flower_logs(places.parent / "run.log"):
            promotion = serve_run(at, number, lambda grid: run_rounds(prepared, grid), ACQUIRE_S)
    except BanyanError as error:
        problem = error.message
        raise
    finally:
        with suppress(LocalFailure):
            at.stop_run(number)
        release = promotion.release if promotion else None
        record = {
            "run": desk.run,
            "path": str(path),
            "started": started.isoformat(),
            "ended": now().isoformat(),
            "plan": asdict(plan),
            "rulings": [asdict(ruling) for ruling in desk.rulings],
            "problem": problem,
            "version": release.version if release else None,
            "checks": [check.model_dump(mode="json") for check in promotion.checks] if promotion else [],
        }
        write_private(_record(places, desk.run), json.dumps(record, indent=2).encode())
    return RunResult(desk.run, promotion, desk.rulings)


def records(node: Node) -> list[dict[str, Any]]:
    """The records of runs, the newest first."""
    files = places_of(node).runs.glob("*.json")
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(found, key=lambda record: str(record["started"]), reverse=True)


def _record(places: Places, run: str) -> Path:
    return places.runs / f"{run[:16]}.json"
