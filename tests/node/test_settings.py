from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.settings import Settings, load_settings, shown_value, store_settings
from registry.errors import BadData, LocalFailure


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("BANYAN_") and not name.startswith("BANYAN_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def write(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text, encoding="utf-8")


def test_defaults_need_nothing(home: Path) -> None:
    found = load_settings({"home": home})
    assert found.home == home
    assert found.port == 8420
    assert found.origin("port") == "default"
    assert found.origin("home") == "flag"
    assert not home.exists()


def test_flag_beats_environment_beats_file_beats_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "port = 1\nthreads = 1\npolicy_every = 5\n")
    monkeypatch.setenv("BANYAN_PORT", "2")
    monkeypatch.setenv("BANYAN_THREADS", "2")
    found = load_settings({"home": home, "port": 3})
    assert (found.port, found.threads, found.policy_every, found.rank_budget) == (3, 2, 5, 64)
    assert found.origin("port") == "flag"
    assert found.origin("threads") == "environment BANYAN_THREADS"
    assert found.origin("policy_every") == f"file {home / 'config.toml'}"
    assert found.origin("rank_budget") == "default"


def test_a_flag_that_was_not_given_hides_nothing(home: Path) -> None:
    write(home, "port = 7\n")
    assert load_settings({"home": home, "port": None}).port == 7


def test_home_comes_from_the_environment_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, 'name = "here"\n')
    monkeypatch.setenv("BANYAN_HOME", str(home))
    assert load_settings().name == "here"


def test_an_empty_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANYAN_HOME", "")
    with pytest.raises(BadData, match="home"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "named"),
    [("prot = 1\n", "port"), ("treads = 2\n", "threads"), ("[xyz]\nport = 1\n", "node config show")],
)
def test_unknown_key_in_file_names_the_nearest(home: Path, text: str, named: str) -> None:
    write(home, text)
    with pytest.raises(BadData, match="unknown setting") as caught:
        load_settings({"home": home})
    assert named in caught.value.hint
    assert str(home) in caught.value.message


def test_unknown_key_in_environment_names_the_nearest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANYAN_POLL_INTERVAL", "3")
    with pytest.raises(BadData, match="BANYAN_POLL_INTERVAL") as caught:
        load_settings({"home": home})
    assert "poll_interval_s" in caught.value.hint


def test_the_passphrase_is_no_setting_and_no_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANYAN_PASSPHRASE", "secret")
    assert "secret" not in repr(load_settings({"home": home}))


def test_home_in_its_own_file_is_refused(home: Path) -> None:
    write(home, 'home = "/elsewhere"\n')
    with pytest.raises(BadData, match="lies in the home itself"):
        load_settings({"home": home})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", 65536),
        ("port", "many"),
        ("precision", "fp8"),
        ("paths", "EN/Health"),
        ("paths", "en,not a path"),
        ("parent_url", "ftp://parent"),
        ("parent_url", "https://user:word@parent"),
        ("parent_url", "http://parent:99999"),
        ("parent_key", "abc"),
        ("poll_interval_s", 0),
        ("poll_interval_s", "nan"),
        ("poll_interval_s", "inf"),
        ("gate_min_gain_kept", 1.5),
        ("max_adapter_rank", 1000),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_origin(home: Path, key: str, value: object) -> None:
    with pytest.raises(BadData, match=rf"{key} = .*\(flag\) does not fit"):
        load_settings({"home": home, key: value})


def test_paths_are_split_at_commas(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANYAN_PATHS", "en/finance/cards, en/finance/transfers")
    assert load_settings({"home": home}).paths == ("en/finance/cards", "en/finance/transfers")


def test_addresses_lose_their_last_slash(home: Path) -> None:
    assert load_settings({"home": home, "parent_url": "https://parent.example/"}).parent_url == "https://parent.example"


@pytest.mark.parametrize("text", ["port = \n", "\x00\x01", "port = 1\nport = 2\n"])
def test_a_file_that_is_not_toml_is_named(home: Path, text: str) -> None:
    write(home, text)
    with pytest.raises(BadData, match=r"config\.toml is not TOML"):
        load_settings({"home": home})


def test_a_file_in_another_encoding_is_named(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_bytes('name = "Zürich"\n'.encode("latin-1"))
    with pytest.raises(BadData, match="is not TOML"):
        load_settings({"home": home})


def test_a_huge_file_is_not_read(home: Path) -> None:
    write(home, "#" * (2 << 20))
    with pytest.raises(BadData, match="larger than"):
        load_settings({"home": home})


def test_storing_keeps_comments_and_mode(home: Path) -> None:
    write(home, "# ours\nport = 1  # chosen by hand\n")
    store_settings(home, {"port": "2", "paths": "en,de"})
    text = (home / "config.toml").read_text(encoding="utf-8")
    assert "# ours" in text
    assert "# chosen by hand" in text
    assert tomllib.loads(text) == {"port": 2, "paths": ["en", "de"]}
    assert stat.S_IMODE((home / "config.toml").stat().st_mode) == 0o600
    assert [file.name for file in home.iterdir()] == ["config.toml"]


def test_storing_a_wrong_value_changes_nothing(home: Path) -> None:
    write(home, "port = 1\n")
    with pytest.raises(BadData):
        store_settings(home, {"threads": 4, "port": "many"})
    assert (home / "config.toml").read_text(encoding="utf-8") == "port = 1\n"


def test_removing_an_unknown_key_repairs_the_file(home: Path) -> None:
    write(home, "prot = 1\nport = 5\n")
    store_settings(home, {"prot": None})
    assert load_settings({"home": home}).port == 5


def test_home_cannot_be_stored(home: Path) -> None:
    with pytest.raises(BadData, match="home cannot be set"):
        store_settings(home, {"home": "/elsewhere"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_cannot_be_written_is_a_local_failure(home: Path) -> None:
    home.mkdir(mode=0o500)
    with pytest.raises(LocalFailure, match="cannot write"):
        store_settings(home, {"port": 1})


def test_a_home_that_is_a_file_is_a_local_failure(home: Path) -> None:
    home.write_text("not a folder")
    with pytest.raises(LocalFailure):
        store_settings(home, {"port": 1})


def test_every_key_is_described_and_has_a_default() -> None:
    for key, field in Settings.model_fields.items():
        assert field.description, key
        assert not field.is_required(), key
        assert key == key.lower()


def test_settings_do_not_change(home: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings({"home": home}).port = 1  # type: ignore[misc]


def test_a_database_password_is_not_shown() -> None:
    shown = shown_value("database_url", "postgresql://node:s%40cret@db.example/banyan")
    assert shown == "postgresql://node:***@db.example/banyan"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    port=st.integers(0, 65535),
    name=st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=40),
    seconds=st.floats(0.001, 86400),
    paths=st.lists(st.sampled_from(["master", "en", "en/health", "de/law"]), max_size=4),
)
def test_what_is_stored_is_what_is_read(home: Path, port: int, name: str, seconds: float, paths: list[str]) -> None:
    values = {"port": port, "name": name, "poll_interval_s": seconds, "paths": paths}
    store_settings(home, values)
    found = load_settings({"home": home})
    assert (found.port, found.name, found.poll_interval_s, list(found.paths)) == (port, name, seconds, paths)
