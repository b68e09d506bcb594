"""Training and evaluation rows from the files that people have."""

from __future__ import annotations

from node.datasets.dataset import Dataset, detect, load, preview, read
from node.datasets.files import Limits
from node.datasets.formats import FORMATS, Format

__all__ = ["FORMATS", "Dataset", "Format", "Limits", "detect", "load", "preview", "read"]
