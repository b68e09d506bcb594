from __future__ import annotations

from pathlib import Path

import pytest

from recommender.devices import devices, find_device
from recommender.hardware import Machine, cpu_flags, described_machine, free_bytes, measured_bandwidth, this_machine
from registry.errors import BadData


@pytest.mark.parametrize(
    ("said", "name", "memory_gib"),
    [
        ("RTX 3060 12 GB", "NVIDIA GeForce RTX 3060", 12),
        ("rtx3060 with 8gb", "NVIDIA GeForce RTX 3060", 8),
        ("NVIDIA GeForce RTX 4060 Ti", "NVIDIA GeForce RTX 4060 Ti", 8),
        ("a 4060ti with 16 GB", "NVIDIA GeForce RTX 4060 Ti", 16),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", "NVIDIA GeForce RTX 4070 Mobile", 8),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100", 80),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100", 80),
        ("Tesla T4", "NVIDIA Tesla T4", 16),
        ("AMD Radeon RX 7900 XT", "AMD Radeon RX 7900 XT", 20),
        ("AMD Radeon RX 7900 XTX", "AMD Radeon RX 7900 XTX", 24),
        ("Apple M4 Pro", "Apple M4 Pro", None),
        ("MacBook Air with M2", "Apple M2", None),
    ],
)
def test_devices_are_found_by_the_names_that_people_and_drivers_use(said: str, name: str, memory_gib: int) -> None:
    found = find_device(said)
    assert found is not None
    assert (found.name, found.memory_gib) == (name, memory_gib)


@pytest.mark.parametrize("said", ["", "a laptop", "24 GB", "Intel(R) Core(TM) i7-1270P", "RTX 9999"])
def test_what_names_no_device_finds_none(said: str) -> None:
    assert find_device(said) is None


def test_every_row_is_found_by_its_own_name_and_has_a_source() -> None:
    text = (Path(find_device.__globals__["TABLE"])).read_text(encoding="utf-8")
    assert all(line.rsplit(",", 1)[-1] for line in text.splitlines()[1:])
    for kind in devices():
        size = f" {kind.memory_gib:g} GB" if kind.memory_gib else ""
        assert find_device(kind.name + size) == kind


def test_a_described_machine_takes_what_was_said_before_what_the_table_says() -> None:
    card = described_machine("RTX 3060 12 GB")
    assert (card.device, card.bandwidth_gb_s) == ("cuda", 360)
    assert card.memory_gb == pytest.approx(12.88, abs=0.01)  # 12 GiB
    assert described_machine("RTX 3060", memory_gb=6).memory_gb == 6
    assert described_machine("M4 Pro", ram_gb=24).memory_gb == 18  # macOS keeps the rest
    assert described_machine(device="cpu", memory_gb=8).memory_gb == 8
    assert described_machine("some card", device="cuda", memory_gb=16).memory_gb == 16
    with pytest.raises(BadData, match="no device is known"):
        described_machine("some card")


@pytest.mark.parametrize("memory", [0.0, -1.0, float("inf"), float("nan")])
def test_a_machine_without_memory_is_refused(memory: float) -> None:
    with pytest.raises(BadData):
        Machine("x", "cpu", memory, 10, 10, 10)


def test_this_machine_is_measured() -> None:
    found = this_machine()
    assert found.memory_gb > 0
    assert 0.1 < measured_bandwidth(1) < 20_000
    assert found.cores >= 1


def test_flags_of_the_processor(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name : X\nflags\t\t: fpu avx2 amx_bf16\n")
    assert cpu_flags(file) == {"fpu", "avx2", "amx_bf16"}
    assert cpu_flags(tmp_path / "none") == set()


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert free_bytes(tmp_path) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(tmp_path) > 600_000
