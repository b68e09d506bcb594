"""Federated rounds in Flower's simulation: the apps of `sync.federation` with many children on one machine.

    python -m simulations.flower --base node/bundled/model --rows node/bundled/validation.jsonl --clients 100

Ray runs the children, each in turn on one core; nothing of the rounds is another than over processes, but keys and the
clock follow from the seed, so the same call makes the same release to the bit.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from registry.blobs import BlobStore
from registry.cards import CardFacts, render_card
from registry.documents import BaseManifest, Enrolment, File, Release, seal_document
from registry.home import Home
from registry.keys import PrivateKey
from registry.paths import NodePath, Ref
from registry.rows import Row, read_rows
from registry.store import Store, file_url
from registry.tables import EnrolmentRow
from sync.chain import serve, signed_link
from sync.compose import Composer
from sync.delta import Delta, scaled
from sync.enrolled import Identity
from sync.federation.arrays import shapes_of
from sync.federation.client import Member, Shapes, client_app
from sync.federation.contributions import Asked
from sync.federation.plan import RoundsPlan
from sync.federation.rounds import prepare, run_rounds
from sync.model import LoadedModel, load_model
from sync.parent import PromotionPlan
from sync.promote import Promoter, Promotion
from sync.tokens import Example
from sync.train import TrainPlan, fit

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
PLACE: Final = "en"
LIE: Final = -100.0
BATCH_TOKENS: Final = 512  # a few steps, from few rows
MAX_ROWS_BYTES: Final = 64 << 20
KNOWN: Final = 0.2  # part of the rows that the parent judges on
QUIET: Final = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


@dataclass(frozen=True, slots=True)
class Settings:
    """One simulation; `base` is a model folder, `rows` a file of rows that the children share out."""

    base: str
    rows: str
    clients: int = 100
    liars: int = 0
    rounds: int = 2
    rank: int = 4
    rule: str = "mean"
    per_client: int = 16
    learning_rate: float = 3e-3
    seed: int = 1

    def key(self, name: str) -> PrivateKey:
        """The key of the parent or a child, from the seed."""
        return PrivateKey.from_secret(hashlib.sha256(f"banyan {self.seed} {name}".encode()).digest())

    def path(self, number: int) -> str:
        """The place of a child."""
        return f"{PLACE}/child{number}"

    def lies(self, number: int) -> bool:
        """Whether a child is one of the liars, who are the last ones."""
        return number >= self.clients - self.liars

    def shared(self) -> tuple[list[Row], list[Row]]:
        """The rows of all children, and those that the parent judges on."""
        rows = read_rows(Path(self.rows), MAX_ROWS_BYTES)
        random.Random(self.seed).shuffle(rows)  # noqa: S311  a choice that can be repeated
        held = round(KNOWN * len(rows))
        return rows[held:], rows[:held]

    def rows_of(self, number: int) -> list[Row]:
        """The rows of a child: as many as said, other ones for each as far as there are enough."""
        rows, _ = self.shared()
        return [rows[(number * self.per_client + n) % len(rows)] for n in range(min(self.per_client, len(rows)))]


@functools.cache
def _model(base: str) -> LoadedModel:
    """The base, once in each of Ray's processes."""
    return load_model(Path(base), [], "fp32")


def _child(settings: Settings, number: int) -> Member:
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


def make_parent(settings: Settings, folder: Path) -> Promoter:
    """A parent with one release without an adapter, and all children enrolled."""
    home = Home(folder)
    home.create()
    blobs, store = BlobStore(home.blobs, home.partial), Store.open(file_url(home.database))
    own = Identity(settings.key("parent"), (NodePath.parse(PLACE),))
    blobs.put_bytes(own.key.public.raw)
    base = Path(settings.base)
    named = sorted(file for file in base.iterdir() if file.is_file())
    files = tuple(_stored(blobs, file.name, file.read_bytes()) for file in named)
    manifest = BaseManifest(name="simulated", family="llama", files=files, licence="Apache-2.0")
    blobs.put_bytes(manifest.to_bytes())
    facts = CardFacts(
        ref=Ref(NodePath.parse(PLACE), 1), title=PLACE, languages=("en",), licence="Apache-2.0",
        base_model=manifest.name, relation="adapter", library="peft",
    )  # fmt: skip
    first = Release(
        path=PLACE, version=1, base=manifest.digest, base_name=manifest.name, adapter=None, above=None, previous=None,
        anchors=None, card=_stored(blobs, "README.md", render_card(facts).encode()), evaluations=(), contributions=(),
        recompression_error=None, created=NOW, expires=NOW + timedelta(days=365),
    )  # fmt: skip
    with store.transaction() as session:
        serve(session, signed_link(first, own.key), NOW)
        session.add_all(_enrolled(settings, own.key, number) for number in range(settings.clients))
    _, known = settings.shared()
    return Promoter(
        composer=Composer(store, blobs, lambda digest: base, "fp32"),
        own=own,
        runs=home.runs,
        refused=home.refused,
        plan=PromotionPlan(epochs=0, seed=settings.seed),
        known_rows=lambda place: known if str(place) == PLACE else [],
        now=lambda: NOW,
        keep_rows=lambda place, rows: None,
    )


