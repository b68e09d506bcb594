"""What the demo found: the verdicts that decide its exit code, and the table for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from node.demo.attacks import Attack
from node.demo.measure import Figures
from sync.gate import ONE_SIDED_95, points_lost

BEFORE = "en/finance@v1"  # what everybody starts from
MIN_KEPT = 0.9
MAX_POINTS_LOST = 1.0
SETS = ("cards", "transfers", "top-up", "known")
FACTS_SHOWN = ("files.finite", "size.relative", "behaviour.anchors", "behaviour.transfer")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that the demo had to show."""

    claim: str
    held: bool
    measured: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was measured."""

    figures: Figures
    checks: dict[str, dict[str, Any]]  # the honest updates as the parent shows them
    attacks: list[Attack]
    rebased: dict[str, Any]
    seconds: dict[str, float]
    moved_bytes: dict[str, int]
    other_paths_untouched: bool

    def as_data(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """The facts as plain values."""
        accuracy = {who: {name: share(right) for name, right in sets.items()} for who, sets in self.figures.items()}
        return {
            "passed": all(verdict.held for verdict in verdicts),
            "verdicts": [asdict(verdict) for verdict in verdicts],
            "accuracy": accuracy,
            "rows": {name: len(right) for sets in self.figures.values() for name, right in sets.items()},
            "attacks": [asdict(attack) for attack in self.attacks],
            "checks": {name: update["checks"] for name, update in self.checks.items()},
            "rebased": self.rebased,
            "moved_bytes": self.moved_bytes,
            "seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
        }


def share(right: Sequence[bool]) -> float:
    """Accuracy, 0 to 1."""
    return sum(right) / len(right) if right else 0.0


def conclude(facts: Facts, senders: Sequence[str], sibling: str) -> list[Verdict]:
    """What had to be shown, and whether it was."""
    found: list[Verdict] = []
    for name in senders:
        gain = _gain(facts.figures, name, BEFORE, f"{name} after")
        for who, before, after in (
            ("the parent", BEFORE, "parent after"),
            (f"the sibling {sibling}", f"{sibling} after", f"{sibling} pulled"),
        ):
            kept = _gain(facts.figures, name, before, after) / gain if gain > 0 else 0.0
            found.append(
                Verdict(
                    f"{who} has at least {MIN_KEPT:.0%} of what {name} gained",
                    kept >= MIN_KEPT,
                    f"{kept:.0%} of {100 * gain:.1f} points",
                )
            )
    found.append(_not_lost(facts.figures, f"{sibling} keeps its own", sibling, f"{sibling} after", f"{sibling} pulled"))
    found.append(_not_lost(facts.figures, "the parent keeps old knowledge", "known", BEFORE, "parent after"))
    found.append(
        _not_lost(facts.figures, f"{sibling} keeps old knowledge", "known", f"{sibling} after", f"{sibling} pulled")
    )
    found.append(Verdict("no other path was touched", facts.other_paths_untouched, "every other head is version 1"))
    found += [
        Verdict(f"the {attack.kind} update was refused", attack.refused, attack.reason) for attack in facts.attacks
    ]
    return found


def _gain(figures: Figures, rows: str, before: str, after: str) -> float:
    return share(figures[after][rows]) - share(figures[before][rows])


def _not_lost(figures: Figures, claim: str, rows: str, before: str, after: str) -> Verdict:
    lost, error = points_lost(figures[before][rows], figures[after][rows])
    allowed = MAX_POINTS_LOST + ONE_SIDED_95 * error
    return Verdict(
        claim,
        lost <= allowed,
        f"{lost:+.1f} points lost on {len(figures[before][rows])} rows; allowed {MAX_POINTS_LOST:g} + "
        f"{ONE_SIDED_95 * error:.1f} sampling error",
    )


def table(facts: Facts, verdicts: Sequence[Verdict]) -> str:
    """Everything for people, as text."""
    sections = [_accuracy(facts), _checks(facts), _rebase(facts), _costs(facts), _verdicts(verdicts)]
    return "\n\n".join(sections)


def _accuracy(facts: Facts) -> str:
    sizes = {name: len(right) for sets in facts.figures.values() for name, right in sets.items()}
    lines = ["Exact match on held-out rows (%)", "".join([f"{'':18}", *(f"{n:>12}" for n in SETS)])]
    lines.append("".join([f"{'rows':18}", *(f"{sizes[name]:>12}" for name in SETS)]))
    for who, sets in facts.figures.items():
        cells = [f"{100 * share(sets[name]):>12.1f}" if name in sets else f"{'':>12}" for name in SETS]
        lines.append(f"{who:18}" + "".join(cells))
    return "\n".join(lines)


def _checks(facts: Facts) -> str:
    lines = ["What the parent's checks said"]
    for name, update in facts.checks.items():
        passed = sum(check["passed"] for check in update["checks"])
        lines.append(f"{name}: {update['state']}, {passed} of {len(update['checks'])} checks passed")
        lines += [f"  {check['name']}: {check['reason']}" for check in update["checks"] if check["name"] in FACTS_SHOWN]
    for attack in facts.attacks:
        lines.append(f"{attack.kind}: {'refused' if attack.refused else 'NOT REFUSED'}: {attack.reason}")
    return "\n".join(lines)


def _rebase(facts: Facts) -> str:
    lines = ["How the sibling took the release"]
    for one in facts.rebased["rebased"]:
        lines.append(f"{one['path']}: {one['way']} over v{one['above']}, now v{one['version']}")
        lines += [
            f"  {option['way']}: {100 * option['own_rows']:.1f} % of own rows, "
            f"{100 * option['parent_rows']:.1f} % of the parent's anchors"
            for option in one["options"]
        ]
    return "\n".join(lines)


def _costs(facts: Facts) -> str:
    lines = ["Bytes moved"] + [f"  {what}: {size:,}" for what, size in facts.moved_bytes.items()]
    lines += ["Seconds"] + [f"  {seconds:6.1f}  {step}" for step, seconds in facts.seconds.items()]
    return "\n".join([*lines, f"  {sum(facts.seconds.values()):6.1f}  in all"])


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    return "\n".join(f"{'✓' if one.held else '✗'} {one.claim}: {one.measured}" for one in verdicts)
