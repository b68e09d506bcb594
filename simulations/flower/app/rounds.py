"""The apps of the simulation under the names that `flwr run` looks for, with the settings of its `--run-config`."""

from __future__ import annotations

import json
from logging import getLogger
from pathlib import Path
from typing import Any

from flwr.app import Context

from registry.trust.files import write_whole
from simulations.flower.apps import child_app, parent_app
from simulations.flower.settings import Settings, settings_of


def settings(context: Context) -> Settings:
    """Those of the run."""
    return settings_of(context.run_config)


def report(context: Context, found: dict[str, Any]) -> None:
    """To the file that the run configuration names as `out`, and to the log that `--stream` shows."""
    text = json.dumps(found, indent=2)
    if out := context.run_config["out"]:
        write_whole(Path(str(out)), f"{text}\n".encode())
    getLogger("flwr").info("%s", text)


parent = parent_app(settings, report)
children = child_app(settings)
