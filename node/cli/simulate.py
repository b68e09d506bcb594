"""`node simulate`: trees of nodes in one process, to see what becomes of knowledge before a real tree does."""

from __future__ import annotations

import click

from node.cli.learning import attacks, forgetting, policies
from node.cli.scale import scale


@click.group(epilog="\b\nExample:\n  node simulate scale --nodes 1000000")
def simulate() -> None:
    """Play trees of nodes in this process."""


for _one in (policies, forgetting, attacks, scale):
    simulate.add_command(_one)
