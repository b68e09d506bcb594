"""`node completion`: the script that makes a shell complete commands and flags."""

from __future__ import annotations

import click

from node.cli.group import Call, command
from node.cli.output import Result


@command('eval "$(banyan completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(_call: Call, shell: str) -> Result:
    """Print the completion script for a shell."""
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    program = root.info_name or "banyan"
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    script = found(root.command, {}, program, variable).source()
    return Result({"shell": shell, "program": program, "script": script}, lambda data: str(data["script"]))
