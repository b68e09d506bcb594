"""The kinds of work that `tests.kill_test` kills: how each begins anew, what is killed, what the finished work left.

`clone` and `publish` kill a command of a child, `inbox` the parent while it takes an update in, `finetune` a command
that trains. When to kill, and what to make of the outcome, is left to `tests.kill_test`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from node.context import opened_node
from node.settings import load_settings
from registry.store import select
from registry.tables import RunRow, UpdateRow
from tests.daemon_tree import free_ports
from tests.forks import LONGEST_S, start_ready, stop
from tests.killed_acts import CARDS, NUMBERS, act, serve
from tests.world import enrol_child, make_node, own_work, put_base, put_release, snapshot, utc_now

ADAPTER = b"an adapter that is long enough to be cut" * 100_000  # 4 MB
CLONE_FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "lineage.json"}


class Killable(Protocol):
    """What runs, and can be stopped as a power cut would."""

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


@dataclass(frozen=True)
class Work:
    """Work that may be killed at any moment.

    `fresh` puts everything back to the beginning; `begin` starts the work and returns once it is under way; `finish`
    runs the same command to its end; `result` is what it left, to be compared; `problems` is what is wrong with what
    can be seen at any time; `stop` ends what still runs.
    """

    fresh: Callable[[], None]
    begin: Callable[[], Killable]
    finish: Callable[[], None]
    result: Callable[[], Any]
    problems: Callable[[], list[str]]
    stop: Callable[[], None]


@dataclass
class Command:
    """A command that works on the homes in a folder."""

    process: BaseProcess

    @classmethod
    def begin(cls, what: str, folder: Path) -> Command:
        """Start it; returns when its work begins."""
        return cls(start_ready(act, what, folder))

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises TimeoutError where it still runs."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise TimeoutError
        return self.process.exitcode

    def kill(self) -> None:
        stop(self.process)


def finish(what: str, folder: Path) -> None:
    """Run a command to its end."""
    code = Command.begin(what, folder).wait(LONGEST_S)
    assert code == 0, f"{what} ended with {code}"


def put_back(home: Path) -> None:
    """Make a home what it was at the beginning."""
    shutil.rmtree(home)
    shutil.copytree(home.with_suffix(".fresh"), home)


def damages(home: Path) -> list[str]:
    """What is wrong in a home that may have been left at any moment."""
    with opened_node(load_settings({"home": home})) as node:
        return node.blobs.check_integrity() + node.store.check_integrity()


class Family:
    """A parent and an enrolled child in their homes, and copies of the homes as they were at the beginning."""

    def __init__(self, folder: Path, *, with_own_work: bool, base: Path | None = None) -> None:
        self.folder = folder
        self.parent, self.child, self.out = folder / "parent", folder / "child", folder / "out"
        parent = make_node(self.parent, "en", "en/finance")
        files = {file.name: file.read_bytes() for file in base.iterdir()} if base else None
        manifest = put_base(parent, files)
        top = put_release(parent, "en", manifest)
        pin = put_release(parent, "en/finance", manifest, above=top)
        parent.close()
        (self.port,) = free_ports(1)
        url = f"http://127.0.0.1:{self.port}"
        self.serve()
        child = make_node(self.child, CARDS)
        parent = make_node(self.parent, "en", "en/finance")
        enrol_child(child, parent, url, CARDS)
        parent.close()
        if with_own_work:
            from node.trust import trusted_keys
            from sync.pull import fetch_release

            fetch_release(
                child.peer(url),
                pin,
                trusted=trusted_keys(child, utc_now()),
                store=child.store,
                blobs=child.blobs,
                now=utc_now(),
            )
            own_work(child, pin, CARDS, ADAPTER)
        child.close()
        self.stop()
        for home in (self.parent, self.child):
            shutil.copytree(home, home.with_suffix(".fresh"))

    def work(self, what: str, begin: Callable[[], Killable], result: Callable[[], Any]) -> Work:
        """A command of the child as work."""
        return Work(self.fresh, begin, lambda: self.finish(what), result, self.problems, self.stop)

    def fresh(self) -> None:
        """Both homes as they were, the clone gone, the parent running."""
        self.stop()
        for home in (self.parent, self.child):
            put_back(home)
        shutil.rmtree(self.out, ignore_errors=True)
        self.serve()

    def serve(self) -> None:
        """Start the parent, always on the same port."""
        self.server = start_ready(serve, self.parent, self.port)

    def stop(self) -> None:
        """End the parent, if it runs."""
        stop(self.server)

    def finish(self, what: str) -> None:
        """Run a command of the child to its end."""
        if not self.server.is_alive():
            self.serve()
        finish(what, self.folder)

    def problems(self) -> list[str]:
        """What is wrong with what the two nodes and the folder of a clone show."""
        lacking = CLONE_FILES - {file.name for file in self.out.iterdir()} if self.out.exists() else set()
        return [
            *damages(self.parent),
            *damages(self.child),
            *(f"the clone lacks {name}" for name in sorted(lacking)),
        ]

    def cloned(self) -> Any:
        """The files of the clone, and what the child shows."""
        files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in self.out.iterdir()}
        with opened_node(load_settings({"home": self.child})) as node:
            return files, snapshot(node)

    def published(self) -> Any:
        """What parent and child know of updates; the signed bytes differ from try to try, but not between the two."""
        known = []
        for home in (self.parent, self.child):
            with opened_node(load_settings({"home": home})) as node, node.store.read() as session:
                known.append(list(session.scalars(select(UpdateRow))))
                whole = node.blobs.has(hashlib.sha256(ADAPTER).hexdigest())
        there, here = known
        return (
            [(row.direction, row.path, row.sequence, row.state) for row in (*there, *here)],
            [row.envelope for row in there] == [row.envelope for row in here],
            whole,
        )


@dataclass
class ParentOf:
    """The parent, which is killed while a command of its child runs."""

    command: Command
    family: Family

    def wait(self, timeout: float | None = None) -> int:
        return self.command.wait(timeout)

    def kill(self) -> None:
        self.family.stop()
        self.command.wait(LONGEST_S)


class Learner:
    """A node with a tiny model, old knowledge to rehearse and rows of its own, and a copy of its home."""

    def __init__(self, folder: Path) -> None:
        from tests.node.conftest import anchor_rows, own_rows, put_anchored
        from tests.node.tiny_models import save_tiny

        self.folder, self.home = folder, folder / "home"
        base = {file.name: file.read_bytes() for file in save_tiny(folder / "base").iterdir()}
        node = make_node(self.home, "en", threads=1, precision="fp32")
        put_anchored(node, "en", put_base(node, base), None, anchor_rows(60))
        node.close()
        rows = [json.dumps({"input": row.input, "output": row.output}) for row in own_rows(80)]
        (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        shutil.copytree(self.home, self.home.with_suffix(".fresh"))

    def learned(self) -> Any:
        """The runs with their adapters, the figures, every loss; without times and signatures."""
        from node.metrics import read_curve
        from sync.chain import stored_chain

        with opened_node(load_settings({"home": self.home})) as node:
            with node.store.read() as session:
                runs = [(row.id, row.state, row.manifest, row.adapter) for row in session.scalars(select(RunRow))]
            release = stored_chain(node.store, node.blobs, snapshot(node)[1][NUMBERS])[-1].release
            assert release.adapter is not None
            adapter = node.blobs.open_verified(release.adapter.file.sha256).name
            curves = [read_curve(node.home.runs / run / "metrics.jsonl") for run, *_ in runs]
        figures = [
            {name: value for name, value in one.metrics.items() if name != "seconds"} for one in release.evaluations
        ]
        return runs, release.version, adapter, figures, curves


def clone_work(folder: Path) -> Work:
    """Kill a clone."""
    from tests.node.tiny_models import save_tiny

    base = save_tiny(folder / "base")
    (base / "LICENSE").write_bytes(random.Random(0).randbytes(8 << 20))
    family = Family(folder, with_own_work=False, base=base)
    return family.work("clone", lambda: Command.begin("clone", folder), family.cloned)


def finetune_work(folder: Path) -> Work:
    """Kill a fine-tune."""
    learner = Learner(folder)
    return Work(
        fresh=lambda: put_back(learner.home),
        begin=lambda: Command.begin("finetune", folder),
        finish=lambda: finish("finetune", folder),
        result=learner.learned,
        problems=lambda: damages(learner.home),
        stop=lambda: None,
    )


def publish_work(folder: Path) -> Work:
    """Kill a child that publishes."""
    family = Family(folder, with_own_work=True)
    return family.work("publish", lambda: Command.begin("publish", folder), family.published)


def inbox_work(folder: Path) -> Work:
    """Kill the parent that takes an update in."""
    family = Family(folder, with_own_work=True)
    return family.work("publish", lambda: ParentOf(Command.begin("publish", folder), family), family.published)


WORKS: dict[str, Callable[[Path], Work]] = {
    "clone": clone_work,
    "finetune": finetune_work,
    "publish": publish_work,
    "inbox": inbox_work,
}
