"""A job as the user is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant.voice import Voice


def told(job: Mapping[str, Any] | None, voice: Voice) -> str:
    """How far a job is, what came of it or why it failed; `job` has the fields of `node.jobs.queue.Job`."""
    if job is None:
        return voice.say("no_job")
    number, progress = job["id"], job["progress"]
    match job["state"]:
        case "running" if progress is not None:
            stage = {"stage": voice.phrase(progress["stage"]), "done": progress["done"], "total": progress["total"]}
            said = voice.say("job_stage", job=number, **stage)
            left = progress["seconds_left"]
            return said if left is None else f"{said} {voice.say('job_left', seconds=f'{left:.0f}')}"
        case "done":
            result = [f"{name.replace('_', ' ')}: {value}" for name, value in (job["result"] or {}).items()]
            return "\n".join([voice.say("job_done", job=number), *result])
        case "failed":
            return voice.say("job_failed", job=number, why=job["error"], hint=job["hint"])
        case state:
            return voice.say(f"job_{state}", job=number)
