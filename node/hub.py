"""Models on the Hugging Face Hub: the allowed files of one repository, at one commit, through huggingface_hub.

They land in the library's own cache, so that nothing is fetched twice. What is in them is left to `model_folder`.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from node.importing import Source
from node.model_folder import PICKLES
from registry.errors import BadData, BanyanError, LocalFailure
from sync.checks.base import belongs

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


def fetch(hub_id: str, revision: str, timeout_s: float) -> Source:
    """Fetch the allowed files of a repository. Raises BadData when it has none, LocalFailure (network, disk)."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        found = huggingface_hub.HfApi().model_info(hub_id, revision=revision, timeout=timeout_s, files_metadata=True)
        commit, names = _choose(found, hub_id)
        folder = huggingface_hub.snapshot_download(hub_id, revision=commit, allow_patterns=names)
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
    return Source(Path(folder), hub_id, hub_id, commit)


def _choose(found: ModelInfo, hub_id: str) -> tuple[str, list[str]]:
    """The commit and the files to fetch from it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    names = {sibling.rfilename: sibling.size or 0 for sibling in found.siblings or []}
    chosen = [name for name in names if belongs(name) or name == "README.md"]
    if not any(name.endswith(".safetensors") for name in chosen):
        pickles = [name for name in names if Path(name).suffix.lower() in PICKLES]
        kind = "only pickle files, which can run code" if pickles else "no weights in safetensors"
        raise BadData(f"{hub_id} has {kind}", "look for a repository of the same model with safetensors")
    needed, free = sum(names[name] for name in chosen), _free_in(Path(HF_HUB_CACHE))
    if needed > free:
        raise LocalFailure(f"{hub_id} has {needed:,} bytes, {free:,} are free", "free some space, or set HF_HOME")
    if not found.sha:
        raise BadData(f"the Hub does not say which commit of {hub_id} it answers with", "try again")
    return found.sha, chosen


def _free_in(folder: Path) -> int:
    """Free bytes where a folder is or will be made."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
