"""The world of a simulation without Ray: who its children are, and that rounds over it make the same release again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import cast

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.cli.config_utils import load_and_validate
from flwr.common.config import validate_config
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from registry.errors import BadData
from registry.paths import NodePath
from registry.rows import write_rows
from simulations.flower.__main__ import main
from simulations.flower.apps import child
from simulations.flower.parent import make_parent
from simulations.flower.settings import Settings, settings_of
from sync.federation.client import client_app
from sync.federation.plan import RoundsPlan
from sync.federation.rounds import prepare, run_rounds
from tests.sync.federation.direct import DirectGrid
from tests.toy import KNOWN, SHAPES, rows

APP = Path(__file__).parents[2] / "simulations" / "flower" / "app"


class Numbered(DirectGrid):
    """Clients that know their number, as Flower's simulation tells them."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = list(messages)
        for count, message in enumerate(sent):
            number = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = str(count)
            context = Context(
                run_id=1, node_id=number, node_config={"partition-id": number}, state=RecordDict(), run_config={}
            )
            self.replies[str(count)] = self.apps[number](message, context)
        return [str(count) for count in range(len(sent))]


def outcome(settings: Settings, folder: Path) -> tuple[str, list[str]]:
    """The adapter that is released, and what became of each answer."""
    parent = make_parent(settings, folder)
    with closing(parent.composer.store):
        plan = RoundsPlan(rounds=1, rank=settings.rank, least=2, deadline_s=5.0)
        prepared = prepare(parent, NodePath.parse("en"), plan, run="1" * 64)
        app = client_app(lambda context: child(settings, int(context.node_config["partition-id"])))
        result = run_rounds(prepared, cast(Grid, Numbered(dict.fromkeys(range(settings.clients), app))))
        assert result.release is not None, result.checks
        assert result.release.adapter is not None
        return result.release.adapter.file.sha256, [ruling.outcome for ruling in prepared.desk.rulings]


def test_the_same_seed_makes_the_same_release(toy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)
    write_rows([*rows(SHAPES), *rows(KNOWN)], tmp_path / "rows.jsonl")
    settings = Settings(str(toy_base), str(tmp_path / "rows.jsonl"), clients=3, rank=2, learning_rate=1e-3)
    first = outcome(settings, tmp_path / "first")
    assert first[1] == ["accepted"] * 3
    assert outcome(settings, tmp_path / "again") == first
    assert {settings.key(name).public.id for name in ("parent", "0", "1")} != {settings.key("0").public.id}
    assert settings.rows_of(0) != settings.rows_of(1)


@pytest.mark.parametrize("words", [["--clients", "0"], ["--clients", "2", "--liars", "2"], ["--cores", "0"]])
def test_nobody_to_simulate_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--base", "b", "--rows", "r", *words])
    assert "at least one" in capsys.readouterr().err


def test_a_run_configuration_is_read_as_settings_and_asks_for_whole_paths() -> None:
    config = {"base": "/b", "rows": "/r", "out": "", "clients": 3, "per-client": 4, "learning-rate": 0.1}
    assert settings_of(config) == Settings("/b", "/r", clients=3, per_client=4, learning_rate=0.1)
    with pytest.raises(BadData, match="rows"):
        settings_of({**config, "rows": "rows.jsonl"})
    with pytest.raises(BadData, match="3 lie"):
        settings_of({**config, "liars": 3})


def test_the_app_that_flwr_run_sends_is_whole_and_has_the_same_settings() -> None:
    config, warnings = load_and_validate(APP / "pyproject.toml")
    assert warnings == []
    assert validate_config(config, project_dir=APP)[1] == []
    given = config["tool"]["flwr"]["app"]["config"]
    assert given.pop("out") == ""
    assert {name.replace("-", "_"): value for name, value in given.items()} == asdict(Settings("", ""))
