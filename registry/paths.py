"""Places in the tree of models (`en/health/pediatrics`) and references to a version of one (`en/health@v7`).

Only names are handled here: what exists at a place is the store's business. A path has one spelling; every other
spelling is refused with the right one as the hint, so that two nodes never mean two things by one name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from registry.errors import BadData

ROOT_NAME = "master"
MAX_PARTS = 6
MAX_PART_CHARS = 40
MAX_VERSION = 2**31 - 1  # fits the integer column of every database that we store versions in
HUB_OWNER = "banyan"

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")
_VERSION = re.compile(r"v([1-9][0-9]{0,9})")


@dataclass(frozen=True, slots=True, order=True)
class NodePath:
    """A place in the tree: no parts for the root `master`, else a language tag (BCP-47) and then slugs.

    Build it with `parse`, which checks the parts; the constructor trusts them.
    """

    parts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> NodePath:
        """Read the one spelling of a path (D5): `master`, `en`, `en/health`; raises BadData for any other."""
        return _parse(text)

    def __str__(self) -> str:
        return "/".join(self.parts) or ROOT_NAME

    @property
    def parent(self) -> NodePath | None:
        """The place above, None for the root."""
        return NodePath(self.parts[:-1]) if self.parts else None

    def chain(self) -> list[NodePath]:
        """Every place from the root down to this one, both included."""
        return [NodePath(self.parts[:depth]) for depth in range(len(self.parts) + 1)]

    def is_within(self, other: NodePath) -> bool:
        """Whether this place is `other` or lies below it."""
        return self.parts[: len(other.parts)] == other.parts

    @property
    def hub_id(self) -> str:
        """The name for clients of the Hugging Face Hub, whose repository ids have exactly one slash."""
        return f"{HUB_OWNER}/{'.'.join(self.parts) or ROOT_NAME}"

    @classmethod
    def from_hub_id(cls, hub_id: str) -> NodePath:
        """Read what `hub_id` writes; raises BadData for anything else."""
        owner, slash, name = hub_id.partition("/")
        if owner != HUB_OWNER or not slash or "/" in name:
            raise BadData(
                f"not a model of this tree: {hub_id!a:.120}", hint=f"write {HUB_OWNER}/en.health for en/health"
            )
        return cls.parse(name.replace(".", "/"))


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """A path and, where one is named, a version of it."""

    path: NodePath
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read `en/health` or `en/health@v7`; raises BadData."""
        path, at, version = text.partition("@")
        if not at:
            return cls(NodePath.parse(path))
        number = _VERSION.fullmatch(version)
        if number is None or int(number[1]) > MAX_VERSION:
            raise BadData(f"not a version: {version!a:.60}", hint=f"write {path[:200]}@v1, @v2, ...")
        return cls(NodePath.parse(path), int(number[1]))

    def __str__(self) -> str:
        return str(self.path) if self.version is None else f"{self.path}@v{self.version}"


@lru_cache(maxsize=4096)
def _parse(text: str) -> NodePath:
    if text == ROOT_NAME:
        return NodePath()
    parts = tuple(text.split("/", MAX_PARTS))
    if len(parts) > MAX_PARTS:
        raise BadData(f"a path has at most {MAX_PARTS} parts: {text!a:.200}")
    _check_language(parts[0])
    for part in parts[1:]:
        if len(part) > MAX_PART_CHARS or not _SLUG.fullmatch(part):
            raise BadData(
                f"not a name of a domain: {part!a:.60} in {text!a:.200}",
                hint=f"use a-z, 0-9 and single hyphens, at most {MAX_PART_CHARS} characters",
            )
        if part == ROOT_NAME:
            raise BadData(f"{ROOT_NAME!r} is the name of the root and of nothing else: {text!a:.200}")
    return NodePath(parts)


def _check_language(tag: str) -> None:
    import langcodes  # 60 ms of tables, not needed by most commands

    if len(tag) > MAX_PART_CHARS or not _TAG.fullmatch(tag) or not langcodes.tag_is_valid(tag):
        raise BadData(
            f"not a language: {tag!a:.60}", hint="a path begins with a BCP-47 tag: en, de, pt-BR; the root is `master`"
        )
    standard = langcodes.standardize_tag(tag)
    if standard != tag:
        raise BadData(f"not the usual spelling of a language: {tag!r}", hint=f"write {standard}")
