"""A contender in a Python of its own: `peer_worker.py KIND MODEL THREADS`; a JSON line in, a JSON line out.

It may import nothing of the project, which that Python does not have. In: {"prompts": [[id, ...], ...], "new": [n,
...]}. Out: {"seconds": s, "tokens": [[id, ...], ...]}; first of all {"version": v} or {"missing": why}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Answers = Callable[[list[list[int]], list[int]], list[list[int]]]
CONTEXT = 2_048


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


def main() -> None:
    """Answer until the input ends."""
    kind, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    opens = {"ctranslate2": ctranslate2, "llama-cpp": llama_cpp}[kind]
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


def write(value: object) -> None:
    """One line, at once."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
