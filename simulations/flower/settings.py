"""What one simulation follows from, and what it makes of its seed: keys, paths, who lies, who has which rows."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from registry.errors import BadData
from registry.keys import PrivateKey
from registry.rows import Row, read_rows

PLACE: Final = "en"
MAX_ROWS_BYTES: Final = 64 << 20
KNOWN: Final = 0.2  # part of the rows that the parent judges on


@dataclass(frozen=True, slots=True)
class Settings:
    """One simulation; `base` is a model folder, `rows` a file of rows that the children share out."""

    base: str
    rows: str
    clients: int = 100
    liars: int = 0
    rounds: int = 2
    rank: int = 4
    rule: str = "mean"
    per_client: int = 16
    learning_rate: float = 3e-3
    seed: int = 1

    def key(self, name: str) -> PrivateKey:
        """The key of the parent or a child, from the seed."""
        return PrivateKey.from_secret(hashlib.sha256(f"banyan {self.seed} {name}".encode()).digest())

    def path(self, number: int) -> str:
        """The place of a child."""
        return f"{PLACE}/child{number}"

    def lies(self, number: int) -> bool:
        """Whether a child is one of the liars, who are the last ones."""
        return number >= self.clients - self.liars

    def shared(self) -> tuple[list[Row], list[Row]]:
        """The rows of all children, and those that the parent judges on."""
        rows = read_rows(Path(self.rows), MAX_ROWS_BYTES)
        random.Random(self.seed).shuffle(rows)  # noqa: S311  a choice that can be repeated
        held = round(KNOWN * len(rows))
        return rows[held:], rows[:held]

    def rows_of(self, number: int) -> list[Row]:
        """The rows of a child: as many as said, other ones for each as far as there are enough."""
        rows, _ = self.shared()
        return [rows[(number * self.per_client + n) % len(rows)] for n in range(min(self.per_client, len(rows)))]

    @property
    def honest(self) -> int:
        """How many children do not lie."""
        return self.clients - self.liars


def settings_of(config: Mapping[str, Any]) -> Settings:
    """The settings in the run configuration of a Flower app, whose names are written with `-`.

    Raises BadData where nobody honest is left or a file is not named whole: the apps run in folders of their own.
    """
    given = {name.replace("-", "_"): value for name, value in config.items()}
    settings = Settings(**{one.name: given[one.name] for one in fields(Settings) if one.name in given})
    check(settings)
    for name in ("base", "rows"):
        if not Path(getattr(settings, name)).is_absolute():
            raise BadData(f"{name} = {getattr(settings, name)!r} is not a whole path", "give one that begins with /")
    return settings


def check(settings: Settings) -> None:
    """Raises BadData where nobody honest is left."""
    if not 0 <= settings.liars < settings.clients:
        raise BadData(f"of {settings.clients} clients {settings.liars} lie", "let at least one be honest")
