"""The three questions that are asked of a tree that learns, each as a list of cells and what is read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from simulations.learning.findings import DEFAULT, compared, grouped
from simulations.learning.playing import Played, Playing
from simulations.learning.scenario import ATTACKS, ORACLE, Scenario

GRID: Final = (
    ORACLE, "never", "always", "every-n", "time", "samples", "buffer", "staleness", "drift", "lazy", "gain-per-byte",
)  # fmt: skip
SHARES: Final = (0.17, 0.33)  # one and two of six
ATTACK: Final = "backdoor"


@dataclass(frozen=True, slots=True)
class Study:
    """Which cells are played, and how their records become a table."""

    name: str
    cells: tuple[Playing, ...]
    read: Callable[[Sequence[Played]], dict[str, Any]]


def policies(names: Sequence[str], seeds: int, shares: Sequence[float] = SHARES) -> Study:
    """When should the parent be updated: every policy under every seed, then the default under attack.

    Seeds come first, so that a run that is stopped has compared all policies under some seeds.
    """
    calm = [Playing(name, seed) for seed in range(1, seeds + 1) for name in names]
    shown = [name for name in names if name == DEFAULT] or [name for name in names if name not in (ORACLE, "never")][:1]
    loud = [Playing(name, seed, s, ATTACK) for seed in range(1, seeds + 1) for s in shares for name in shown]

    def read(played: Sequence[Played]) -> dict[str, Any]:
        honest = [one for one in played if not one.playing.attackers]
        attacked = grouped(
            [one for one in played if one.playing.attackers or one.playing.policy in shown],
            lambda one: f"{100 * one.playing.attackers:.0f} %",
        )
        return {**compared(honest), "attackers": attacked, "attack": ATTACK, "attacked_policy": "".join(shown)}

    return Study("policies", (*calm, *loud), read)


def forgetting(seeds: int) -> Study:
    """What the gate keeps: the default policy with the gate and without it, under the same rows."""
    cells = [Playing(DEFAULT, seed, gate=gate) for seed in range(1, seeds + 1) for gate in (True, False)]

    def read(played: Sequence[Played]) -> dict[str, Any]:
        return {"gate": grouped(played, lambda one: "with the gate" if one.playing.gate else "without")}

    return Study("forgetting", tuple(cells), read)


def attacks(seeds: int, share: float = 0.33) -> Study:
    """What becomes of a tree in which some clients lie: every attack, all checks standing."""
    cells = [Playing(DEFAULT, seed, share, attack, probes=True) for seed in range(1, seeds + 1) for attack in ATTACKS]
    cells += [Playing(DEFAULT, seed, probes=True) for seed in range(1, seeds + 1)]

    def read(played: Sequence[Played]) -> dict[str, Any]:
        return {"attacks": grouped(played, lambda one: one.playing.attack or "no attack"), "share": share}

    return Study("attacks", tuple(cells), read)


def told(study: Study, scenario: Scenario, played: Sequence[Played], machine: Mapping[str, str]) -> dict[str, Any]:
    """The findings with what they were made of. But for `machine` the same for the same scenario and seeds."""
    seeds = sorted({one.playing.seed for one in played})
    about = {"study": study.name, "scenario": asdict(scenario), "seeds": seeds, "cells": len(played)}
    return {**about, **study.read(played), "machine": dict(machine)}
