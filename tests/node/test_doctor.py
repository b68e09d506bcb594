from __future__ import annotations

import contextlib
import fcntl
import http.server
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from node.cli import main
from node.context import opened_node
from node.doctor import examine
from node.machine import Finding, examine_libraries, examine_processor
from node.parent_probe import Answer, probe
from node.repository import Publisher
from node.settings import load_settings, store_settings
from node.setup import set_up
from registry.errors import BadData, LocalFailure

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
PARENT = Answer("the parent", KEY, NOW)


@pytest.fixture(autouse=True)
def light_and_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.machine.LIBRARIES", ("json",))
    for name in list(os.environ):
        if name.startswith("BANYAN_"):
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    set_up({"home": home, "port": 0}, {"port": 0}, None)
    return home


def findings(home: Path, *, answer: Answer = PARENT, **more: Any) -> list[Finding]:
    settings = load_settings({"home": home})
    found = examine(settings, now=lambda: NOW, ask=lambda url, timeout_s: answer, **more)
    assert all(finding.remedy for finding in found if finding.state == "failed")
    return found


def failed(home: Path, **more: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings(home, **more) if finding.state == "failed"}


def test_a_new_node_is_well(home: Path) -> None:
    assert failed(home) == {}
    assert failed(home, deep=True) == {}
    names = {finding.name for finding in findings(home)}
    assert names == {
        "home",
        "key",
        "root",
        "database",
        "log",
        "blobs",
        "disk",
        "memory",
        "processor",
        "json",
        "clock",
        "parent",
        "daemon",
    }


@pytest.mark.parametrize(("days", "state"), [(10, "ok"), (300, "warning"), (366, "failed")])
def test_a_root_that_nobody_signs_anew(home: Path, days: int, state: str) -> None:
    """F6: it warns while there is time."""
    with opened_node(load_settings({"home": home})) as node:
        Publisher(node).renew(NOW - timedelta(days=days))
    (found,) = (finding for finding in findings(home) if finding.name == "root")
    assert (found.state, bool(found.remedy)) == (state, state != "ok")


def test_looking_changes_nothing(home: Path) -> None:
    before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    findings(home, deep=True)
    assert {file: file.read_bytes() for file in home.rglob("*") if file.is_file()} == before


def test_no_home_at_all(tmp_path: Path) -> None:
    found = failed(tmp_path / "none")
    assert {"home", "key", "database", "blobs"} <= set(found)
    assert found["home"].remedy == "node init"
    assert not (tmp_path / "none").exists()


def test_a_home_open_to_others(home: Path) -> None:
    home.chmod(0o755)
    assert failed(home)["home"].remedy == f"chmod 700 {home}"


def test_a_key_open_to_others(home: Path) -> None:
    (home / "keys" / "node.pem").chmod(0o644)
    assert "chmod 600" in failed(home)["key"].remedy


def test_a_key_with_a_passphrase_that_is_not_given(home: Path) -> None:
    from node.key_file import change_passphrase

    change_passphrase(home / "keys" / "node.pem", None, "long enough")
    assert "BANYAN_PASSPHRASE" in failed(home)["key"].remedy
    assert "key" not in failed(home, passphrase="long enough")


def test_a_damaged_database(home: Path) -> None:
    for name in ("banyan.db-wal", "banyan.db-shm"):
        (home / name).unlink(missing_ok=True)
    (home / "banyan.db").write_bytes(b"not a database at all" * 500)
    assert "banyan.db" in failed(home)["database"].detail


def test_a_blob_that_changed_is_found_by_the_deep_look(home: Path) -> None:
    with opened_node(load_settings({"home": home})) as node:
        digest = node.blobs.put_bytes(b"some weights")
    file = home / "blobs" / digest[:2] / digest
    file.chmod(0o600)
    file.write_bytes(b"some Weights")
    assert failed(home) == {}
    assert digest in failed(home, deep=True)["blobs"].detail


def test_a_blob_that_a_served_model_needs_and_lacks(home: Path, tmp_path: Path) -> None:
    from node.importing import Source, import_model
    from registry.paths import NodePath
    from tests.node.tiny_models import save_tiny

    with opened_node(load_settings({"home": home})) as node:
        done = import_model(node, Source(save_tiny(tmp_path / "tiny"), "tiny"), NodePath.parse("en"), NOW)
    (home / "blobs" / done.release.base[:2] / done.release.base).unlink()
    assert failed(home)["blobs"].detail == f"en needs {done.release.base}, which is missing"


def test_a_full_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    assert "free some space" in failed(home)["disk"].remedy
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 30))
    assert "disk" not in failed(home)


def test_a_clock_that_cannot_be_right(home: Path) -> None:
    settings = load_settings({"home": home})
    found = examine(settings, now=lambda: datetime(1970, 1, 1, tzinfo=UTC), ask=lambda url, timeout_s: PARENT)
    assert [finding.remedy for finding in found if finding.state == "failed"] == ["set it: timedatectl set-ntp true"]


