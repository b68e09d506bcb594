"""/metrics as Prometheus wants it: by promtool itself where it is installed, and by its rules everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess

import httpx
import openai
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.node.openai.conftest import World

NAME = re.compile(r"banyan(_[a-z0-9]+)+")
LABEL = re.compile(r"[a-z]+(_[a-z]+)*")
KINDS = ("# HELP ", "# TYPE ")
# What names of families may not end with. (`_created` is a gauge that the client library adds to its counters.)
SUFFIXES = ("_count", "_sum", "_bucket", "_total", "_info")
# Units that are not base units, and abbreviations (promtool's list, shortened to what a server might count).
NOT_BASE = {
    "milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "kilobytes", "megabytes", "kibibytes",
    "mebibytes", "gigabytes", "gibibytes", "bits", "percent", "s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb",
}  # fmt: skip


@pytest.fixture(scope="module")
def metrics(world: World) -> str:
    """What a node says that has answered a request and refused one."""
    with openai.OpenAI(base_url=world.api, api_key="none", max_retries=0) as client:
        client.chat.completions.create(model="en", messages=[{"role": "user", "content": "hello"}], max_tokens=3)
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nowhere")
    return httpx.get(f"{world.url}/metrics").text


def test_promtool_has_nothing_to_say(metrics: str) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=metrics, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def wrong_in(text: str) -> list[str]:
    """What the conventions of Prometheus have against metrics (https://prometheus.io/docs/practices/naming/)."""
    helped, typed = ({line.split(" ", 3)[2] for line in text.splitlines() if line.startswith(kind)} for kind in KINDS)
    return [wrong for family in text_string_to_metric_families(text) for wrong in wrong_about(family, helped, typed)]


def wrong_about(family: Metric, helped: set[str], typed: set[str]) -> list[str]:
    """The same of one family; those of `helped` and `typed` have such lines."""
    said = family.name + "_total" * (family.type == "counter")
    words = set(said.split("_"))
    claims = {
        "is named in small letters after this program": NAME.fullmatch(said),
        "has a help text": said in helped and family.documentation.strip(),
        "has a type": said in typed and family.type in ("counter", "gauge", "histogram"),
        "does not name its type": not words & {"counter", "gauge", "histogram", "summary", "metric"},
        "does not end as a part of another type": not family.name.endswith(SUFFIXES),
        "is in base units": not words & NOT_BASE,
        "names the unit of what has one": family.type != "histogram" or family.name.endswith("_seconds"),
        "has labels in small letters": all(
            LABEL.fullmatch(label) and label not in ("job", "instance")
            for sample in family.samples
            for label in sample.labels
        ),
        "counts from zero": all(sample.value >= 0 for sample in family.samples),
    }
    return [f"{said} {claim}" for claim, holds in claims.items() if not holds]


def test_every_family_follows_the_conventions(metrics: str) -> None:
    assert len(list(text_string_to_metric_families(metrics))) > 15
    assert wrong_in(metrics) == []


@pytest.mark.parametrize(
    "text",
    [
        "# HELP banyan_x X\n# TYPE banyan_x counter\nbanyan_x 1\n",
        "# TYPE banyan_x gauge\nbanyan_x 1\n",
        "# HELP banyan_x X\nbanyan_x 1\n",
        "# HELP banyan_x_ms X\n# TYPE banyan_x_ms gauge\nbanyan_x_ms 1\n",
        "# HELP banyan_x_total X\n# TYPE banyan_x_total gauge\nbanyan_x_total 1\n",
        "# HELP banyan_x X\n# TYPE banyan_x gauge\nbanyan_x{Route='1'} 1\n".replace("'", '"'),
        "# HELP other_x X\n# TYPE other_x gauge\nother_x 1\n",
    ],
)
def test_what_breaks_a_convention_is_seen(text: str) -> None:
    assert wrong_in(text)
