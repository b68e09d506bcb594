"""Bad input to the commands: each has its own error with a next step, and the home is as it was, byte for byte.

A full disk is tested in `test_full_disk`, bad updates in `tests.sync.test_inbox` (another base, rank above the limit,
clocks) and `tests.sync.checks.test_files` (NaN), bad models in `test_import`.
"""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from node.api.app import create_app
from node.cli import main
from node.context import Node, opened_node
from node.enrol import enrol
from node.publish import publish
from node.pull import pull
from node.run_lock import run_lock
from node.settings import load_settings
from node.updates import list_updates
from registry.errors import BadData
from registry.paths import NodePath
from registry.store import select
from registry.tables import EnrolmentRow, PeerRow
from sync.chain import stored_chain
from sync.transport import Refused
from tests.processes import ROOT
from tests.world import enrol_child, make_node, own_work, put_base, put_release, put_tree, snapshot, utc_now

CARDS = NodePath.parse("en/cards")
ADAPTER = b"what the child learned" * 1000
DAY = timedelta(days=1)


def call(home: Path, *words: str | Path, code: int) -> dict[str, str]:
    """The error of a command."""
    command, *rest = map(str, words)
    done = CliRunner().invoke(main, [command, "--home", str(home), "--json", *rest])
    assert done.exit_code == code, done.output
    error = json.loads(done.stdout)["error"]
    assert error["hint"]
    return dict(error)


