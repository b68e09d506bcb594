"""The log of a node: one line for each event, as text for people or as JSON for programs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from registry.errors import BanyanError

log = logging.getLogger(__name__)

# Of the request that is worked on, empty outside of any.
request_id: ContextVar[str] = ContextVar("request_id", default="")


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, logger, message; `request_id`, `error` and the facts of an event if any."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({"request_id": request_id.get()} if request_id.get() else {}),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """Time, level, logger and message, with the request's id where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, more with an exception."""
        text = super().format(record)
        return f"{text} [{request_id.get()}]" if request_id.get() else text


def set_up_logs(form: Literal["text", "json"]) -> None:
    """Log to standard error from level INFO on, whatever was set up before."""
    text = TextLines("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request to a peer says nothing more


@contextmanager
def tried_again(what: str) -> Iterator[None]:
    """A part of a daemon's round: what fails is logged and does not keep the rest, and the next round tries again."""
    try:
        yield
    except BanyanError as error:
        log.warning("%s: %s (%s)", what, error.message, error.hint)
