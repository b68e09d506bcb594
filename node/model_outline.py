"""Whether transformers, by itself, makes a causal language model of some files: configuration, tokenizer, weight names.

Nothing but the given files is shown to it, no code that comes with a model is run, and no weights are read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from registry.errors import BadData, BanyanError
from registry.loading import LOADING


def check_loads(files: tuple[Path, ...]) -> str:
    """Let transformers read configuration, tokenizer and the names of the weights, without the weights themselves.

    Returns the architecture. Raises BadData when the model is not a causal language model that fits its files.
    """
    with tempfile.TemporaryDirectory(prefix="banyan-import-") as folder:
        for file in files:
            (Path(folder) / file.name).symlink_to(file.resolve())
        try:
            return _load_outline(folder)
        except (BanyanError, MemoryError):
            raise
        except Exception as error:  # whatever the library throws at a file that it cannot read
            first = (str(error).strip().splitlines() or [type(error).__name__])[0].replace(folder, "the folder")
            raise BadData(f"transformers cannot read this model: {first[:300]}", "fetch the files again") from error


def _load_outline(folder: str) -> str:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if architecture is None or architecture not in (config.architectures or [architecture]):
        raise BadData(
            f"this is {(config.architectures or [config.model_type])[0]}, not a causal language model",
            "give a model that writes text, such as Llama, Qwen, Mistral, Gemma or SmolLM",
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with LOADING:
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            device_map="meta",
            dtype="float32",
            output_loading_info=True,
        )
    for kind, keys in (("lacks", found["missing_keys"]), ("has in another shape", found["mismatched_keys"])):
        if keys:
            raise BadData(
                f"the weights file {kind} {len(keys)} tensors, such as {min(map(str, keys))}", "fetch it again"
            )
    rows = int(model.get_input_embeddings().weight.shape[0])
    if tokenizer.vocab_size > rows:
        raise BadData(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {rows}", "give the model's own tokenizer"
        )
    return str(architecture)
