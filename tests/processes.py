"""Real processes for tests: a node that serves its home, a command that can be killed, one that serves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_S = 120.0


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start Python on our code."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
    )


def first_line(process: subprocess.Popen[bytes]) -> str:
    """The first line that a process prints; it fails the test when there is none."""
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip()
    assert line, f"the process ended with {process.wait(START_S)} before it was ready"
    return line


def end(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process; its exit code."""
    assert process.stdout is not None
    code = process.wait(START_S)
    process.stdout.close()
    return code


@dataclass
class NodeProcess:
    """A node that serves its home; `kill` ends it as a power cut would."""

    home: Path
    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, home: Path, port: int = 0) -> NodeProcess:
        process = start(ROOT / "tests/node_process.py", home, str(port))
        return cls(home, int(first_line(process)), process)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        end(self.process)


@contextmanager
def node_process(home: Path) -> Iterator[str]:
    """The node of a home as a real process; its address."""
    served = NodeProcess.start(home)
    try:
        yield served.url
    finally:
        served.process.terminate()
        end(served.process)


@contextmanager
def serving_command(home: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command of ours that serves, as a person starts it on a home, and its address; it is ended in the end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BANYAN_")}
    with subprocess.Popen(
        [sys.executable, "-m", "node.cli", *words, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**kept, "BANYAN_HOME": str(home), "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        try:
            yield process, next(found[0] for line in process.stderr if (found := re.search(r"http://[0-9.:]+", line)))
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=START_S)
