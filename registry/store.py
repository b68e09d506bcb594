"""The node's database: SQLite in the home folder, or PostgreSQL by URL. Opening it migrates it.

Writers take turns on both databases (`BEGIN IMMEDIATE`; an advisory lock), so a transaction that reads and then
writes needs no retry: two processes on one home see each other's work and never half of it. A caller keeps
transactions short and computes outside them. What the rows mean is in `tables`; queries stand where they are needed,
written with `select` and `func` from here so that SQLAlchemy has one home.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, make_url, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from registry.errors import BadData, LocalFailure
from registry.tables import HeadRow, ReleaseRow, UpdateRow

__all__ = ["Session", "Store", "file_url", "func", "select"]

NEWEST_REVISION = "0009"  # the last of `registry/migrations`
BUSY_TIMEOUT_S = 30
_WRITERS = 0x42616E79  # with the schema's name, the advisory lock that PostgreSQL writers queue on


def file_url(file: Path) -> str:
    """The URL of a SQLite database in a file."""
    return URL.create("sqlite", database=str(file)).render_as_string()


class Store:
    """An open database. One per process is enough; its methods may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(banyan_write=True)

    @classmethod
    def open(cls, url: str) -> Store:
        """Connect and bring the tables up to date, alone among all processes that open the same database.

        Raises:
            BadData: the URL is not one of a SQLite file or a PostgreSQL database.
            LocalFailure: it cannot be reached, is damaged, or was made by a newer version of this program.
        """
        engine = _engine(url)
        store = cls(engine)
        try:
            with store._failures(), store._writer.begin() as connection:
                _migrate(connection)
        except BaseException:
            engine.dispose()
            raise
        return store

    @classmethod
    def in_memory(cls, image: bytes | None = None) -> Store:
        """A SQLite database without a file, for one thread and one session at a time: empty, or as an `image` was.

        It is gone when it is closed.
        """
        store = cls(_sqlite_engine(make_url("sqlite://"), poolclass=StaticPool))
        if image is not None:
            store.restore(image)
            return store
        with store._failures(), store._writer.begin() as connection:
            _migrate(connection)
        return store

    def image(self) -> bytes:
        """All that a SQLite database holds, as the bytes of its file."""
        with self._driver() as connection:
            return connection.serialize()

    def restore(self, image: bytes) -> None:
        """Make a database that is in memory what another one was when its `image` was taken."""
        with self._driver() as connection:
            connection.deserialize(image)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a SQLite database holds, in its own words: for those who watch a node and are no part of it."""
        with self._driver() as connection:
            return connection.execute(sql).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that may write: commits on success, undoes all on any error; rows stay readable afterwards."""
        with self._failures(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session on one consistent snapshot that the database itself keeps from writing."""
        with self._failures(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def check_integrity(self) -> list[str]:
        """What is wrong with the database, in words; empty when nothing is."""
        with self.read() as session:
            problems = _sqlite_problems(session) if self._engine.dialect.name == "sqlite" else []
            for row in session.scalars(select(ReleaseRow).execution_options(yield_per=100)):
                if hashlib.sha256(row.envelope).hexdigest() != row.digest:
                    problems.append(
                        f"release {row.path}@v{row.version}: its envelope is not the one with digest {row.digest}"
                    )
            for update in session.scalars(select(UpdateRow).execution_options(yield_per=100)):
                if hashlib.sha256(update.envelope).hexdigest() != update.digest:
                    problems.append(f"update {update.digest}: its envelope has another digest")
            for head, release in session.execute(select(HeadRow, ReleaseRow).join(ReleaseRow)):
                if head.path != release.path:
                    problems.append(f"head of {head.path} points to a release of {release.path}")
        return problems

    @contextmanager
    def _driver(self) -> Iterator[sqlite3.Connection]:
        """The connection as Python's own module knows it, outside any transaction."""
        pooled = self._engine.raw_connection()
        try:
            connection = pooled.driver_connection
            if not isinstance(connection, sqlite3.Connection):
                raise LocalFailure("only a SQLite database has an image", "use the tools of the database")
            yield connection
        finally:
            pooled.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What the database could not do, in our words; a broken constraint is our own mistake and passes as it is."""
        where = self._engine.url.render_as_string(hide_password=True)
        try:
            yield
        except PoolTimeoutError as error:
            raise LocalFailure(
                f"{where}: no free connection", "close other users of this database, then repeat"
            ) from error
        except sqlite3.DatabaseError as error:  # at the beginning of a transaction
            raise LocalFailure(f"{where}: {error}", _hint(str(error))) from error
        except DatabaseError as error:
            damaged = type(error.orig) is sqlite3.DatabaseError  # "file is not a database", "malformed"
            if not (damaged or isinstance(error, OperationalError)):
                raise
            raise LocalFailure(f"{where}: {str(error.orig).strip()}", _hint(str(error.orig))) from error


def _hint(problem: str) -> str:
    if "locked" in problem or "lock timeout" in problem:
        return f"another process wrote for more than {BUSY_TIMEOUT_S} s; repeat when it is done"
    if "full" in problem:
        return "free some disk space, then repeat"
    if "not a database" in problem or "malformed" in problem:
        return "restore the file from a backup, or start with another --home"
    return "check that the database is there and may be written"


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise BadData(
                f"no support for {parsed.get_backend_name()} databases", "use sqlite:///FILE or postgresql://..."
            )
        if parsed.get_backend_name() == "sqlite" and not parsed.database:
            raise BadData("a SQLite database needs a file", "use sqlite:///FILE")
        if parsed.get_backend_name() == "sqlite":
            engine = _sqlite_engine(parsed)
        else:
            engine = create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": BUSY_TIMEOUT_S})
            event.listen(engine, "begin", _begin_postgresql)
    except (ArgumentError, NoSuchModuleError) as error:
        raise BadData("not a database URL", "use sqlite:///FILE or postgresql://...") from error
    except ImportError as error:
        raise LocalFailure("the PostgreSQL driver is missing", "pip install 'banyan-node[postgresql]'") from error
    return engine


def _sqlite_engine(url: URL, **options: Any) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **options)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin in _begin_sqlite, never behind our back
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Straight to the driver: every transaction begins here, and SQLAlchemy's way there takes as long as a query."""
    writes, driver = "banyan_write" in connection.get_execution_options(), connection.connection
    for statement in (f"PRAGMA query_only = {0 if writes else 1}", "BEGIN IMMEDIATE" if writes else "BEGIN"):
        driver.execute(statement)


def _begin_postgresql(connection: Connection) -> None:
    if "banyan_write" in connection.get_execution_options():
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_S}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS}, hashtext(current_schema()))")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _migrate(connection: Connection) -> None:
    """Run the missing migrations inside the caller's transaction: all of them or none.

    Alembic is imported only where something is missing: that takes as long as the rest of a short command.
    """
    current = _revision(connection)
    if current == NEWEST_REVISION:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "registry:migrations")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise LocalFailure(
            f"the database is at revision {current}, which this version does not know: a newer version wrote it",
            "pip install --upgrade banyan-node",
        )
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    """The revision that Alembic noted in the database; None where it never ran or was undone."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _sqlite_problems(session: Session) -> list[str]:
    problems = [f"SQLite: {line}" for (line,) in session.execute(text("PRAGMA integrity_check")) if line != "ok"]
    dangling = session.execute(text("PRAGMA foreign_key_check")).all()
    return problems + [f"SQLite: row {row[1]} of {row[0]} refers to a missing row of {row[2]}" for row in dangling]
