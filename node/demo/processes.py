"""The nodes of the demo as what they are for a person: a home folder, commands that are called, a daemon that runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from registry.errors import LocalFailure

COMMAND_TIMEOUT_S = 900.0
START_TIMEOUT_S = 120.0
NODE = (sys.executable, "-m", "node.cli")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(*jobs: Callable[[], None]) -> None:
    """Run jobs at the same time, each waiting for processes of its own; the first error is raised at the end."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


class DemoNode:
    """One node; its daemon's log stands beside its home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.daemon: subprocess.Popen[bytes] | None = None
        settings = {name: value for name, value in os.environ.items() if not name.startswith("BANYAN_")}
        self.environment = {**settings, "BANYAN_HOME": str(home)}

    def call(self, *words: str, accepts: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Run `node WORDS --json`; its JSON answer. Raises LocalFailure when it ends with another exit code."""
        try:
            done = subprocess.run(
                [*NODE, *words, "--json"],
                env=self.environment,
                capture_output=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LocalFailure(f"node {words[0]} took longer than {COMMAND_TIMEOUT_S:.0f} s", "") from error
        if done.returncode not in accepts:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise LocalFailure(f"node {' '.join(words)} at {self.home.name} failed ({done.returncode}): {said}", "")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def start(self) -> None:
        """Start `node up`."""
        with (self.home.parent / f"{self.home.name}.log").open("wb") as log:
            self.daemon = subprocess.Popen([*NODE, "up"], env=self.environment, stdout=log, stderr=log)

    def wait_until_up(self, url: str) -> None:
        """Until the daemon answers."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.must_be_up()
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310  our own loopback address
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise LocalFailure(f"the node at {url} did not start within {START_TIMEOUT_S:.0f} s", "")

    def must_be_up(self) -> None:
        """Raise LocalFailure with the end of the log when the daemon has ended."""
        if self.daemon is None or self.daemon.poll() is not None:
            log = (self.home.parent / f"{self.home.name}.log").read_text(errors="replace")
            raise LocalFailure(f"the daemon of {self.home.name} has ended: …{log[-2000:]}", "")

    def stop(self) -> None:
        """End the daemon, by force if it does not end by itself."""
        if self.daemon is None:
            return
        self.daemon.terminate()
        try:
            self.daemon.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait(timeout=20)
