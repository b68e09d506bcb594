"""The form of an update's change beside its norms, for the same reason."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the forms of updates that are there are measured when they are next asked for."""
    op.add_column("updates", sa.Column("spectrum", sa.Text))
