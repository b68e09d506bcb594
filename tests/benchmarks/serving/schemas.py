"""Table 4: what a JSON schema costs a step, and what tokens that it forces save."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any, Final

from node.engine.requests import GrammarSpec
from tests.benchmarks.rounds import Figure
from tests.benchmarks.serving.bench import Bench
from tests.benchmarks.serving.jobs import Prompts
from tests.benchmarks.serving.models import make_model
from tests.benchmarks.serving.ours import OurEngine, generation, taken
from tests.benchmarks.serving.table import Table

# Never complete within the answers below and without forced tokens to speak of: every step needs a mask.
OPEN: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"type": "object", "additionalProperties": {"type": ["string", "number", "array"]}},
    "minItems": 1_000,
}
# An answer as programs ask for it, most of which is settled by the schema.
RECORD: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "customer_identifier": {"type": "integer", "minimum": 1, "maximum": 999},
        "requested_operation": {"enum": ["open_account", "close_account", "change_address"]},
        "confirmation_required": {"type": "boolean"},
        "responsible_department": {"enum": ["cards", "savings", "loans"]},
    },
    "required": [
        "customer_identifier",
        "requested_operation",
        "confirmation_required",
        "responsible_department",
    ],
    "additionalProperties": False,
}
MOST_COST = 1.03
BATCH = 16
NEW = 48
RECORD_TOKENS = 120  # more than a record has
ROUNDS = 9
NUMBER: Final = "fp32"


def run(bench: Bench, size: str) -> Table:
    """ms a step with and without a schema, and tokens/s of a record with and without."""
    model = make_model("tiny" if bench.scale.smallest else size, bench.folder)
    batch, new = (2, 6) if bench.scale.smallest else (BATCH, NEW)
    prompts = Prompts(model.tokenizer)
    table = Table(f"Table 4, {model.name}: a JSON schema at {batch} requests", "figure")
    table.setting = {"parameters": model.parameters, "number": NUMBER, "open": OPEN, "record": RECORD}
    engine = OurEngine(model, NUMBER, bench.threads)
    try:
        turns = {
            "no schema": partial(step_ms, engine, prompts, None, batch, new),
            "with a schema": partial(step_ms, engine, prompts, spec(OPEN), batch, new),
        }
        table.add("a step", "ms", bench.in_turn("Table 4, a step", turns, ROUNDS))
        row = table.rows["a step"]
        pairs = zip(row["with a schema"].rounds, row["no schema"].rounds, strict=True)
        cost = Figure.of("x", [one / other for one, other in pairs])
        table.bound("a step with a schema / without", cost, most=None if bench.scale.smallest else MOST_COST)
        rates = {
            "no schema": partial(rate, engine, prompts, None, batch),
            "with a schema": partial(rate, engine, prompts, spec(RECORD), batch),
        }
        table.add("tokens of a record", "/s", bench.in_turn("Table 4, a record", rates, ROUNDS))
        table.ratio("tokens of a record", "with a schema", "no schema")
    finally:
        engine.close()
    return table


def spec(schema: dict[str, Any]) -> GrammarSpec:
    """A schema as the engine takes it."""
    return GrammarSpec("json_schema", json.dumps(schema))


def step_ms(engine: OurEngine, prompts: Prompts, grammar: GrammarSpec | None, batch: int, new: int, turn: int) -> float:
    """Milliseconds of a step that only decodes: prompts are read and grammars compiled before the clock starts."""
    asked = prompts.jobs(turn + 10, [new] * batch, 32)
    handles = [engine.engine.submit(generation(job, grammar)) for job in asked]
    for _ in range(3):
        engine.engine.step()
    steps, started = 0, time.perf_counter()
    while not any(handle.ended for handle in handles):
        engine.engine.step()
        steps += 1
    milliseconds = 1000 * (time.perf_counter() - started) / steps
    while not all(handle.ended for handle in handles):
        engine.engine.step()
    return milliseconds


def rate(engine: OurEngine, prompts: Prompts, grammar: GrammarSpec | None, batch: int, turn: int) -> float:
    """Tokens a second of records, or of as many tokens of anything. Raises ValueError when a record is not JSON."""
    asked = prompts.jobs(turn + 10, [RECORD_TOKENS] * batch, 32)
    started = time.perf_counter()
    handles = [engine.engine.submit(generation(job, grammar)) for job in asked]
    while not all(handle.ended for handle in handles):
        engine.engine.step()
    seconds = time.perf_counter() - started
    answers = [taken(handle) for handle in handles]
    if grammar is not None:
        for answer in answers:
            json.loads(engine.engine.tokenizer.decode(answer, skip_special_tokens=True))
    return sum(map(len, answers)) / seconds
