"""`/v1/jobs`: clones, fine-tunes and evaluations, asked for, looked at and ended by the holder of a key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, RootModel

from node.api.openai.access import only_holders, tenant_of
from node.api.openai.bodies import body_of, described
from node.context import Node
from node.jobs import queue
from node.jobs.queue import Job
from node.jobs.requests import JobRequest, placed

Number = Annotated[int, Field(ge=1, lt=1 << 62)]


class JobBody(RootModel[JobRequest]):
    """What is to be done: by `kind` a clone, a fine-tune or an evaluation."""


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[Job]


def job_routes(node: Node, keys: Sequence[str], now: Callable[[], datetime]) -> APIRouter:
    """The routes; without keys they answer to this machine alone. Everybody sees their own jobs only."""
    routes = APIRouter(dependencies=[Depends(only_holders(keys))])

    @routes.post("/v1/jobs", status_code=202, openapi_extra=described(JobBody))
    def add(request: Request, body: Annotated[JobBody, Depends(body_of(JobBody))]) -> Job:
        """Queue a job, on a file in the folder data/ of the node. The same that waits or runs already is given back."""
        return queue.add(node.store, placed(body.root, node.home, from_outside=True), tenant_of(request), now())

    @routes.get("/v1/jobs")
    def jobs(request: Request) -> JobList:
        """The asker's jobs."""
        return JobList(jobs=queue.jobs(node.store, tenant_of(request)))

    @routes.get("/v1/jobs/{number}")
    def job(request: Request, number: Number) -> Job:
        """One job, with how far it is."""
        return queue.find(node.store, number, tenant_of(request))

    @routes.delete("/v1/jobs/{number}")
    def cancel(request: Request, number: Number) -> Job:
        """End a job that waits or runs; one that is over stays as it is."""
        return queue.cancel(node.store, number, tenant_of(request), now())

    return routes
