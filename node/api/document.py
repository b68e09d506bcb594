"""/openapi.json: the document of the interface, with the bodies that are read from bytes with a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

SCHEMAS: Final = "#/components/schemas/{model}"


def documented(app: FastAPI, bodies: Sequence[type[BaseModel]]) -> Callable[[], dict[str, Any]]:
    """What makes the document of an application: FastAPI's own, with the schemas of these bodies."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        found = plain()
        _, defined = models_json_schema([(body, "validation") for body in bodies], ref_template=SCHEMAS)
        found.setdefault("components", {}).setdefault("schemas", {}).update(defined["$defs"])
        return found

    return document
