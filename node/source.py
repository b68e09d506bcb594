"""`Source`: what a person names that is to be served, a place of the tree or a folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.serving.models import parse_name
from registry.errors import BadData

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@-]{0,199}")
FOLDER_STARTS: Final = (".", "/", "~")


@dataclass(frozen=True, slots=True)
class Source:
    """What a person named: a folder where `folder` is given, else a place of the tree (`name` is its path)."""

    name: str
    folder: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read `./folder`, `NAME=./folder`, `en/health` or `en/health@v2`; raises BadData.

        A folder begins with a dot, a slash or a tilde, so that no name means two things.
        """
        given, equals, place = text.partition("=")
        if not equals:
            given, place = "", text
        if place.startswith(FOLDER_STARTS):
            folder = Path(place).expanduser().absolute()
            name = given or re.sub(r"[^A-Za-z0-9._-]+", "-", Path(os.path.normpath(folder)).name).strip("-._")
            if not NAME.fullmatch(name):
                raise BadData(f"{name!a:.80} is no name for a model", f"give it one: NAME={place}")
            return cls(name, folder)
        try:
            return cls(str(parse_name(place)) if not equals else _refuse_name(text))
        except BadData as error:
            hint = f"a folder is written ./{place}" if Path(place).exists() else error.hint
            raise BadData(error.message, hint) from error


def _refuse_name(text: str) -> str:
    raise BadData(f"{text!a:.120}: a place of the tree has its own name", "leave NAME= out; a folder is NAME=./FOLDER")
