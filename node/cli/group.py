"""Commands that are found by name and imported when asked for, and the options that all of them share."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from node.cli.output import Output, Result, explain

if TYPE_CHECKING:
    from node.context import Node
    from node.settings import Settings

# Model libraries look at these when they are imported: no bars of their own, no call home.
QUIET_LIBRARIES = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a command: where it prints and what the shared flags said."""

    output: Output
    flags: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, **flags: Any) -> Settings:
        """The settings in force for this call; `flags` are a command's own flags that are settings."""
        from node.settings import load_settings

        said = {key: value for key, value in flags.items() if value is not None}
        return load_settings({**self.flags, **said})

    @contextlib.contextmanager
    def node(self, **flags: Any) -> Iterator[Node]:
        """The opened node of this call's home; asks for the key's passphrase where that is needed and possible."""
        from node.context import opened_node

        settings = self.settings(**flags)
        with opened_node(settings, self.passphrase(settings)) as node:
            yield node

    def passphrase(self, settings: Settings) -> str | None:
        """The passphrase of the key file, if it needs one."""
        from node.key_file import find_passphrase

        ask = functools.partial(click.prompt, "Passphrase of the key", hide_input=True, err=True)
        return find_passphrase(settings.place.key_file, os.environ, ask if self.output.interactive else None)


def _pairs(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` texts as a mapping."""
    pairs = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE")
        pairs[key.strip()] = value.strip()
    return pairs


SHARED_OPTIONS = (
    click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Folder of the node."),
    click.option(
        "--set", "pairs", multiple=True, callback=_pairs, metavar="KEY=VALUE", help="A setting, for this call."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else."),
)


SHARED_NAMES = frozenset({"home", "pairs", "as_json"})


def command(example: str, *, offline: bool = True) -> Callable[[Callable[..., Result]], click.Command]:
    """Make a function that takes a `Call` and its own parameters, and gives a `Result`, a command.

    `example` stands in the help. `offline` keeps the model libraries from looking for anything on the network.
    """

    def wrap(function: Callable[..., Result]) -> click.Command:
        @functools.wraps(function)
        def callback(*, home: Path | None, pairs: dict[str, str], as_json: bool, **own: Any) -> int:
            for name, value in QUIET_LIBRARIES.items():
                os.environ.setdefault(name, value)
            if offline:
                os.environ.setdefault("HF_HUB_OFFLINE", "1")
            output = Output(as_json)
            flags = {**pairs, "home": home} if home else pairs
            with output.guarded():
                result = function(Call(output, flags), **own)
            output.result(result)
            return result.code

        made: Callable[..., Any] = callback
        for option in reversed(SHARED_OPTIONS):
            made = option(made)
        name = function.__name__.rstrip("_").replace("_", "-")
        found = click.command(name, epilog=f"\b\nExample:\n  {example}")(made)
        found.params.sort(
            key=lambda parameter: parameter.name in SHARED_NAMES
        )  # the shared ones stand last in the help
        return found

    return wrap


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, listed by section; errors become exit codes."""

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        self.places = {name: place for section in sections.values() for name, place in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        """All names, in the order of their sections."""
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the file in which a command stands."""
        if cmd_name not in self.places:
            return None
        module, _, attribute = self.places[cmd_name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{self.places[cmd_name]} is not a command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their first line of help, by section."""
        for title, section in self.sections.items():
            commands = [(name, self.get_command(ctx, name)) for name in section]
            with formatter.section(title):
                formatter.write_dl([(name, found.get_short_help_str(90)) for name, found in commands if found])

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run a command line and leave the process with the exit code that the outcome means."""
        words = list(sys.argv[1:] if args is None else args)
        extra.pop("standalone_mode", None)
        try:
            code = super().main(words, prog_name=prog_name, standalone_mode=False, **extra)
        except Exception as error:  # noqa: BLE001 - the last place that can turn it into words and a code
            code = explain(error, as_json="--json" in words)
        sys.exit(code if isinstance(code, int) else 0)


class DefaultGroup(click.Group):
    """A group with one command that is meant where none is named: `node keys` is `node keys show`."""

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default's name in front unless a command or help is asked for."""
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    """Print the installed version and stop."""
    if not asked or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"banyan {version('banyan-node')}")
    except PackageNotFoundError:
        click.echo("banyan (run from its source folder)")
    ctx.exit()
