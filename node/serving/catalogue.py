"""`Catalogue`: the names that are served here, and the models behind them."""

from __future__ import annotations

from typing import Protocol

from node.serving.models import Served
from node.serving.requests import ModelInfo


class Catalogue(Protocol):
    """What `LocalBackend` answers from: the tree (`node.serving.models`) or what was started (`node.started`)."""

    def served(self, name: str) -> Served:
        """The model of a name, ready to answer. Raises UnknownModel, Loading or Unavailable."""

    def info(self, name: str) -> ModelInfo:
        """What is known of one model. Raises UnknownModel."""

    def listed(self) -> list[ModelInfo]:
        """All models that are named to those who ask for a list."""
