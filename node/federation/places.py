"""What federated rounds keep in the home, and what `serve` leaves there for `run` and for the node's interface."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from node.context import Node
from registry.documents import open_document
from registry.errors import BadData, LocalFailure
from registry.rounds import Invitation


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one home."""

    root: Path

    @property
    def parent(self) -> Path:
        """What this node needs as a parent."""
        return self.root / "parent"

    @property
    def child(self) -> Path:
        """What this node needs as a child."""
        return self.root / "child"

    @property
    def secret(self) -> Path:
        """What lets a process take tasks from the SuperLink."""
        return self.parent / "secret"

    @property
    def invitation(self) -> Path:
        """The signed invitation; there while rounds are served."""
        return self.parent / "invitation.dsse"

    @property
    def superlink(self) -> Path:
        """Where the SuperLink listens, as JSON."""
        return self.parent / "superlink.json"

    @property
    def certificate(self) -> Path:
        """The certificate of the SuperLink on the loopback interface."""
        return self.parent / "superlink.crt"

    @property
    def runs(self) -> Path:
        """The records of runs, one file each."""
        return self.root / "runs"


def places_of(node: Node) -> Places:
    """The files of a node's home."""
    return Places(node.home.federation)


def invitation_of(node: Node, now: datetime) -> bytes | None:
    """The invitation to the rounds that are served now, if any are."""
    file = places_of(node).invitation
    try:
        envelope = file.read_bytes()
        invitation, _ = open_document(envelope, Invitation, [node.key.public])
    except (FileNotFoundError, BadData):
        return None
    return envelope if now < invitation.expires else None


def superlink_of(node: Node) -> str:
    """The address of the SuperLink. Raises LocalFailure where none is served."""
    try:
        return str(json.loads(places_of(node).superlink.read_text(encoding="utf-8"))["address"])
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise LocalFailure("no rounds are served here", "node federate serve, in another terminal") from error
