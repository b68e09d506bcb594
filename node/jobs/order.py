"""What a runner tells the process of a job, through a pipe: neither arguments nor environment are seen by others."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

MAX_ORDER_BYTES: Final = 1 << 20


class Order(BaseModel):
    """The number of the job, the settings in force, and the passphrase of the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job: int
    settings: dict[str, Any]
    passphrase: str | None = Field(repr=False)
