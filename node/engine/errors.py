"""The errors of the engine, by blame: the request, the load, the engine itself."""

from __future__ import annotations


class EngineError(Exception):
    """An error that a person can act on: `message` names the cause, `hint` the next step."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RequestRefused(EngineError):  # noqa: N818  named for what happened, as the others
    """The request is at fault and will be refused again; `field` names the part of it that is wrong."""

    def __init__(self, field: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.field = field


class Overloaded(EngineError):  # noqa: N818  named for what happened, as the others
    """Too many requests wait, or this one waited too long; the same request may succeed later."""


class EngineStopped(EngineError):  # noqa: N818  named for what happened, as the others
    """The engine takes no requests any more, or stopped while this one ran."""
