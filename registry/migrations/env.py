"""What Alembic runs: the missing revisions on the connection, and in the transaction, that `registry.store` gives."""

from __future__ import annotations

from alembic import context

from registry.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    transactional_ddl=True,  # true of SQLite too, since we begin transactions ourselves
)
context.run_migrations()
