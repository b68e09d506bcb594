"""Machines and cards by name, and where a model would run. The products, with sources, are in `data/hardware.toml`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from assistant.clauses import Reading
from assistant.lexicon import Hit, Lexicon, load
from assistant.mention import Mention
from assistant.numerals import Numeral
from assistant.patterns import one_of

_FILE: Final = "machines"
_TIMES: Final = re.compile(r"(?<=\d)x(?=\d{4}|[a-z]\d)")
_LAPTOP: Final = re.compile(one_of(_FILE, "laptop"))
_NOT_A_CARD: Final = re.compile(rf"\s*[/-]\s*[ls]\d|\s+{one_of(_FILE, 'no_card')}\b")
_RUNS_ON: Final = re.compile(rf"(?:{one_of(_FILE, 'on', whole=True)}[^.;,]{{0,28}}|{one_of(_FILE, 'right_on')}\s*)$")
_DEVICE_FOLLOWS: Final = re.compile(
    rf"\s*(?:{one_of(_FILE, 'runs_after')}|{one_of(_FILE, 'runs_after_word', ends=True)}|\d)"
)
_NOT_THE_DEVICE: Final = re.compile(rf"\s*{one_of(_FILE, 'about')}")
_CPU_CONTEXT: Final = re.compile(rf"(?:\b{one_of(_FILE, 'on_cpu')}\s+(?:\w+\s+)?|{one_of(_FILE, 'right_on_cpu')})$")
_CPU_ONLY: Final = re.compile(rf"[\s-]*(?:{one_of(_FILE, 'cpu_alone')}|$|\n)")
_COUNT_GAP: Final = re.compile(rf"\s*{one_of(_FILE, 'counted')}?[\s-]*(?:{one_of(_FILE, 'age')} )?$")
_COUNT_WORDS: Final = {
    count: re.compile(rf"\b{one_of(_FILE, key)}\s+(?:\w+\s+)?$") for count, key in ((2, "two"), (4, "four"))
}
_COUNT_AFTER: Final = re.compile(r"\s*(?:[x*]\s?(\d{1,2})\b|\((\d{1,2})x\))")


@dataclass(frozen=True, slots=True)
class Product:
    """What `data/hardware.toml` says of one name: where a model runs, and how much memory it was sold with, in GB."""

    device: str
    memory_gb: tuple[float, ...]
    mobile_gb: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """A product at a place of a turn; `count` of them, which one model may use together where `pooled`."""

    product: Product
    start: int
    end: int
    count: int = 1
    pooled: bool = False
    mobile: bool = False

    @property
    def memory_gb(self) -> float | None:
        """Memory of one, where the product was sold with one size only."""
        sizes = self.product.mobile_gb if self.mobile and self.product.mobile_gb else self.product.memory_gb
        return sizes[0] if len(sizes) == 1 else None

    @property
    def cards(self) -> int:
        """How many cards the model may use."""
        return self.count if self.pooled else 1


@lru_cache(maxsize=1)
def _catalogue() -> tuple[Lexicon, tuple[Product, ...]]:
    """Names of products as a lexicon whose keys are places in the list of products."""
    products: list[Product] = []
    phrases: dict[str, list[str]] = {}
    for entry in load("hardware")["product"]:
        key = str(len(products))
        products.append(Product(entry["device"], tuple(entry["memory_gb"]), tuple(entry.get("mobile_gb", ()))))
        phrases[key] = sorted(_spellings(entry))
    return Lexicon(phrases), tuple(products)


def _spellings(entry: dict[str, Any]) -> Iterator[str]:
    series = load(_FILE)["series"]["any"]
    names = [name.replace("# ", f"{one} ") for name in entry["names"] for one in series if "# " in name]
    names += [name for name in entry["names"] if "# " not in name] + entry.get("bare", [])
    for name in names:
        head, _, tail = name.rpartition(" ")
        yield from {name, name.replace(" ", ""), head + tail if head else name}
        if name[-1].isalnum() and name[-1].isascii() and any(char.isdigit() for char in name):
            yield name + "s"


def machines(reading: Reading, numerals: list[Numeral]) -> list[Machine]:
    """The products that a turn names, the longest name at each place, without those that are denied."""
    names, products = _catalogue()
    flat = _TIMES.sub(" ", reading.folded)
    found: list[Machine] = []
    for hit in sorted(names.find(flat), key=lambda hit: (hit.start, -hit.end)):
        if found and hit.start < found[-1].end:
            continue
        if _NOT_A_CARD.match(flat, hit.end) or not reading.states(hit.start):
            continue
        sentence = reading.sentence_at(hit.start)
        count = _count(reading.folded, hit, numerals)
        mobile = bool(_LAPTOP.search(reading.folded, sentence.start, sentence.end))
        pooled = count > 1 and bool(reading.said("all_cards", sentence)) and not reading.said("one_card", sentence)
        found.append(Machine(products[int(hit.key)], hit.start, hit.end, count, pooled, mobile))
    return found


def _count(folded: str, hit: Hit, numerals: list[Numeral]) -> int:
    for numeral in numerals:
        near = 0 <= hit.start - numeral.end <= 20 and numeral.value in range(2, 17)
        if near and _COUNT_GAP.fullmatch(folded[numeral.end : hit.start]):
            return int(numeral.value)
    before = folded[max(0, hit.start - 24) : hit.start]
    if (worded := next((count for count, words in _COUNT_WORDS.items() if words.search(before)), None)) is not None:
        return worded
    if after := _COUNT_AFTER.match(folded, hit.end):
        return int(after.group(1) or after.group(2))
    return 1


def devices(reading: Reading, named: list[Machine]) -> list[Mention]:
    """Where the model runs, by every word of a turn that says so; `weight` tells which word wins."""
    found = [mention for machine in named for mention in _of_machine(reading, machine)]
    for hit in reading.find("devices"):
        if any(machine.start <= hit.start < machine.end for machine in named) or not reading.states(hit.start):
            continue
        hard = not reading.wished(hit.start)
        match hit.key:
            case "no_gpu":
                found.append(Mention("device", "cpu", hit.start, hit.end, hard, "no_gpu", 4))
            case "leave_gpu" if named:
                found.append(Mention("device", "cpu", hit.start, hit.end, hard, "no_gpu", 4))
            case "cpu" if not reading.denied_before(hit.start, 2):
                runs = _CPU_CONTEXT.search(reading.folded[max(0, hit.start - 20) : hit.start]) or _CPU_ONLY.match(
                    reading.folded, hit.end
                )
                found.append(Mention("device", "cpu", hit.start, hit.end, hard, "cpu", 3 if runs else 1.6))
            case "small" if _runs_there(reading, hit):
                found.append(Mention("device", "cpu", hit.start, hit.end, hard, "small", 1.5))
            case "gpu":
                found.append(Mention("device", None, hit.start, hit.end, hard, "gpu", 0))
    return found


def _of_machine(reading: Reading, machine: Machine) -> Iterator[Mention]:
    if reading.denied_before(machine.start, 3):
        return
    hard = not reading.wished(machine.start)
    kind = machine.product.device
    if kind == "processor":
        yield Mention("device", "cpu", machine.start, machine.end, hard, kind, 0.5)
    elif kind == "other":
        yield Mention("device", None, machine.start, machine.end, hard, "other", 2)
    else:
        yield Mention("device", kind, machine.start, machine.end, hard, "product", 2)


def _runs_there(reading: Reading, hit: Hit) -> bool:
    """Whether the model runs on the small thing named here, which else may be what is talked about."""
    folded = reading.folded
    if _NOT_THE_DEVICE.match(folded, hit.end) or reading.denied_before(hit.start, 2):
        return False
    before = folded[max(0, hit.start - 40) : hit.start]
    return bool(_RUNS_ON.search(before) or _DEVICE_FOLLOWS.match(folded, hit.end) or not before.strip())
