from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.dialects import registry as dialects
from sqlalchemy.exc import IntegrityError

from registry.errors import BadData, LocalFailure
from registry.store import NEWEST_REVISION, Session, Store, file_url, func, select
from registry.tables import (
    DecisionRow,
    EnrolmentRow,
    EvidenceRow,
    FeedbackRow,
    HeadRow,
    KnownModelRow,
    PeerRow,
    ReleaseRow,
    RunRow,
    SequenceRow,
    SpeedRow,
    Table,
    UpdateRow,
    UtcDateTime,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


def release(envelope: bytes = b"release", path: str = "en", version: int = 1) -> ReleaseRow:
    return ReleaseRow(
        digest=hashlib.sha256(envelope).hexdigest(),
        path=path,
        version=version,
        signer="1" * 64,
        base="2" * 64,
        envelope=envelope,
        own=True,
        created=NOW,
        expires=NOW + timedelta(days=30),
    )


def update(envelope: bytes = b"\x00\xff", digest: str = "") -> UpdateRow:
    return UpdateRow(
        digest=digest or hashlib.sha256(envelope).hexdigest(),
        direction="in",
        issuer="5" * 64,
        path="en/x",
        sequence=2**62,
        state="received",
        envelope=envelope,
        received=NOW,
        changed=NOW,
    )


def decision(kind: str = "update") -> DecisionRow:
    return DecisionRow(at=NOW, kind=kind, subject="3" * 64, body="{}")


def test_every_kind_of_row_comes_back_as_it_was_written(store: Store) -> None:
    rows: list[Table] = [
        release(),
        HeadRow(path="en", release=release().digest, changed=NOW),
        update(),
        SequenceRow(issuer="5" * 64, path="en/x", highest=2**62),
        EnrolmentRow(key_id="5" * 64, path="en/x", public_key="6" * 64, state="active", request=b"r", changed=NOW),
        PeerRow(key_id="5" * 64, role="child", path="en/x", url="http://127.0.0.1:1", public_key="6" * 64),
        decision(),
        RunRow(id="r1", kind="finetune", path="en/x", state="running", created=NOW, changed=NOW),
        EvidenceRow(
            model="en",
            benchmark="7" * 64,
            score=81.5,
            rows=9,
            right_bits=b"\xff\x80",
            here=True,
            source="s",
            created=NOW,
        ),
        FeedbackRow(model="en", voice="", kind="rating", rating=5, words="quick", created=NOW),
        SpeedRow(kind="finetune", model="en", tokens=10, seconds=1.5, peak_bytes=2**40, machine="m", created=NOW),
        KnownModelRow(id="a/b", facts="{}", source="table.csv", created=NOW),
    ]
    with store.transaction() as session:
        for row in rows:
            session.add(row)
            session.flush()
    with store.read() as session:
        found = [session.scalars(select(type(row))).one() for row in rows]
    assert [repr(row) for row in found] == [repr(row) for row in rows]
    assert store.check_integrity() == []


def test_the_migrations_make_exactly_the_tables(store: Store) -> None:
    with store.transaction() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_server_default": True})
        assert compare_metadata(context, Table.metadata) == []


def test_the_newest_revision_is_the_last_that_alembic_knows(store: Store) -> None:
    config = Config()
    config.set_main_option("script_location", "registry:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == NEWEST_REVISION
    with store.read() as session:
        assert session.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == NEWEST_REVISION


def test_a_database_that_is_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    url = file_url(tmp_path / "banyan.db")
    Store.open(url).close()
    program = "import sys; from registry.store import Store; Store.open(sys.argv[1]); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, timeout=60, check=True)
    assert done.stdout.split() == [b"False"]


def test_an_error_undoes_the_whole_transaction(store: Store) -> None:
    with pytest.raises(BadData), store.transaction() as session:
        session.add(release())
        session.flush()
        raise BadData("no")
    with store.read() as session:
        assert session.scalars(select(ReleaseRow)).all() == []


def test_a_read_cannot_write_and_the_next_transaction_can(store: Store) -> None:
    with pytest.raises(Exception, match=r"read-?only"), store.read() as session:
        session.add(release())
    with store.transaction() as session:
        session.add(release())
    with store.read() as session:
        assert session.get(ReleaseRow, release().digest) is not None


def test_a_read_sees_one_moment(store: Store) -> None:
    def count(session: Session) -> int:
        return session.scalars(select(func.count()).select_from(DecisionRow)).one()

    with store.read() as session:
        before = count(session)
        with store.transaction() as other:
            other.add(decision())
        assert count(session) == before == 0
    with store.read() as session:
        assert count(session) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decisions SET body = 'x'",
        "DELETE FROM decisions",
        "INSERT OR REPLACE INTO decisions (id, at, kind, subject, body) VALUES (1, '2026-01-01', 'x', 'x', 'x')",
        "TRUNCATE decisions",
    ],
)
def test_decisions_can_only_be_added(store: Store, database_url: str, statement: str) -> None:
    """V7."""
    if ("TRUNCATE" if database_url.startswith("sqlite") else "REPLACE") in statement:
        pytest.skip("not a statement of this database")
    with store.transaction() as session:
        session.add_all([decision("a"), decision("b")])
    with pytest.raises(IntegrityError, match="decisions are append-only"), store.transaction() as session:
        session.execute(text(statement))
    with store.read() as session:
        assert [row.kind for row in session.scalars(select(DecisionRow).order_by(DecisionRow.id))] == ["a", "b"]