def files(home: Path) -> dict[str, str]:
    """Every file of a home by digest; SQLite's own notes beside the database come and go."""
    return {
        str(file.relative_to(home)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in home.rglob("*")
        if file.is_file() and not file.name.endswith(("-wal", "-shm"))
    }


def family(folder: Path, url: str | None, serve: Callable[[Any], str], base: dict[str, bytes] | None = None) -> Path:
    """The home of a child with work to publish; its parent serves, or is said to live at `url`."""
    parent = make_node(folder / "parent", "en")
    pin = put_release(parent, "en", put_base(parent, base))
    child = make_node(folder / "child", str(CARDS), threads=1, precision="fp32")
    real = serve(create_app(parent))
    enrol_child(child, parent, real, str(CARDS))
    pull(child, NodePath.parse("en"), utc_now())
    own_work(child, pin, str(CARDS), ADAPTER)
    if url is not None:
        with child.store.transaction() as session:
            session.scalars(select(PeerRow)).one().url = url
    child.close()
    parent.close()
    return folder / "child"


@pytest.fixture
def home(tmp_path: Path, serve: Callable[[Any], str], tiny_base: Path) -> Path:
    return family(tmp_path, None, serve, {file.name: file.read_bytes() for file in tiny_base.iterdir()})


# Each: the file's name, its bytes, what the error names, what the next step names.
LATIN = '{"input": "café", "output": "x"}\n'.encode("latin-1")
BAD_FILES: dict[str, tuple[str, bytes, str, str]] = {
    "empty": ("a.jsonl", b"", "is empty", "one row per line"),
    "binary": ("a.jsonl", b'{"input": "a"\x00\x01', "binary", "JSONL"),
    "an archive": ("a.jsonl", b"\x1f\x8b\x08\x00", "gzip", "gunzip"),
    "UTF-16": ("a.jsonl", '{"input": "a", "output": "b"}'.encode("utf-16"), "UTF-16", "iconv -f UTF-16"),
    "Latin-1": ("a.jsonl", LATIN, "line 1: byte 14 (0xe9) is not UTF-8", "iconv -f WINDOWS-1252"),
    "wrong columns": ("a.jsonl", b'{"question": "a", "answer": "b"}\n', "", "input"),
    "cut off": ("a.jsonl", b'{"input": "a", "outp', "line 1", ""),
    "unknown kind": ("a.dat", b"hello", ".dat is not known", ".jsonl"),
}
READERS = {
    "finetune": ("finetune", str(CARDS), "--data"),
    "evaluate": ("evaluate", "en", "--data"),
    "publish": ("publish", str(CARDS), "--yes", "--transfer-set"),
}


@pytest.mark.parametrize("command", READERS)
def test_bad_data_files(command: str, home: Path, tmp_path: Path) -> None:
    before = files(home)
    for case, (name, content, cause, step) in BAD_FILES.items():
        file = tmp_path / name
        file.write_bytes(content)
        error = call(home, *READERS[command], file, code=3)
        assert cause in error["message"], case
        assert step in error["hint"], case
        assert files(home) == before, case
    with (tmp_path / "huge.jsonl").open("wb") as huge:
        huge.truncate(1 << 40)
    assert "bytes, more than the" in call(home, *READERS[command], tmp_path / "huge.jsonl", code=3)["message"]
    assert "there is no file" in call(home, *READERS[command], tmp_path / "none.jsonl", code=3)["message"]
    assert files(home) == before


@pytest.mark.parametrize(
    ("words", "code", "cause"),
    [
        (("show", "EN finance"), 3, "EN finance"),
        (("show", "de"), 4, "no release of de"),
        (("evaluate", "de", "--data", "ROWS"), 4, "no release of de"),
        (("generate", "de", "hello"), 4, "no release of de"),
        (("finetune", "en/cards/no such", "--data", "ROWS"), 3, "no such"),
        (("finetune", "de", "--data", "ROWS"), 3, "responsible for en/cards, not for de"),
        (("publish", "de"), 4, "no release of de"),
        (("pull", "de"), 4, "does not serve de; it serves en"),
        (("clone", "de", "--out", "OUT"), 4, "does not serve de; it serves en"),
        (("clone", "en@v9", "--out", "OUT"), 4, "no release en@v9"),
        (("export", "de", "--to", "OUT"), 4, "no release of de"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_paths(words: tuple[str, ...], code: int, cause: str, home: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"input": "a", "output": "b"}\n' * 30)
    before = files(home)
    places = {"ROWS": rows, "OUT": tmp_path / "out"}
    assert cause in call(home, *(places.get(word, word) for word in words), code=code)["message"]
    assert files(home) == before
    assert not (tmp_path / "out").exists()


# A parent that is down, or gives a byte now and then


def drip(connection: socket.socket) -> None:
    """A head that never ends, in single bytes, until the other side has had enough."""
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        connection.sendall(b"a")
        threading.Event().wait(0.02)


ASKING = {
    "pull": ("pull",),
    "clone": ("clone", "en", "--out", "OUT"),
    "publish": ("publish", str(CARDS)),
}


@pytest.mark.parametrize("state", ["down", "slow"])
@pytest.mark.parametrize("command", ASKING)
def test_a_parent_that_does_not_answer(
    command: str, state: str, tmp_path: Path, serve: Callable[[Any], str], answering: Callable[..., str]
) -> None:
    """An end comes by the limit of time; a signed update waits for the next try, all else is as it was."""
    url = answering(drip) if state == "slow" else "http://127.0.0.1:9"
    home = family(tmp_path, url, serve)
    before = files(home)
    words = [str(tmp_path / "out") if word == "OUT" else word for word in ASKING[command]]
    error = call(home, *words, "--set", "request_timeout_s=0.3", code=4)
    assert url in error["message"]
    after = files(home)
    if command == "publish":
        with opened_node(load_settings({"home": home})) as node:
            assert [(row.state, row.sequence) for row in list_updates(node, "out")] == [("ready", 1)]
        del before["banyan.db"], after["banyan.db"]
    assert after == before
    assert not (tmp_path / "out").exists()


# A clock that is off by a day


@pytest.fixture
def tree(tmp_path: Path, serve: Callable[[Any], str]) -> Iterator[tuple[Node, Node, str]]:
    parent = make_node(tmp_path / "parent", "en")
    put_tree(parent, "en")
    child = make_node(tmp_path / "child", str(CARDS))
    yield parent, child, serve(create_app(parent))
    child.close()
    parent.close()


def test_a_clock_off_by_a_day_when_enrolling(tree: tuple[Node, Node, str]) -> None:
    """N2: a request from the future is refused; once the clock is set, also too early, the same command asks anew."""
    parent, child, url = tree
    with pytest.raises(Refused, match=r"made 863\d\d s from now|made 86400 s from now") as caught:
        enrol(child, url, CARDS, lambda stranger: True, utc_now() + DAY)
    assert "clock" in caught.value.hint
    with parent.store.read() as session:
        assert [row.path for row in session.scalars(select(EnrolmentRow))] == ["en/somebody"]
    assert enrol(child, url, CARDS, lambda stranger: True, utc_now() - DAY) == "pending"


def test_a_clock_off_by_a_day_when_pulling(tree: tuple[Node, Node, str]) -> None:
    """R10, F6: yesterday's node refuses what was made tomorrow; tomorrow's cannot know whether it is kept from news."""
    parent, child, url = tree
    enrol_child(child, parent, url, str(CARDS))
    before = snapshot(child)
    with pytest.raises(BadData, match="hours from now: this machine's clock says") as caught:
        pull(child, NodePath.parse("en"), utc_now() - DAY)
    assert "clock" in caught.value.hint
    assert snapshot(child) == before
    with pytest.raises(BadData, match="expired") as caught:
        pull(child, NodePath.parse("en"), utc_now() + DAY)
    assert "clock" in caught.value.hint
    assert snapshot(child) == before
    assert [one.new for one in pull(child, NodePath.parse("en"), utc_now() + DAY / 2)] == [True]


@pytest.mark.parametrize(("off", "state"), [(DAY, "rejected"), (-DAY, "received")])
def test_a_clock_off_by_a_day_when_publishing(off: timedelta, state: str, tree: tuple[Node, Node, str]) -> None:
    """C8: from tomorrow it is refused with the reason; once the clock is set, the same work is offered anew."""
    parent, child, url = tree
    enrol_child(child, parent, url, str(CARDS))
    (pulled,) = pull(child, NodePath.parse("en"), utc_now())
    pin = stored_chain(child.store, child.blobs, pulled.digest)[-1].pin
    own_work(child, pin, str(CARDS), ADAPTER)
    done = publish(child, CARDS, None, 0, lambda outgoing: True, now=utc_now() + off)
    assert done.state == state
    if state == "rejected":
        assert "the sender's clock is wrong" in done.reason
        again = publish(child, CARDS, None, 0, lambda outgoing: True, now=utc_now(), anew=True)
        assert (again.state, again.new) == ("received", True)


# Two processes on one home


def test_a_second_daemon_on_one_home(tmp_path: Path) -> None:
    """The second `node up` names the first and ends; the first goes on serving."""
    home = tmp_path / "home"
    make_node(home, "en").close()
    arguments = [sys.executable, "-m", "node.cli", "up", "--home", str(home), "--port", "0"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=ROOT) as first:
        assert first.stderr is not None
        assert any("running on" in line.lower() for line in first.stderr)
        error = call(home, "up", "--port", "0", code=4)
        assert f"another daemon (process {first.pid}) runs on {home}" in error["message"]
        assert "stop it first" in error["hint"]
        assert first.poll() is None
        first.terminate()
        first.wait(timeout=60)


def test_a_second_fine_tune_of_one_path(home: Path, tmp_path: Path) -> None:
    """The second names who is at work, and nothing of it is seen."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"input": f"a {n}", "output": "b"}) + "\n" for n in range(40)))
    words = ("finetune", str(CARDS), "--data", rows, "--rank", "4")
    with opened_node(load_settings({"home": home})) as node, run_lock(node.home, CARDS):
        before = snapshot(node)
        error = call(home, *words, code=4)
        assert snapshot(node) == before
    assert "en/cards is being fine-tuned by another process" in error["message"]
    assert "wait until it is done, or stop it" in error["hint"]
    assert [file.name for file in (home / "runs").iterdir() if file.is_dir()] == []
