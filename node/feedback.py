"""What users did with models and said of them, kept: the last word of each voice."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from node.context import Node
from recommender.feedback import Voice
from registry.errors import BadData
from registry.store import Session, func, select
from registry.tables import FeedbackKind, FeedbackRow, HeadRow, KnownModelRow

THIS_MACHINE: Final = ""  # the voice of whoever uses the node's own machine
MAX_WORDS: Final = 2_000  # characters
MOST_VOICES: Final = 100_000  # the newest


def rate(node: Node, model: str, rating: int, words: str, *, voice: str, now: datetime) -> None:
    """Keep what a voice says of a model, 1 (useless) to 5; it takes the place of what the same voice said before.

    Raises BadData for a model that is not known here, another number, or too many words.
    """
    if not 1 <= rating <= 5:
        raise BadData(f"{rating} is no rating", "1 (useless) to 5 (just right)")
    if len(words) > MAX_WORDS:
        raise BadData(f"{len(words):,} characters are too many", f"say it in {MAX_WORDS:,}")
    from recommender.snapshot.files import read  # not for those who only clone

    with node.store.transaction() as session:
        here = session.get(HeadRow, model) or session.get(KnownModelRow, model)
        if here is None and model not in read().candidates:
            raise BadData(f"no model is known here as {model!a:.100}", "name it as node recommend does")
        _keep(session, model, voice, "rating", now, rating=rating, words=words)


def note_clone(node: Node, model: str, release: str, now: datetime, voice: str = THIS_MACHINE) -> None:
    """Keep that a model was cloned."""
    with node.store.transaction() as session:
        _keep(session, model, voice, "clone", now, release=release)


def voices(node: Node) -> list[Voice]:
    """What is kept, as the recommender takes it."""
    with node.store.read() as session:
        rows = session.scalars(select(FeedbackRow).order_by(FeedbackRow.created.desc()).limit(MOST_VOICES))
        return [Voice(row.model, row.voice, row.rating) for row in rows]


def newest_voice(node: Node) -> datetime | None:
    """When something was last said."""
    with node.store.read() as session:
        return session.scalar(select(func.max(FeedbackRow.created)))


def _keep(
    session: Session,
    model: str,
    voice: str,
    kind: FeedbackKind,
    now: datetime,
    *,
    release: str | None = None,
    rating: int | None = None,
    words: str = "",
) -> None:
    same = select(FeedbackRow).where(FeedbackRow.model == model, FeedbackRow.voice == voice, FeedbackRow.kind == kind)
    row = session.scalars(same).one_or_none()
    if row is None:
        row = FeedbackRow(model=model, voice=voice, kind=kind, created=now)
        session.add(row)
    row.release, row.rating, row.words, row.created = release, rating, words, now
