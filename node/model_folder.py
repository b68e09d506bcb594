"""A folder with somebody's model in the Hugging Face layout: what may be taken from it, and whether it is sound.

Taken are safetensors, tokenizer, configuration and licence texts, by an allow-list of names. Nothing in the folder is
run or unpickled, and what asks for that is refused. Storing the files and making a release is left to `importing`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from node.model_outline import check_loads
from registry.cards import MAX_CARD_BYTES, Card, parse_card
from registry.errors import BadData, LocalFailure
from sync.checks.base import CONFIG, MAX_JSON_BYTES, SHARD, SINGLE_WEIGHTS, WEIGHTS_INDEX, belongs, refuse_code
from sync.checks.tensors import read_header, where_not_finite

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"})
MAX_INDEX_BYTES = 64 << 20
MAX_TOKENIZER_BYTES = 256 << 20
MAX_FILES = 2_000


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What was found: the files to take, those left behind, and what the model is."""

    files: tuple[Path, ...]
    left_out: tuple[str, ...]
    family: str
    architecture: str
    parameters: int
    card: Card | None

    @property
    def size_bytes(self) -> int:
        """All files to take together."""
        return sum(file.stat().st_size for file in self.files)


def inspect(folder: Path) -> ModelFolder:
    """Look through a model folder. Raises BadData with the remedy when it is not one that can be taken."""
    names = _names(folder)
    _refuse_other_kinds(names, folder)
    config = read_json(folder / CONFIG, MAX_JSON_BYTES)
    refuse_code(config, CONFIG)
    _refuse_quantised(config)
    if "tokenizer_config.json" in names:
        refuse_code(read_json(folder / "tokenizer_config.json", MAX_JSON_BYTES), "tokenizer_config.json")
    weights = _weight_files(names, folder)
    chosen = {name for name in names if belongs(name) and (not name.endswith(".safetensors") or name in weights)}
    if weights == [SINGLE_WEIGHTS]:
        chosen.discard(WEIGHTS_INDEX)
    files = tuple(sorted(folder / name for name in chosen))
    parameters = _count_parameters([folder / name for name in weights])
    architecture = check_loads(files)
    return ModelFolder(
        files=files,
        left_out=tuple(sorted(names - chosen - {"README.md", ".gitattributes"})),
        family=re.sub(r"[^a-z0-9_.-]", "-", str(config.get("model_type", "")).lower())[:60],
        architecture=architecture,
        parameters=parameters,
        card=_card(folder / "README.md"),
    )


def _names(folder: Path) -> set[str]:
    """The names of the files right in the folder (links are followed: a Hub cache is made of them)."""
    try:
        if not folder.is_dir():
            raise BadData(f"there is no folder {folder}", "give a model folder, or a Hub id such as owner/model")
        names = {entry.name for entry in folder.iterdir() if entry.is_file()}
    except OSError as error:
        raise LocalFailure(f"{folder} cannot be read: {error.strerror}", f"check its owner: ls -ld {folder}") from error
    if len(names) > MAX_FILES:
        raise BadData(f"{folder} has {len(names)} files", "give the folder of one model")
    return names


def _refuse_other_kinds(names: set[str], folder: Path) -> None:
    safe = any(name.endswith(".safetensors") for name in names)
    pickles = sorted(name for name in names if Path(name).suffix.lower() in PICKLES)
    if "adapter_config.json" in names and CONFIG not in names:
        raise BadData(
            f"{folder} holds an adapter, not a model",
            "merge it into its base first (peft: merge_and_unload, save_pretrained), then import that folder",
        )
    if pickles and not safe:
        raise BadData(
            f"{folder} has its weights in pickle files ({', '.join(pickles[:3])}), which can run code when opened",
            "convert them where you trust them: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW), then import NEW",
        )
    if not safe and any(name.endswith(".gguf") for name in names):
        raise BadData(f"{folder} holds a GGUF file, made for inference only", "import the safetensors of this model")
    if CONFIG not in names:
        raise BadData(f"{folder} has no {CONFIG}", "give a folder that save_pretrained wrote, or a Hub id")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json"}:
        raise BadData(f"{folder} has no tokenizer", "save it into the folder: tokenizer.save_pretrained(FOLDER)")


def read_json(file: Path, max_bytes: int) -> dict[str, Any]:
    """A JSON object of bounded size; raises BadData."""
    try:
        with file.open("rb") as source:
            data = source.read(max_bytes + 1)
    except OSError as error:
        raise LocalFailure(f"{file} cannot be read: {error.strerror}", f"check its owner: ls -l {file}") from error
    if len(data) > max_bytes:
        raise BadData(f"{file.name} is larger than {max_bytes:,} bytes", "is this a model folder?")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{file.name} is not JSON: {error}", "fetch the file again") from error
    if not isinstance(value, dict):
        raise BadData(f"{file.name} is not a JSON object", "fetch the file again")
    return value


def _refuse_quantised(config: dict[str, Any]) -> None:
    if "quantization_config" in config:
        method = config["quantization_config"]
        named = method.get("quant_method", "unknown") if isinstance(method, dict) else "unknown"
        raise BadData(
            f"the weights are quantised ({named}); adapters are added to plain floats",
            "import the original in bf16, fp16 or fp32",
        )


def _weight_files(names: set[str], folder: Path) -> list[str]:
    """The safetensors files of the model: the one file, else what the index names."""
    if SINGLE_WEIGHTS in names:
        return [SINGLE_WEIGHTS]
    if WEIGHTS_INDEX not in names:
        raise BadData(
            f"{folder} has neither {SINGLE_WEIGHTS} nor {WEIGHTS_INDEX}", "give a folder that save_pretrained wrote"
        )
    listed = read_json(folder / WEIGHTS_INDEX, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise BadData(f"{WEIGHTS_INDEX} lists no weights", "fetch the file again")
    shards = sorted({str(name) for name in listed.values()})
    strange = [name for name in shards if not SHARD.fullmatch(name)]
    if strange:
        raise BadData(f"{WEIGHTS_INDEX} names {strange[0]!a:.80}, which is not a weight file", "fetch the file again")
    missing = [name for name in shards if name not in names]
    if missing:
        raise BadData(
            f"{folder} lacks {len(missing)} weight files, such as {missing[0]}", "fetch the rest of the files"
        )
    return shards


def _count_parameters(files: list[Path]) -> int:
    """Numbers in all tensors. Our own bounded reading refuses broken headers, other types than floats, and NaN."""
    total = 0
    for file in files:
        try:
            header = read_header(file)
            bad = where_not_finite(file, header)
        except BadData as error:
            raise BadData(f"{file.name}: {error.message}", error.hint or "fetch the file again") from error
        if bad is not None:
            raise BadData(f"{file.name}: {bad[:80]} holds NaN or infinity", "fetch the file again, or train it anew")
        total += sum(prod(tensor.shape) for tensor in header.tensors.values())
    return total


def _card(file: Path) -> Card | None:
    """The card that came with the model, where there is a readable one."""
    try:
        with file.open(encoding="utf-8", errors="replace") as source:
            return parse_card(source.read(MAX_CARD_BYTES))
    except (OSError, BadData):
        return None
