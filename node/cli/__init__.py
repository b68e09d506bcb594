"""The command line of a node. Commands parse, call a function of `node`, print; the work is left to those functions.

Only Click is imported here and at the top of each command's file, so that `node --help` is quick.
"""

from __future__ import annotations

import click

from node.cli.group import LazyGroup, show_version

# Section of the help -> command -> where it stands.
COMMANDS = {
    "Start": {
        "init": "node.cli.init:init",
        "up": "node.cli.up:up",
        "start": "node.cli.start:start",
        "demo": "node.cli.demo:demo",
        "doctor": "node.cli.doctor:doctor",
    },
    "Models": {
        "tree": "node.cli.tree:tree",
        "show": "node.cli.tree:show",
        "recommend": "node.cli.recommend:recommend",
        "rate": "node.cli.rate:rate",
        "catalogue": "node.cli.catalogue:catalogue",
        "chat": "node.cli.chat:chat",
        "import": "node.cli.importing:import_",
        "clone": "node.cli.clone:clone",
        "finetune": "node.cli.finetune:finetune",
        "evaluate": "node.cli.evaluate:evaluate",
        "generate": "node.cli.generate:generate",
        "export": "node.cli.export:export",
        "jobs": "node.cli.jobs:jobs",
        "sessions": "node.cli.sessions:sessions",
        "mcp": "node.cli.mcp:mcp",
        "assistant": "node.cli.assistant:assistant",
    },
    "Exchange": {
        "enrol": "node.cli.enrol:enrol",
        "publish": "node.cli.publish:publish",
        "updates": "node.cli.updates:updates",
        "pull": "node.cli.pull:pull",
        "log": "node.cli.log:log",
        "sync": "node.cli.sync:sync",
        "federate": "node.cli.federate:federate",
        "release": "node.cli.release:release",
    },
    "Study": {
        "simulate": "node.cli.simulate:simulate",
    },
    "This node": {
        "keys": "node.cli.keys:keys",
        "config": "node.cli.config:config",
        "completion": "node.cli.completion:completion",
    },
}


HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=LazyGroup, sections=COMMANDS, context_settings=HELP)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=show_version, help="Show it.")
def main() -> None:
    """A node of a federated tree of language models.

    Begin with: node init, then: node tree. Every command takes --help and --json.
    """
