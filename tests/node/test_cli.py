from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from node.cli import main
from node.cli.group import Call
from node.cli.group import command as make_command
from node.cli.output import Output, classify, plain_text
from registry.errors import BadData, LocalFailure

HEAVY = ("torch", "transformers", "peft", "sqlalchemy", "pydantic", "rich", "httpx", "fastapi", "huggingface_hub")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("BANYAN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BANYAN_HOME", str(tmp_path / "home"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a node without models."""
    assert call("init", "--no-starter").exit_code == 0
    return tmp_path / "home"


def call(*words: str, **more: Any) -> Result:
    return CliRunner().invoke(main, list(words), **more)


def answer(*words: str, code: int = 0, **more: Any) -> dict[str, Any]:
    """The one JSON object of a call, which ends with `code`."""
    done = call(*words, "--json", **more)
    assert done.exit_code == code, done.output
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


def environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BANYAN_HOME": str(tmp_path / "home")}


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    with click.Context(group) as context:
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            if isinstance(found, click.Group):
                yield from leaves(found, (*path, name))
            elif found is not None:
                yield (*path, name), found


LEAVES = dict(leaves(main))
ASKED_FOR = {
    *("init", "up", "import", "tree", "show", "clone", "finetune", "evaluate", "generate"),
    *("publish", "pull", "export", "doctor", "demo", "completion"),
}


def test_help_imports_nothing_heavy_and_is_quick(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom node.cli import main\n"
        "try:\n    main(['--help'], prog_name='node')\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(tmp_path), timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_takes_less_than_three_tenths_of_a_second_of_processor_time(tmp_path: Path) -> None:
    code = (
        "import time\nfrom node.cli import main\n"
        "try:\n    main(['--help'], prog_name='node')\nexcept SystemExit:\n    print(time.process_time())"
    )
    spent = [
        float(
            subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                env=environment(tmp_path),
                timeout=60,
                check=True,
            ).stdout.splitlines()[-1]
        )
        for _ in range(3)
    ]
    assert min(spent) < 0.3


def test_every_command_that_was_asked_for_is_there() -> None:
    assert {path[0] for path in LEAVES} >= ASKED_FOR
    assert {("keys", "passphrase"), ("config", "set"), ("enrol", "accept"), ("updates", "show")} <= set(LEAVES)


@pytest.mark.parametrize("path", sorted(LEAVES), ids=" ".join)
def test_every_command_has_the_shared_flags_an_example_and_described_options(path: tuple[str, ...]) -> None:
    done = call(*path, "--help")
    assert done.exit_code == 0, done.output
    example = re.search(r"Example:\n +(.+)", done.stdout)
    assert example is not None
    assert example[1].lstrip('eval "$(').startswith(("node ", "banyan "))
    assert " ".join(path) in example[1] or path[-1] in ("ask", "show", "list")
    for flag in ("--json", "--home", "--set"):
        assert flag in done.stdout
    for parameter in LEAVES[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    assert not set(HEAVY_NAMES) & set(done.stdout.split())


HEAVY_NAMES = ("Sentinel.UNSET", "None")


@pytest.mark.parametrize("path", sorted(LEAVES), ids=" ".join)
def test_every_example_is_understood(path: tuple[str, ...]) -> None:
    """The example parses: it names options and arguments that exist."""
    import shlex

    epilog = LEAVES[path].epilog or ""
    line = epilog.partition("Example:\n")[2].strip()
    words = shlex.split(line.removeprefix('eval "$(').removesuffix(')"'))[1:]
    command: click.Command = main
    context = click.Context(main, info_name="node")
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        if found is None:  # the default of the group
            words.insert(0, name)
            found = command.get_command(context, command.default)  # type: ignore[attr-defined]
        elif isinstance(found, click.Group) and (not words or words[0] not in found.list_commands(context)):
            words.insert(0, found.default)  # type: ignore[attr-defined]
        assert found is not None
        command = found
    parsed = command.make_context(command.name, list(words), resilient_parsing=True)
    assert not parsed.args


def test_unknown_command_names_the_help() -> None:
    done = call("tre")
    assert done.exit_code == 2
    assert "No such command 'tre'" in done.stderr
    assert "node --help" in done.stderr.replace("main", "node")


def test_usage_errors_are_json_too() -> None:
    found = answer("tree", "--no-such-flag", code=2)
    assert found["error"]["code"] == 2
    assert found["error"]["hint"].endswith("tree --help")


def test_without_a_command_the_help_is_shown() -> None:
    done = call()
    assert done.exit_code == 2
    assert "Start:" in done.stderr


def test_without_a_home_the_next_command_is_named() -> None:
    found = answer("tree", code=4)
    assert "node init" in found["error"]["hint"]


def test_init_makes_a_home_and_can_be_repeated(tmp_path: Path) -> None:
    first = answer(
        "init", "--no-starter", "--path", "en/finance/cards", "--parent", "http://127.0.0.1:9/", "--name", "A"
    )
    assert first["made_key"]
    assert first["next"] == "node enrol http://127.0.0.1:9 --path en/finance/cards"
    text = (tmp_path / "home" / "config.toml").read_text(encoding="utf-8")
    again = answer("init", "--no-starter")
    assert (again["key"], again["made_key"], again["paths"]) == (first["key"], False, ["en/finance/cards"])
    assert (tmp_path / "home" / "config.toml").read_text(encoding="utf-8") == text
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_init_without_a_parent_makes_a_root(home: Path) -> None:
    assert answer("init", "--no-starter")["paths"] == ["master"]


def test_init_refuses_a_path_that_is_none_and_makes_nothing(tmp_path: Path) -> None:
    found = answer("init", "--no-starter", "--path", "EN", code=3)
    assert "EN" in found["error"]["message"]
    assert not (tmp_path / "home").exists()


def test_an_empty_tree_names_the_next_command(home: Path) -> None:
    assert answer("tree") == {"path": "master", "places": []}
    assert "node import" in call("tree").stdout


def test_data_errors_end_with_3_and_local_ones_with_4(home: Path) -> None:
    assert answer("show", "not a path", code=3)["error"]["code"] == 3
    assert "node pull en@v7" in answer("show", "en@v7", code=4)["error"]["hint"]


def test_config_shows_where_values_come_from(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer("config", "set", "threads", "3")
    monkeypatch.setenv("BANYAN_PORT", "5")
    found = answer("config", "show", "--set", "policy_every=9")["settings"]
    assert (found["threads"]["value"], found["threads"]["origin"]) == (3, f"file {home / 'config.toml'}")
    assert (found["port"]["value"], found["port"]["origin"]) == (5, "environment BANYAN_PORT")
    assert (found["policy_every"]["value"], found["policy_every"]["origin"]) == (9, "flag")
    assert found["rank_budget"]["origin"] == "default"
    assert all(entry["description"] for entry in found.values())
    assert "threads" in call("config", "show").stdout


def test_config_refuses_unknown_keys_and_wrong_values(home: Path) -> None:
    assert "'threads'" in answer("config", "set", "treads", "3", code=3)["error"]["hint"]
    assert "does not fit" in answer("config", "set", "threads", "many", code=3)["error"]["message"]
    assert answer("config", "show", "--set", "no-equals-sign", code=2)["error"]["code"] == 2
    assert "unknown setting" in answer("tree", "--set", "treads=1", code=3)["error"]["message"]


def test_config_unset_repairs_an_unknown_key(home: Path) -> None:
    with (home / "config.toml").open("a") as file:
        file.write("prot = 1\n")
    assert answer("tree", code=3)["error"]["hint"] == "did you mean 'port'?"
    answer("config", "unset", "prot")
    answer("tree")


def test_keys_never_show_the_private_key(home: Path) -> None:
    shown = call("keys").stdout + call("keys", "--json").stdout
    secret = (home / "keys" / "node.pem").read_text().splitlines()[1]
    assert secret not in shown
    assert re.search(r"([0-9a-f]{4} ){7}[0-9a-f]{4}", shown)


def test_a_passphrase_locks_the_key_and_unlocks_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answer("keys")
    answer("keys", "passphrase", input="correct horse battery\n")
    assert (home / "keys" / "node.pem").stat().st_mode & 0o777 == 0o600
    keys = {file.name: file.read_bytes() for file in (home / "keys").iterdir()}
    assert keys.keys() == {"node.pem", "root.pem", "snapshot.pem", "timestamp.pem"}
    assert all(b"ENCRYPTED" in pem for pem in keys.values())
    assert "BANYAN_PASSPHRASE" in answer("keys", code=3)["error"]["hint"]
    monkeypatch.setenv("BANYAN_PASSPHRASE", "wrong horse battery")
    answer("tree", code=3)
    monkeypatch.setenv("BANYAN_PASSPHRASE", "correct horse battery")
    unlocked = answer("keys")
    assert (unlocked["id"], unlocked["locked"]) == (before["id"], True)
    answer("tree")
    assert answer("keys", "passphrase", "--remove")["locked"] is False
    monkeypatch.delenv("BANYAN_PASSPHRASE")
    assert answer("keys") == before


def test_a_short_passphrase_is_refused(home: Path) -> None:
    answer("keys", "passphrase", code=3, input="short\n")
    assert answer("keys")["locked"] is False


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import BashComplete

    monkeypatch.setattr(BashComplete, "_check_version", staticmethod(lambda: None))
    assert "COMPLETE" in answer("completion", shell)["script"]


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    asked = {**environment(tmp_path), "_NODE_COMPLETE": "bash_complete", "COMP_WORDS": "node ex", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "node.cli"]
    done = subprocess.run(command, capture_output=True, text=True, env=asked, timeout=60, check=False)
    assert done.stdout.strip() == "plain,export"


def test_export_to_a_place_of_a_model_that_is_not_here(home: Path, tmp_path: Path) -> None:
    assert "en" in answer("export", "en", "--to", str(tmp_path / "out"), code=4)["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_enrol_without_an_address_says_what_is_missing(home: Path) -> None:
    assert "node enrol URL --path PATH" in answer("enrol", code=2)["error"]["message"]


def test_enrol_at_a_parent_that_is_down_is_a_local_failure(home: Path) -> None:
    found = answer("enrol", "http://127.0.0.1:9", "--path", "en/finance", "--set", "request_timeout_s=2", code=4)
    assert "http://127.0.0.1:9" in found["error"]["message"]


def test_lists_that_are_empty_are_empty(home: Path) -> None:
    assert answer("updates") == {"updates": []}
    assert answer("updates", "in") == {"updates": []}
    assert answer("enrol", "list") == {"enrolments": [], "key": answer("keys")["fingerprint"]}
    assert answer("updates", "show", "abcd", code=4)["error"]["hint"] == "node updates"
    assert answer("updates", "accept", "abcd", "--why", "known", code=4)["error"]["code"] == 4


def test_publish_and_pull_without_a_parent(home: Path) -> None:
    for words in (("publish", "en"), ("pull",)):
        assert "node enrol" in answer(*words, code=4)["error"]["hint"]


def test_evaluate_a_file_that_is_not_there(home: Path, tmp_path: Path) -> None:
    found = answer("evaluate", "en", "--data", str(tmp_path / "none.jsonl"), code=3)
    assert "none.jsonl" in found["error"]["message"]


def test_what_libraries_print_does_not_reach_stdout() -> None:
    @make_command("node noisy")
    def noisy(_: Call) -> Any:
        from node.cli.output import Result as Outcome

        sys.stdout.write("a library talks\n")
        return Outcome({"answer": 1}, str)

    done = CliRunner().invoke(noisy, ["--json"], standalone_mode=False)
    assert json.loads(done.stdout) == {"answer": 1}
    assert "a library talks" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadData("x", "y"), 3),
        (LocalFailure("x"), 4),
        (PermissionError(13, "Permission denied", "/f"), 4),
        (OSError(28, "No space left on device"), 4),
        (MemoryError(), 4),
        (ZeroDivisionError("x"), 1),
        (click.UsageError("x"), 2),
        (click.Abort(), 130),
    ],
)
def test_every_error_has_a_code_and_a_next_step(error: Exception, code: int) -> None:
    failure = classify(error)
    assert failure.code == code
    assert failure.message
    assert failure.hint


def test_a_bug_shows_its_traceback_on_stderr_only(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("node.tree.list_tree", broken)
    done = call("tree", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["message"] == "ZeroDivisionError: by nothing"
    assert "Traceback" in done.stderr


def test_text_of_peers_cannot_steer_the_terminal() -> None:
    assert plain_text("a\x1b[2Jb\nc\x9bd\u202ee") == "a [2Jb\nc d e"


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    from node.cli.output import Result as Outcome

    line = "[bold]a long answer[/bold] " * 100
    Output(as_json=False).result(Outcome({}, lambda _: line))
    assert capsys.readouterr().out == line + "\n"


def test_waiting_for_a_verdict_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from node import waiting

    clock, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    def standing(*_: object) -> SimpleNamespace:
        return SimpleNamespace(verdict="accepted" if clock[0] >= decided_at else None)

    monkeypatch.setattr(waiting, "show_update", standing)
    for decided_at, waited in ((4.0, 4.0), (1e9, 5.0), (0.0, 0.0)):
        clock[0], slept = 0.0, []
        found = waiting.await_verdict(None, "ab", 5.0, clock=lambda: clock[0], sleep=sleep)  # type: ignore[arg-type]
        assert sum(slept) == waited
        assert (found.verdict is None) == (decided_at > 5.0)


def test_no_bar_is_drawn_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(as_json=False).progress("Working") as on_progress:
        on_progress(1, 2)
        on_progress(2, 2, "done")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


WAITING = """
import sys, time
import click
from node.cli import main
from node.cli.group import command

@command("node wait")
def wait(call):
    with call.output.progress("Working") as on_progress:
        on_progress(1, 2, "half")
        click.echo("ready", err=True)
        time.sleep(60)

main.add_command(wait)
main.places["wait"] = "__main__:wait"
main(["wait", *sys.argv[1:]], prog_name="node")
"""


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_ctrl_c_ends_with_130_and_a_clean_message(tmp_path: Path, flags: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().strip() == "ready"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    if flags:
        assert json.loads(out)["error"]["message"] == "interrupted"
    else:
        assert out == ""
        assert "interrupted" in err


def test_a_bar_is_drawn_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", WAITING],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**environment(tmp_path), "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        seen = read_until(ours, b"half", 30.0)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    os.close(ours)
    assert "Working" in seen
    assert "1/2" in seen
    assert (process.returncode, out) == (130, b"")


def read_until(terminal: int, mark: bytes, limit_s: float) -> str:
    """What a terminal shows up to a mark."""
    seen, end = b"", time.monotonic() + limit_s
    while mark not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096)
    return seen.decode(errors="replace")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, home: Path) -> None:
    command = [sys.executable, "-m", "node.cli", "config", "show", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_the_formats_of_finetune_are_those_of_the_data_sets() -> None:
    from node.cli.finetune import FORMATS
    from node.datasets import FORMATS as KNOWN

    assert set(FORMATS) == set(KNOWN)


def test_two_names_start_the_same_program() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"node": "node.cli:main", "banyan": "node.cli:main"}
