"""`node up` as a real process, and its end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from httpx_sse import connect_sse

from node.config_file import edit_config
from node.starter import install_starter_tree
from sync.daemon import only_daemon
from sync.delta import Delta
from tests.processes import ROOT, START_S, serving_command
from tests.toy import SHAPES, rows
from tests.toy_tree import enrol, make_parent, state_of
from tests.world import make_node

COMPUTES = ("torch", "transformers", "peft", "safetensors", "llguidance")
ASKED = {"model": "en", "prompt": "hello", "max_tokens": 200, "ignore_eos": True, "stream": True}


def test_what_computes_is_not_imported_before_a_node_listens() -> None:
    """It takes seconds, and after a kill peers and users wait for an answer."""
    code = (
        "import sys\nimport node.daemon, node.api.app, node.api.server, node.serving.models\n"
        f"print([name for name in {COMPUTES!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["[]"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_node_that_is_told_to_end_closes_what_it_opened(end: signal.Signals, tmp_path: Path) -> None:
    """Its models are loaded and one answers: the answer is finished, then come the words after the work, and code 0."""
    node = make_node(tmp_path / "home", "master", threads=1, precision="fp32", serve="eager", cache_tokens=2_048)
    install_starter_tree(node)
    node.close()
    with serving_command(tmp_path / "home", "up") as (process, url), httpx.Client(base_url=url, timeout=60) as http:
        until = time.monotonic() + START_S
        while http.get("/ready").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.1)
        with connect_sse(http, "POST", "/v1/completions", json=ASKED) as source:
            pieces = source.iter_sse()
            assert json.loads(next(pieces).data)["choices"]
            process.send_signal(end)
            events = [event.data for event in pieces]
        out, log = process.communicate(timeout=60)
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert (process.returncode, json.loads(out)["state"]) == (0, "stopped")
        assert "Traceback" not in log
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 0))
    with only_daemon(node.home.daemon_lock):  # nobody holds it
        pass


def test_a_node_that_is_told_to_end_in_the_middle_of_a_consolidation(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Delta]
) -> None:
    """It ends between two steps, with code 0; the update keeps its state, and the next start goes on."""
    parent = make_parent(tmp_path / "home", toy_base)
    edit_config(parent.home.config, {"consolidate_epochs": 100, "policy_every": 1, "serve": "off"})
    digest = enrol(parent, "en/shapes").offer(toy_adapters["en/shapes"], rows(SHAPES, range(20)))
    with serving_command(tmp_path / "home", "up") as (process, _):
        assert process.stderr is not None
        assert any("step 2 of" in line for line in process.stderr)
        process.terminate()
        out, log = process.communicate(timeout=30)
    assert (process.returncode, json.loads(out)["state"]) == (0, "stopped")
    assert "the node ends" in log
    assert "Traceback" not in log
    assert state_of(parent, digest) == ("aggregated", None)
    assert [folder.name for folder in parent.home.runs.glob("release-*")]
    parent.close()


COMPUTES = """
import sys, torch, node.daemon, node.promotions
from node.cli import main

def endless(*_):
    print("computing", file=sys.stderr, flush=True)
    weights = torch.randn(64, 64, requires_grad=True)
    while True:
        (torch.randn(64, 64) @ weights).sum().backward()

node.daemon.END_S, node.promotions.parent_round = 0.1, endless
main(["up", "--home", sys.argv[1], "--port", "0", "--set", "serve=off", "--json"])
"""


def test_a_node_that_is_told_to_end_while_it_computes_what_has_no_steps(tmp_path: Path) -> None:
    """Python's own end aborts a process whose threads it finds inside of torch."""
    make_node(tmp_path / "home", "en").close()
    with subprocess.Popen(
        [sys.executable, "-c", COMPUTES, tmp_path / "home"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stderr is not None
        said = set()
        while said < {"computing", "http"}:
            line = process.stderr.readline()
            assert line
            said |= {word for word in ("computing", "http") if word in line}
        process.terminate()
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["state"]) == (0, "stopped")
