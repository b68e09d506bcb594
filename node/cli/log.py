"""`node log`: what this node decided, the proof of it, and whether others' logs hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, DefaultGroup, command
from node.cli.output import BAD_DATA, DONE, LOCAL_FAILURE, Result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from node.context import Node
    from node.watched_logs import Comparison

CODES = {"consistent": DONE, "split": BAD_DATA, "cannot tell": LOCAL_FAILURE}
PEER = click.option("--peer", type=click.Choice(["parent"]), help="The log of the parent instead of our own.")


@click.group(cls=DefaultGroup, default="show", epilog="\b\nExample:\n  node log verify --peer parent")
def log() -> None:
    """Show the log of decisions, prove that one is in it, verify it and the parent's."""


@command("node log show --last 20 --json")
@click.option("--last", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many entries.")
def show(call: Call, *, last: int) -> Result:
    """Show the newest entries: what was decided, about what, by whom."""
    from node.own_log import last_entries

    with call.node() as node:
        entries = [asdict(one) | {"entry": one.entry.model_dump(mode="json")} for one in last_entries(node, last)]
    return Result({"entries": entries}, _entries)


@command("node log checkpoint --peer parent")
@PEER
def checkpoint(call: Call, *, peer: str | None) -> Result:
    """Print the newest signed checkpoint of this node's log, or the one that is held of the parent's."""
    from registry.errors import LocalFailure
    from registry.log.checkpoint import peek_checkpoint

    with call.node() as node:
        note = _parents(node) if peer else _own(node)
    if note is None:
        hint = "node log verify --peer parent" if peer else "node up, or wait a moment"
        raise LocalFailure("there is no checkpoint yet", hint)
    said = peek_checkpoint(note)
    return Result({"origin": said.origin, "size": said.size, "root": said.root.hex(), "note": note}, _note)


@command("node log prove 3f2a91c0 --json")
@click.argument("digest")
def prove(call: Call, digest: str) -> Result:
    """Prove what a log says about a document: an update that was sent, in the parent's log; else in our own.

    DIGEST is that of an update, a release, an enrolment or a key, or its beginning.
    """
    from datetime import UTC, datetime

    from node.log_proof import prove as prove_it

    with call.node() as node:
        found = prove_it(node, digest, datetime.now(UTC))
    entries = [asdict(one) | {"entry": one.entry.model_dump(mode="json")} for one in found.entries]
    return Result(asdict(found) | {"entries": entries}, _proof)


@command("node log verify")
@PEER
def verify(call: Call, *, peer: str | None) -> Result:
    """Hash the whole log again, against every checkpoint; or see whether the parent's log only grew.

    Exit code 3 where a log shows itself split, 4 where our own is damaged or the parent does not prove itself.
    """
    from datetime import UTC, datetime

    from node.own_log import problems_of_log
    from node.watched_logs import check_parent_log
    from sync.seen_logs import splits

    with call.node() as node:
        compared = check_parent_log(node, datetime.now(UTC)) if peer else None
        problems = [] if peer else problems_of_log(node.store, node.home.log_checkpoint)
        evidence = [_evidence(row) for row in splits(node.store)]
    standing = compared.standing if compared else None
    data = {"standing": standing, "problems": problems, "splits": evidence, "log": peer or "own"}
    code = BAD_DATA if evidence or standing == "split" else LOCAL_FAILURE if problems else DONE
    return Result(data, _verified, code or CODES.get(standing or "", DONE))


@command("node log compare http://sibling.example:8420")
@click.argument("other", metavar="FILE|URL")
def compare(call: Call, other: str) -> Result:
    """Compare a checkpoint that another operator gave you, or that another node holds of the parent's log.

    Exit code 0 consistent, 3 split, 4 cannot tell.
    """
    from datetime import UTC, datetime

    with call.node() as node:
        found = _compared(node, other, datetime.now(UTC))
    return Result(asdict(found), _comparison, CODES[found.standing])


for one in (show, checkpoint, prove, verify, compare):
    log.add_command(one)


def _own(node: Node) -> str | None:
    from datetime import UTC, datetime

    from node.own_log import newest_checkpoint

    return newest_checkpoint(node, datetime.now(UTC))


def _parents(node: Node) -> str | None:
    from node.context import parent_of
    from node.watched_logs import held_note
    from registry.keys import PublicKey

    return held_note(node, PublicKey.from_hex(parent_of(node).public_key))


def _compared(node: Node, other: str, now: Any) -> Comparison:
    from pathlib import Path

    from node.watched_logs import compare_note, compare_with
    from registry.errors import BadData
    from registry.log.checkpoint import MAX_NOTE_BYTES

    if other.startswith(("http://", "https://")):
        return compare_with(node, other.rstrip("/"), now)
    try:
        with Path(other).open(encoding="utf-8") as source:
            return compare_note(node, source.read(MAX_NOTE_BYTES), other, now)
    except UnicodeDecodeError as error:
        raise BadData(f"{other} is not a checkpoint", "at the other node: node log checkpoint --peer parent") from error


def _evidence(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("key_id", "first", "second", "sources", "found")}


def _entries(data: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not data["entries"]:
        return "the log is empty"
    table = Table("leaf", "time", "decided", "about", "by", "checks failed", box=None, header_style="bold")
    for one in data["entries"]:
        entry = one["entry"]
        failed = ", ".join(check["name"] for check in entry["checks"] if not check["passed"])
        moment = entry["created"][:19].replace("T", " ")
        table.add_row(str(one["position"]), moment, entry["kind"], entry["subject"][:16], entry["by"], Text(failed))
    return table


def _note(data: dict[str, Any]) -> RenderableType:
    return str(data["note"]).removesuffix("\n")


def _proof(data: dict[str, Any]) -> RenderableType:
    lines = [f"subject  {data['subject']}", f"log      {data['log']}"]
    for one in data["entries"]:
        lines.append(f"leaf {one['position']}: {one['entry']['kind']} at {one['entry']['created']}, proven")
        lines += [f"  {digest}" for digest in one["proof"]]
    return "\n".join([*lines, "", data["checkpoint"].removesuffix("\n")])


def _verified(data: dict[str, Any]) -> RenderableType:
    lines = [f"FAILED  {problem}" for problem in data["problems"]]
    if data["standing"]:
        lines.append(f"the parent's log: {data['standing']}")
    elif not lines:
        lines.append("the log holds: every entry hashed again, every checkpoint compared")
    for split in data["splits"]:
        lines += [f"SPLIT VIEW of key {split['key_id']}, seen by {split['sources']}:", split["first"], split["second"]]
    return "\n".join(lines)


def _comparison(data: dict[str, Any]) -> RenderableType:
    notes = [data["ours"] or "none of that log was seen here\n", data["theirs"]]
    return "\n".join([data["standing"], "", *notes]).removesuffix("\n")
