"""Who may use the models: the holders of a static key, and where there are no keys, this machine alone."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request

from node.api.errors import Unauthorized

LOCAL_NAMES: Final = ("127.0.0.1", "::1", "localhost")


def only_holders(keys: Sequence[str]) -> Callable[[Request], None]:
    """A dependency that refuses all others (Unauthorized), and notes whose request it is (see `tenant_of`)."""
    tenants = {key.encode(): hashlib.sha256(key.encode()).hexdigest() for key in keys}

    def check(request: Request) -> None:
        if not tenants:
            if not _is_this_machine(request) or _is_foreign_page(request):
                raise Unauthorized(
                    "the models of this node may be used from its own machine only",
                    "its operator can give out keys: node config set api_keys KEY",
                )
            request.state.tenant = ""
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        said = given.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""
        for key, tenant in tenants.items():
            if hmac.compare_digest(key, said):
                request.state.tenant = tenant
                return
        raise Unauthorized("the API key is missing or not known here", "send the header Authorization: Bearer KEY")

    return check


def tenant_of(request: Request) -> str:
    """The holder of the key that came with a request: what keeps the caches of holders apart."""
    return str(request.state.tenant)


def _is_foreign_page(request: Request) -> bool:
    """Whether a page of another machine asks, in a browser that runs on this one: browsers say so (RFC 6454)."""
    origin = request.headers.get("origin")
    try:
        return origin is not None and urlsplit(origin).hostname not in LOCAL_NAMES
    except ValueError:
        return True


def _is_this_machine(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
