"""`node jobs`: clones, fine-tunes and evaluations that go on while nobody waits for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from node.cli.group import Call, DefaultGroup, command
from node.cli.output import DONE, LOCAL_FAILURE, Result, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {"done": "green", "failed": "red", "cancelled": "yellow", "running": "bold"}


@click.group(
    cls=DefaultGroup, default="list", epilog="\b\nExample:\n  node jobs add finetune en/finance --data rows.jsonl"
)
def jobs() -> None:
    """List jobs, look at one, add or cancel one, work them off. A node that runs (`node up`) works on them itself."""


@command("node jobs list --json")
@click.option("--count", type=click.IntRange(1, 500), default=20, show_default=True, help="How many.")
def list_(call: Call, *, count: int) -> Result:
    """List jobs, the newest first."""
    from node.jobs.queue import jobs as listed

    with call.node() as node:
        found = listed(node.store, None, count)
    return Result({"jobs": [job.model_dump(mode="json") for job in found]}, _table)


@command("node jobs show 7")
@click.argument("number", type=int)
def show(call: Call, number: int) -> Result:
    """Show one job: how far it is, what came of it or why it failed."""
    from node.jobs.queue import find

    with call.node() as node:
        job = find(node.store, number, None)
    return Result(job.model_dump(mode="json"), _detail)


@command("node jobs add evaluate en/finance --data rows.jsonl")
@click.argument("kind", type=click.Choice(["clone", "finetune", "evaluate"]))
@click.argument("model", metavar="PATH[@VERSION]")
@click.option("--data", type=click.Path(path_type=Path, dir_okay=False), help="Rows to fine-tune or measure on.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of a clone; in clones/ if not given."
)
@click.option("--method", help="Fine-tune beside the adapter that is there, as `node finetune --continue` does.")
@click.option("--rank", type=int, help="Rank of the adapter.")
@click.option("--epochs", type=int, help="Passes over the rows at most.")
@click.option("--seed", type=int, help="Same seed, same data, same machine: same adapter.")
def add(call: Call, kind: Literal["clone", "finetune", "evaluate"], model: str, **said: Any) -> Result:
    """Queue a job. It begins when a node runs on this home, or with: node jobs run."""
    from datetime import UTC, datetime

    from node.jobs.queue import add as queue
    from node.jobs.requests import placed, read_request

    values = {name: value for name, value in said.items() if value is not None}
    files = {name: str(value) for name, value in values.items() if isinstance(value, Path)}
    asked = read_request({"kind": kind, "model": model, **values, **files})
    with call.node() as node:
        job = queue(node.store, placed(asked, node.home, from_outside=False), "", datetime.now(UTC))
    return Result(job.model_dump(mode="json"), _detail)


@command("node jobs cancel 7")
@click.argument("number", type=int)
def cancel(call: Call, number: int) -> Result:
    """End a job that waits or runs; what it has done so far is kept for the next time."""
    from datetime import UTC, datetime

    from node.jobs.queue import cancel as end

    with call.node() as node:
        job = end(node.store, number, None, datetime.now(UTC))
    return Result(job.model_dump(mode="json"), _detail)


@command("node jobs run")
def run(call: Call) -> Result:
    """Work on the jobs that wait, one after the other, and end. Ctrl-C ends it; the job goes on at the next time."""
    with call.node() as node:
        from node.jobs.queue import find
        from node.jobs.runner import work_off

        numbers = work_off(node, lambda job: call.output.note(f"job {job.id}: {job.kind} {job.request.model}"))
        found = [find(node.store, number, None) for number in numbers]
    code = LOCAL_FAILURE if any(job.state == "failed" for job in found) else DONE
    return Result({"jobs": [job.model_dump(mode="json") for job in found]}, _table, code)


for one in (list_, show, add, cancel, run):
    jobs.add_command(one)


def _table(data: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not data["jobs"]:
        return "no jobs\nnext:  node jobs add KIND PATH"
    table = Table("", "kind", "model", "state", "progress", box=None, header_style="bold")
    for job in data["jobs"]:
        state = Text(job["state"], style=STYLES.get(job["state"], ""))
        said = job["error"] or (_progress(job["progress"]) if job["state"] == "running" else "")
        table.add_row(str(job["id"]), job["kind"], job["arguments"]["model"], state, plain_text(said))
    return table


def _progress(progress: dict[str, Any] | None) -> str:
    if progress is None:
        return ""
    known = {name: value for name, value in progress["figures"].items() if value is not None}
    figures = "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in known.items())
    left = f", {progress['seconds_left']:.0f} s left" if progress["seconds_left"] is not None else ""
    return f"{progress['stage']}: {progress['done']:,} of {progress['total']:,}{figures}{left}"


def _detail(data: dict[str, Any]) -> str:
    lines = [f"job {data['id']}: {data['kind']} {data['arguments']['model']}, {data['state']}"]
    if data["state"] == "running" and data["progress"]:
        lines.append(_progress(data["progress"]))
    lines += [f"{name.replace('_', ' ')}: {value}" for name, value in (data["result"] or {}).items()]
    lines += [data["error"]] if data["error"] else []
    steps = {"queued": "node up, or: node jobs run", "running": f"node jobs show {data['id']}"}
    hint = data["hint"] or steps.get(data["state"], "")
    return plain_text("\n".join([*lines, f"next:  {hint}"] if hint else lines))
