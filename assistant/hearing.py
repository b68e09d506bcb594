"""What one text of the user comes to, where the conversation stands: an answer, news about the need, a wish to act."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from assistant.clauses import Reading
from assistant.lexicon import find, load
from assistant.questions import Option, Question, filled, question, together
from assistant.speech import SPOKEN, spoken
from assistant.state import State
from assistant.text import Text, fold
from recommender.constraints import Constraints

Extract = Callable[[Sequence[str]], Constraints]

WHOLE: Final = ("yes", "no", "finetune")  # mean what they mean only if nothing else is said
CRITIQUES: Final = ("smaller", "faster", "cheaper", "longer")
_SHORT_WORDS: Final = 8  # in more words than these "any" or "why" are about something else
_MARKS: Final = " \t\n.,;:!?)(\"'"
_NUMBER: Final = re.compile(r"\d{1,9}(?:[.,]\d{1,9})?")
_NUMBERS: Final = re.compile(r"\d{1,2}(?:(?:\s*(?:,|&|\+|and)\s*|\s+)\d{1,2}){0,9}")  # "1, 3 and 4"
_FILE: Final = re.compile(
    r"""["'`](?P<quoted>[^"'`\n]{1,300}\.{ending})["'`]|(?P<bare>[^\s"'`]{1,300}\.{ending})(?![^\s.,;:!?)"'`])""".replace(
        "{ending}", "(?:jsonl|json|csv|tsv|parquet)"
    ),
    re.IGNORECASE,
)
_JOB: Final = re.compile(r"(?<!\d)\d{1,9}(?!\d)")
_NONE: Final = frozenset(
    map(
        fold,
        [
            *("none", "none of them", "none of these", "nothing", "keine", "keines", "nichts", "ninguno", "ninguna"),
            *("aucun", "aucune", "żadne", "żadna", "żaden", "nenhum", "nenhuma"),
            *("কোনোটিই না", "konotai na", "都不", "都没有", "没有"),
        ],
    )
)


@dataclass(frozen=True, slots=True)
class Heard:
    """The state with what was understood, the slots that are new in it, and what else was said.

    `acts` are keys of `data/replies.toml`; `answered` says that the pending question has its answer, or will have none.
    """

    state: State
    news: frozenset[str]
    acts: frozenset[str]
    answered: bool


def hear(state: State, text: str, extract: Extract) -> Heard:
    """Understand a text. A plain answer to the pending question is taken as such, all else is read with what was said.

    Raises:
        BadData: the conversation is too long (see `extract`).
    """
    folded = _plain_text(text)
    acts = acts_in(text)
    asked = question(state.pending) if state.pending else None
    if asked is not None and (option := _plain(asked, folded, acts)) is not None:
        return _chose(state, option, acts)
    if asked is not None and asked.unit and (number := _bare_number(folded)) is not None:
        return _chose(state, Option("", (), 0, {asked.slots[0]: number}), acts)
    if asked is not None and "unknown" in acts:
        return Heard(state.model_copy(update={"pending": ""}), frozenset(), acts, answered=True)
    return _read(state, text, folded, acts, extract)


def acts_in(text: str) -> frozenset[str]:
    """What a short text says beside a need; keys of `data/replies.toml`. The name of a file in it is passed over."""
    file = _FILE.search(text)
    folded = _plain_text(text if file is None else text[: file.start()] + text[file.end() :])
    plain = folded.replace("-", " ")
    found = {hit.key for hit in find("replies", SPOKEN, folded) if hit.key not in WHOLE}
    found |= {key for key in WHOLE if plain in _phrases(key)}
    if file is not None and any(plain.startswith(phrase) for phrase in _phrases("finetune")):
        found.add("finetune")
    return frozenset(found) if len(folded.split()) <= _SHORT_WORDS else frozenset()


def file_in(text: str) -> str:
    """The name of a file of rows in a text, as it was typed; "" where there is none."""
    found = _FILE.search(text)
    return (found["quoted"] or found["bare"]) if found is not None else ""


def job_in(text: str) -> int:
    """The number of the job in a text, 0 where there is none."""
    found = _JOB.search(fold(text))
    return int(found[0]) if found is not None else 0


def _plain_text(text: str) -> str:
    return " ".join(fold(text).split()).strip(_MARKS).removesuffix(" please")


def asks_for_model(text: str) -> bool:
    """Whether a text that names no need asks for a model all the same."""
    read = Text.of(text)
    reading = Reading.of(read, spoken(read.folded), first=True)
    return bool(reading.cues.get("need") or reading.cues.get("model"))


