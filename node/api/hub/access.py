"""Who asks: the holder of this node's token, who may see everything and upload, or anybody."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from fastapi import Request

from node.api.errors import Forbidden, Unauthorized
from node.context import Node


class Access:
    """What the bearer token of a request allows."""

    def __init__(self, node: Node) -> None:
        self._token = node.settings.hub_token.encode()

    def is_holder(self, request: Request) -> bool:
        """Whether the asker sent the token. Another is nobody's (B6): clients send the one that they have anyway."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.strip().encode()
        return bool(self._token) and scheme.lower() == "bearer" and hmac.compare_digest(given, self._token)

    def holder(self) -> Callable[[Request], None]:
        """A dependency that lets the holder pass. Raises Forbidden where nobody is one, else Unauthorized."""

        def check(request: Request) -> None:
            if not self._token:
                raise Forbidden(
                    "this node takes no uploads: it has no token for them",
                    "its operator sets one: node config set hub_token TOKEN",
                )
            if not self.is_holder(request):
                raise Unauthorized("this needs the node's token", "set HF_TOKEN to the node's setting hub_token")

        return check
