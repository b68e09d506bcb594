"""The log of this node's decisions: checkpoint, proofs, hashes of leaves; entries for who can name their subject."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from node.api.bodies import bounded_body
from node.api.errors import NotHere
from node.context import Node
from node.own_log import newest_checkpoint
from node.watched_logs import take_shown
from registry.errors import BadData
from registry.log.checkpoint import MAX_NOTE_BYTES, NOTE_MEDIA_TYPE, peek_checkpoint
from registry.log.leaves import entries_about, leaf_position, leaf_rows, prove_consistency, prove_inclusion
from registry.log.merkle import MAX_SIZE
from sync.peer_log import MAX_ENTRIES, MAX_LEAVES, Consistency, Entries, Entry, Held, Inclusion, Leaves

Size = Annotated[int, Query(ge=1, le=MAX_SIZE)]
Hex = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]


def log_routes(node: Node, now: Callable[[], datetime]) -> APIRouter:
    """`/v1/log`."""
    routes = APIRouter()

    def newest() -> str:
        note = newest_checkpoint(node, now())
        if note is None:
            raise NotHere("the log of this node has no checkpoint yet", "ask again later")
        return note

    @routes.get("/v1/log/checkpoint", response_class=Response)
    def checkpoint() -> Response:
        """The newest signed checkpoint, as a C2SP note."""
        return Response(newest(), media_type=NOTE_MEDIA_TYPE)

    @routes.post("/v1/log/seen")
    def seen(body: Annotated[bytes, Depends(bounded_body(MAX_NOTE_BYTES))], request: Request) -> Held:
        """Take a checkpoint that the asker saw of a log that both follow; the one that was seen here before (L11)."""
        source = request.client.host if request.client is not None else "unknown"
        try:
            note = body.decode()
        except UnicodeDecodeError as error:
            raise BadData("not a checkpoint: not UTF-8") from error
        return Held(checkpoint=take_shown(node, note, source, now()))

    routes.include_router(_proof_routes(node, newest))
    return routes


def _proof_routes(node: Node, newest: Callable[[], str]) -> APIRouter:
    """What can be asked about leaves, none of which says what they hold but to who can name it (L9)."""
    routes = APIRouter()

    @routes.get("/v1/log/consistency")
    def consistency(first: Size, second: Size) -> Consistency:
        """The proof that the log of `first` leaves is the beginning of that of `second`."""
        with node.store.read() as session:
            proof = prove_consistency(session, first, second)
        return Consistency(first=first, second=second, proof=_hex(proof))

    @routes.get("/v1/log/inclusion/{leaf}")
    def inclusion(leaf: Hex, size: Size) -> Inclusion:
        """The proof that the leaf with a hash is in the log of `size` leaves."""
        with node.store.read() as session:
            position = leaf_position(session, leaf)
            if position is None:
                raise NotHere("no leaf has this hash", "GET /v1/log/leaves")
            return Inclusion(position=position, size=size, proof=_hex(prove_inclusion(session, position, size)))

    @routes.get("/v1/log/entries/{subject}")
    def entries(subject: Hex, size: Size | None = None) -> Entries:
        """The entries about the document with a digest, each with its proof; `size` is the newest checkpoint's."""
        within = size if size is not None else peek_checkpoint(newest()).size
        with node.store.read() as session:
            rows = [row for row in entries_about(session, subject, MAX_ENTRIES) if row.position < within]
            found = tuple(
                Entry(
                    position=row.position,
                    entry=row.entry.decode(),
                    proof=_hex(prove_inclusion(session, row.position, within)),
                )
                for row in rows
            )
        return Entries(size=within, entries=found)

    @routes.get("/v1/log/leaves")
    def leaves(
        start: Annotated[int, Query(ge=0, le=MAX_SIZE)] = 0,
        count: Annotated[int, Query(ge=1, le=MAX_LEAVES)] = MAX_LEAVES,
    ) -> Leaves:
        """A page of the leaves' hashes: enough to make every root again."""
        with node.store.read() as session:
            return Leaves(start=start, leaves=tuple(row.leaf for row in leaf_rows(session, start, count)))

    return routes


def _hex(hashes: list[bytes]) -> tuple[str, ...]:
    return tuple(one.hex() for one in hashes)
