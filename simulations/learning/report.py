"""One page of HTML with tables and pictures in it, and nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from string import Template
from typing import Any, Final

from simulations.learning import plots
from simulations.learning.findings import __doc__ as rule
from simulations.learning.playing import Played
from simulations.learning.scenario import LEVELS

PAGE: Final = Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$title</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-size:13px;display:block;overflow-x:auto}
th,td{border:1px solid #ccc;padding:.2rem .5rem;text-align:right}th:first-child,td:first-child{text-align:left}
th{background:#f3f3f3}svg{max-width:100%;height:auto}pre{background:#f6f6f6;padding:.7rem;overflow-x:auto;font-size:12px}
.pick{background:#fff4d6}
</style>
<h1>$title</h1>
$body
</html>
"""
)
PERCENT: Final = 100.0
# figure -> its heading and what it is multiplied by
SHOWN: Final[dict[str, tuple[str, float]]] = {
    "accuracy_over_days": ("right at clients over the days, %", PERCENT),
    "accuracy_clients": ("on the last day, %", PERCENT),
    "worst_leaf": ("worst client, %", PERCENT),
    **{f"accuracy_{level}": (f"{level}, %", PERCENT) for level in LEVELS},
    "peer_gain": ("peer gain, points", 1.0),
    "regret": ("regret, points", 1.0),
    "mb": ("MB", 1.0),
    "pushes_sent": ("sent", 1.0),
    "pushes_released": ("released", 1.0),
    "pushes_superseded": ("superseded", 1.0),
    "pushes_rejected": ("refused", 1.0),
    "honest_rejected": ("honest refused, %", PERCENT),
    "releases": ("releases", 1.0),
    "stale_hours_p50": ("waits p50, h", 1.0),
    "stale_hours_p95": ("p95, h", 1.0),
    "stale_versions_p95": ("versions behind p95", 1.0),
    "days_to_target": ("days to target", 1.0),
    "mb_to_target": ("MB to target", 1.0),
    **{f"forgot_old_{level}": (f"old lost, {level}, points", 1.0) for level in LEVELS},
    **{f"forgot_learned_{level}": (f"learned lost, {level}, points", 1.0) for level in LEVELS},
    "attack_success": ("trigger at master, %", PERCENT),
    "attack_success_leaf": ("trigger at subdomains, %", PERCENT),
    "attackers_released": ("lies released, %", PERCENT),
}
EDGES: Final = {
    f"mb_{way}_{level}": (f"{level} {way}, MB", 1.0) for level in (*LEVELS[1:], "client") for way in ("up", "down")
}


def page(found: Mapping[str, Any], played: Sequence[Played], command: str) -> str:
    """The findings of a study as a page."""
    parts = [f"<p>Made by</p><pre>{html.escape(command)}</pre>"]
    if "recommended" in found:
        parts += _policies(found, played)
    if "gate" in found:
        parts += ["<h2>With the gate and without</h2>", plots.forgot(found["gate"]), table(found["gate"], SHOWN)]
    if "attacks" in found:
        parts += [f"<h2>Attacks by {100 * found['share']:.0f} % of the clients</h2>", table(found["attacks"], SHOWN)]
    about = {name: found[name] for name in ("scenario", "seeds", "cells", "machine")}
    parts += ["<h2>What was played</h2>", f"<pre>{html.escape(json.dumps(about, indent=1))}</pre>"]
    return PAGE.substitute(title=f"Simulation: {html.escape(found['study'])}", body="\n".join(parts))


def _policies(found: Mapping[str, Any], played: Sequence[Played]) -> list[str]:
    chosen, rows = found["recommended"]["policy"], found["policies"]
    records = [one.record for one in played if one.playing.policy == chosen and not one.playing.attackers]
    reason = html.escape(found["recommended"]["reason"])
    parts = [
        f"<p class=pick><b>Recommended: {html.escape(str(chosen))}.</b> {reason}.</p>",
        f"<details><summary>The rule</summary><pre>{html.escape(rule or '')}</pre></details>",
        plots.pareto(rows, chosen),
        plots.staleness(rows),
        *([plots.heat(records, chosen)] if records else []),
        "<h2>Policies</h2>",
        table(rows, SHOWN, chosen),
        "<h2>Bytes by the lower end of the edge</h2>",
        table(rows, EDGES, chosen),
    ]
    if len(found["attackers"]) > 1:
        title = f"Attackers ({found['attack']}), policy {found['attacked_policy']}"
        parts += [
            f"<h2>{html.escape(title)}</h2>",
            plots.attacked(found["attackers"]),
            table(found["attackers"], SHOWN),
        ]
    return parts


def table(rows: plots.Table, shown: Mapping[str, tuple[str, float]], chosen: str | None = None) -> str:
    """Means with the half of their 95 % intervals; figures that no row has are left out."""
    names = [name for name in shown if any(name in row for row in rows.values())]
    head = "".join(f"<th>{html.escape(shown[name][0])}</th>" for name in names)
    lines = []
    for label, row in rows.items():
        cells = "".join(f"<td>{_cell(row.get(name), shown[name][1])}</td>" for name in names)
        lines.append(f"<tr{' class=pick' if label == chosen else ''}><td>{html.escape(label)}</td>{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _cell(value: Mapping[str, float] | None, by: float) -> str:
    return "" if value is None else f"{by * value['mean']:.1f} ± {by * value['within']:.1f}"


def pictures(found: Mapping[str, Any], played: Sequence[Played]) -> Iterable[tuple[str, str]]:
    """The pictures by the name of their file."""
    if "recommended" in found:
        chosen = found["recommended"]["policy"]
        yield "pareto", plots.pareto(found["policies"], chosen)
        yield "staleness", plots.staleness(found["policies"])
        records = [one.record for one in played if one.playing.policy == chosen and not one.playing.attackers]
        if records:
            yield "heat", plots.heat(records, chosen)
        if len(found["attackers"]) > 1:
            yield "attackers", plots.attacked(found["attackers"])
    if "gate" in found:
        yield "forgetting", plots.forgot(found["gate"])
