"""Does a model give away what it was trained on? Prompts sampled from it, beside its training rows.

Only who has the rows can tell (U13): the child, before it publishes. A prompt repeats a row word for word when both
are the same but for case, spaces and punctuation; it repeats it nearly when they share a run of eight words, or are
alike to nine tenths (Ratcliff and Obershelp's measure, of difflib).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

RUN_WORDS: Final = 8  # as in the deduplication of training data (arXiv 2107.06499, there 50 tokens of long documents)
ALIKE: Final = 0.9
CLOSE_ROWS: Final = 20  # of a prompt, the rows that share most groups of three letters are compared

_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Repeated:
    """Of `prompts` sampled prompts, how many repeat a training row word for word, and how many nearly besides."""

    prompts: int
    verbatim: int
    nearly: int

    @property
    def share(self) -> float:
        """The part that repeats a row in either way, 0 to 1."""
        return (self.verbatim + self.nearly) / self.prompts if self.prompts else 0.0


class TrainingTexts:
    """What was trained on, indexed so that the rows like a text are found without a look at all."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(dict.fromkeys(filter(None, map(plain, texts))))
        self.known = set(self.texts)
        self.runs = {run for text in self.texts for run in runs_of(text)}
        self.with_letters: defaultdict[str, list[int]] = defaultdict(list)
        for number, text in enumerate(self.texts):
            for letters in threes(text):
                self.with_letters[letters].append(number)

    def near(self, text: str) -> bool:
        """Whether a text repeats one of them nearly."""
        if not self.runs.isdisjoint(runs_of(text)):
            return True
        shared = Counter(number for letters in threes(text) for number in self.with_letters.get(letters, ()))
        return any(alike(text, self.texts[number]) for number, _ in shared.most_common(CLOSE_ROWS))


def repeated(prompts: Sequence[str], training: Iterable[str]) -> Repeated:
    """Count what repeats a training row."""
    known = TrainingTexts(training)
    said = [plain(prompt) for prompt in prompts]
    verbatim = sum(text in known.known for text in said)
    return Repeated(len(said), verbatim, sum(text not in known.known and known.near(text) for text in said))


def plain(text: str) -> str:
    """The words of a text in lower case, with single spaces."""
    return " ".join(_WORD.findall(text.lower()))


def runs_of(text: str) -> set[str]:
    """Every run of eight words."""
    words = text.split()
    return {" ".join(words[at : at + RUN_WORDS]) for at in range(len(words) - RUN_WORDS + 1)}


def threes(text: str) -> set[str]:
    """Every group of three letters."""
    return {text[at : at + 3] for at in range(len(text) - 2)}


def alike(one: str, other: str) -> bool:
    """Whether two texts are the same to nine tenths."""
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return matcher.real_quick_ratio() >= ALIKE and matcher.quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE
