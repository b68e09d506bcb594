"""A turn cut into sentences and clauses, and how each is meant: denied, wished, asked, corrected. No slot is filled."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from assistant.lexicon import Hit, find
from assistant.text import Text

_ABBREVIATED: Final = "".join(
    rf"(?<!\b{word})"
    for word in (
        *("max", "min", "mind", "maks", "ca", "approx", "aprox", r"e\.g", r"i\.e", r"z\.b", "bzw", "vs", "mr", "dr"),
        *(r"u\.s", "inkl", "mrd", "mio"),
    )
)
_SENTENCE_END: Final = re.compile(
    rf"{_ABBREVIATED}\.(?!\d)(?=\s|$|[^\x00-\x7f])|\.{{2,}}|[!?;\n]|(?<=[\u0980-\u09ff])\.|(?<=[\u4e00-\u9fff])\."
)
_CLAUSE_END: Final = re.compile(
    r"(?<!\d),|,(?!\d)|[()]|\s-+\s|\s(?:but|however|though|although|whereas|pero|aunque|aber|sondern|"
    r"jedoch|mais|cependant|ale|lecz|mas|porem|contudo|কিন্তু|তবে|kintu|tobe)\s|但|不过|可是"
)
_LONGEST: Final = 500  # characters of a piece: what is longer is no clause, and the work grows with its square
_REACH: Final = 60  # characters: a negator further away belongs to something else


@dataclass(frozen=True, slots=True)
class Piece:
    """Folded characters `start` to `end` of a turn."""

    start: int
    end: int

    def holds(self, start: int) -> bool:
        """Whether a place lies in it."""
        return self.start <= start < self.end


@dataclass(frozen=True)
class Reading:
    """A turn, the languages to read it in, its pieces, and the cues of `clauses.toml` and `limits.toml` in it."""

    text: Text
    languages: tuple[str, ...]
    first: bool = True
    cues: dict[str, list[Hit]] = field(default_factory=dict)
    _found: dict[tuple[str, str], list[Hit]] = field(default_factory=dict)

    def find(self, name: str, section: str = "") -> list[Hit]:
        """The phrases of a data file in this turn; looked up once."""
        if (name, section) not in self._found:
            languages = self.languages if name != "clauses" else _of_small_words(self.languages)
            self._found[name, section] = find(name, languages, self.folded, section)
        return self._found[name, section]

    @classmethod
    def of(cls, text: Text, languages: tuple[str, ...], *, first: bool) -> Reading:
        """Read the cues of a turn; `first` is the turn that opens the dialogue."""
        reading = cls(text, languages, first)
        for hit in (*reading.find("clauses"), *reading.find("limits")):
            reading.cues.setdefault(hit.key, []).append(hit)
        return reading

    @property
    def folded(self) -> str:
        """The folded text."""
        return self.text.folded

    @cached_property
    def sentences(self) -> list[Piece]:
        """The turn cut at the ends of sentences."""
        return _cut(self.folded, Piece(0, len(self.folded)), _SENTENCE_END)

    @cached_property
    def clauses(self) -> list[Piece]:
        """The sentences cut at commas and contrasts."""
        return [clause for sentence in self.sentences for clause in _cut(self.folded, sentence, _CLAUSE_END)]

    def sentence_at(self, place: int) -> Piece:
        """The sentence around a place."""
        return _around(self.sentences, place)

    def clause_at(self, place: int) -> Piece:
        """The clause around a place."""
        return _around(self.clauses, place)

    def next_clause(self, clause: Piece) -> Piece | None:
        """The one after a clause, in the same sentence."""
        after = bisect_left(self.clauses, clause.end, key=lambda other: other.start)
        if after == len(self.clauses) or not self.sentence_at(clause.start).holds(self.clauses[after].start):
            return None
        return self.clauses[after]

    def said(self, cue: str, piece: Piece) -> list[Hit]:
        """Where a cue stands in a piece."""
        hits = self.cues.get(cue, [])
        first = bisect_left(hits, piece.start, key=lambda hit: hit.start)
        return hits[first : bisect_left(hits, piece.end, lo=first, key=lambda hit: hit.start)]

    def denied(self, start: int, end: int) -> bool:
        """Whether a negator stands near characters `start` to `end`, in the same clause, and denies them."""
        clause = self.clause_at(start)
        affirmed = self.said("affirmed", clause)
        for hit in self.said("negator", clause):
            if any(other.start <= hit.start and hit.end <= other.end for other in affirmed):
                continue
            if (hit.end <= start and start - hit.end < _REACH) or (hit.start >= end and hit.start - end < _REACH):
                return True
        return False

    def denied_before(self, start: int, words: int = 4) -> bool:
        """Whether a negator stands at most so many words before a place."""
        clause = self.clause_at(start)
        affirmed = self.said("affirmed", clause)
        return any(
            hit.end <= start
            and len(self.folded[hit.end : start].split()) <= words
            and ":" not in self.folded[hit.end : start]
            and not any(other.start <= hit.start and hit.end <= other.end for other in affirmed)
            for hit in self.said("negator", clause)
        )

    def wished(self, place: int) -> bool:
        """Whether what stands here is a wish: a hedge in its clause, or alone in the next one."""
        clause = self.clause_at(place)
        if self.said("hedge", clause):
            return not self.said("insist", clause) or bool(self._unbinding(clause))
        after = self.next_clause(clause)
        return (
            after is not None
            and len(self.folded[after.start : after.end].split()) <= 8
            and bool(self._unbinding(after))
        )

    def _unbinding(self, clause: Piece) -> list[Hit]:
        """Hedges that say that something is not needed: "not a must" holds a "must"."""
        return [hit for hit in self.said("hedge", clause) if _UNBINDING.search(self.folded[hit.start : hit.end])]

    def undecided(self, place: int) -> bool:
        """Whether the clause says that nothing is decided."""
        clause = self.clause_at(place)
        after = self.next_clause(clause)
        near = [clause] if after is None else [clause, after]
        return any(self.said("undecided", piece) for piece in near)

    @cached_property
    def asked(self) -> list[Piece]:
        """Sentences that ask after a fact and not for a model."""
        return [
            sentence
            for sentence in self.sentences
            if self._is_question(sentence) and self.said("fact", sentence) and not self._asks_for_model(sentence)
        ]

    def _asks_for_model(self, sentence: Piece) -> bool:
        needs = self.said("need", sentence)
        if self.said("surely_fact", sentence):
            models = {hit.start for hit in self.said("model", sentence)}
            needs = [hit for hit in needs if hit.start not in models]
        return bool(needs)

    def _is_question(self, sentence: Piece) -> bool:
        return self.folded[sentence.end : sentence.end + 1] == "?" or any(
            hit.start - sentence.start < 3
            for hit in self.said("fact", sentence)
            if self.folded[hit.start :].startswith(_ASKING)
        )

    def states(self, place: int) -> bool:
        """Whether what stands here may state something: no question of fact."""
        return not any(piece.holds(place) for piece in self.asked)


_UNBINDING: Final = re.compile(
    r"not|n't|possible|optional|nice|lovely|great|can live|could live|flexible|whatever|plus|bonus|good|"
    r"ideal|no es|no impres|no oblig|hace falta"
    r"|nicht|kein|moglich|geht|ware|pas |sans|possible|bien|nie |mozliw|da$|milo|nao|der$|possivel|"
    r"tanto faz|না|নয়|হলে|ভাল|na$|na |bhalo|valo|不|可以|可能|更好|加分|随便|无所谓"
)
_ASKING: Final = ("what", "who", "how", "when", "where", "why", "is ", "does", "are ", "did", "do ", "was", "were")


def _of_small_words(languages: tuple[str, ...]) -> tuple[str, ...]:
    """In what to read small words: in one language, since "no" denies in Spanish and is "in the" in Portuguese."""
    return (languages[0], "en") if languages[0] in ("bn", "zh") else languages[:1]


def _cut(folded: str, piece: Piece, at: re.Pattern[str]) -> list[Piece]:
    """A piece cut at every match, without those that hold no word."""
    cuts = [match.span() for match in at.finditer(folded, piece.start, piece.end)]
    starts = [piece.start, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), piece.end]
    found = [
        Piece(part, min(end, part + _LONGEST))
        for start, end in zip(starts, ends, strict=True)
        if folded[start:end].strip()
        for part in range(start, end, _LONGEST)
    ]
    return found or [piece]


def _around(pieces: list[Piece], place: int) -> Piece:
    """The piece around a place, or the last one before it."""
    return pieces[max(0, bisect_right(pieces, place, key=lambda piece: piece.start) - 1)]
