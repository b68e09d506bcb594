"""What an honest node answers: the interface of `node.api` without HTTP, from the same functions.

Only what nodes ask each other is here. A no reaches the asker as its transport would raise it.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, urlsplit

from registry.documents import CheckResult
from registry.errors import BadData
from registry.keys import PublicKey
from registry.log.checkpoint import open_checkpoint
from registry.log.leaves import prove_consistency
from registry.tables import ReleaseRow
from simulations.member import INBOX_LIMITS, Member
from simulations.network import Answer, Request
from sync.inbox import NotEnrolled, UnknownUpdate, append_file, file_offset, receipt_of, receive
from sync.peer_log import Consistency, Held
from sync.push import Receipt, Standing
from sync.seen_logs import Seen, held, see, witness
from sync.transport import Refused

MAX_BLOB_BYTES: Final = 64 << 20  # the weights of a base are one
STATUS: Final = {"enrolment": 403, "audience": 403, "sequence": 409, "size": 413, "rank": 413}


def serve(member: Member, request: Request) -> Answer:
    """Answer one request. Raises Refused, or LocalFailure where the node cannot answer now."""
    try:
        return _answer(member, request)
    except Refused:
        raise
    except UnknownUpdate as error:
        raise Refused(error.message, error.hint, 404, "not_here") from error
    except NotEnrolled as error:
        raise Refused(error.message, error.hint, 403, "not_enrolled") from error
    except BadData as error:
        raise Refused(error.message, error.hint, 400, "bad_data") from error


def not_here() -> Refused:
    """The no of a node that has not what was asked for."""
    return Refused("what was asked for is not here", "", 404, "not_here")


def _answer(member: Member, request: Request) -> Answer:
    parts = urlsplit(request.path)
    names = parts.path.removeprefix("/v1/").split("/")
    if names[0] == "updates":
        return _updates(member, request, names[1:])
    return Answer([_bytes(member, request, names, parts.query)])


def _bytes(member: Member, request: Request, names: list[str], query: str) -> bytes:
    """The answer to a question about releases or the log."""
    match request.method, names:
        case "GET", ["tuf", "metadata", name]:
            found = _metadata(member, name)
        case "GET", ["releases", digest]:
            found = _envelope(member, digest)
        case "GET", ["blobs", digest]:
            found = _blob(member, digest)[request.offset :]
        case "GET", ["log", "checkpoint"]:
            found = _checkpoint(member)
        case "GET", ["log", "consistency"]:
            found = _consistency(member, query)
        case "POST", ["log", "seen"]:
            found = Held(checkpoint=_take_shown(member, request)).model_dump_json().encode()
        case _:
            raise not_here()
    return found


def _checkpoint(member: Member) -> bytes:
    note = member.checkpoint()
    if note is None:
        raise not_here()
    return note.encode()


def _metadata(member: Member, name: str) -> bytes:
    if name in ("timestamp.json", "root.json"):
        member.renew()
    if name == "root.json":
        name = f"{member.repository.root().version}.root.json"
    try:
        return (member.home.repository / name).read_bytes()
    except FileNotFoundError:
        raise not_here() from None


def _envelope(member: Member, digest: str) -> bytes:
    with member.store.read() as session:
        row = session.get(ReleaseRow, digest)
    if row is None:
        raise not_here()
    return row.envelope


def _blob(member: Member, digest: str) -> bytes:
    if not member.blobs.has(digest):
        raise not_here()
    return member.blobs.read(digest, MAX_BLOB_BYTES)


def _updates(member: Member, request: Request, rest: list[str]) -> Answer:
    store, blobs = member.store, member.blobs
    match request.method, rest:
        case "POST", []:
            return _offer(member, request.body)
        case "GET", [digest]:
            where = receipt_of(store, blobs, digest)
            standing = Standing(
                state=where.state,
                verdict=where.verdict.decode("ascii") if where.verdict is not None else None,
                missing=tuple(file.sha256 for file in where.missing),
            )
            return Answer([standing.model_dump_json().encode()])
        case "HEAD", [digest, "files", sha256]:
            return Answer(offset=file_offset(store, blobs, digest, sha256))
        case "PUT", [digest, "files", sha256]:
            here = file_offset(store, blobs, digest, sha256)
            if request.offset > here:
                raise Refused(f"{here} bytes of this file are here", "", 409, "conflict")
            here = append_file(store, blobs, digest, sha256, offset=request.offset, data=request.body)
            member.wake()
            return Answer(offset=here)
        case _:
            raise not_here()


def _offer(member: Member, envelope: bytes) -> Answer:
    now = member.watch.now()
    receipt = receive(member.store, member.blobs, envelope, member.own, now, limits=INBOX_LIMITS, stopwatch=lambda: 0.0)
    first = [check for check in receipt.failed if check.name.startswith("envelope.")]
    if receipt.state == "rejected" and first:
        raise _refusal(first)
    member.wake()
    answer = Receipt(digest=receipt.digest, state=receipt.state, missing=tuple(file.sha256 for file in receipt.missing))
    return Answer([answer.model_dump_json().encode()])


def _refusal(failed: list[CheckResult]) -> Refused:
    name = failed[0].name.removeprefix("envelope.")
    message = "; ".join(f"{check.name}: {check.reason}" for check in failed)
    return Refused(message, "", STATUS.get(name, 400), f"check_{name}")


def _consistency(member: Member, query: str) -> bytes:
    sizes = {name: int(values[0]) for name, values in parse_qs(query).items()}
    with member.store.read() as session:
        proof = prove_consistency(session, sizes["first"], sizes["second"])
    answer = Consistency(first=sizes["first"], second=sizes["second"], proof=tuple(one.hex() for one in proof))
    return answer.model_dump_json().encode()


def _take_shown(member: Member, request: Request) -> str | None:
    """What another node saw of the log of the parent or of a child (L11)."""
    note, now = request.body.decode(), member.watch.now()
    for key, is_parents in _known_logs(member):
        try:
            checkpoint, kept = open_checkpoint(note, key)
        except BadData:
            continue
        seen = Seen(key, checkpoint, kept, request.asker)
        with member.store.transaction() as session:
            if not is_parents:
                return witness(session, seen, now)
            see(session, seen, now, may_be_first=False)
            mine = held(session, key.id)
        return mine.note if mine is not None else None
    raise Refused("the checkpoint is not of a log that is known here", "", 404, "not_followed")


def _known_logs(member: Member) -> list[tuple[PublicKey, bool]]:
    parents = [(member.parent.key, True)] if member.parent is not None else []
    return parents + [(key, False) for key in member.children.values()]
