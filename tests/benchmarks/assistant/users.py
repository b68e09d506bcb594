"""Simulated users: a hidden need out of parts of written dialogues, and how it is told."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from assistant.questions import Question
from recommender.constraints import Constraints, Stated

DONT_KNOW, TAKES_BACK = 0.1, 0.1
# How probable it is that somebody has this need at all, once asked; each dialogue scales them by 0.5 to 1.5.
HAS: Final = {"languages": 0.7, "subject": 0.7, "machine": 0.85, "license": 0.35, "local_only": 0.6, "finetune": 0.3}
HAS_MORE: Final = {"min_context_tokens": 0.3, "min_tokens_per_s": 0.25, "max_parameters_b": 0.15}
GROUPS: Final = {"subject": ("domain", "subdomain"), "machine": ("device", "memory_gb")}
SPOKEN: Final = {
    "da": "Danish", "nl": "Dutch", "en": "English", "fi": "Finnish", "fr": "French", "de": "German",
    "it": "Italian", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "es": "Spanish", "sv": "Swedish",
    "cs": "Czech", "sk": "Slovak", "el": "Greek", "hu": "Hungarian", "ro": "Romanian", "uk": "Ukrainian",
    "ca": "Catalan", "eu": "Basque", "ja": "Japanese", "ko": "Korean", "zh": "Mandarin", "ar": "Arabic",
    "tr": "Turkish", "hi": "Hindi", "bn": "Bengali", "vi": "Vietnamese", "he": "Hebrew", "lt": "Lithuanian",
    "la": "Latin", "tl": "Tagalog", "id": "Bahasa Indonesia", "ru": "Russian",
}  # fmt: skip
DOES: Final = {
    "text-generation": "a model to chat with", "text-classification": "a model that classifies texts",
    "token-classification": "a model for named entity recognition",
    "question-answering": "a model for extractive question answering",
    "summarization": "a model for summarization", "translation": "a model for translation",
    "feature-extraction": "an embedding model for semantic search",
}  # fmt: skip

Values = dict[str, Any]


@dataclass
class User:
    """A hidden need, and how it is told. The same question gets the same answer under every policy."""

    hidden: Values
    volunteered: Values
    unsure: frozenset[str]
    seed: int

    def opening(self) -> str:
        """What the conversation begins with."""
        machine = {slot: value for slot, value in self.volunteered.items() if slot in GROUPS["machine"]}
        rest = [
            said({slot: value}) for slot, value in self.volunteered.items() if slot in _WORDS and slot not in machine
        ]
        rest += [said(machine)] if machine else []
        return ". ".join([f"We need {DOES[self.hidden['task']]}", *rest]) + "."

    def answers(self, asked: Question, other: Values) -> list[str]:
        """One turn, or two where the first was a mistake; `other` is somebody else's need, to be mistaken with."""
        chance = random.Random(f"{self.seed} {asked.name}")
        slots = GROUPS.get(asked.name, asked.slots)
        mine = {slot: self.hidden[slot] for slot in slots if slot in self.hidden}
        if not mine and self.unsure & {*slots}:
            return ["I don't know"]
        if not mine:
            return [chance.choice(["It doesn't matter", "no preference"])]
        false = {slot: other[slot] for slot in mine if slot in other}
        if chance.random() < TAKES_BACK and false and false != mine and "domain" not in mine:
            return [said(false), f"Sorry, I meant: {said(mine)}"]
        return [said(mine)]


def said(values: Values) -> str:
    """Values in the words of a user."""
    parts = [_WORDS[slot](value) for slot, value in values.items() if slot in _WORDS and slot != "memory_gb"]
    if memory := values.get("memory_gb"):
        what = {"cuda": "VRAM", "cpu": "RAM"}.get(values.get("device", ""), "memory")
        parts.append(f"{memory:g} GB of {what}")
    return ", ".join(part for part in parts if part) or "It doesn't matter"


_WORDS: Final[dict[str, Callable[[Any], str]]] = {
    "task": lambda value: DOES[value],
    "languages": lambda value: f"{' and '.join(SPOKEN.get(code, code) for code in value)} texts",
    "domain": lambda value: f"{value} texts",
    "device": lambda value: {"cpu": "no GPU, CPU only", "cuda": "an NVIDIA card", "mps": "an Apple Silicon Mac"}[value],
    "max_parameters_b": lambda value: f"at most {value:g}B parameters",
    "min_context_tokens": lambda value: f"at least {value} tokens of context",
    "min_tokens_per_s": lambda value: f"at least {value:g} tokens per second",
    "license": lambda value: "yes, we will sell it" if value == "commercial" else f"the licence must be {value}",
    "local_only": lambda value: "yes, nothing may leave our premises" if value else "no, a cloud API is fine",
    "finetune": lambda value: "yes, we will fine-tune it" if value else "no, we will not fine-tune it",
}


def user(golds: Sequence[Values], chance: random.Random, seed: int, *, terse: bool) -> User:
    """Somebody with a need from parts of several dialogues. What is not known to the user is no part of the need.

    A terse user opens with the task alone; others volunteer each part as often as the dialogues state it.
    """
    scale = chance.uniform(0.5, 1.5)
    need: Values = {}
    volunteered: Values = {}
    unsure: set[str] = set()

    def part(slots: Sequence[str]) -> Values:
        telling = [gold for gold in golds if gold[slots[0]] is not None]
        gold = chance.choice(telling)
        return {slot: _frozen(gold[slot]) for slot in slots if gold[slot] is not None}

    need |= part(("task",))
    for name, has in {**HAS, **HAS_MORE}.items():
        slots = GROUPS.get(name, (name,))
        found, told = part(slots), chance.random() * has
        if chance.random() >= has * scale:
            continue
        if chance.random() < DONT_KNOW:
            unsure |= {*slots}
            continue
        need |= found
        if not terse and told < sum(gold[slots[0]] is not None for gold in golds) / len(golds):
            volunteered |= found
    return User(need, volunteered, frozenset(unsure), seed)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def full(values: Values) -> Constraints:
    """The whole need as rules."""
    return Constraints(**{slot: Stated[Any](value=value) for slot, value in values.items()})
