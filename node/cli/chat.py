"""`node chat`: find a model in a conversation, and clone, fine-tune or evaluate it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.group import Call, command
from node.cli.output import Result, plain_text
from registry.errors import BadData

if TYPE_CHECKING:
    from node.context import Node
    from node.jobs.queue import Job

MAX_LINE_CHARS: Final = 20_000
LOOK_S: Final = 0.3
GREETING: Final = "What do you need a model for? Say it in your own words. An empty line ends the conversation."


@command("node chat --session letters")
@click.option("--session", "name", default="", metavar="NAME", help="Go on with this conversation, and remember it.")
@click.option("--machine", default="", metavar="NAME", help="Another machine than this one, such as 'RTX 3060 12 GB'.")
@click.option("--tree", "tree_only", is_flag=True, help="Only models that this node has, none of the shipped tables.")
def chat(call: Call, *, name: str, machine: str, tree_only: bool) -> Result:
    """Find a model in a conversation: it asks what would change the answer, explains, and acts after a plain yes.

    What the user says is read from the terminal, or line by line from stdin. Clones, fine-tunes and evaluations are
    jobs: they begin at once, and at the end of the conversation they are waited for; Ctrl-C leaves them to: node jobs.
    """
    from datetime import UTC, datetime
    from threading import Thread

    from assistant.dialogue import recalled
    from assistant.state import State
    from node.conversation import converse
    from node.desk import Desk
    from node.jobs.runner import working
    from node.recommending import Shelf
    from node.sessions import keep_session, load_session
    from recommender.embed import embed
    from recommender.hardware import described_machine, this_machine

    def now() -> datetime:
        return datetime.now(UTC)

    if call.output.interactive:
        Thread(target=embed, args=((),), daemon=True).start()  # is loaded while the user types
    where = described_machine(machine) if machine else this_machine()
    replies: list[dict[str, Any]] = []
    with call.node() as node, working(node):
        state = load_session(node.store, "", name, now()) if name else State()
        advisor, desk = Shelf(node).advisor(where, now(), tree_only=tree_only), Desk(node, "", False, now)
        for text in _said(call, recalled(state)):
            state, said = converse(state, text, advisor, desk)
            if name:
                keep_session(node.store, "", name, state, now())
            job = said.job.id if said.job is not None else None
            replies.append({"said": text, "reply": said.text, "question": said.question or None, "job": job})
            if not call.output.as_json:
                click.echo(plain_text(said.text))
        jobs = [_awaited(call, node, one["job"]) for one in replies if one["job"] is not None]
    need = {slot: stated.value for slot, stated in state.need.stated()}
    told = [job.model_dump(mode="json") for job in jobs]
    return Result({"replies": replies, "need": need, "model": state.current or None, "jobs": told}, _jobs)


def _said(call: Call, before: str) -> Iterator[str]:
    """The user's lines, until an empty one or the end; `before` is what a remembered conversation begins with."""
    if call.output.interactive or (before and not call.output.as_json):
        click.echo(plain_text(before) or GREETING)
    while True:
        if call.output.interactive:
            click.echo("> ", nl=False)
        line = sys.stdin.readline(MAX_LINE_CHARS + 1)
        if len(line) > MAX_LINE_CHARS:
            raise BadData(f"a line is longer than {MAX_LINE_CHARS:,} characters", "say it in fewer words")
        if not line.strip():
            return
        yield line.strip()


def _awaited(call: Call, node: Node, number: int) -> Job:
    """A job when it is over; who does not want to wait so long ends the command, and the job goes on with the next."""
    from node.jobs.queue import find

    with call.output.progress(f"Job {number}") as bar:
        while not (job := find(node.store, number, "")).is_over:
            if job.progress is not None:
                bar(job.progress.done, job.progress.total, job.progress.stage)
            time.sleep(LOOK_S)
    return job


def _jobs(data: dict[str, Any]) -> str:
    """What came of the jobs, for people."""
    lines = []
    for job in data["jobs"]:
        lines.append(f"job {job['id']}: {job['state']}")
        lines += [f"  {name.replace('_', ' ')}: {value}" for name, value in (job["result"] or {}).items()]
        lines += [f"  {job['error']}", f"next:  {job['hint']}"] if job["error"] else []
    return plain_text("\n".join(lines))