def test_a_head_needs_its_release_and_a_version_is_signed_once(store: Store) -> None:
    with pytest.raises(IntegrityError), store.transaction() as session:
        session.add(HeadRow(path="en", release="9" * 64, changed=NOW))
    with pytest.raises(IntegrityError), store.transaction() as session:
        session.add_all([release(b"one"), release(b"two")])


def test_integrity_names_what_is_wrong(store: Store) -> None:
    wrong = release(b"one")
    wrong.envelope = b"other"
    with store.transaction() as session:
        session.add_all([wrong, release(b"two", version=2)])
        session.flush()
        session.add(HeadRow(path="de", release=release(b"two").digest, changed=NOW))
        session.add(update(digest="4" * 64))
    problems = store.check_integrity()
    assert len(problems) == 3
    assert any("en@v1" in problem for problem in problems)
    assert any("444" in problem for problem in problems)
    assert any("head of de" in problem for problem in problems)


def test_a_database_of_a_newer_version_is_refused_and_unchanged(store: Store, database_url: str) -> None:
    with store.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LocalFailure, match=r"revision 9999.*newer version") as refused:
        Store.open(database_url)
    assert "upgrade" in refused.value.hint
    with store.read() as session:
        assert session.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"


COUNT = """
import sys
from registry.store import Store
from registry.tables import SequenceRow
sys.stdin.readline()
store = Store.open(sys.argv[1])
for _ in range(25):
    with store.transaction() as session:
        row = session.get(SequenceRow, ("i", "p"))
        if row is None:
            session.add(SequenceRow(issuer="i", path="p", highest=1))
        else:
            row.highest += 1
store.close()
"""


def test_processes_that_open_a_new_database_together_lose_nothing(database_url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", COUNT, database_url], stdin=subprocess.PIPE, cwd=ROOT) for _ in range(3)
    ]
    for process in processes:  # all wait for their line, so that they start as nearly together as can be
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    store = Store.open(database_url)
    with store.read() as session:
        assert session.get_one(SequenceRow, ("i", "p")).highest == 75
    store.close()


def test_threads_share_a_store(store: Store) -> None:
    def add() -> None:
        for _ in range(5):
            with store.transaction() as session:
                session.add(decision())

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with store.read() as session:
        assert session.scalars(select(func.count()).select_from(DecisionRow)).one() == 20


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://h/d", "mysql"),
        ("sqlite://", "needs a file"),
        ("nonsense", "not a database URL"),
        ("user:secret@host", "not a database URL"),
    ],
)
def test_a_wrong_url_is_refused_in_words(url: str, problem: str) -> None:
    with pytest.raises(BadData, match=problem) as refused:
        Store.open(url)
    assert "secret" not in refused.value.message
    assert refused.value.hint


def test_a_file_that_is_no_database_and_a_missing_folder_are_local_failures(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, it is a text of some length\n" * 100)
    with pytest.raises(LocalFailure, match="not a database") as refused:
        Store.open(file_url(tmp_path / "text.db"))
    assert "backup" in refused.value.hint
    with pytest.raises(LocalFailure, match="unable to open"):
        Store.open(file_url(tmp_path / "no" / "such.db"))


def test_a_server_that_is_down_is_a_local_failure_that_hides_the_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(LocalFailure) as refused:
        Store.open("postgresql+psycopg://someone:secret@127.0.0.1:1/none")
    assert "secret" not in refused.value.message


def test_a_writer_that_never_ends_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.store.BUSY_TIMEOUT_S", 0.1)
    store = Store.open(file_url(tmp_path / "banyan.db"))
    holder = sqlite3.connect(tmp_path / "banyan.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LocalFailure, match="locked") as refused, store.transaction() as session:
        session.add(decision())
    assert "another process" in refused.value.hint
    holder.close()
    with store.transaction() as session:
        session.add(decision())
    store.close()


def test_names_of_files_may_hold_what_urls_give_a_meaning(tmp_path: Path) -> None:
    for name in ("a b", "50%", "what?", "#1", "ü@home"):
        (tmp_path / name).mkdir()
        store = Store.open(file_url(tmp_path / name / "banyan.db"))
        store.close()
        assert (tmp_path / name / "banyan.db").is_file()


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(9000, 1, 1)),  # noqa: DTZ001
    st.integers(min_value=-720, max_value=720),
)
def test_any_zone_comes_back_as_the_same_moment_in_utc(moment: datetime, minutes: int) -> None:
    given_time = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    for dialect in (dialects.load(name)() for name in ("sqlite", "postgresql")):
        column = UtcDateTime()
        back = column.process_result_value(column.process_bind_param(given_time, dialect), dialect)
        assert back == given_time
        assert back.tzinfo is UTC


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), dialects.load("sqlite")())  # noqa: DTZ001


def test_a_database_in_memory_is_kept_and_brought_back_as_an_image() -> None:
    store = Store.in_memory()
    with store.transaction() as session:
        session.add(release())
    image = store.image()
    with store.transaction() as session:
        session.add(release(b"second", version=2))
    assert store.check_integrity() == []
    other = Store.in_memory(image)
    store.restore(image)
    for one in (store, other):
        with one.read() as session:
            assert [row.version for row in session.scalars(select(ReleaseRow))] == [1]
    with store.transaction() as session:
        session.add(release(b"third", version=3))
    with other.read() as session:
        assert session.scalar(select(func.count()).select_from(ReleaseRow)) == 1
    with pytest.raises(LocalFailure), other.read() as session:
        session.add(release(b"fourth", version=4))
        session.flush()
    store.close()
    other.close()
