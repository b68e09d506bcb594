"""What the Hub says of a model, in its own words: facts of the release and its card, never more than they hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from node.api.hub.contents import Content, git_hash, lfs_pointer
from node.api.hub.files import FileShelf
from node.api.hub.shelf import Repo, Snapshot
from node.context import Node
from node.repo_ids import base_id
from registry.cards import card_data
from registry.errors import BanyanError
from registry.paths import HUB_OWNER

TASK: Final = "text-generation"
MAX_CONFIG_BYTES: Final = 4 << 20


class Describer:
    """Descriptions of repositories, as JSON."""

    def __init__(self, node: Node, files: FileShelf) -> None:
        self._node = node
        self._files = files
        self._of_snapshot = lru_cache(maxsize=512)(self._facts)

    def model(self, repo: Repo, snapshot: Snapshot) -> dict[str, Any]:
        """Everything but the sizes of files, which may have to be made first."""
        changed = moment(max(row.created for row in repo.releases))
        created = moment(min(row.created for row in repo.releases))
        children = Counter({"adapter": len({row.path for row in repo.releases if row.adapter})})
        return {
            "_id": git_hash(repo.id.encode())[:24],
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.id.partition("/")[0],
            "sha": snapshot.commit,
            "lastModified": changed,
            "createdAt": created,
            "private": repo.is_private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "childrenModelCount": dict(+children) if snapshot.form == "base" else {},
            "spaces": [],
            **self._of_snapshot(snapshot),
        }

    def _facts(self, snapshot: Snapshot) -> dict[str, Any]:
        files, release = self._files.of(snapshot), snapshot.last.release
        card = card_data(self._files.card(snapshot).decode(errors="replace"))
        facts: dict[str, Any] = {
            "pipeline_tag": TASK,
            "library_name": "transformers" if snapshot.is_whole else "peft",
            "tags": _tags(snapshot, card),
            "cardData": card,
            "siblings": [{"rfilename": name} for name in files],
            "config": self._config(snapshot),
            "usedStorage": sum(file.size for file in snapshot.manifest.files) if snapshot.is_whole else 0,
            "evalResults": [],
        }
        if snapshot.form != "base":
            if snapshot.adapters:
                relation = "merge" if snapshot.is_whole else "adapter"
                facts["baseModels"] = {"relation": relation, "models": [{"id": base_id(snapshot.manifest)}]}
            facts["evalResults"] = [
                {"dataset": {"id": one.dataset, "task_id": f"{one.path} {one.split} {metric}"}, "value": value}
                for one in release.evaluations
                for metric, value in one.metrics.items()
            ]
        return facts

    def _config(self, snapshot: Snapshot) -> dict[str, Any]:
        if not snapshot.is_whole:
            return {"peft": {"base_model_name_or_path": base_id(snapshot.manifest), "task_type": "CAUSAL_LM"}}
        config = next((file for file in snapshot.manifest.files if file.name == "config.json"), None)
        try:
            known = json.loads(self._node.blobs.read(config.sha256, MAX_CONFIG_BYTES)) if config else {}
        except (BanyanError, ValueError, RecursionError):
            return {}
        return {key: known[key] for key in ("architectures", "model_type") if isinstance(known, dict) and key in known}


def moment(when: datetime) -> str:
    """A time in the one spelling that the Hub's clients read."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def entry(path: str, content: Content) -> dict[str, Any]:
    """A file as `tree` and `paths-info` tell it."""
    told: dict[str, Any] = {"type": "file", "path": path, "size": content.size, "oid": content.etag}
    if (pointer := lfs_pointer(content)) is not None:
        told["oid"] = git_hash(pointer)
        told["lfs"] = {"oid": content.sha256, "size": content.size, "pointerSize": len(pointer)}
    return told


def sibling(path: str, content: Content) -> dict[str, Any]:
    """A file as `siblings` tell it with `blobs=true`."""
    told = entry(path, content)
    found: dict[str, Any] = {"rfilename": path, "size": told["size"], "blobId": told["oid"]}
    if "lfs" in told:
        found["lfs"] = {"sha256": told["lfs"]["oid"], "size": told["size"], "pointerSize": told["lfs"]["pointerSize"]}
    return found


def commit_info(snapshot: Snapshot) -> dict[str, Any]:
    """A revision as one commit."""
    release = snapshot.last.release
    title = snapshot.id if snapshot.form == "base" else f"{release.path}@v{release.version}"
    return {
        "id": snapshot.commit,
        "title": title,
        "message": "",
        "date": moment(release.created),
        "authors": [{"user": HUB_OWNER}],
    }


def _tags(snapshot: Snapshot, card: Mapping[str, Any]) -> list[str]:
    """What `filter` finds a model by."""
    library = "transformers" if snapshot.is_whole else "peft"
    tags = [library, "safetensors", TASK, snapshot.manifest.family, *_texts(card.get("tags"))]
    tags += [*_texts(card.get("language"))]
    if isinstance(licence := card.get("license"), str):
        tags.append(f"license:{licence}")
    if snapshot.form != "base" and snapshot.adapters:
        base, relation = base_id(snapshot.manifest), "merge" if snapshot.is_whole else "adapter"
        tags += [f"base_model:{base}", f"base_model:{relation}:{base}"]
    return list(dict.fromkeys(tags))


def _texts(value: object) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    return [one for one in listed if isinstance(one, str)]
