"""Which cells are played: learning rates on the validation rows first, then the table with the best rate of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from registry.errors import BadData
from simulations.reproduction.cell import Cell
from simulations.reproduction.grid import OnCell, Player, play_all
from simulations.reproduction.methods import CENTRALISED, known
from simulations.reproduction.paper import CLIENTS, COLUMNS, SKEWED, Column

LAST: Final = 4  # rounds whose mean is a cell's figure: a single one swings where clients know few labels each

Played = Mapping[Cell, Mapping[str, Any]]
Key = tuple[str, Column]  # of a method and a column of the table


@dataclass(frozen=True, slots=True)
class Study:
    """How much of the table is played.

    Rates are compared in one column, which shares the rank with one of the others and the skew with the other, over
    `sweep_rounds` and under the first seed.
    """

    methods: tuple[str, ...] = known(())
    columns: tuple[Column, ...] = COLUMNS
    swept: Column = SKEWED
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    rounds: int = 16
    epochs: int = 2
    clients: int = CLIENTS
    seeds: int = 1
    sweep_rounds: int = 4
    most_rows: int = 4_500

    def cell(self, method: str, column: Column, seed: int, rate: float) -> Cell:
        """A cell of the table. What needs no clients does not hang on how they share."""
        alpha = None if method == CENTRALISED else column.alpha
        return Cell(
            method, alpha, column.rank, seed, rate, self.rounds, self.epochs, self.clients, most_rows=self.most_rows
        )

    def sweep(self) -> dict[str, list[Cell]]:
        """For each method the cells that compare learning rates, on rows that no figure is of."""
        return {
            method: [
                replace(self.cell(method, self.swept, 1, rate), rounds=self.sweep_rounds, judged="validation")
                for rate in self.rates
            ]
            for method in self.methods
        }

    def table(self, rates: Mapping[str, float]) -> dict[Key, list[Cell]]:
        """For each method and column its cells, one for each seed."""
        return {
            (method, column): [self.cell(method, column, seed, rates[method]) for seed in range(1, self.seeds + 1)]
            for column in self.columns
            for method in self.methods
        }


def figure(record: Mapping[str, Any]) -> float:
    """The accuracy of a cell: the mean of its last rounds, `LAST` of them but no more than half."""
    last = record["accuracy"][-min(LAST, max(1, len(record["accuracy"]) // 2)) :]
    return float(sum(last) / len(last))


def best(cells: Sequence[Cell], played: Played) -> float:
    """The rate of the best figure; of equal ones the lowest."""
    return max(cells, key=lambda cell: (figure(played[cell]), -cell.learning_rate)).learning_rate


def run(study: Study, player: Player, workers: int, on_cell: OnCell) -> tuple[dict[str, float], Played]:
    """The chosen rates and all cells. Seeds come last, so that a run that is stopped has compared all under some."""
    if study.seeds < 1 or workers < 1:
        raise BadData(f"{study.seeds} seeds in {workers} processes are no run", "give --seeds and --workers 1 or more")
    sweep = study.sweep()
    tried = play_all(player, [cell for cells in sweep.values() for cell in cells], workers, on_cell)
    rates = {method: best(cells, tried) for method, cells in sweep.items()}
    rows = study.table(rates).values()
    in_order = [cells[number] for number in range(study.seeds) for cells in rows]
    return rates, {**tried, **play_all(player, in_order, workers, on_cell)}
