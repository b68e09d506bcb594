"""What this project's engine takes for a random Llama: prints one JSON object. A process of its own, so that it counts.

python -m tests.benchmarks.recommender.engine_worker FOLDER NAME DTYPE CACHE_TOKENS
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from node.engine.config import EngineConfig
from node.engine.engine import Engine
from node.engine.requests import Generation
from node.engine.sampling import SamplingParams

PROMPT_TOKENS = 512
NEW_TOKENS = 32


def main(folder: Path, dtype: str, cache_tokens: int) -> None:
    """Answer one request and tell the peak of resident memory."""
    config = EngineConfig(dtype=dtype, device="cpu", threads=1, cache_tokens=cache_tokens)  # type: ignore[arg-type]
    engine = Engine(folder, config)
    engine.add_model("base")
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True)
    handle = engine.submit(Generation("base", tuple(range(3, 3 + PROMPT_TOKENS)), sampling))
    while not handle.ended:
        engine.step()
    engine.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    sys.stdout.write(json.dumps({"peak": peak}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
