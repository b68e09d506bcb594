"""`node demo`."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.group import Call, command
from node.cli.output import DONE, REFUSED, Result


@command("node demo --keep demo-homes")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep the homes of the demo here.")
def demo(call: Call, *, keep: Path | None) -> Result:
    """Run a small tree of real nodes on this machine: clone, fine-tune, publish, check, release, pull."""
    from node.demo import run

    report = run(keep, call.output)
    return Result(report.data, lambda _: report.table, DONE if report.passed else REFUSED)
