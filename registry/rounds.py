"""The documents of federated rounds: what a parent asks for, and what a child brings.

Flower carries them (`sync.federation`) and proves a timestamp of its own only, so everything that counts is signed
here. What they may do is left to `sync.federation`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from registry.documents import AdapterShape, Document, ReleasePin
from registry.fields import Count, Digest, Moment, PathText
from registry.keys import KeyId

MAX_ROUNDS: Final = 1000
Round = Annotated[int, Field(ge=1, le=MAX_ROUNDS)]
Half = Literal["", "a", "b"]


class Timed(Document):
    """From `issuer`, for a time."""

    issuer: Digest
    created: Moment
    expires: Moment

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        if not self.created < self.expires:
            raise ValueError("it expires before it is created")
        return self

    def speaker(self) -> KeyId:
        """The issuer."""
        return self.issuer


class RoundTask(Timed):  # J1
    """What a parent asks of its children in one round: train from `start` over `release`, until it expires.

    `run` is drawn anew for each federated run; `start` is the digest of the arrays that go with the task, of `shape`.
    `frozen` names the half of the factors that stays as it is.
    """

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.round-task.v1+json"

    run: Digest
    round: Round
    rounds: Round
    release: ReleasePin
    base: Digest
    start: Digest
    shape: AdapterShape
    frozen: Half
    seed: Count


class Contribution(Timed):  # J2
    """What a child brings: the arrays of this digest, trained for `task`, the digest of a round task's envelope."""

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.contribution.v1+json"

    path: PathText
    audience: Digest
    task: Digest
    run: Digest
    round: Round
    arrays: Digest
