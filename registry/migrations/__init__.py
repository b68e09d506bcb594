"""The history of the database, as Alembic revisions; `registry.store` runs what is missing when it opens a database."""
