"""Whose SuperNodes are let in: those of enrolled keys, for as long as their admission and their enrolment hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from node.context import Node
from node.federation.certificates import as_pem
from registry.documents import open_document
from registry.envelope import peek_signer
from registry.errors import BadData
from registry.paths import NodePath
from registry.rounds import Admission
from sync.enrolled import Identity, NotEnrolled, speaker

MOST: Final = 10_000


@dataclass(slots=True)
class Admissions:
    """The SuperNode keys (PEM) that are let in, by the node key that asked. `register` tells Flower's SuperLink."""

    node: Node
    register: Callable[[bytes], int]
    now: Callable[[], datetime]
    held: dict[str, tuple[bytes, Admission]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self, envelope: bytes) -> Admission:
        """Let the SuperNode of a child in (J10); one that the same child had before is no longer.

        Raises NotEnrolled for a key that may not speak for the path now, BadData for anything else that is not right.
        """
        now = self.now()
        with self.node.store.read() as session:
            may = speaker(session, peek_signer(envelope), Identity(self.node.key, self.node.paths), now)
        admission, _ = open_document(envelope, Admission, [may.key])
        if admission.audience != self.node.key.public.id:
            raise BadData("the admission is meant for another node")
        skew = timedelta(seconds=self.node.settings.clock_skew_s)
        if not admission.created - skew <= now < admission.expires:
            raise BadData("the admission is not of this time", "set the clock")
        if not may.may_speak_for(NodePath.parse(admission.path)):
            raise NotEnrolled(f"the key may not speak for {admission.path}", "node enrol")
        pem = as_pem(admission.supernode)
        with self.lock:
            if len(self.held) >= MOST and admission.issuer not in self.held:
                raise BadData("too many SuperNodes are here already", "come again later")
            if self.held.get(admission.issuer, (b"",))[0] != pem:
                self.register(pem)
            self.held[admission.issuer] = pem, admission
        return admission

    def lets_in(self, pem: bytes) -> bool:
        """Whether a SuperNode with this key may speak now: an enrolment may have ended since it was let in."""
        now = self.now()
        with self.lock:
            found = next((one for key, one in self.held.values() if key == pem), None)
        if found is None or not now < found.expires:
            return False
        try:
            with self.node.store.read() as session:
                may = speaker(session, found.issuer, Identity(self.node.key, self.node.paths), now)
        except NotEnrolled:
            return False
        return may.may_speak_for(NodePath.parse(found.path))
