"""How much memory a node takes while a peer sends it 10 GB: uploads to its inbox, and answers to its pulls.

The node is `node up` as a person starts it. What a peer sends without end is cut off, and how much went out until then
is reported; what keeps to the limits is taken in full. The peak is the kernel's own (`VmHWM`), set back before each.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from node.context import Node
from node.pull import heads_here
from registry.documents import BaseManifest
from registry.store import select
from registry.tables import PeerRow
from tests.benchmarks.bulk import Bulk
from tests.benchmarks.endless import endless_peer
from tests.benchmarks.rounds import Figure, Result, Scale
from tests.benchmarks.uploads import Uploads
from tests.daemon_tree import free_ports
from tests.node.tiny_models import save_tiny
from tests.processes import node_process
from tests.world import enrol_child, make_node, put, put_base, put_release

TOTAL: Final = 10_000_000_000
PARTS: Final = 10  # files of the base that is pulled
REFUSALS: Final = 20  # of answers without end
LONGEST_S: Final = 900.0
POLL_S: Final = 0.2
CHUNK: Final = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
CHUNKED: Final = "Transfer-Encoding: chunked"
SETTINGS: Final = {"serve": "off", "poll_interval_s": 0.2, "peer_backoff_max_s": 0.2, "max_pending_updates": 1_000}


@dataclass
class Watched:
    """A process, and what its memory was while it did something: MB (1,000,000 bytes) before, and the growth."""

    pid: int
    figures: dict[str, Figure] = field(default_factory=dict)

    def during(self, what: str, work: Callable[[], object]) -> None:
        """Do something to the process."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # proc(5): the peak is what is resident now
        before = self._mb("VmRSS")
        work()
        self.figures[f"{what}, resident before"] = Figure.of("MB", [before])
        self.figures[f"{what}, growth at the peak"] = Figure.of("MB", [self._mb("VmHWM") - before])

    def note(self, what: str, unit: str, amounts: list[float]) -> None:
        """Another figure."""
        self.figures[what] = Figure.of(unit, amounts)

    def _mb(self, name: str) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024 / 1e6


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait; raises RuntimeError when it takes too long."""
    end = time.monotonic() + LONGEST_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {LONGEST_S:g} s")
        time.sleep(POLL_S)


@contextmanager
def node_up(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`node up` on a home, once it answers, and its address; nobody reads what it says."""
    (port,) = free_ports(1)
    url, words = f"http://127.0.0.1:{port}", ["-m", "node.cli", "up", "--home", str(home), "--port", str(port)]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: _answers(url), "the start")
            yield process, url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=LONGEST_S) as answer:
        return bool(answer.status == 200)
    return False


def endless_upload(url: str, place: str, head: str) -> float:
    """Send one piece of a file without end; how many MB went out before the node closed the connection."""
    address, sent = urlsplit(url), 0
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
        connection.sendall(f"PUT {place} HTTP/1.1\r\nHost: node\r\nUpload-Offset: 0\r\n{head}\r\n\r\n".encode())
        try:
            while sent < TOTAL:
                sent += connection.send(CHUNK)
        except OSError:
            return sent / 1e6
    raise RuntimeError(f"the node took {sent} bytes in one request")


def measure_uploads(folder: Path, total: int) -> dict[str, Figure]:
    """What comes into an inbox."""
    node = make_node(folder / "parent", "en", **SETTINGS)
    put_release(node, "en", put_base(node))
    with node_up(folder / "parent") as (process, url):
        uploads = Uploads(node, urlsplit(url).port or 0)
        watched = Watched(process.pid)
        uploads.send(uploads.prepare(1))  # what is imported at the first
        (first,), updates = uploads.prepare(1), uploads.prepare(max(1, total // uploads.file_bytes))
        place, sent = uploads.begin(first), list[float]()
        for name, head in (("chunked", CHUNKED), ("declared", f"Content-Length: {TOTAL}")):
            what = f"upload without end, {name}"
            watched.during(what, lambda head=head: sent.append(endless_upload(url, place, head)))  # type: ignore[misc]
            watched.note(f"{what}, sent until the refusal", "MB", [sent[-1]])
        watched.during("uploads within limits", lambda: uploads.send(updates))
        watched.note("uploads within limits, sent", "MB", [len(updates) * uploads.file_bytes / 1e6])
    node.close()
    return watched.figures


def put_bulky_base(node: Node, files: dict[str, bytes], total: int) -> BaseManifest:
    """A base with many bytes beside its files, which take no room on the disk of its node."""
    stored = [put(node, name, data) for name, data in files.items()]
    stored += [Bulk(total // PARTS, number).put(node.blobs, f"LICENSE-{number}") for number in range(PARTS)]
    manifest = BaseManifest(
        name="banyan/bulky",
        family="llama",
        files=tuple(sorted(stored, key=lambda file: file.name)),
        licence="Apache-2.0",
    )
    node.blobs.put_bytes(manifest.to_bytes())
    return manifest


def measure_pulls(folder: Path, total: int) -> dict[str, Figure]:
    """What a parent answers."""
    parent, child = make_node(folder / "parent", "en"), make_node(folder / "child", "en/cards", **SETTINGS)
    files = {file.name: file.read_bytes() for file in save_tiny(folder / "base").iterdir()}
    put_release(parent, "en", put_base(parent, files))
    with node_process(folder / "parent") as url, endless_peer() as endless:
        enrol_child(child, parent, url, "en/cards")
        with node_up(folder / "child") as (process, _):
            watched = Watched(process.pid)
            until(lambda: _version(child) == 1, "the first release")
            _move_parent(child, endless.url)
            until(lambda: bool(endless.taken), "the first answer without end")
            begun = len(endless.taken)
            watched.during(
                "answers without end",
                lambda: until(lambda: len(endless.taken) >= begun + REFUSALS, "answers without end"),
            )
            watched.note(
                "answers without end, taken until the refusal", "MB", [taken / 1e6 for taken in endless.taken[begun:]]
            )
            _move_parent(child, url)
            put_release(parent, "en", put_bulky_base(parent, files, total), version=2)
            watched.during(
                "a release within limits", lambda: until(lambda: _version(child) == 2, "the release of many bytes")
            )
            watched.note("a release within limits, pulled", "MB", [total / 1e6])
    parent.close()
    child.close()
    return watched.figures


def _version(child: Node) -> int:
    here = heads_here(child)
    return here["en"].version if "en" in here else 0


def _move_parent(child: Node, url: str) -> None:
    with child.store.transaction() as session:
        session.scalars(select(PeerRow).where(PeerRow.role == "parent")).one().url = url


def run(scale: Scale) -> Result:
    """MB resident before each kind of sending, the growth at its peak, and how much was sent."""
    total = TOTAL // 1_000 if scale.smallest else TOTAL
    figures: dict[str, Figure] = {}
    for measure in (measure_uploads, measure_pulls):
        with tempfile.TemporaryDirectory() as folder:
            figures |= measure(Path(folder), total)
    return Result({"total_bytes": total, "senders": Uploads.SENDERS}, figures)
