"""How many updates a second one inbox takes, by how many send at a time, on SQLite and on PostgreSQL.

A real node serves in a process of its own, and every sender is a process (`sender.py`) with updates that were signed
before. An update counts when its envelope was accepted and its file is whole; nobody checks it here, that is what
`update-cost` measures.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from node.context import Node
from registry.documents import Adapter, AdapterShape, Evaluation, File, Update, seal_document
from registry.store import select
from registry.tables import UpdateRow
from tests.benchmarks.rounds import Figure, Result, Scale
from tests.databases import SERVER, empty_schema
from tests.processes import node_process
from tests.toy_tree import Child, enrol, head_of
from tests.world import make_node, put_base, put_release, utc_now

UPDATES = {1: 64, 8: 128, 64: 512}  # of so many senders, so many updates a round
ROUNDS = 5
PER_KEY = 8  # that may wait of one key (U5)
FILE_BYTES = 64 << 10
SENDER = Path(__file__).with_name("sender.py")
LONGEST_S = 300.0


@dataclass
class Inbox:
    """A node that serves, and where its senders find their updates."""

    node: Node
    port: int
    folder: Path
    made: int = 0
    taken: int = 0

    def prepare(self, senders: int, updates: int) -> list[Path]:
        """A folder of signed updates for each sender, from keys that are new and enrolled."""
        folders = []
        for number in range(senders):
            folder = self.folder / f"{senders}-{number}-{self.made}"
            folder.mkdir()
            for at in range(updates // senders):
                if at % PER_KEY == 0:
                    child = enrol(self.node, f"en/place-{self.made}")
                self._write(folder / f"{at:04}", child)
            folders.append(folder)
        return folders

    def _write(self, place: Path, child: Child) -> None:
        self.made += 1
        data = self.made.to_bytes(8, "big") * (FILE_BYTES // 8)
        place.with_suffix(".file").write_bytes(data)
        place.with_suffix(".envelope").write_bytes(seal_document(update_of(self.node, child, data), child.key))

    def take(self, folders: Sequence[Path]) -> list[list[tuple[float, float]]]:
        """Let the senders send, all at once; the moments of each. Nobody sends from an address of an earlier round."""
        self.taken += 1
        started = [
            subprocess.Popen(
                [sys.executable, "-I", SENDER, folder, str(self.port), f"127.0.{self.taken}.{number + 1}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number, folder in enumerate(folders)
        ]
        for process in started:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=LONGEST_S)[0] for process in started]
        if any(process.returncode for process in started):
            raise RuntimeError("a sender failed")
        return [json.loads(one) for one in said]

    def empty(self) -> None:
        """Nothing waits any longer, as if it had been decided."""
        with self.node.store.transaction() as session:
            for row in session.scalars(select(UpdateRow).where(UpdateRow.state == "received")):
                row.state = "accepted"


def update_of(node: Node, child: Child, data: bytes) -> Update:
    """The next update of a child, whose file has these bytes."""
    child.sequence += 1
    now, release = utc_now(), head_of(node, "en")
    file = File(name="adapter_model.safetensors", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    shape = AdapterShape(rank=4, alpha=4.0, targets=("q_proj",), dtype="F32")
    return Update(
        path=child.path,
        issuer=child.key.public.id,
        audience=node.key.public.id,
        base=release.release.base,
        release=release.pin,
        sequence=child.sequence,
        created=now,
        expires=now + timedelta(days=30),
        adapter=Adapter(file=file, shape=shape),
        claims=(Evaluation(dataset="own", split="test", rows=30, metrics={"exact_match": 1.0}, path=child.path),),
        run="6" * 64,
        transfer=None,
        transfer_rows=0,
    )


@contextmanager
def inbox(folder: Path, database_url: str) -> Iterator[Inbox]:
    """A parent with one release, serving."""
    settings = {"max_pending_updates": 100_000, **({"database_url": database_url} if database_url else {})}
    node = make_node(folder / "home", "en", **settings)
    try:
        put_release(node, "en", put_base(node))
        with node_process(folder / "home") as url:
            yield Inbox(node, urlsplit(url).port or 0, folder)
    finally:
        node.close()


def measured(place: Inbox, senders: int, updates: int) -> tuple[float, np.ndarray]:
    """One round: updates a second, and milliseconds of each."""
    moments = np.array([one for sent in place.take(place.prepare(senders, updates)) for one in sent])
    place.empty()
    return len(moments) / (moments[:, 1].max() - moments[:, 0].min()), 1000 * (moments[:, 1] - moments[:, 0])


def run(scale: Scale) -> Result:
    """Updates a second, and how long one takes, by database and senders."""
    figures: dict[str, Figure] = {}
    sizes = {1: 8} if scale.smallest else UPDATES
    databases = {"SQLite": nullcontext(""), **({"PostgreSQL": empty_schema(SERVER)} if SERVER else {})}
    for name, database in databases.items():
        with database as url, tempfile.TemporaryDirectory() as folder, inbox(Path(folder), url) as place:
            measured(place, 1, PER_KEY)
            for senders, updates in sizes.items():
                rates, waits = zip(
                    *(measured(place, senders, updates) for _ in range(scale.rounds or ROUNDS)), strict=True
                )
                label = f"{name}, {senders} at a time"
                figures[label] = Figure.of("updates/s", rates)
                for share in (50, 95):
                    figures[f"{label}, p{share}"] = Figure.of("ms", [float(np.percentile(one, share)) for one in waits])
    return Result({"updates_a_round": sizes, "file_bytes": FILE_BYTES, "requests_an_update": 4}, figures)
