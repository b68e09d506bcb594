"""A node as a client of Flower: it trains what its parent signed, and signs what it brings.

How it trains is given by the caller, who knows the node's rows. Flower's mods for privacy stand between training and
signing, so that what is signed is what leaves: clipping where the parent asks for it, noise where this node wants it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod

from registry.errors import BadData
from registry.keys import PrivateKey, PublicKey
from sync.delta import Delta
from sync.federation.arrays import digest_of, to_delta, to_record, with_half
from sync.federation.contributions import Asked, open_task, sign
from sync.federation.strategy import ARRAYS, CONFIG, ENVELOPE, SIGNED, TASK

Shapes = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class LocalPrivacy:
    """Noise that a child adds before anything leaves it: its change is cut to `clip`, for (epsilon, delta) a round."""

    clip: float
    epsilon: float
    delta: float = 1e-5


@dataclass(frozen=True, slots=True)
class Member:
    """One child of a run: its key and place, its parent's key, and how it trains.

    `shapes` says which arrays a task over a base that is here has; `train` makes factors of a task and its start. Both
    raise BadData for a task that this child does not take.
    """

    key: PrivateKey
    path: str
    parent: PublicKey
    shapes: Callable[[Asked], Shapes]
    train: Callable[[Asked, Delta], Delta]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def client_app(member_of: Callable[[Context], Member], private: LocalPrivacy | None = None) -> ClientApp:
    """The app of a child; in a simulation `member_of` says which of many it is."""

    def signing(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        """The outermost mod: what comes out of all others is signed (J2)."""
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        member = member_of(context)
        asked, start, shapes = _opened(message, member)
        leaves = with_half(to_delta(reply.content.array_records[ARRAYS], shapes), start, asked.task.frozen)
        envelope = sign(asked, digest_of(leaves), member.path, member.key, member.now())
        signed = ConfigRecord({ENVELOPE: envelope})
        return Message(RecordDict({ARRAYS: to_record(leaves), SIGNED: signed}), reply_to=message)

    mods: list[Any] = [signing]
    if private:
        mods.append(LocalDpMod(private.clip, 2 * private.clip, private.epsilon, private.delta))
    app = ClientApp()

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        member = member_of(context)
        asked, start, _ = _opened(message, member)
        return Message(RecordDict({ARRAYS: to_record(member.train(asked, start))}), reply_to=message)

    return app


def _opened(message: Message, member: Member) -> tuple[Asked, Delta, Shapes]:
    """The task of a message, verified, with its arrays (J1)."""
    content = message.content
    envelope = content.config_records.get(CONFIG, ConfigRecord()).get(TASK)
    if not isinstance(envelope, bytes) or set(content.array_records) != {ARRAYS}:
        raise BadData("the message holds no task that the parent signed")
    asked = open_task(envelope, member.parent, member.now())
    shapes = member.shapes(asked)
    start = to_delta(content.array_records[ARRAYS], shapes)
    if digest_of(start) != asked.task.start:
        raise BadData("the arrays are not those that the parent signed the task for")
    if not all(bool(half.isfinite().all()) for factor in start.values() for half in (factor.a, factor.b)):
        raise BadData("the arrays of the task are not finite")
    return asked, start, shapes
