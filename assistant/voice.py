"""What is said to the user, in their language: sentences, phrases and questions of `data/say_*.toml`.

The recommender speaks English. A phrase of its is found again by its English form, with what stands in its places, and
said in the other language; one that is not found stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from assistant.lexicon import load
from assistant.questions import Question
from assistant.speech import SPOKEN, spoken_surely
from assistant.text import fold

ENGLISH: Final = "en"
_PLACES: Final = {
    **dict.fromkeys("nm", r"-?[\d.,]+"),
    **dict.fromkeys("sab", r"[+-][\d.,]+"),
    **dict.fromkeys("xypq", r".+?"),
    "o": r".*?",
    "d": r"[\d-]+",
}
_INNER: Final = frozenset("pq")  # places of other phrases
_LISTS: Final = ("; ", ", ")
_TO_BEGIN, _TO_CHANGE = 2, 3  # weight of words: one that only one language has, more than one


class Voice:
    """One language."""

    def __init__(self, language: str) -> None:
        data = load(f"say_{language}")
        self.language = language
        self._sentences: dict[str, str] = data["sentences"]
        self._phrases: dict[str, str] = data["phrases"]
        self._questions: dict[str, dict[str, Any]] = data.get("questions", {})

    def say(self, key: str, **values: object) -> str:
        """A sentence with its places filled."""
        return self._sentences[key].format(**values)

    def phrase(self, english: str) -> str:
        """A phrase of the recommender, or several in a list, in this language."""
        if self.language == ENGLISH:
            return english
        for key, form in _english_forms():
            if (found := form.fullmatch(english)) is not None:
                places = found.groupdict()
                inner = {name: self.phrase(text) if name in _INNER else text for name, text in places.items()}
                return self._phrases[key].format(**inner)
        for joint in _LISTS:
            if joint in english:
                return joint.join(self.phrase(part) for part in english.split(joint))
        return english

    def phrases(self, english: Sequence[str]) -> str:
        """Several, one after the other."""
        return "; ".join(self.phrase(one) for one in english)

    def ask(self, question: Question) -> str:
        """A question with its options, numbered."""
        said = self._questions.get(question.name)
        if said is None:
            return question.text()
        options = said.get("says", [])
        return "\n".join([said["ask"], *(f"  {number}. {one}" for number, one in enumerate(options, start=1))])


@lru_cache(maxsize=len(SPOKEN))
def voice(language: str) -> Voice:
    """The voice of a language that is understood; English for every other."""
    return Voice(language if language in SPOKEN else ENGLISH)


def language_after(text: str, before: str) -> str:
    """The language to answer a text in: its own where its words tell, else that of the conversation `before` it."""
    return spoken_surely(fold(text), _TO_CHANGE if before else _TO_BEGIN) or before


@lru_cache(maxsize=1)
def _english_forms() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """The English phrases as patterns; those that say most come first, so that no part is taken for the whole."""
    phrases: dict[str, str] = load(f"say_{ENGLISH}")["phrases"]
    forms = [(key, _pattern(phrase)) for key, phrase in phrases.items()]
    return tuple(sorted(forms, key=lambda form: -len(re.sub(r"\{.\}", "", phrases[form[0]]))))


def _pattern(phrase: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w)\}", phrase)  # text, place, text, ...
    return re.compile(
        "".join(re.escape(part) if odd % 2 == 0 else f"(?P<{part}>{_PLACES[part]})" for odd, part in enumerate(parts))
    )
