"""How long the command line takes to begin: `--help`, and a command that reads the database, beside bare Python."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.rounds import Bound, Result, Scale, interleaved, milliseconds, seconds
from tests.processes import ROOT

ROUNDS = 20
HELP_MS = 300.0  # what a person does not wait for
LONGEST_S = 120.0
PYTHON = "python -c pass"
HELP = "node --help"
TREE = "node tree --json"


def run(scale: Scale) -> Result:
    """Wall time of whole processes, in milliseconds, everything they read being in the page cache."""
    with tempfile.TemporaryDirectory() as folder:
        home = ("--home", str(Path(folder, "home")))
        commands = {
            PYTHON: [sys.executable, "-c", "pass"],
            HELP: [*node_command(), "--help"],
            TREE: [*node_command(), "tree", "--json", *home],
        }
        execute([*node_command(), "init", *home])
        for command in commands.values():
            execute(command)
        contenders = {
            name: lambda command=command: seconds(lambda: execute(command)) for name, command in commands.items()
        }
        found = interleaved(contenders, scale.rounds or ROUNDS)
    figures = {name: milliseconds(times_s) for name, times_s in found.items()}
    return Result({"command": shown_command()}, figures, [Bound(HELP, most=HELP_MS)])


def node_command() -> list[str]:
    """The script that an installation has, or the same without one."""
    script = Path(sys.executable).with_name("banyan")
    return [str(script)] if script.exists() else [sys.executable, "-m", "node.cli"]


def shown_command() -> str:
    """The command without the folders of this machine."""
    program, *words = node_command()
    return " ".join([Path(program).name, *words])


def execute(command: list[str]) -> None:
    """Run a command to its end, whatever it prints; raises CalledProcessError when it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=LONGEST_S, cwd=ROOT, env=environment)
