"""The assistant at work on this node: what is agreed becomes a job, and who asks after a job is told how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from assistant.dialogue import step
from assistant.jobs import told
from assistant.meaning import extract_near
from assistant.state import Action, State
from assistant.voice import Voice, voice
from node.desk import Desk
from node.jobs.queue import Job
from node.jobs.requests import read_request
from recommender.advisor import Advisor
from recommender.embed import embed
from registry.errors import BanyanError

UNDERSTAND: Final = partial(extract_near, embed=embed)
"""How a text is read in every conversation of a node; the first that needs a guess loads the embedding model."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the user is told, the name of the question in it, and the job that was started."""

    text: str
    question: str = ""
    job: Job | None = None


def converse(state: State, text: str, advisor: Advisor, desk: Desk) -> tuple[State, Said]:
    """Take in what the user wrote, do what was agreed, and answer.

    Raises:
        BadData: the conversation is too long; the state stays as it was.
    """
    then, reply = step(state, text, advisor, UNDERSTAND)
    tongue = voice(then.language)
    if reply.action is not None:
        return then, _started(reply.action, desk, tongue)
    if reply.status is not None:
        job = desk.look(reply.status)
        return then, Said(told(job.model_dump() if job is not None else None, tongue))
    return then, Said(reply.text, reply.question)


def _started(action: Action, desk: Desk, tongue: Voice) -> Said:
    """A failure to start is told and does not end the conversation."""
    values = {"kind": action.kind, "model": action.model} | ({"data": action.data} if action.data else {})
    try:
        job = desk.ask(read_request(values))
    except BanyanError as error:
        return Said(tongue.say("not_started", why=error.message, hint=error.hint))
    return Said(tongue.say("started", job=job.id), job=job)
