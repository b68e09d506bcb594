"""From what each turn says to what is in force after the last one: corrections, withdrawals, additions.

No text is read here beyond the cues that `Reading` holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from assistant.clauses import Piece, Reading
from assistant.mention import Mention
from recommender.constraints import Constraints, Span, Stated

NUMBERS: Final = ("memory_gb", "max_parameters_b", "min_context_tokens", "min_tokens_per_s", "max_usd_per_mtok")
_NEED_A_VALUE_BEFORE: Final = ("no_limit", "money", "k")
_PRONOUNS: Final = frozenset(
    {"one", "un", "une", "uno", "una", "um", "uma", "ein", "eine", "eins", "jeden", "jedna", "ek", "一", "এক"}
)


@dataclass(frozen=True, slots=True)
class Said:
    """A mention with its place in the dialogue."""

    mention: Mention
    span: Span

    @property
    def stated(self) -> Stated[Any]:
        """As a slot of `Constraints`."""
        return Stated(value=self.mention.value, hard=self.mention.hard, span=self.span)


@dataclass
class Dialogue:
    """What is in force so far."""

    slots: dict[str, Said] = field(default_factory=dict)
    languages: dict[str, Said] = field(default_factory=dict)
    tasks: list[Said] = field(default_factory=list)
    topics: list[Said] = field(default_factory=list)
    numbers_said: list[str] = field(default_factory=list)
    last_set: list[str] = field(default_factory=list)

    def hear(self, reading: Reading, mentions: list[Mention]) -> None:
        """Take in one turn."""
        spent = self._withdraw(reading, mentions)
        left = [mention for mention in mentions if mention not in spent]
        self.last_set = sorted({mention.slot for mention in left if mention.slot}) or self.last_set
        self._hear_scored(reading, left)
        self._hear_languages(reading, left, withdrawn=any(mention.slot == "languages" for mention in spent))
        self._hear_machine(reading, left)
        for slot in ("max_parameters_b", "min_context_tokens", "min_tokens_per_s", "max_usd_per_mtok"):
            self._hear_number(reading, slot, left)
        self._hear_bare(reading, left)
        for slot in ("license", "local_only", "finetune"):
            self._hear_choice(reading, slot, left)

    # withdrawals

    def _withdraw(self, reading: Reading, mentions: list[Mention]) -> list[Mention]:
        """Empty the slots that a turn takes back; gives the mentions that only named what is taken back."""
        spent: list[Mention] = []
        if reading.first:
            return spent
        named = reading.find("limits", "slot")
        emptied: set[str] = set()
        for cue in reading.cues.get("retract", ()):
            clause = reading.clause_at(cue.start)
            inside = [mention for mention in mentions if clause.holds(mention.start)]
            of_values = [mention for mention in inside if self._in_force(mention)]
            spent += of_values
            named_here = {hit.key for hit in named if clause.holds(hit.start)} - {"languages"}
            spent += [mention for mention in mentions if mention.slot in named_here and mention.start < clause.start]
            slots = {mention.slot for mention in of_values} | {hit.key for hit in named if clause.holds(hit.start)}
            for slot in slots - {"languages"}:
                self._empty(slot, of_values)
            for mention in of_values:
                if mention.slot == "languages":
                    self.languages.pop(mention.value, None)
            if "languages" in slots and not any(mention.slot == "languages" for mention in inside):
                self.languages.clear()
            emptied |= slots
        if reading.cues.get("retract") and not emptied and not mentions:
            for slot in self.last_set:
                self._empty(slot, [])
        return spent

    def _in_force(self, mention: Mention) -> bool:
        if mention.slot == "languages":
            return mention.value in self.languages
        said = self.slots.get(mention.slot)
        return said is not None and said.mention.value == mention.value

    def _empty(self, slot: str, of_values: list[Mention]) -> None:
        if slot == "device" and any(mention.kind == "product" for mention in of_values):
            self.slots.pop("memory_gb", None)
        if slot == "finetune" and slot in self.slots:
            self.slots[slot] = _as(self.slots[slot], False)
        elif slot == "languages":
            self.languages.clear()
        elif slot == "task":
            self.tasks.clear()
        elif slot == "domain":
            self.topics.clear()
        else:
            self.slots.pop(slot, None)

    # tasks and topics: what most was said of

    def _hear_scored(self, reading: Reading, mentions: list[Mention]) -> None:
        for slot, so_far in (("task", self.tasks), ("domain", self.topics)):
            new = [mention for mention in mentions if mention.slot == slot and mention.kind != "denied"]
            denied = {mention.value for mention in mentions if mention.slot == slot and mention.kind == "denied"}
            so_far[:] = [said for said in so_far if said.mention.value not in denied]
            if not reading.first and any(_corrects(reading, mention) and mention.weight >= 1 for mention in new):
                so_far.clear()
            so_far.extend(_said(reading, mention) for mention in new)

    # languages

    def _hear_languages(self, reading: Reading, mentions: list[Mention], *, withdrawn: bool) -> None:
        new = [mention for mention in mentions if mention.slot == "languages" and mention.kind != "denied"]
        denied = [mention.value for mention in mentions if mention.slot == "languages" and mention.kind == "denied"]
        changed = withdrawn or any(code in self.languages for code in denied)
        for code in denied:
            self.languages.pop(code, None)
        if not new:
            return
        if not reading.first:
            alone = any(reading.said("only", reading.clause_at(mention.start)) for mention in new)
            corrected = any(reading.said("correct", reading.sentence_at(mention.start)) for mention in new)
            added = any(reading.said("add", reading.clause_at(mention.start)) for mention in new[:1])
            if alone and (changed or corrected):
                self.languages.clear()
            elif corrected and not changed and not (added and len(new) == 1):
                self._replace_languages(new)
        for mention in new:
            known = self.languages.get(mention.value)
            if known is None or (mention.hard and not known.mention.hard):
                self.languages[mention.value] = _said(reading, mention)

    def _replace_languages(self, new: list[Mention]) -> None:
        """Remove what a correction replaces: the same side of a translation, or everything."""
        kinds = {mention.kind for mention in new} - {""}
        sides = {said.mention.kind for said in self.languages.values()} - {""}
        if kinds and sides:
            for code in [code for code, said in self.languages.items() if said.mention.kind in kinds]:
                del self.languages[code]
        elif not kinds or len(self.languages) <= len(new):
            self.languages.clear()

    # the machine

    def _hear_machine(self, reading: Reading, mentions: list[Mention]) -> None:
        """Where the model runs and what memory it has there, which belong together."""
        devices = [mention for mention in mentions if mention.slot == "device"]
        memory = [mention for mention in mentions if mention.slot == "memory_gb"]
        if devices:
            best = max(devices, key=lambda mention: (mention.hard, mention.weight, -mention.start))
            before = self.slots.get("device")
            if best.kind not in ("gpu",) and best.weight >= 1:
                changed = before is not None and before.mention.value != best.value
                self._forget_other_machine(best, changed=changed or (before is not None and best.kind == "product"))
                self.slots["device"] = _said(reading, best)
            elif best.weight >= 0.5 and before is None and not any(d.kind == "gpu" for d in devices):
                self.slots["device"] = _said(reading, best)
        runs = self.slots.get("device")
        device = runs.mention.value if runs else None
        cards = runs is not None and device != "cpu" and runs.mention.kind in ("product", "other")
        known = "memory_gb" in self.slots and not any(_corrects(reading, mention) for mention in memory)
        chosen = _memory_of(memory, on_cpu=device == "cpu", cards=cards and device != "mps", known=known)
        if chosen is not None and not self._outranked(chosen):
            self.slots["memory_gb"] = _said(reading, chosen)
            self.numbers_said.append("memory_gb")

    def _forget_other_machine(self, best: Mention, *, changed: bool) -> None:
        memory = self.slots.get("memory_gb")
        if memory is None or not changed or memory.mention.kind == "cap":
            return
        if best.kind != "no_gpu" or memory.mention.kind in ("implied", "vram", "card"):
            del self.slots["memory_gb"]

    def _outranked(self, chosen: Mention) -> bool:
        """Whether a later word says less than what is known: a product's size beside a cap, a wish beside a rule."""
        known = self.slots.get("memory_gb")
        if known is None:
            return False
        return (chosen.kind == "implied" and known.mention.kind == "cap") or (known.mention.hard and not chosen.hard)

    # numbers and choices

    def _hear_number(self, reading: Reading, slot: str, mentions: list[Mention]) -> None:
        new = [mention for mention in mentions if mention.slot == slot]
        limits = [mention for mention in new if mention.kind not in _NEED_A_VALUE_BEFORE]
        if not limits and slot in self.slots:
            limits = new
        chosen = [mention for mention in limits if mention.hard] or limits
        if chosen and not (slot in self.slots and self.slots[slot].mention.hard and not chosen[-1].hard):
            self.slots[slot] = _said(reading, chosen[-1])
            self.numbers_said.append(slot)

    def _hear_bare(self, reading: Reading, mentions: list[Mention]) -> None:
        """Numbers without a unit correct the slot whose value is named beside them, or the last that was spoken of."""
        bare = [
            mention
            for mention in mentions
            if mention.slot == "" and reading.folded[mention.start : mention.end] not in _PRONOUNS
        ]
        if reading.first:
            wished = any(slot in self.slots and not self.slots[slot].mention.hard for slot in self.numbers_said)
            bare = [mention for mention in bare if wished or _corrects(reading, mention)]
        known = {slot: self.slots[slot].mention.value for slot in reversed(self.numbers_said) if slot in self.slots}
        values = {mention.value for mention in bare}
        slot = next((slot for slot, value in known.items() if value in values), next(iter(known), ""))
        if any(mention.kind == "k" for mention in bare):
            slot = "min_context_tokens" if "min_context_tokens" in known else ""
        new = [mention for mention in bare if mention.value != known.get(slot)]
        if not slot or not new:
            return
        last = new[-1]
        if any(mention.slot == slot and mention.start > last.start for mention in mentions):
            return
        if (
            known[slot] in values
            or not self.slots[slot].mention.hard
            or _corrects(reading, last)
            or _is_short(reading, reading.clause_at(last.start))
        ):
            kind = self.slots[slot].mention.kind
            self.slots[slot] = _said(reading, Mention(slot, _like(slot, last), last.start, last.end, last.hard, kind))

    def _hear_choice(self, reading: Reading, slot: str, mentions: list[Mention]) -> None:
        """Licence, place of data, training: names before "commercial", rules before wishes, later before earlier."""
        new = [mention for mention in mentions if mention.slot == slot]
        if not new:
            return
        best = max(new, key=lambda mention: (mention.hard, mention.weight, mention.start))
        before = self.slots.get(slot)
        if before is not None and before.mention.hard and not best.hard:
            return
        if (
            slot == "license"
            and before is not None
            and before.mention.weight > best.weight
            and not _corrects(reading, best)
        ):
            return
        self.slots[slot] = _said(reading, best)

    # the outcome

    def constraints(self) -> Constraints:
        """What is in force, with the place where each slot was said."""
        found = {slot: said.stated for slot, said in self.slots.items() if said.mention.value is not None}
        if (task := _most(self.tasks)) is not None:
            found["task"] = _as(task, task.mention.value, hard=True).stated
        if self.languages:
            found["languages"] = self._languages()
        if (topic := _most(self.topics)) is not None:
            found["domain"] = _as(topic, topic.mention.value, hard=True).stated
            within = [said for said in self.topics if said.mention.value == topic.mention.value and said.mention.kind]
            if (best := _most(within, by_kind=True)) is not None:
                found["subdomain"] = _as(best, best.mention.kind, hard=True).stated
        return Constraints(**found)

    def _languages(self) -> Stated[tuple[str, ...]]:
        hard = {code: said for code, said in self.languages.items() if said.mention.hard}
        chosen = hard or self.languages
        first = min(chosen.values(), key=lambda said: (said.span.turn, said.span.start))
        return Stated(value=tuple(sorted(chosen)), hard=bool(hard), span=first.span)


