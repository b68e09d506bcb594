"""A contender in a Python of its own: `peer_worker.py KIND MODEL THREADS`; a JSON line in, a JSON line out.

It may import nothing of the project, which that Python does not have. In: {"prompts": [[id, ...], ...], "new": [n,
...]}. Out: {"seconds": s, "tokens": [[id, ...], ...]}; first of all {"version": v} or {"missing": why}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

Answers = Callable[[list[list[int]], list[int]], list[list[int]]]
CONTEXT = 2_048
PAGE_TOKENS = 256
CACHE_PAGES = 128  # the 32,768 tokens that our engine has
STEP_TOKENS = 512  # as ours
LONGEST_WAIT_S = 300.0


def ctranslate2(model: str, threads: int) -> tuple[str, Answers]:
    """CTranslate2 on a converted folder: one static batch, as long as its longest answer."""
    import ctranslate2 as engine

    generator = engine.Generator(model, device="cpu", compute_type="float32", inter_threads=1, intra_threads=threads)
    pieces = json.loads(Path(model, "vocabulary.json").read_text(encoding="utf-8"))

    def answer(prompts: list[list[int]], new: list[int]) -> list[list[int]]:
        longest = max(new)
        results = generator.generate_batch(
            [[pieces[token] for token in prompt] for prompt in prompts],
            max_length=longest,
            min_length=longest,
            end_token=[],
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0][:count] for result, count in zip(results, new, strict=True)]

    return engine.__version__, answer


def llama_cpp(model: str, threads: int) -> tuple[str, Answers]:
    """llama.cpp by its Python binding, which works on one request at a time."""
    import llama_cpp as engine

    llama = engine.Llama(
        model, n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0, verbose=False
    )

    def answer(prompts: list[list[int]], new: list[int]) -> list[list[int]]:
        found = []
        for prompt, count in zip(prompts, new, strict=True):
            made: list[int] = []
            llama.reset()
            for token in llama.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0, reset=True):
                made.append(token)
                if len(made) == count:
                    break
            found.append(made)
        return found

    return engine.__version__, answer


def generate_batch(model: str, threads: int, number: str) -> tuple[str, Answers]:
    """Continuous batching: the manager behind `generate_batch`, kept running as a server keeps it."""
    import torch
    import transformers
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    torch.set_num_threads(threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[number]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="sdpa").eval()
    settings = transformers.GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1_024)
    cache = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS, num_blocks=CACHE_PAGES, max_batch_tokens=STEP_TOKENS, use_cuda_graph=False
    )
    manager = loaded.init_continuous_batching(generation_config=settings, continuous_batching_config=cache)
    manager.start()

    def answer(prompts: list[list[int]], new: list[int]) -> list[list[int]]:
        ids = [manager.add_request(prompt, max_new_tokens=count) for prompt, count in zip(prompts, new, strict=True)]
        found: dict[str, list[int]] = {}
        until = time.perf_counter() + LONGEST_WAIT_S
        while len(found) < len(ids):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                found[result.request_id] = list(result.generated_tokens)
            elif not manager.is_running() or time.perf_counter() > until:
                raise RuntimeError("the continuous batching of transformers came to no end")
        return [found[one] for one in ids]

    return transformers.__version__, answer


def main() -> None:
    """Answer until the input ends."""
    kind, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    opens = {
        "ctranslate2": ctranslate2,
        "llama-cpp": llama_cpp,
        "generate_batch fp32": partial(generate_batch, number="fp32"),
        "generate_batch bf16": partial(generate_batch, number="bf16"),
    }[kind]
    try:
        version, answer = opens(model, threads)
    except ImportError as error:
        write({"missing": str(error)})
        return
    write({"version": version})
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        tokens = answer(asked["prompts"], asked["new"])
        write({"seconds": time.perf_counter() - started, "tokens": tokens})
    os._exit(0)  # a peer's threads may not end by themselves


def write(value: object) -> None:
    """One line, at once."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
