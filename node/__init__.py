"""What runs: settings, commands, jobs, HTTP interface and daemon of one node. Nothing imports it, tests aside.

`node.serve(...)` and `node.asgi(...)` are found when they are asked for, so that the import of this package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node.start import asgi as asgi
    from node.start import serve as serve

__all__ = ["asgi", "serve"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from node import start

        return getattr(start, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