def _said(reading: Reading, mention: Mention) -> Said:
    return Said(mention, reading.text.span(mention.start, mention.end))


def _as(said: Said, value: Any, *, hard: bool | None = None) -> Said:
    old = said.mention
    return Said(
        Mention(old.slot, value, old.start, old.end, old.hard if hard is None else hard, old.kind, old.weight),
        said.span,
    )


def _corrects(reading: Reading, mention: Mention) -> bool:
    """Whether a word of correction stands before a mention in its sentence, or anywhere in its clause."""
    sentence, clause = reading.sentence_at(mention.start), reading.clause_at(mention.start)
    return bool(reading.said("correct", clause)) or any(
        cue.start < mention.start for cue in reading.said("correct", sentence)
    )


def _is_short(reading: Reading, clause: Piece) -> bool:
    return len(reading.folded[clause.start : clause.end].split()) <= 4


def _like(slot: str, bare: Mention) -> float:
    """A bare number in the unit of a slot: of a context below a thousand, thousands are meant."""
    if slot == "max_parameters_b" and bare.value >= 1e6:
        return float(bare.value / 1e9)
    if slot != "min_context_tokens" or bare.kind == "k" or bare.value >= 1000:
        return round(bare.value) if slot == "min_context_tokens" else float(bare.value)
    whole = int(bare.value)
    return whole * (1024 if whole & (whole - 1) == 0 else 1000)


def _most(said: Iterable[Said], *, by_kind: bool = False) -> Said | None:
    """The first mention of the value with the largest sum of weights; among equals the earlier."""
    totals: dict[Any, float] = {}
    firsts: dict[Any, Said] = {}
    for one in said:
        value = one.mention.kind if by_kind else one.mention.value
        firsts.setdefault(value, one)
        totals[value] = totals.get(value, 0.0) + one.mention.weight
    return firsts[max(totals, key=lambda value: totals[value])] if totals else None


def _memory_of(found: list[Mention], *, on_cpu: bool, cards: bool, known: bool) -> Mention | None:
    """What the model may take: a cap, else the card's memory, else what its name implies; on a processor RAM."""
    order = ["cap", "ram", "", "vram", "card"] if on_cpu else ["cap", "vram", "card", "implied", "", "ram"]
    if cards:
        order.remove("ram")
        if known:
            order = [kind for kind in order if kind]
    if on_cpu:
        order = [kind for kind in order if kind not in ("vram", "card")]
    usable = [mention for mention in found if mention.kind in order]
    return min(usable, key=lambda mention: (not mention.hard, order.index(mention.kind), -mention.start), default=None)