def _read(state: State, text: str, folded: str, acts: frozenset[str], extract: Extract) -> Heard:
    turns = (*state.turns, text)
    said = extract(turns)
    news = frozenset(slot for slot in Constraints.model_fields if _value(said, slot) != _value(state.said, slot))
    taken_back = frozenset(_taken_back(text))
    gone = {slot: None for slot, _ in state.chosen.stated() if slot in news | taken_back}
    heard = state.model_copy(update={"turns": turns, "said": said, "chosen": state.chosen.model_copy(update=gone)})
    news |= gone.keys()
    if not state.pending:
        return Heard(heard, news, acts, answered=False)
    asked = question(state.pending)
    option = _named(asked, folded) or _measured(asked, folded, news)
    if option is not None:
        filling = filled(heard.need, option.fills)
        new = {slot: found for slot, found in filling.stated() if getattr(heard.need, slot) is None}
        heard = heard.model_copy(update={"chosen": heard.chosen.model_copy(update=new)})
        news |= new.keys()
    answered = option is not None or bool(news & {*asked.slots})
    return Heard(heard.model_copy(update={"pending": ""}) if answered or news else heard, news, acts, answered)


def _chose(state: State, option: Option, acts: frozenset[str]) -> Heard:
    new = dict(filled(Constraints(), option.fills).stated())
    chosen = state.chosen.model_copy(update=new)
    heard = state.model_copy(update={"chosen": chosen, "pending": ""})
    return Heard(heard, frozenset(new), acts, answered=True)


def _plain(asked: Question, folded: str, acts: frozenset[str]) -> Option | None:
    """The option that a text is, and nothing more: its number, its words, yes or no; the numbers of several."""
    if asked.listed and _NUMBERS.fullmatch(folded):
        numbers = [int(number) for number in re.findall(r"\d+", folded)]
        if (len(numbers) > 1 and not asked.several) or not all(1 <= one <= len(asked.options) for one in numbers):
            return None
        return together([asked.options[number - 1] for number in sorted(numbers)])
    if asked.several and (folded in _NONE or "no" in acts):
        return together([])
    for number, option in enumerate(asked.options):
        label = fold(option.says)
        if folded in (*_labels(asked, number), *option.words) or label.partition(",")[0] in acts & {"yes", "no"}:
            return option
    return None


def _named(asked: Question, folded: str) -> Option | None:
    """The option of which a text holds the longest words; all such where several may hold."""
    found = [
        (len(word), -place, option)
        for place, option in enumerate(asked.options)
        for word in (*_labels(asked, place), *option.words)
        if len(word) > len("yes") and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", folded)
    ]
    if asked.several and found:
        return together([option for option in asked.options if any(option is one[2] for one in found)])
    return max(found, key=lambda one: one[:2])[2] if found else None


def _bare_number(folded: str) -> float | None:
    """The one number of a text that says hardly anything else."""
    numbers = _NUMBER.findall(folded)
    if len(numbers) != 1 or len(folded.split()) > 2 or any(char.isalpha() for char in folded):
        return None
    return float(numbers[0].replace(",", ".")) or None


def _measured(asked: Question, folded: str, news: frozenset[str]) -> Option | None:
    """The answer to "how many GB?" where the parser, which does not know the question, read the number otherwise."""
    numbers = _NUMBER.findall(folded)
    if not asked.unit or asked.slots[0] in news or len(numbers) != 1 or len(folded.split()) > _SHORT_WORDS:
        return None
    amount = float(numbers[0].replace(",", "."))
    if asked.unit == "GB" and re.search(r"\bm(?:i?b|ega)", folded):
        amount /= 1024
    return Option("", (), 0, {asked.slots[0]: amount}) if amount else None


def _taken_back(text: str) -> Iterator[str]:
    """Slots that a text names in order to withdraw what was said of them."""
    read = Text.of(text)
    reading = Reading.of(read, spoken(read.folded), first=False)
    if reading.cues.get("retract"):
        yield from (hit.key for hit in reading.find("limits", "slot"))


def _labels(asked: Question, number: int) -> Iterator[str]:
    """How an option is shown, in every language."""
    yield fold(asked.options[number].says)
    for language in SPOKEN:
        says = load(f"say_{language}").get("questions", {}).get(asked.name, {}).get("says", ())
        yield from (fold(one) for one in says[number : number + 1])


@lru_cache(maxsize=len(WHOLE))
def _phrases(key: str) -> frozenset[str]:
    """The phrases of `data/replies.toml` for a key, in all languages."""
    return frozenset(fold(phrase) for phrases in load("replies")[key].values() for phrase in phrases)


def _value(need: Constraints, slot: str) -> tuple[Any, bool] | None:
    stated = getattr(need, slot)
    return None if stated is None else (stated.value, stated.hard)
