"""Models on the Hugging Face Hub: the allowed files of one repository, at one commit, through huggingface_hub.

They land in the library's own cache, so that nothing is fetched twice. What is in them is left to `model_folder`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.importing import Source
from node.model_folder import PICKLES, read_json
from registry.cards import MAX_CARD_BYTES
from registry.errors import BadData, BanyanError, LocalFailure
from sync.checks.base import CONFIG, MAX_JSON_BYTES, belongs

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
MANUAL = "fetch it where there is a network, copy the folder here, then: node import FOLDER --path PATH"


def locate(source: str, revision: str | None, timeout_s: float) -> Source:
    """The folder that `source` names: a folder of this machine, else a repository of the Hub, which is fetched.

    `revision` is a branch, tag or commit of the repository; it is resolved to a commit first.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision:
            raise BadData(f"{source} is a folder and has no revisions", "leave --revision out")
        return Source(folder, folder.resolve().name)
    if not HUB_ID.fullmatch(source) or source.endswith("/"):
        raise BadData(f"there is no folder {source}", "give a model folder, or a Hub id such as owner/model")
    return fetch(source, revision or "main", timeout_s)


@dataclass(frozen=True, slots=True)
class RepositoryFacts:
    """What a repository, or a folder of that form, says of its model without its weights; 0 where it does not.

    `weight_bytes` is the size of the weights where their number is not known; `embeds` whether it is of
    sentence-transformers.
    """

    commit: str
    config: Mapping[str, Any]
    card: str
    parameters: int
    weight_bytes: int
    embeds: bool


def fetch(hub_id: str, revision: str, timeout_s: float) -> Source:
    """Fetch the allowed files of a repository. Raises BadData when it has none, LocalFailure (network, disk)."""
    with _failures(hub_id, revision):
        import huggingface_hub

        found = huggingface_hub.HfApi().model_info(hub_id, revision=revision, timeout=timeout_s, files_metadata=True)
        commit, names = _choose(found, hub_id)
        folder = huggingface_hub.snapshot_download(hub_id, revision=commit, allow_patterns=names)
    return Source(Path(folder), hub_id, hub_id, commit)


def fetch_facts(hub_id: str, revision: str, timeout_s: float) -> RepositoryFacts:
    """Fetch the configuration and the card alone. Raises BadData where there is no configuration, LocalFailure."""
    with _failures(hub_id, revision):
        import huggingface_hub

        found = huggingface_hub.HfApi().model_info(hub_id, revision=revision, timeout=timeout_s, files_metadata=True)
        commit, sizes = _commit(found, hub_id), _sizes(found)
        if sizes.get(CONFIG, MAX_JSON_BYTES + 1) > MAX_JSON_BYTES:
            raise BadData(f"{hub_id} has no {CONFIG}, or one that is too large", "look for the original repository")
        names = [CONFIG, *(["README.md"] if 0 < sizes.get("README.md", 0) <= MAX_CARD_BYTES else [])]
        folder = Path(huggingface_hub.snapshot_download(hub_id, revision=commit, allow_patterns=names))
    card = folder / "README.md"
    return RepositoryFacts(
        commit=commit,
        config=read_json(folder / CONFIG, MAX_JSON_BYTES),
        card=card.read_text(encoding="utf-8", errors="replace") if card.is_file() else "",
        parameters=found.safetensors.total if found.safetensors else 0,
        weight_bytes=sum(size for name, size in sizes.items() if name.endswith(".safetensors")),
        embeds="modules.json" in sizes,
    )


@contextmanager
def _failures(hub_id: str, revision: str) -> Iterator[None]:
    """What the Hub, the network and the disk could not do, in our words."""
    from huggingface_hub import errors

    try:
        yield
    except BanyanError:
        raise
    except errors.GatedRepoError as error:
        raise BadData(
            f"{hub_id} asks you to accept its terms first",
            f"accept them at https://huggingface.co/{hub_id}, then set HF_TOKEN",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise BadData(f"the Hub has no {hub_id} at {revision}", "check the name; private ones need HF_TOKEN") from error
    except errors.HFValidationError as error:
        raise BadData(f"not a name of the Hub: {hub_id}", "a Hub id is owner/model") from error
    except errors.OfflineModeIsEnabled as error:
        raise LocalFailure("HF_HUB_OFFLINE is set, so the Hub is not asked", f"unset it, or {MANUAL}") from error
    except Exception as error:  # whatever its HTTP library raises: the network or the disk
        raise LocalFailure(f"the Hub cannot be reached: {_first_line(error)}", MANUAL) from error


def _sizes(found: ModelInfo) -> dict[str, int]:
    return {sibling.rfilename: sibling.size or 0 for sibling in found.siblings or []}


def _commit(found: ModelInfo, hub_id: str) -> str:
    if not found.sha:
        raise BadData(f"the Hub does not say which commit of {hub_id} it answers with", "try again")
    return found.sha


def _choose(found: ModelInfo, hub_id: str) -> tuple[str, list[str]]:
    """The commit and the files to fetch from it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    names = _sizes(found)
    chosen = [name for name in names if belongs(name) or name == "README.md"]
    if not any(name.endswith(".safetensors") for name in chosen):
        pickles = [name for name in names if Path(name).suffix.lower() in PICKLES]
        kind = "only pickle files, which can run code" if pickles else "no weights in safetensors"
        raise BadData(f"{hub_id} has {kind}", "look for a repository of the same model with safetensors")
    needed, free = sum(names[name] for name in chosen), _free_in(Path(HF_HUB_CACHE))
    if needed > free:
        raise LocalFailure(f"{hub_id} has {needed:,} bytes, {free:,} are free", "free some space, or set HF_HOME")
    return _commit(found, hub_id), chosen


def _free_in(folder: Path) -> int:
    """Free bytes where a folder is or will be made."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
