"""The two families of errors, by blame: the data or the peer is bad, or our own machine or network failed."""

from __future__ import annotations


class BanyanError(Exception):
    """An error that a person can act on: `message` names the cause, `hint` the next step or command."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadData(BanyanError):  # noqa: N818  a family by blame, not one error
    """What we were given is wrong: a file, a document, a request, a peer's answer."""


class LocalFailure(BanyanError):  # noqa: N818  a family by blame, not one error
    """Our own machine, its network or its state kept us from doing it; the same call may succeed later."""
