"""The repository ids by which clients of the Hugging Face Hub name what a node has.

    banyan/en.health.pediatrics           the path, as an adapter over its base (as its base, where it has no adapter)
    banyan/en.health.pediatrics_merged    the same model as full weights, for programs that know no adapters
    banyan/seedling_0123456789ab          a base by its name and the first digits of its digest: always the same bytes

A path holds no underscore, so the three never collide. What is here, and who may see it, is left to `node.api.hub`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from registry.documents import BaseManifest
from registry.errors import BadData
from registry.paths import HUB_OWNER, NodePath

Form = Literal["adapter", "merged", "base"]

MERGED: Final = "_merged"
COMMIT_CHARS: Final = 40
_DIGEST_CHARS: Final = 12
_MAX_NAME_CHARS: Final = 60
_BASE: Final = re.compile(rf"{HUB_OWNER}/[A-Za-z0-9.-]{{1,{_MAX_NAME_CHARS}}}_([0-9a-f]{{{_DIGEST_CHARS}}})")


@dataclass(frozen=True, slots=True)
class RepoId:
    """A repository id as this node reads it: a place in the tree, or the first digits of a base's digest."""

    text: str
    form: Form
    path: NodePath | None = None
    base: str | None = None


def read_repo_id(text: str) -> RepoId | None:
    """What an id can mean here by its spelling; None for other ids, which may still be the plain name of a base."""
    if found := _BASE.fullmatch(text):
        return RepoId(text, "base", base=found[1])
    try:
        path = NodePath.from_hub_id(text.removesuffix(MERGED))
    except BadData:
        return None
    return RepoId(text, "merged" if text.endswith(MERGED) else "adapter", path=path)


def merged_id(path: NodePath) -> str:
    """The id of the full weights of a path."""
    return path.hub_id + MERGED


def base_id(manifest: BaseManifest) -> str:
    """The id of a base, which means these bytes and no others on every node."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", manifest.name.rpartition("/")[2])
    name = re.sub(r"[-.]{2,}", "-", name)[:_MAX_NAME_CHARS].strip("-.") or "base"
    return f"{HUB_OWNER}/{name}_{manifest.digest[:_DIGEST_CHARS]}"


def commit_of(digest: str) -> str:
    """The commit that stands for a release or a base: the first 40 digits of its SHA-256 (B1)."""
    return digest[:COMMIT_CHARS]
