"""How quickly a clone brings bytes: `node clone` from a real server process on loopback, beside plainer ways.

A clone hashes every byte when it comes and again when the base is laid out, and flushes it to the disk. The plain ways
are a download by `http.client` from the same server and a copy of the file, each flushed once at the end.
"""

from __future__ import annotations

import http.client
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from node.clone import clone
from node.context import opened_node
from node.settings import load_settings
from registry.paths import Ref
from tests.benchmarks.cold_start import execute, node_command, shown_command
from tests.benchmarks.rounds import Figure, Result, Scale, interleaved, rates, seconds, times_as_fast
from tests.node.tiny_models import save_tiny
from tests.processes import node_process
from tests.world import enrol_child, make_node, put_base, put_release, utc_now

SIZES_MB = (64, 256)
ROUNDS = 5
PATH, CHILD_PATH = "en/finance", "en/finance/cards"
PIECE_BYTES = 1 << 20
LONGEST_S = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """A parent that serves a release with one large file, and a child's home as it is before its first clone."""

    folder: Path
    url: str
    digest: str
    blob: Path

    def child(self) -> Path:
        """The home of a child that has nothing yet."""
        home = self.folder / "child"
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        return Path(shutil.copytree(self.folder / "child.fresh", home))

    def command(self) -> float:
        """The command that a person types, in a process of its own; seconds."""
        home = self.child()
        words = ["clone", PATH, "--out", str(self.folder / "out"), "--home", str(home), "--json"]
        return seconds(lambda: execute([*node_command(), *words]))

    def pull(self) -> float:
        """The same in this process, which has imported everything; seconds."""
        with opened_node(load_settings({"home": self.child()})) as node:
            return seconds(lambda: clone(node, Ref.parse(PATH), self.folder / "out", now=utc_now()))

    def download(self) -> float:
        """The bytes alone, from the same server; seconds."""
        return seconds(lambda: self._flushed(self._download))

    def copy(self) -> float:
        """The bytes alone, from the same disk; seconds."""
        return seconds(lambda: self._flushed(lambda target: shutil.copyfile(self.blob, target)))

    def _flushed(self, write: Callable[[Path], object]) -> None:
        target = self.folder / "plain"
        write(target)
        with target.open("rb+") as written:
            os.fsync(written.fileno())
        target.unlink()

    def _download(self, target: Path) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=LONGEST_S)
        connection.request("GET", f"/v1/blobs/{self.digest}")
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{self.url} answered {answer.status}")
        with target.open("wb", buffering=0) as written:
            shutil.copyfileobj(answer, written, PIECE_BYTES)
        connection.close()


@contextmanager
def place(folder: Path, size_mb: int) -> Iterator[Place]:
    """Make the two nodes and let the parent serve."""
    large = random.Random(0).randbytes(size_mb * 1_000_000)
    files = {file.name: file.read_bytes() for file in save_tiny(folder / "base").iterdir()} | {"LICENSE": large}
    parent = make_node(folder / "parent", PATH)
    base = put_base(parent, files)
    digest = next(file.sha256 for file in base.files if file.name == "LICENSE")
    put_release(parent, PATH, base)
    with node_process(folder / "parent") as url:
        child = make_node(folder / "child.fresh", CHILD_PATH)
        enrol_child(child, parent, url, CHILD_PATH)
        child.close()
        parent.close()
        yield Place(folder, url, digest, parent.blobs.path(digest))


def run(scale: Scale) -> Result:
    """MB (1,000,000 bytes) a second by size and way, and the clone's share of what the plain ways reach."""
    figures: dict[str, Figure] = {}
    for size_mb in SIZES_MB[: 1 if scale.smallest else None]:
        with tempfile.TemporaryDirectory() as folder, place(Path(folder), size_mb) as here:
            contenders = {
                "node clone": here.command,
                "clone without the start": here.pull,
                "http.client": here.download,
                "copy": here.copy,
            }
            for contender in contenders.values():
                contender()
            found = interleaved(contenders, scale.rounds or ROUNDS)
        for name, times_s in found.items():
            figures[f"{size_mb} MB, {name}"] = rates("MB/s", size_mb, times_s)
        for plain in ("http.client", "copy"):
            ratio = times_as_fast(found["clone without the start"], found[plain])
            figures[f"{size_mb} MB, clone / {plain}"] = ratio
    return Result({"command": shown_command()}, figures)
