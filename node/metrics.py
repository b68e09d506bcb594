"""`metrics.jsonl`: one line per training step, written as it happens, continued after a kill without double steps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from sync.train import StepReport


@dataclass(frozen=True, slots=True)
class Curve:
    """The loss by step, as measured on training batches and on validation rows."""

    training: list[tuple[int, float]]
    validation: list[tuple[int, float]]


class MetricsLog:
    """Appends steps to a file; a run that goes on from a checkpoint first drops the steps that it will take again."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stream: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, report: StepReport) -> None:
        """Add one step; it is on its way to the disk when this returns."""
        if self._stream is None:
            kept = [line for line in _lines(self._file) if line["step"] < report.step]
            partial = self._file.with_name(self._file.name + ".partial")
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            partial.replace(self._file)  # a kill leaves the old lines or the kept ones
            self._stream = self._file.open("a", encoding="utf-8")
        record = {name: value for name, value in asdict(report).items() if value is not None}
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()


def read_curve(file: Path) -> Curve:
    """The loss curve that a file of metrics holds."""
    lines = _lines(file)
    validated = [(line["step"], line["validation"]) for line in lines if line.get("validation")]
    return Curve(
        training=[(line["step"], line["loss"]) for line in lines],
        validation=[(step, record["loss"]) for step, record in validated if "loss" in record],
    )


def _lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of the file; a kill may have cut the last one."""
    if not file.exists():
        return []
    whole: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            whole.append(json.loads(line))
        except ValueError:
            break
    return whole
