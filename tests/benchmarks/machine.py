"""Where and when figures were taken: without that they say nothing."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from node.manifest import package_versions, this_machine

PEERS = ("accelerate", "httpx", "uvicorn", "sqlalchemy")


def describe_machine() -> dict[str, Any]:
    """Processor, cores (`usable_cores`: those this process may use), versions, load of the machine now, date."""
    return {
        **this_machine().model_dump(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "versions": package_versions() | {name: version(name) for name in PEERS},
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
