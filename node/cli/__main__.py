"""`python -m node.cli`."""

from node.cli import main

main(prog_name="node")
