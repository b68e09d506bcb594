"""`Table`: what one of the tables found, for people and as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.benchmarks.rounds import Bound, Figure

MOST_COLUMNS = 4


@dataclass(slots=True)
class Table:
    """Figures by row and column. `figures` are further ones by name, `bounds` what medians of those have to keep.

    `axis` says what the rows are. `absent` are contenders that could not run, `unequal` those whose greedy answers are
    not those of transformers; both with the reason.
    """

    title: str
    axis: str
    rows: dict[str, dict[str, Figure]] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    bounds: list[Bound] = field(default_factory=list)
    setting: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    unequal: dict[str, str] = field(default_factory=dict)

    def add(self, row: str, unit: str, columns: Mapping[str, Sequence[float]]) -> None:
        """A row of one value a round for each column."""
        self.rows.setdefault(row, {}).update({name: Figure.of(unit, values) for name, values in columns.items()})

    def ratio(self, row: str, ours: str, theirs: str, least: float | None = None) -> None:
        """How many times theirs we reach, taken within each round; nothing where either did not run."""
        if ours in self.rows[row] and theirs in self.rows[row]:
            pairs = zip(self.rows[row][ours].rounds, self.rows[row][theirs].rounds, strict=True)
            self.bound(f"{row}: {ours} / {theirs}", Figure.of("x", [one / other for one, other in pairs]), least)

    def bound(self, name: str, figure: Figure, least: float | None = None, most: float | None = None) -> None:
        """A further figure, and what it has to keep."""
        self.figures[name] = figure
        if least is not None or most is not None:
            self.bounds.append(Bound(name, least, most))

    def broken(self) -> list[Bound]:
        """The bounds that were not kept."""
        return [bound for bound in self.bounds if not bound.holds(self.figures)]

    def as_data(self) -> dict[str, Any]:
        """As it stands in the file of results."""
        return {
            "title": self.title,
            "axis": self.axis,
            "setting": self.setting,
            "rows": {row: {name: asdict(one) for name, one in columns.items()} for row, columns in self.rows.items()},
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
            "bounds": [{**asdict(bound), "held": bound.holds(self.figures)} for bound in self.bounds],
            "absent": self.absent,
            "unequal": self.unequal,
        }

    def as_text(self) -> str:
        """As people read it: medians, with the IQR behind them."""
        lines = ["", self.title]
        lines += _aligned(self._cells()) if self.rows else []
        lines += _aligned([[name, _shown(figure)] for name, figure in self.figures.items()])
        lines += [f"  {name}: not measured, {why}" for name, why in self.absent.items()]
        lines += [f"  {name}: other tokens than transformers fp32, {why}" for name, why in self.unequal.items()]
        lines += [f"  NOT KEPT: {bound}" for bound in self.broken()]
        return "\n".join(lines) + "\n"

    def _cells(self) -> list[list[str]]:
        """A line for each row, or where there are many contenders, a line for each of those."""
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        cells = [[self.axis, *names]]
        cells += [[row, *(_shown(found.get(name)) for name in names)] for row, found in self.rows.items()]
        return [list(line) for line in zip(*cells, strict=True)] if len(names) > MOST_COLUMNS else cells


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{_number(figure.median)} {figure.unit} ±{_number(figure.iqr)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  " + "  ".join(line).rstrip() for line in lines]
