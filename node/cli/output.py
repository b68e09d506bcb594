"""How a command speaks: its result on stdout (for people, or as one JSON object), all else on stderr.

Exit codes: 0 done, 1 a bug, 2 wrong usage, 3 bad data or peer, 4 this machine failed, 5 refused by a check or the gate,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Protocol

import click

from registry.errors import BadData, BanyanError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

DONE, BUG, USAGE, BAD_DATA, LOCAL_FAILURE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
PIPE_COLUMNS = 200


class OnProgress(Protocol):
    """How a long work says how far it is; `note` stands behind the bar."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units are done."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command found: `data` for programs, `view` draws it for people, `code` is the exit code.

    A sequence of objects is printed as JSON Lines.
    """

    data: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    view: Callable[[Any], RenderableType]
    code: int = DONE


def plain(value: Any) -> Any:
    """A value that JSON does not know as one that it does; raises TypeError on what should not be printed."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, date):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if type(value).__module__.startswith("registry."):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")


def plain_text(text: str) -> str:
    """A peer's text without the marks that could steer a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def as_json_text(data: Any) -> str:
    """One JSON object."""
    return json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False, default=plain)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_COLUMNS, highlight=False, markup=False)


@dataclass(frozen=True, slots=True)
class Output:
    """Where one command speaks."""

    as_json: bool

    @property
    def interactive(self) -> bool:
        """Whether a person sits in front of it, so that it may ask and draw."""
        return not self.as_json and sys.stderr.isatty() and sys.stdin.isatty()

    @property
    def draws(self) -> bool:
        """Whether progress bars are drawn."""
        return not self.as_json and sys.stderr.isatty()

    def note(self, text: str) -> None:
        """A word for people, on stderr."""
        click.echo(text, err=True)

    def draw(self, drawing: RenderableType) -> None:
        """A table or text for people before the result, on stderr."""
        _console(stderr=True).print(drawing)

    def result(self, result: Result) -> None:
        """Print the outcome on stdout; a reader that has seen enough and went away is no error."""
        try:
            if self.as_json and not isinstance(result.data, Mapping):
                for one in result.data:
                    click.echo(json.dumps(one, ensure_ascii=False, allow_nan=False, default=plain))
            elif self.as_json:
                click.echo(as_json_text(result.data))
            else:
                self._show(result.view(result.data))
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left flows into nothing

    def _show(self, drawing: RenderableType) -> None:
        if isinstance(drawing, str):
            click.echo(drawing)  # as it is: rich would break long lines
        else:
            _console(stderr=False).print(drawing)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep what libraries print away from stdout where the one JSON object goes."""
        if self.as_json:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        else:
            yield

    @contextlib.contextmanager
    def progress(self, label: str, unit: str = "") -> Iterator[OnProgress]:
        """A bar on stderr with time spent and left; nothing where nobody watches. Yields `on_progress(done, total)`."""
        if not self.draws:
            yield lambda done, total, note="": None
            return
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn() if unit == "bytes" else progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}"),
        )
        bar = progress.Progress(*columns, console=_console(stderr=True), transient=True)
        task = bar.add_task(label, total=None, note="")

        def on_progress(done: int, total: int, note: str = "") -> None:
            if not bar.live.is_started:  # not earlier: a question may be asked first
                bar.start()
            bar.update(task, completed=done, total=total, note=note)

        try:
            yield on_progress
        finally:
            bar.stop()


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is told: its exit code, its cause and what to do next."""

    code: int
    message: str
    hint: str


def classify(error: Exception) -> Failure:
    """What an exception means to the person who ran the command."""
    match error:
        case click.Abort():
            failure = Failure(INTERRUPTED, "interrupted", "run the same command again to go on")
        case click.ClickException():
            context = getattr(error, "ctx", None)
            failure = Failure(USAGE, error.format_message(), f"{context.command_path if context else 'node'} --help")
        case BadData():
            failure = Failure(BAD_DATA, error.message, error.hint)
        case BanyanError():
            failure = Failure(LOCAL_FAILURE, error.message, error.hint or "node doctor")
        case OSError():
            named = f"{error.filename}: " if error.filename else ""
            failure = Failure(LOCAL_FAILURE, f"{named}{error.strerror or error}", "node doctor")
        case MemoryError():
            failure = Failure(LOCAL_FAILURE, "out of memory", "close other programs, or take a smaller model")
        case _:
            failure = Failure(BUG, f"{type(error).__name__}: {error}", "this is a bug: report it with the lines above")
    return failure


def explain(error: Exception, *, as_json: bool) -> int:
    """Tell of an error, on stdout as JSON where that was asked for; gives the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return USAGE
    failure = classify(error)
    if failure.code == BUG:
        click.echo("".join(traceback.format_exception(error)), err=True)
    if as_json:
        body = {"message": failure.message, "hint": failure.hint, "code": failure.code}
        click.echo(as_json_text({"error": body}))
    else:
        click.echo(f"{click.style('error:', fg='red')} {failure.message}", err=True)
        if failure.hint:
            click.echo(f"next:  {failure.hint}", err=True)
    return failure.code