def _stored(blobs: BlobStore, name: str, data: bytes) -> File:
    return File(name=name, size=len(data), sha256=blobs.put_bytes(data))


def _enrolled(settings: Settings, parent: PrivateKey, number: int) -> EnrolmentRow:
    key, path = settings.key(str(number)).public, settings.path(number)
    enrolment = Enrolment(
        path=path, key=key.hex, issuer=parent.public.id, issuer_path=PLACE, created=NOW,
        expires=NOW + timedelta(days=365),
    )  # fmt: skip
    return EnrolmentRow(
        key_id=key.id, path=path, public_key=key.hex, state="active", request=b"",
        envelope=seal_document(enrolment, parent), changed=NOW,
    )  # fmt: skip


def simulate(settings: Settings, cores: int) -> dict[str, Any]:
    """Run it on so many cores; what came of it. Raises what the rounds raise."""
    os.environ.update(QUIET)
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        promoter = make_parent(settings, Path(folder) / "home")
        plan = RoundsPlan(
            rounds=settings.rounds, rank=settings.rank, rule=settings.rule, least=settings.clients - settings.liars,
            deadline_s=3600.0, seed=settings.seed,
        )  # fmt: skip
        run = hashlib.sha256(f"banyan run {settings.seed}".encode()).hexdigest()
        prepared, outcome = prepare(promoter, NodePath.parse(PLACE), plan, run=run), list[Promotion]()
        server = ServerApp()

        @server.main()
        def main(grid: Grid, _: Context) -> None:
            outcome.append(run_rounds(prepared, grid))

        app = client_app(lambda context: _child(settings, int(context.node_config["partition-id"])))
        resources = {"client_resources": {"num_cpus": 1.0, "num_gpus": 0.0}, "init_args": {"num_cpus": cores}}
        try:
            run_simulation(server, app, settings.clients, backend_config=resources)  # type: ignore[arg-type]
        finally:
            promoter.composer.store.close()
        release = outcome[0].release
        rulings = prepared.desk.rulings
        lying = {settings.path(number) for number in range(settings.clients) if settings.lies(number)}
        return {
            "settings": {**asdict(settings), "base": Path(settings.base).name, "rows": Path(settings.rows).name},
            "cores": cores,
            "accepted": sum(ruling.outcome == "accepted" for ruling in rulings),
            "refused": sum(ruling.outcome != "accepted" for ruling in rulings),
            "lies_accepted": sum(ruling.outcome == "accepted" and ruling.path in lying for ruling in rulings),
            "honest_refused": sum(ruling.outcome != "accepted" and ruling.path not in lying for ruling in rulings),
            "adapter": release.adapter.file.sha256 if release and release.adapter else None,
            "checks": {check.name: check.reason for check in outcome[0].checks},
            "wall_s": round(time.monotonic() - started, 1),
        }


def main(words: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.flower", description=(__doc__ or "").partition("\n")[0]
    )
    usual = Settings("", "")
    for name, value in asdict(usual).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, required=value == "")
    parser.add_argument("--cores", type=int, default=2, help="cores that children are trained on")
    parser.add_argument("--out", type=Path, help="a JSON file for the outcome")
    given = vars(parser.parse_args(words))
    cores, out = given.pop("cores"), given.pop("out")
    given |= {name: str(Path(given[name]).resolve()) for name in ("base", "rows")}
    settings = Settings(**given)
    if not 0 <= settings.liars < settings.clients or cores < 1:
        parser.error("there is at least one honest child and one core")
    found = json.dumps(simulate(settings, cores), indent=2) + "\n"
    if out:
        out.write_text(found, encoding="utf-8")
    sys.stdout.write(found)
    return 0


if __name__ == "__main__":
    from simulations import flower  # noqa: PLW0406 - Ray's processes know it by its name and not as __main__

    sys.exit(flower.main(sys.argv[1:]))
