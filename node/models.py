"""The node's models: releases put together in memory, with the node's settings for threads and precision."""

from __future__ import annotations

import torch

from node.bases import base_folder
from node.context import Node
from registry.paths import Ref
from sync.chain import find_release
from sync.compose import Composer
from sync.model import LoadedModel


def composer(node: Node) -> Composer:
    """What loads releases of this node; sets the number of threads that models use in this process."""
    if node.settings.threads:
        torch.set_num_threads(node.settings.threads)
    return Composer(
        store=node.store,
        blobs=node.blobs,
        base_folder=lambda digest: base_folder(node.home, node.blobs, digest),
        precision=node.settings.precision,
    )


def load(node: Node, ref: Ref) -> tuple[str, LoadedModel]:
    """The digest and the model of a release. Raises LocalFailure when it is not here."""
    digest = find_release(node.store, ref)
    return digest, composer(node).load(digest)
