"""The methods: which half of the factors clients train in a round, and by which of our rules the server merges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from registry.errors import BadData

CENTRALISED: Final = "centralised"
BOTH: Final = ("ab",)
ONLY_B: Final = ("b",)
IN_TURN: Final = ("b", "a")  # "A is frozen during even rounds, B during odd ones" (LoRA-A², Alternating Freeze)


@dataclass(frozen=True, slots=True)
class Method:
    """`trained` are the halves of successive rounds, over and over; `rule` is a name of `sync.aggregate.rules`."""

    rule: str
    trained: tuple[str, ...]
    selects: bool = False  # whether clients choose ranks
    residual: bool = False  # whether what the rule adds beyond the rank goes into the frozen weights

    def half(self, round_number: int) -> str:
        """What is trained in a round, counted from 0: "a", "b" or "ab"."""
        return self.trained[round_number % len(self.trained)]


METHODS: Final[dict[str, Method]] = {
    "fedit": Method("fedit", BOTH),
    "ffa-lora": Method("ffa-lora", ONLY_B),
    "flexlora": Method("flexlora", BOTH),
    "fedex": Method("fedex", BOTH, residual=True),
    "rolora": Method("rolora", IN_TURN),
    "lora-a2": Method("lora-a2", IN_TURN, selects=True),
    CENTRALISED: Method("fedit", BOTH),  # one client has all rows, so nothing is averaged
}


def known(names: Sequence[str]) -> tuple[str, ...]:
    """The methods of these names, all where there are none. Raises BadData for a name that is none."""
    for name in names:
        if name not in METHODS:
            raise BadData(f"unknown method: {name!a:.60}", f"--only takes {', '.join(METHODS)}")
    return tuple(name for name in METHODS if name in names or not names)
