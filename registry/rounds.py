"""The documents of federated rounds: what a parent asks for, what a child brings, and how the two find each other.

Flower carries them (`sync.federation`) and proves a timestamp of its own only, so everything that counts is signed
here. What they may do is left to `sync.federation`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

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


class Invitation(Timed):  # J9
    """Where the rounds of a parent are served: host:port, and the certificate in PEM that signed its TLS key."""

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.invitation.v1+json"

    path: PathText
    address: Annotated[str, StringConstraints(max_length=260, pattern=r"^[A-Za-z0-9.:\[\]-]+:[0-9]{1,5}$")]
    certificate: Annotated[str, StringConstraints(max_length=8000, pattern=r"^[A-Za-z0-9+/=\n -]+$")]


class Admission(Timed):  # J10
    """A child asks that its SuperNode be let in: the key that it will show, as an OpenSSH public key."""

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.admission.v1+json"

    path: PathText
    audience: Digest
    supernode: Annotated[
        str, StringConstraints(max_length=1000, pattern=r"^ecdsa-sha2-nistp(256|384) [A-Za-z0-9+/=]+$")
    ]
