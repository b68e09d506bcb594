"""The C shim of `shim.c` from Python: compiled once into a folder, loaded into forked processes, armed in one of them.

What the faults are stands in `shim.c`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

SOURCE: Final = Path(__file__).with_name("shim.c")
COMPILERS: Final = ("cc", "gcc", "clang")
Kind = Literal["count", "kill", "eio", "enospc", "power"]
_NUMBERS: Final[dict[Kind, int]] = {"count": 0, "kill": 1, "eio": 2, "enospc": 3, "power": 4}
_PRELOAD: Final = "LD_PRELOAD"
_COUNTS: Final = struct.Struct("=qqq")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to happen to the calls that change a home: `after` calls, or bytes for `enospc`.

    `beside`: a folder outside the home, for the counts and for what would survive a power cut. `same_disk`: the one of
    another process, whose power fails, if this process works in the same home.
    """

    kind: Kind
    after: int
    beside: Path
    same_disk: Path | None = None

    @property
    def shadow(self) -> Path:
        """What would survive."""
        return (self.same_disk or self.beside) / "shadow"

    @property
    def counts(self) -> Counts:
        """How far it is, also after the process has ended."""
        file = self.beside / "counts"
        data = file.read_bytes() if file.exists() else b""  # the process may be just making it
        return Counts(*_COUNTS.unpack(data)) if len(data) == _COUNTS.size else Counts(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Counts:
    """The calls and bytes so far, and whether the fault has come."""

    calls: int
    bytes: int
    fired: int


def compiler() -> str | None:
    """The C compiler of this machine."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def compiled(folder: Path) -> Path:
    """The library, compiled into a folder. Raises FileNotFoundError where there is no compiler."""
    program = compiler()
    if program is None:
        raise FileNotFoundError("no C compiler")
    library = folder / "faults.so"
    command = [program, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, SOURCE, "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library


@contextmanager
def preloaded(library: Path | None) -> Iterator[None]:
    """Processes that are started now have the library loaded before the C library."""
    if library is None:
        yield
        return
    os.environ[_PRELOAD] = str(library)
    try:
        yield
    finally:
        del os.environ[_PRELOAD]


def arm(fault: Fault, home: Path) -> None:
    """Begin to count, in this process; the library is loaded already."""
    for folder in (fault.beside, fault.shadow.parent):
        folder.mkdir(parents=True, exist_ok=True)
    shim = ctypes.CDLL(None)
    shim.fault_arm(
        _NUMBERS[fault.kind],
        ctypes.c_long(fault.after),
        os.fsencode(home.resolve()),
        os.fsencode(fault.shadow),
        os.fsencode(fault.beside / "counts"),
    )


def survived(shadow: Path, home: Path) -> None:
    """Put in the place of a home what its disk would hold after the power cut."""
    shutil.rmtree(home)
    _restore(shadow, "d", (shadow / "root").read_text(), home)


def _restore(shadow: Path, kind: str, key: str, place: Path) -> None:
    if kind == "f":
        place.touch(mode=0o600)
        bytes_of = shadow / "inodes" / key
        if bytes_of.exists():  # else the name is durable and the bytes are not
            place.write_bytes(bytes_of.read_bytes())
        return
    place.mkdir(mode=0o700)
    names = shadow / "dirs" / key
    for line in names.read_text().splitlines() if names.exists() else ():
        kind_of, key_of, name = line.split(" ", 2)
        _restore(shadow, kind_of, key_of, place / name)
