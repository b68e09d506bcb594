"""`node publish`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import DONE, REFUSED, Result, plain_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from node.offer import Outgoing

REFUSALS = ("rejected", "quarantined")


@command("node publish en/finance/cards --transfer-rows 800")
@click.argument("path")
@click.option(
    "--transfer-set",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Rows whose prompts may travel, with this model's own answers; the answers in the file stay here.",
)
@click.option(
    "--transfer-rows", type=click.IntRange(0), default=0, help="So many training prompts may travel, likewise."
)
@click.option("--anew", is_flag=True, help="Sign another update although this release was offered before.")
@click.option("--wait", "wait_s", type=click.FloatRange(0, 86_400), default=0, help="Seconds to wait for the verdict.")
@click.option("--yes", is_flag=True, help="Send what is shown without being asked.")
def publish(
    call: Call, path: str, *, transfer_set: Path | None, transfer_rows: int, anew: bool, wait_s: float, yes: bool
) -> Result:
    """Offer this node's own release of a path to the parent.

    Only the signed document, the adapter and the evaluation figures leave this machine, and prompts only if you say so:
    each with its earlier turns and the answer of this node's own model, not with the answers of your data.
    Exit code 5 if the parent's checks refuse it.
    """
    from datetime import UTC, datetime

    from node.publish import publish as offer
    from node.waiting import await_verdict
    from registry.paths import NodePath

    place = NodePath.parse(path)
    with call.node() as node:
        with call.output.progress("Sending", unit="bytes") as bar:
            done = offer(
                node,
                place,
                transfer_set,
                transfer_rows,
                _confirmation(call, yes=yes),
                now=datetime.now(UTC),
                on_progress=lambda progress: bar(progress.done, progress.total, progress.file),
                anew=anew,
            )
        state, reason = done.state, done.reason
        if wait_s and not reason:
            call.output.note(f"waiting up to {wait_s:g} s for the verdict")
            found = await_verdict(node, done.digest, wait_s)
            state, reason = found.summary.state, found.verdict.reason if found.verdict else found.problem
    data = {
        "digest": done.digest,
        "path": str(place),
        "sequence": done.sequence,
        "state": state,
        "reason": reason,
        "new": done.new,
        "sent": described(done.sent),
    }
    return Result(data, _view, REFUSED if state in REFUSALS else DONE)


def _confirmation(call: Call, *, yes: bool) -> Callable[[Outgoing], bool]:
    """Show what will leave; ask, unless nothing but the adapter leaves or `--yes` was said."""

    def confirm(outgoing: Outgoing) -> bool:
        call.output.draw(_leaving(described(outgoing)))
        if yes or not outgoing.transfer_rows:
            return True
        if not call.output.interactive:
            raise click.UsageError("rows of your data would leave this machine: look at them above, then add --yes")
        question = f"Let these {outgoing.transfer_rows} prompts and answers leave this machine?"
        return click.confirm(question, err=True)

    return confirm


def described(outgoing: Outgoing) -> dict[str, Any]:
    """What leaves this machine, as plain values."""
    return {
        "parent_url": outgoing.parent_url,
        "parent_fingerprint": outgoing.parent_fingerprint,
        "release": f"{outgoing.path}@v{outgoing.version}",
        "document_bytes": outgoing.envelope_bytes,
        "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in outgoing.files],
        "claims": [claim.model_dump(mode="json") for claim in outgoing.claims],
        "transfer_rows": outgoing.transfer_rows,
        "total_bytes": outgoing.total_bytes,
        "samples": [
            {
                "input": row.input,
                "output": row.output,
                "task": row.task,
                "history": [list(turn) for turn in row.history],
            }
            for row in outgoing.samples
        ],
    }


def _leaving(sent: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    lines = [
        f"To {sent['parent_url']} ({sent['parent_fingerprint']}) will go:",
        f"  signed document  {sent['document_bytes']:>12,} bytes",
        *(f"  {file['name']:<15}  {file['size']:>12,} bytes" for file in sent["files"]),
        *(f"  figures          {claim['dataset']}, {claim['split']}, {claim['rows']} rows" for claim in sent["claims"]),
        *(_memorised(claim) for claim in sent["claims"] if claim["dataset"] == "sampled"),
    ]
    if sent["transfer_rows"]:
        lines.append(
            f"  {sent['transfer_rows']} prompts, each with this model's own answer; your answers stay here. Such as:"
        )
        lines += [_sample(row) for row in sent["samples"]]
    else:
        lines.append("  no row of your data")
    return Text(plain_text("\n".join(lines)))


def _memorised(claim: dict[str, Any]) -> str:
    shares = claim["metrics"]
    return (
        f"  memorised        of {claim['rows']} prompts that the model says by itself, {shares['verbatim']:.1%} repeat "
        f"a training row word for word, {shares['nearly']:.1%} nearly"
    )


def _sample(row: dict[str, Any]) -> str:
    before = f" after {len(row['history'])} earlier turns, which travel too" if row["history"] else ""
    return f"    {row['input'][:100]!r}{before} -> {row['output'][:100]!r}"


def _view(data: dict[str, Any]) -> RenderableType:
    word = "sent" if data["new"] else "sent before"
    lines = [f"{word}: update {data['digest'][:16]} (number {data['sequence']}) is {data['state']}"]
    if data["reason"]:
        lines.append(data["reason"])
    return "\n".join([*lines, f"next:  node updates show {data['digest'][:16]}"])
