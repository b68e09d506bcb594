"""What each step of a node costs: seconds of one core and bytes, as measured on real processes.

`costs.json` lies beside this file; `python -m tests.benchmarks.scale` measures it anew. What no measurement on one
machine can tell, the link and the latency between nodes, is an assumption and named as one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, ValidationError

from registry.errors import BadData

MEASURED: Final = Path(__file__).with_name("costs.json")
MAX_BYTES: Final = 1 << 20


class Costs(BaseModel):
    """Seconds are those of a core; `look_s` and `latency_s` are waits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pull_child_s: NonNegativeFloat  # a round that brings a release: ask, fetch, check, list
    pull_parent_s: NonNegativeFloat  # answering it
    take_in_s: NonNegativeFloat  # an update with its files, at the parent
    check_s: NonNegativeFloat  # its verdict, every stage
    merge_s: NonNegativeFloat  # a release, whatever goes into it
    merge_update_s: NonNegativeFloat  # and for each update in it
    offer_s: NonNegativeFloat  # measuring and signing what goes further up
    release_bytes: PositiveFloat  # that a child fetches for one release, metadata included
    update_bytes: PositiveFloat  # an update with its files
    look_s: NonNegativeFloat  # between two looks for something to hint at
    latency_s: NonNegativeFloat = 0.05  # assumed: of one round, all its requests together
    link_bytes_per_s: PositiveFloat = 12.5e6  # assumed: 100 Mbit/s out of and into a node


def read_costs(file: Path = MEASURED) -> Costs:
    """The costs in a file. Raises BadData, naming the field, where it does not hold costs."""
    again = "python -m tests.benchmarks.scale measures them"
    if not file.is_file() or file.stat().st_size > MAX_BYTES:
        raise BadData(f"{file} is no file of costs", again)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return Costs.model_validate(found.get("costs") if isinstance(found, dict) else found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "costs"
        raise BadData(f"{file}: {where}: {first['msg']}", again) from error
    except ValueError as error:
        raise BadData(f"{file} is not JSON: {error}", again) from error
