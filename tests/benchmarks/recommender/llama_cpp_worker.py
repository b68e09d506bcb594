"""What llama.cpp takes for models of published shapes. Needs xllamacpp, gguf and numpy, not this project.

    python llama_cpp_worker.py FOLDER                     every run, each in a process of its own, a JSON line for each
    python llama_cpp_worker.py FOLDER NAME KIND CONTEXT   one of them
    python llama_cpp_worker.py FOLDER NAME KIND           write its file

Weights are zeros: they take what trained ones take, and a file of them is quick to write.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

# layers, hidden, heads, kv heads, head size, feed-forward, vocabulary, tied, experts, experts used
SHAPES = {
    "SmolLM2-135M": (30, 576, 9, 3, 64, 1536, 49_152, True, 0, 0),
    "SmolLM2-360M": (32, 960, 15, 5, 64, 2560, 49_152, True, 0, 0),
    "TinyLlama-1.1B": (22, 2048, 32, 4, 64, 5632, 32_000, False, 0, 0),
    "Llama-3.2-1B": (16, 2048, 32, 8, 64, 8192, 128_256, True, 0, 0),
    "SmolLM2-1.7B": (24, 2048, 32, 32, 64, 8192, 49_152, True, 0, 0),
    "Llama-3.2-3B": (28, 3072, 24, 8, 128, 8192, 128_256, True, 0, 0),
    "Mistral-7B-v0.3": (32, 4096, 32, 8, 128, 14_336, 32_768, False, 0, 0),
    "Llama-3.1-8B": (32, 4096, 32, 8, 128, 14_336, 128_256, False, 0, 0),
    "Mixtral-like-3B": (16, 1536, 16, 4, 96, 2048, 32_000, False, 16, 2),
}
RUNS = {
    "SmolLM2-135M": (("F16", 2048), ("Q8_0", 8192), ("Q4_K_M", 4096)),
    "SmolLM2-360M": (("F16", 4096), ("Q4_K_M", 8192)),
    "TinyLlama-1.1B": (("Q8_0", 2048), ("Q4_K_M", 8192), ("F16", 4096)),
    "Llama-3.2-1B": (("F16", 4096), ("Q8_0", 8192), ("Q4_K_M", 4096), ("Q4_K_M", 32_768)),
    "SmolLM2-1.7B": (("Q8_0", 4096), ("Q4_K_M", 8192)),
    "Llama-3.2-3B": (("Q4_K_M", 4096), ("Q8_0", 16_384)),
    "Mixtral-like-3B": (("Q4_K_M", 4096), ("Q8_0", 8192)),
    "Mistral-7B-v0.3": (("Q4_K_M", 4096),),
    "Llama-3.1-8B": (("Q4_K_M", 8192),),
}
LONG_PROMPT_BYTES = 6e8  # larger models read a shorter prompt: on a CPU it takes minutes
# What llama.cpp puts in the place of K blocks, whose rows are multiples of 256.
FALLBACK = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0}


def kind_of(tensor: str, layers: int, kind: str, *, tied: bool) -> Kind:
    """The numbers of a matrix in a file of this kind, as llama.cpp chooses them."""
    if kind != "Q4_K_M":
        return {"F16": Kind.F16, "Q8_0": Kind.Q8_0}[kind]
    if tensor == "output.weight" or (tensor == "token_embd.weight" and tied):
        return Kind.Q6_K
    if "attn_v" not in tensor and "ffn_down" not in tensor:
        return Kind.Q4_K
    layer = int(tensor.split(".")[1])
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    return Kind.Q6_K if more else Kind.Q4_K


def matrices(name: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of a shape."""
    layers, hidden, heads, kv, head, ff, vocabulary, tied, experts, _ = SHAPES[name]
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, hidden), "output_norm.weight": (hidden,)}
    found |= {} if tied else {"output.weight": (vocabulary, hidden)}
    for layer in range(layers):
        inner: dict[str, tuple[int, ...]] = {
            "attn_norm": (hidden,),
            "ffn_norm": (hidden,),
            "attn_q": (heads * head, hidden),
            "attn_k": (kv * head, hidden),
            "attn_v": (kv * head, hidden),
            "attn_output": (hidden, heads * head),
        }
        up, down = (ff, hidden), (hidden, ff)
        if experts:
            inner |= {"ffn_gate_inp": (experts, hidden), "ffn_gate_exps": (experts, *up)}
            inner |= {"ffn_up_exps": (experts, *up), "ffn_down_exps": (experts, *down)}
        else:
            inner |= {"ffn_gate": up, "ffn_up": up, "ffn_down": down}
        found |= {f"blk.{layer}.{part}.weight": shape for part, shape in inner.items()}
    return found


def write(file: Path, name: str, kind: str) -> None:
    """Write a model of zeros."""
    layers, hidden, heads, kv, head, ff, vocabulary, tied, experts, used = SHAPES[name]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(131_072)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(used)
    _add_tokenizer(writer, vocabulary)
    for tensor, shape in matrices(name).items():
        _add(writer, tensor, shape, kind_of(tensor, layers, kind, tied=tied))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, tensor: str, shape: tuple[int, ...], kind: Kind) -> None:
    if len(shape) == 1 or "gate_inp" in tensor:
        writer.add_tensor(tensor, np.full(shape, float(len(shape) == 1), np.float32))
        return
    if kind == Kind.F16:
        writer.add_tensor(tensor, np.zeros(shape, np.float16))
        return
    if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = FALLBACK[kind]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    writer.add_tensor(tensor, np.zeros((*shape[:-1], shape[-1] // block * size), np.uint8), raw_dtype=kind)


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    tokens += [f"w{place}".encode() for place in range(vocabulary - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocabulary - 259))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def run(file: Path, name: str, kind: str, context: int) -> None:
    """Answer one request and tell the peak of resident memory."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity, params.fit_params, params.cache_ram_mib = -1, False, 0
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    server = xllamacpp.Server(params)
    prompt = [5 + place % 200 for place in range(512 if file.stat().st_size < LONG_PROMPT_BYTES else 48)]
    server.handle_completions({"prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True})
    layers, hidden, heads, kv, head, _, vocabulary, *_ = SHAPES[name]
    parameters = sum(int(np.prod(shape)) for shape in matrices(name).values())
    said = {"model": name, "kind": kind, "context": context, "parameters": parameters, "layers": layers}
    said |= {"hidden": hidden, "heads": heads, "kv_heads": kv, "head_dim": head, "vocabulary": vocabulary}
    said |= {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    os._exit(0)  # its threads would be waited for


def main(folder: Path, *words: str) -> None:
    """See the top of the file."""
    if not words:
        for name, kinds in RUNS.items():
            for kind, context in kinds:
                if not (folder / f"{name}-{kind}.gguf").exists():
                    subprocess.run([sys.executable, __file__, str(folder), name, kind], check=True)
                subprocess.run([sys.executable, __file__, str(folder), name, kind, str(context)], check=True)
        return
    name, kind, *context = words
    file = folder / f"{name}-{kind}.gguf"
    if context:
        run(file, name, kind, int(context[0]))
    else:
        write(file, name, kind)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
