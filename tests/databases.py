"""Empty databases for tests: SQLite in a folder, and a schema of its own on the server that one may use."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine, make_url, text

SERVER = os.environ.get("BANYAN_TEST_DATABASE_URL")  # of a PostgreSQL database


@contextmanager
def empty_schema(server: str) -> Iterator[str]:
    """The URL of an empty schema on a PostgreSQL server, which goes away afterwards."""
    schema = f"test_{uuid.uuid4().hex}"
    engine = create_engine(server)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    url = make_url(server).update_query_dict({"options": f"-csearch_path={schema}"})
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        engine.dispose()
