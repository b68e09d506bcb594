"""Who is compared in the tables of throughput, by the names that the tables show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.benchmarks.serving.arms import Arm, Opens
from tests.benchmarks.serving.bench import Bench
from tests.benchmarks.serving.http_arm import OverHttp
from tests.benchmarks.serving.models import Model
from tests.benchmarks.serving.other_pythons import OtherPython
from tests.benchmarks.serving.ours import OurEngine
from tests.benchmarks.serving.servers import our_server, transformers_serve
from tests.benchmarks.serving.transformers_arms import Generate

OURS, OURS_BF16, OURS_HTTP = "ours fp32", "ours bf16", "ours over HTTP fp32"
GENERATE, GENERATE_BF16 = "generate fp32", "generate bf16"
BATCHED, BATCHED_BF16 = "generate_batch fp32", "generate_batch bf16"
SERVE, CTRANSLATE2, LLAMA_CPP = "transformers serve fp32", "CTranslate2 fp32", "llama.cpp fp32"
# Where numbers are rounded otherwise, another token may win: equality is asked of the others.
ROUNDED: Final = (OURS_BF16, GENERATE_BF16, BATCHED_BF16)
# It works on one request after the other: more of them say nothing new, and take long.
LLAMA_CPP_MOST = 4


def contenders(bench: Bench, model: Model) -> Mapping[str, Opens]:
    """All of them over one model; nothing is opened yet."""
    threads = bench.threads
    opens: dict[str, Opens] = {
        OURS: lambda: OurEngine(model, "fp32", threads),
        GENERATE: lambda: Generate(model, "fp32"),
        BATCHED: lambda: OtherPython(BATCHED, model, threads, bench.pythons),
        OURS_BF16: lambda: OurEngine(model, "bf16", threads),
        GENERATE_BF16: lambda: Generate(model, "bf16"),
        BATCHED_BF16: lambda: OtherPython(BATCHED_BF16, model, threads, bench.pythons),
        OURS_HTTP: lambda: _ours_over_http(bench, model),
        SERVE: lambda: OverHttp(transformers_serve(model, bench.folder, "fp32", threads)),
        CTRANSLATE2: lambda: OtherPython("ctranslate2", model, threads, bench.pythons),
        LLAMA_CPP: lambda: OtherPython("llama-cpp", model, threads, bench.pythons),
    }
    return opens


def _ours_over_http(bench: Bench, model: Model) -> Arm:
    more = {"BANYAN_MAX_RUNNING": "128"}
    return OverHttp(our_server(model, bench.folder, "fp32", bench.threads, more), {"ignore_eos": True})
