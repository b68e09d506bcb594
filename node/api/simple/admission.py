"""Who may use the models through a door that is not HTTP: the same rule as there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import Request

from node.api.openai.access import only_holders, tenant_of


def admission(keys: Sequence[str]) -> Callable[[str, str], str]:
    """A function that takes a caller's address and its `authorization`, and gives the tenant. Raises Unauthorized."""
    admit = only_holders(keys)

    def tenant(address: str, authorization: str) -> str:
        headers = [(b"authorization", authorization.encode())]
        request = Request({"type": "http", "headers": headers, "client": (address, 0)})
        admit(request)
        return tenant_of(request)

    return tenant
