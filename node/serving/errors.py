"""What a backend says instead of an answer. The wire interfaces turn these into their own forms of error."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence

from registry.errors import BadData, LocalFailure


class Refused(BadData):
    """The request is at fault. `field` is the field of the neutral request that is, `code` one word for programs."""

    def __init__(self, field: str, message: str, hint: str = "", code: str = "invalid_value") -> None:
        super().__init__(message, hint)
        self.field = field
        self.code = code


class UnknownModel(Refused):
    """No model of this name is served here; `nearest` are names that are."""

    def __init__(self, name: str, nearest: Sequence[str] = ()) -> None:
        meant = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        message = f"the model {name!a:.200} is not served here{meant}"
        super().__init__("model", message, "GET /v1/models lists what is served", "model_not_found")
        self.nearest = tuple(nearest)


class Busy(LocalFailure):
    """More requests wait than may, or this one waited too long; the same request may be answered later."""


class Unavailable(LocalFailure):
    """The backend is stopped, or the server behind it does not answer or answered with an error of its own."""


class Loading(Unavailable):
    """The base of the model is being loaded. `coming` is done when it is, with what went wrong where it failed."""

    def __init__(self, coming: concurrent.futures.Future[Unavailable | None]) -> None:
        super().__init__("the model is being loaded", "try again in a while")
        self.coming = coming

    def wait(self, timeout_s: float) -> None:
        """Until it is loaded. Raises itself when that takes longer or is given up, Unavailable when it failed."""
        try:
            failure = self.coming.result(timeout_s)
        except (concurrent.futures.CancelledError, TimeoutError):
            raise self from None
        if failure is not None:
            raise failure
