"""Updates whose files are as large as they may be, sent to a node from several addresses at once, for `memory`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

from node.context import Node
from registry.documents import Adapter, seal_document
from tests.benchmarks.bulk import Bulk
from tests.benchmarks.inbox import PER_KEY, update_of
from tests.benchmarks.sender import ask
from tests.toy_tree import enrol


@dataclass(frozen=True, slots=True)
class Update:
    """A signed update, and the bytes of its file."""

    envelope: bytes
    sha256: str
    bulk: Bulk


@dataclass
class Uploads:
    """The children of a node that serves at a port of this machine."""

    SENDERS: ClassVar[int] = 8  # addresses, since a node limits what comes from one
    PIECE_BYTES: ClassVar[int] = 4 << 20  # the largest that is taken in one request

    node: Node
    port: int
    file_bytes: int = 60 << 20  # the limit is 64 MiB
    made: int = 0

    def prepare(self, count: int) -> list[Update]:
        """Updates of new children, each with a file of its own."""
        prepared = []
        for number in range(count):
            if number % PER_KEY == 0:
                child = enrol(self.node, f"en/place-{self.made}")
            self.made += 1
            bulk = Bulk(self.file_bytes, self.made)
            plain = update_of(self.node, child, b"")
            file = bulk.described("adapter_model.safetensors")
            update = plain.model_copy(update={"adapter": Adapter(file=file, shape=plain.adapter.shape)})
            prepared.append(Update(seal_document(update, child.key), file.sha256, bulk))
        return prepared

    def send(self, updates: Sequence[Update]) -> None:
        """Send them all. Raises RuntimeError where the node refuses one."""
        with ThreadPoolExecutor(self.SENDERS) as senders:
            list(senders.map(self._share, range(self.SENDERS), [updates] * self.SENDERS))

    def begin(self, update: Update, address: str = "127.0.0.1") -> str:
        """Offer an update; where its file is sent to."""
        said = json.loads(ask(self.port, address, "POST", "/v1/updates", update.envelope)[0])
        return f"/v1/updates/{said['digest']}/files/{update.sha256}"

    def _share(self, number: int, updates: Sequence[Update]) -> None:
        address = f"127.0.1.{number + 1}"
        mine = (one for at, one in enumerate(updates) if at // PER_KEY % self.SENDERS == number)
        for update in mine:  # those of a child in their order
            place = self.begin(update, address)
            for at in range(0, self.file_bytes, self.PIECE_BYTES):
                piece = update.bulk.piece(at, min(self.PIECE_BYTES, self.file_bytes - at))
                ask(self.port, address, "PUT", place, piece, Upload_Offset=str(at))
