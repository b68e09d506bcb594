"""`StackShape`: the shape of the adapters of a path when they are written as one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from registry.documents import AdapterShape


class StackShape(AdapterShape):
    """As of an adapter, but the rank is a sum of ranks and has no bound: our own file, which stands in no document."""

    rank: Annotated[int, Field(ge=1)]