def test_a_clock_a_day_from_the_parents(home: Path) -> None:
    store_settings(home, {"parent_url": "http://parent.example"})
    away = Answer("the parent", KEY, NOW + timedelta(days=1))
    assert "86400 s apart" in failed(home, answer=away)["clock"].detail
    assert failed(home, answer=Answer("the parent", KEY, NOW + timedelta(seconds=60))) == {}
    assert failed(home, answer=Answer("the parent", KEY, None)) == {}


def test_a_parent_with_another_key(home: Path) -> None:
    store_settings(home, {"parent_url": "http://parent.example", "parent_key": "ab" * 32})
    assert "another key" in failed(home)["parent"].detail
    store_settings(home, {"parent_key": KEY})
    assert failed(home) == {}


def test_a_parent_that_is_down(home: Path) -> None:
    store_settings(home, {"parent_url": "http://127.0.0.1:9"})
    found = examine(load_settings({"home": home}), now=lambda: NOW)
    [parent] = [finding for finding in found if finding.name == "parent"]
    assert parent.state == "failed"
    assert "http://127.0.0.1:9 does not answer" in parent.detail


def test_a_daemon_that_runs_and_one_that_does_not(home: Path) -> None:
    def daemon() -> Finding:
        return next(finding for finding in findings(home) if finding.name == "daemon")

    assert "node up" in daemon().detail
    (home / "daemon.lock").touch()
    with (home / "daemon.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert daemon().detail == "running"
    assert "not running" in daemon().detail


def test_a_port_that_another_program_holds(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        store_settings(home, {"port": port})
        assert f"127.0.0.1:{port}" in failed(home)["daemon"].detail


def test_a_library_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.machine.LIBRARIES", ("json", "no_such_library"))
    good, bad = examine_libraries()
    assert (good.state, bad.state) == ("ok", "failed")
    assert "pip install" in bad.remedy


def test_what_the_processor_can_do(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name : X\nflags\t\t: fpu avx2 amx_bf16 avx512f avx512_bf16\n")
    assert "amx_bf16, avx512_bf16" in examine_processor(file).detail
    file.write_text("flags : fpu avx2\n")
    assert "avx2; bf16 is not in hardware" in examine_processor(file).detail
    assert "no wide vectors known" in examine_processor(tmp_path / "none").detail


def test_the_command_ends_with_4_when_something_failed(home: Path) -> None:
    runner = CliRunner()
    well = runner.invoke(main, ["doctor", "--home", str(home), "--json"])
    assert (well.exit_code, json.loads(well.stdout)["sound"]) == (0, True)
    home.chmod(0o755)
    ill = runner.invoke(main, ["doctor", "--home", str(home)])
    assert ill.exit_code == 4
    assert f"chmod 700 {home}" in ill.stdout.replace("\n", "")


def test_settings_that_cannot_be_read_are_a_finding(home: Path) -> None:
    (home / "config.toml").write_text("prot = 1\n")
    ill = CliRunner().invoke(main, ["doctor", "--home", str(home), "--json"])
    assert ill.exit_code == 4
    [finding] = json.loads(ill.stdout)["findings"]
    assert (finding["name"], finding["remedy"]) == ("settings", "did you mean 'port'?")


@contextlib.contextmanager
def parent(body: bytes, *, date: datetime = NOW, status: int = 200, wait_s: float = 0) -> Iterator[str]:
    """A program that answers every request in this way."""
    released = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            released.wait(wait_s)
            self.send_response_only(status)
            self.send_header("Date", format_datetime(date, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # the asker may have gone
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_probe_reads_name_key_and_date() -> None:
    said = json.dumps({"key": KEY, "name": "the \x1b[2J parent", "paths": [], "version": "1"}).encode()
    with parent(said) as url:
        assert probe(url, 5.0) == Answer("the  [2J parent", KEY, NOW)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"name": "x"}', b"[" * 100_000])
def test_the_probe_refuses_what_is_not_a_node(body: bytes) -> None:
    with parent(body) as url, pytest.raises(BadData, match="not a node"):
        probe(url, 5.0)


def test_the_probe_refuses_an_error_and_an_endless_answer() -> None:
    with parent(b"no", status=503) as url, pytest.raises(BadData, match="answered 503"):
        probe(url, 5.0)
    with parent(b" " * (2 << 20)) as url, pytest.raises(BadData, match="too large"):
        probe(url, 5.0)


def test_the_probe_does_not_wait_for_ever() -> None:
    started = time.monotonic()
    with parent(b"{}", wait_s=30) as url, pytest.raises(LocalFailure, match="does not answer"):
        probe(url, 0.5)
    assert time.monotonic() - started < 10


def test_the_probe_refuses_what_is_no_address() -> None:
    with pytest.raises(BadData, match="not a web address"):
        probe("gopher://x", 1.0)
