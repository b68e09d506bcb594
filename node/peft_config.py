"""Somebody's `adapter_config.json`: the few facts that are taken from it, and a refusal of all else it may mean."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from registry.documents import AdapterShape
from registry.errors import BadData

MAX_CONFIG_BYTES: Final = 64 << 10

# Fields that do not change what the weights mean once they are trained, or that are read here. Of every other field,
# known to PEFT now or later, only a value that switches it off is taken.
TAKEN: Final = frozenset(
    {
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "revision",
        "r",
        "lora_alpha",
        "target_modules",
        "lora_dropout",
        "inference_mode",
        "init_lora_weights",
        "megatron_core",
        "qalora_group_size",
        "peft_version",
        "auto_mapping",
        "runtime_config",
        "ensure_weight_tying",
    }
)
# Other ways to begin (PiSSA, OLoRA, LoftQ, LoRA-GA, ...) change the base's weights: the adapter fits no other base.
BEGINNINGS: Final = (None, True, False, "gaussian", "orthogonal", "eva")
OFF: Final[tuple[Any, ...]] = (None, False, 0, "none", "", [], {})


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """What an adapter says of itself: its base by name and revision, and its form."""

    base: str
    revision: str | None
    rank: int
    alpha: float
    targets: tuple[str, ...]

    def shape(self, dtype: str) -> AdapterShape:
        """As it stands in a document, for weights of a type. Raises BadData where no document can hold it."""
        try:
            return AdapterShape.model_validate(
                {"rank": self.rank, "alpha": self.alpha, "targets": self.targets, "dtype": dtype}
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "adapter_config.json"
            raise BadData(f"this adapter cannot be taken: {where}: {first['msg']}") from error


def read_peft_config(data: bytes) -> PeftConfig:
    """Read an adapter's configuration. Raises BadData naming the field that cannot be taken."""
    config = _object(data)
    if str(config.get("peft_type")).upper() != "LORA":
        raise BadData(f"peft_type is {config.get('peft_type')!a:.40}; LORA adapters are taken", "train with LoraConfig")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise BadData(f"task_type is {config['task_type']!a:.40}; the models of this tree are CAUSAL_LM")
    if config.get("init_lora_weights") not in BEGINNINGS:
        raise BadData(
            f"init_lora_weights is {config['init_lora_weights']!a:.40}, which changes the base's own weights",
            "train with init_lora_weights=True",
        )
    for key in sorted(config.keys() - TAKEN):
        if config[key] not in OFF:
            raise BadData(
                f"adapter_config.json sets {key[:60]!a}, which changes what the adapter does and is not supported",
                "train with LoraConfig(r, lora_alpha, target_modules) alone",
            )
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if type(rank) is not int or isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise BadData("adapter_config.json has no usable r and lora_alpha", "save it with save_pretrained")
    if not isinstance(targets, list) or not all(isinstance(one, str) for one in targets):
        raise BadData("target_modules is not a list of names", "name the modules: target_modules=['q_proj', 'v_proj']")
    if not isinstance(base, str) or not isinstance(revision, str | None):
        raise BadData("adapter_config.json does not name its base", "set base_model_name_or_path")
    names = tuple(sorted({one.rpartition(".")[2] for one in targets}))
    return PeftConfig(base, revision, rank, float(alpha), names)


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_CONFIG_BYTES:
        raise BadData(f"adapter_config.json is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadData(f"adapter_config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise BadData("adapter_config.json is not a JSON object")
    return config
