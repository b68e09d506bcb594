"""What a program may do with this node on a user's behalf: each tool one model of arguments and one handler.

Tools that only look answer at once. Those that act queue a job, and only where `confirm` says that the user agreed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, ValidationError

from assistant.extract import MAX_CHARS
from node.desk import Desk
from node.jobs.queue import Job
from node.jobs.requests import (
    CloneArguments,
    CloneRequest,
    EvaluateArguments,
    EvaluateRequest,
    FinetuneArguments,
    FinetuneRequest,
    JobRequest,
    Request,
    first_problem,
)
from node.recommending import Shelf, as_data, machine_of, need_of
from recommender.candidate import Candidate
from registry.errors import BadData

Confirm = Annotated[bool, Field(description="true only after the user has said yes to this very act")]


class SearchModels(Request):
    """Find models by words of their name, family, languages, tasks, domains or licence; all words must be there."""

    words: Annotated[str, Field(min_length=1, max_length=200, description="such as: qwen german")]
    tree_only: Annotated[bool, Field(description="only models that this node has")] = False
    count: Annotated[int, Field(ge=1, le=50)] = 10


class RecommendModels(Request):
    """Recommend models for a need, best first, with what they take, what they are expected to do, and the reasons."""

    need: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_CHARS,
            description="in the user's words: task, languages, subject, machine and its memory, licence, speed, price",
        ),
    ]
    machine: Annotated[str, Field(max_length=200, description="another machine than the node's: RTX 3060 12 GB")] = ""
    tree_only: Annotated[bool, Field(description="only models that this node has")] = False
    count: Annotated[int, Field(ge=1, le=20)] = 5


class Clone(CloneArguments):
    """Fetch a model of the tree, verify it, and write it as a folder that PEFT loads. Gives the job that does it."""

    confirm: Confirm = False


class Finetune(FinetuneArguments):
    """Train an adapter for a place of the tree on a file of rows, which stay here. Gives the job that does it."""

    confirm: Confirm = False


class Evaluate(EvaluateArguments):
    """Measure a model of the tree on a file of rows. Gives the job that does it."""

    confirm: Confirm = False


class JobStatus(Request):
    """How far a job is, what came of it or why it failed."""

    job: Annotated[int, Field(ge=0, lt=1 << 62, description="its number; 0 for the newest")] = 0


@dataclass(frozen=True, slots=True)
class Bench:
    """What tools work with."""

    desk: Desk
    shelf: Shelf


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool by its name; `acts` tells those that change something."""

    name: str
    arguments: type[Request]
    handler: Callable[[Bench, Any], Mapping[str, Any]]
    acts: bool = False

    @property
    def description(self) -> str:
        """What it does."""
        return (self.arguments.__doc__ or "").strip()

    def call(self, bench: Bench, values: Mapping[str, Any]) -> dict[str, Any]:
        """Do it. Raises BadData for arguments that do not fit, and what the handler raises."""
        try:
            arguments = self.arguments.model_validate(values)
        except ValidationError as error:
            raise BadData(first_problem(error), f"see the schema of {self.name}") from None
        return _plain(self.handler(bench, arguments))


def _search(bench: Bench, asked: SearchModels) -> dict[str, Any]:
    words = asked.words.lower().split()
    models = bench.shelf.candidates(bench.desk.now(), tree_only=asked.tree_only)
    found = [one for one in models if all(word in _facts(one) for word in words)]
    found.sort(key=lambda one: (one.source != "tree", -(one.popularity or 0), one.id))
    return {"found": len(found), "models": [_summary(one) for one in found[: asked.count]]}


def _recommend(bench: Bench, asked: RecommendModels) -> dict[str, Any]:
    need = need_of(asked.need, {})
    machine = machine_of(asked.need, asked.machine, need)
    found = bench.shelf.recommend(need, machine, asked.count, bench.desk.now(), tree_only=asked.tree_only)
    return as_data(need, found)


def _clone(bench: Bench, asked: Clone) -> dict[str, Any]:
    return _agreed(bench, CloneRequest(**asked.model_dump(exclude={"confirm"})), confirmed=asked.confirm)


def _finetune(bench: Bench, asked: Finetune) -> dict[str, Any]:
    return _agreed(bench, FinetuneRequest(**asked.model_dump(exclude={"confirm"})), confirmed=asked.confirm)


def _evaluate(bench: Bench, asked: Evaluate) -> dict[str, Any]:
    return _agreed(bench, EvaluateRequest(**asked.model_dump(exclude={"confirm"})), confirmed=asked.confirm)


def _agreed(bench: Bench, request: JobRequest, *, confirmed: bool) -> dict[str, Any]:
    if not confirmed:
        would = request.model_dump(mode="json", exclude_none=True)
        return {"state": "not started", "would": would, "next": "ask the user, then call again with confirm: true"}
    return _told(bench.desk.ask(request))


def _job_status(bench: Bench, asked: JobStatus) -> dict[str, Any]:
    job = bench.desk.look(asked.job)
    if job is None:
        raise BadData(f"there is no job {asked.job}" if asked.job else "no job was started yet", "clone, finetune")
    return _told(job)


TOOLS: Final = (
    Tool("search_models", SearchModels, _search),
    Tool("recommend", RecommendModels, _recommend),
    Tool("clone", Clone, _clone, acts=True),
    Tool("finetune", Finetune, _finetune, acts=True),
    Tool("evaluate", Evaluate, _evaluate, acts=True),
    Tool("job_status", JobStatus, _job_status),
)


def _told(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json")


def _facts(one: Candidate) -> str:
    """What words are looked for in."""
    words = [*one.languages, *one.tasks, *one.domains, *one.subdomains]
    return " ".join([one.id, one.family or "", one.license or "", one.kind, *words]).lower()


def _summary(one: Candidate) -> dict[str, Any]:
    return {
        "model": one.id,
        "source": one.source,
        "parameters_b": one.parameters_b,
        "context_tokens": one.context_tokens,
        "license": one.license,
        "languages": list(one.languages),
        "tasks": list(one.tasks),
    }


class _Anything(BaseModel):
    value: Any


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same in what JSON knows."""
    plain: dict[str, Any] = _Anything(value=dict(found)).model_dump(mode="json")["value"]
    return plain
