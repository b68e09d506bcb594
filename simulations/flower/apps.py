"""The two apps of a simulation, and both in one process with Ray."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from registry.paths import NodePath
from simulations.flower.parent import NOW, make_parent
from simulations.flower.settings import PLACE, Settings
from sync.delta import Delta, scaled
from sync.federation.arrays import shapes_of
from sync.federation.client import Member, Shapes, client_app
from sync.federation.contributions import Asked
from sync.federation.plan import RoundsPlan
from sync.federation.rounds import Prepared, prepare, run_rounds
from sync.model import LoadedModel, load_model
from sync.promote import Promotion
from sync.tokens import Example
from sync.train import TrainPlan, fit

LIE: Final = -100.0
BATCH_TOKENS: Final = 512  # a few steps, from few rows
QUIET: Final = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

SettingsOf = Callable[[Context], Settings]


def child_app(settings_of: SettingsOf) -> ClientApp:
    """Every child of a simulation, by the number that Flower gives it."""
    return client_app(lambda context: child(settings_of(context), int(context.node_config["partition-id"])))


@functools.cache
def _model(base: str) -> LoadedModel:
    """The base, once in each of Ray's processes."""
    return load_model(Path(base), [], "fp32")


def child(settings: Settings, number: int) -> Member:
    """A child of the simulation; the last ones lie."""
    config = json.loads((Path(settings.base) / "config.json").read_text(encoding="utf-8"))

    def shapes(asked: Asked) -> Shapes:
        return shapes_of(config, asked.task.shape)

    def train(asked: Asked, start: Delta) -> Delta:
        task = asked.task
        plan = TrainPlan(
            rank=task.shape.rank,
            alpha=task.shape.alpha,
            targets=task.shape.targets,
            epochs=1,
            batch_tokens=BATCH_TOKENS,
            learning_rate=settings.learning_rate,
            seed=settings.seed + number,
        )
        examples = [Example(row, settings.path(number)) for row in settings.rows_of(number)]
        with tempfile.TemporaryDirectory() as work:
            delta = fit(_model(settings.base), examples, [], plan, Path(work), start=start, frozen=task.frozen).delta
        return scaled(delta, LIE) if settings.lies(number) else delta

    parent = settings.key("parent").public
    return Member(settings.key(str(number)), settings.path(number), parent, shapes, train, lambda: NOW)


def parent_app(settings_of: SettingsOf, report: Callable[[Context, dict[str, Any]], None]) -> ServerApp:
    """The parent, which makes its home in a folder of the moment; `report` is told what came of the rounds."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        settings, started = settings_of(context), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            promoter = make_parent(settings, Path(folder) / "home")
            plan = RoundsPlan(
                rounds=settings.rounds, rank=settings.rank, rule=settings.rule, least=settings.honest,
                deadline_s=3600.0, seed=settings.seed,
            )  # fmt: skip
            run = hashlib.sha256(f"banyan run {settings.seed}".encode()).hexdigest()
            try:
                prepared = prepare(promoter, NodePath.parse(PLACE), plan, run=run)
                found = record_of(settings, prepared, run_rounds(prepared, grid))
            finally:
                promoter.composer.store.close()
        report(context, {**found, "wall_s": round(time.monotonic() - started, 1)})

    return app


def record_of(settings: Settings, prepared: Prepared, promotion: Promotion) -> dict[str, Any]:
    """What came of the rounds: who was accepted, which adapter was released, what the gate said."""
    rulings, release = prepared.desk.rulings, promotion.release
    lying = {settings.path(number) for number in range(settings.clients) if settings.lies(number)}
    return {
        "settings": {**asdict(settings), "base": Path(settings.base).name, "rows": Path(settings.rows).name},
        "accepted": sum(ruling.outcome == "accepted" for ruling in rulings),
        "refused": sum(ruling.outcome != "accepted" for ruling in rulings),
        "lies_accepted": sum(ruling.outcome == "accepted" and ruling.path in lying for ruling in rulings),
        "honest_refused": sum(ruling.outcome != "accepted" and ruling.path not in lying for ruling in rulings),
        "adapter": release.adapter.file.sha256 if release and release.adapter else None,
        "checks": {check.name: check.reason for check in promotion.checks},
    }


def simulate(settings: Settings, cores: int) -> dict[str, Any]:
    """Run both apps on so many cores; what came of it. Raises what the rounds raise."""
    os.environ.update(QUIET)
    from flwr.simulation import run_simulation

    outcome: list[dict[str, Any]] = []
    server = parent_app(lambda context: settings, lambda _, found: outcome.append(found))
    resources = {"client_resources": {"num_cpus": 1.0, "num_gpus": 0.0}, "init_args": {"num_cpus": cores}}
    run_simulation(server, child_app(lambda context: settings), settings.clients, backend_config=resources)  # type: ignore[arg-type]
    return {"cores": cores, **outcome[0]}
