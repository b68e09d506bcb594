from __future__ import annotations

from pathlib import Path

import pytest

from node.curve import draw_curve, smoothed
from node.metrics import Curve, MetricsLog, read_curve
from sync.train import StepReport


def report(step: int, loss: float, validation: dict[str, float] | None = None) -> StepReport:
    return StepReport(step, 10, 0, loss, step * 100, 50.0, 1.0, validation)


def test_steps_are_written_as_they_happen(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with MetricsLog(file) as log:
        log.write(report(1, 3.0))
        log.write(report(2, 2.0, {"loss": 2.5, "exact_match": 0.5}))
        assert read_curve(file) == Curve([(1, 3.0), (2, 2.0)], [(2, 2.5)])


def test_a_run_that_goes_on_takes_no_step_twice(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with MetricsLog(file) as log:
        for step in range(1, 6):
            log.write(report(step, 9.0))
    with file.open("a") as cut:
        cut.write('{"step": 6, "lo')  # the process was killed here
    with MetricsLog(file) as log:  # and began again at its checkpoint
        log.write(report(4, 1.0))
    assert [step for step, _ in read_curve(file).training] == [1, 2, 3, 4]
    assert read_curve(file).training[-1] == (4, 1.0)


def test_the_lines_are_whole_when_the_process_ends_while_they_are_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        """Stands for the end of the process: nothing of ours catches it."""

    def half(file: Path, text: str, **options: str) -> int:
        with file.open("w") as out:
            out.write(text[: len(text) // 2])
        raise Stopped

    file = tmp_path / "metrics.jsonl"
    with MetricsLog(file) as log:
        for step in range(1, 6):
            log.write(report(step, 9.0))
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(Stopped), MetricsLog(file) as log:
        log.write(report(4, 1.0))
    assert [step for step, _ in read_curve(file).training] == [1, 2, 3, 4, 5]


def test_a_run_that_takes_no_step_leaves_the_file_alone(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl"):
        pass
    assert read_curve(tmp_path / "metrics.jsonl") == Curve([], [])


def test_the_same_curve_gives_the_same_pictures(tmp_path: Path) -> None:
    curve = Curve([(step, 5 / step) for step in range(1, 50)], [(25, 1.0), (49, 0.5)])
    pictures = [[file.read_bytes() for file in draw_curve(curve, "en", tmp_path / name)] for name in ("a", "b")]
    assert pictures[0] == pictures[1]
    assert pictures[0][0].startswith(b"\x89PNG")
    assert b"validation" in pictures[0][1]


def test_the_smoothed_line_begins_where_the_curve_does() -> None:
    assert smoothed([4.0, 4.0, 4.0]) == [4.0, 4.0, 4.0]
    assert smoothed([]) == []
    line = smoothed([4.0, 0.0, 0.0])
    assert 4.0 > line[1] > line[2] > 0.0
