"""Languages of the texts that a user speaks of, as ISO 639-1 codes. Countries, cities and the user's own tongue do not.

Names in eight languages are in `data/languages.toml`; codes and tags ("pt-BR", "EN>UK") are read by langcodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import langcodes

from assistant.clauses import Reading
from assistant.lexicon import Hit, Lexicon, load
from assistant.mention import Mention
from assistant.text import LETTER, fold

_ENDINGS: Final[dict[str, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    # language of the name -> (ending of its dictionary form, endings that may stand instead)
    "en": (("", ("", "s")),),
    "de": (("isch", ("isch", "ische", "ischen", "ischer", "isches", "ischem", "ischsprachig*")),
           ("deutsch", ("deutsch", "deutsche", "deutschen", "deutscher", "deutsches", "deutschem", "deutschsprachig*")),
           ("", ("",))),
    "es": (("o", ("o", "a", "os", "as")), ("s", ("s", "sa", "ses", "sas")), ("n", ("n", "na", "nes", "nas")),
           ("", ("", "es", "s"))),
    "fr": (("ien", ("ien", "iens", "ienne", "iennes")), ("c", ("c", "cs", "cque", "cques")),
           ("", ("", "e", "s", "es"))),
    "pl": (("ski", ("ski", "ska", "skie", "skiego", "skiej", "skiemu", "skim", "skich", "skimi", "sku", "sko")),
           ("cki", ("cki", "cka", "ckie", "ckiego", "ckiej", "ckiemu", "ckim", "ckich", "ckimi", "cku", "cko")),
           ("zki", ("zki", "zka", "zkie", "zkiego", "zkiej", "zkiemu", "zkim", "zkich", "zkimi", "zku", "zko")),
           ("", ("",))),
    "pt": (("o", ("o", "a", "os", "as")), ("es", ("es", "esa", "eses", "esas")), ("", ("", "es", "s"))),
    "bn": (("", ("*",)),),
    "zh": (("", ("",)),),
}  # fmt: skip
_ALEMAO: Final = {
    "alemao": ("alemao", "alema", "alemaes", "alemas"),
    "aleman": ("aleman", "alemana", "alemanes", "alemanas"),
}
_SHORT_PAIR: Final = r"译翻互双对到和与、,及/-"
_POLISH_COUNTRY: Final = frozenset({"Polska", "Polskę", "Polską", "Polsce"})
_VERB_POLISH: Final = re.compile(
    r"polish\s+(?:my|our|the|up|it|this|that|these|those|his|her|their|a|an|and|text|drafts?|emails?|sentences)\b"
)
_ARROW: Final = re.compile(r"\b([a-z]{2})\s*(?:<?-+>|<?=>|→|↔|⇄|<?>)\s*([a-z]{2})\b")
_LABEL: Final = re.compile(
    r"\b(?:lang(?:uage)?s?|sprachen?|langues?|idiomas?|linguas?|jezyk\w*|"
    r"语言)\s*[:=]\s*((?:[a-z]{2}(?:-[a-z]{2})?\b[\s,/&+]*(?:and\s+|und\s+|y\s+|et\s+|i\s+|e\s+)?)+)"
)
_CAPITALS: Final = re.compile(
    r"\b[A-Z]{2}(?:\s?[/,&+-]\s?[A-Z]{2})+\b|(?<=\b(?:in|to|of) )[A-Z]{2}\b|(?<=\b(?:into|from) )[A-Z]{2}\b"
)
_TAG: Final = re.compile(r"\b([a-z]{2})-(?:[A-Z]{2}|Latn|Cyrl|Hans|Hant)\b")
_NOT_CODES: Final = frozenset(load("languages")["not_codes"])


def languages(reading: Reading) -> list[Mention]:
    """The languages that a turn names; `kind` is "source" or "target" of a translation, or "denied"."""
    found = [*_by_name(reading), *_by_code(reading), *_by_short_name(reading)]
    found.sort(key=lambda mention: (mention.start, -mention.end))
    kept: list[Mention] = []
    for mention in found:
        if not kept or mention.start >= kept[-1].end:
            kept.append(mention)
    return kept


@lru_cache(maxsize=16)
def names(language: str) -> Lexicon:
    """Every form of every name of a language in this one, by code."""
    table = load("languages")
    phrases: dict[str, list[str]] = {}
    for section in ("names", "more"):
        for code, given in table[section].items():
            said = given.get(language, ())
            for name in [said] if isinstance(said, str) else said:
                phrases.setdefault(code, []).extend(_forms(fold(name), language))
    return Lexicon(phrases)


def _forms(name: str, language: str) -> Iterator[str]:
    if name in _ALEMAO:
        yield from _ALEMAO[name]
        return
    name = re.sub(r"\s*\(.*\)", "", name)
    if not re.search(r"[a-z]", name):
        yield name
        return
    if language == "bn":
        yield from (name, f"{name}r", f"{name}te", f"{name}y", f"{name} e")
        return
    for ending, forms in _ENDINGS[language]:
        if name.endswith(ending):
            stem = name.removesuffix(ending)
            yield from (stem + form for form in forms)
            return


def _by_name(reading: Reading) -> Iterator[Mention]:
    texts = _not_texts(reading.languages).find(reading.folded)
    for hit in sorted(hit for language in reading.languages for hit in names(language).find(reading.folded)):
        if any(other.start <= hit.start < other.end for other in texts):
            continue
        if _of_texts(reading, hit):
            yield _mention(reading, hit.key, hit.start, hit.end)


def _of_texts(reading: Reading, hit: Hit) -> bool:
    """Whether a name of a language speaks of texts or people."""
    folded = reading.folded
    if not reading.states(hit.start) or _VERB_POLISH.match(folded, hit.start):
        return False
    if "pl" in reading.languages and reading.text.typed(hit.start, hit.end) in _POLISH_COUNTRY:
        return False
    if folded[hit.start : hit.end].startswith("বাংলাদেশ") or folded[hit.start : hit.end].startswith("bangladesh"):
        return False
    after = re.findall(rf"(?:{LETTER})+", re.split(r"[.,;!?()]", folded[hit.end : hit.end + 50])[0])
    if not after or after[0] not in _not_after(reading.languages):
        return True
    return len(after) > 1 and after[1] in _texts()


@lru_cache(maxsize=64)
def _not_after(spoken: tuple[str, ...]) -> frozenset[str]:
    table = load("languages")["not_after"]
    return frozenset(word for language in spoken for word in table.get(language, ()))


@lru_cache(maxsize=64)
def _not_texts(spoken: tuple[str, ...]) -> Lexicon:
    table = load("languages")["not_texts"]
    return Lexicon({"not_texts": [phrase for language in spoken for phrase in table.get(language, ())]})


@lru_cache(maxsize=1)
def _texts() -> frozenset[str]:
    return frozenset(load("languages")["texts"]["en"])


def _by_code(reading: Reading) -> Iterator[Mention]:
    folded, typed = reading.folded, reading.text.original
    for match in _ARROW.finditer(folded):
        if all(map(_code, match.groups())):
            yield from (_mention(reading, _code(match.group(n)), *match.span(n)) for n in (1, 2))
    for match in _LABEL.finditer(folded):
        for tag in re.finditer(r"\b[a-z]{2}(?:-[a-z]{2})?\b", match.group(1)):
            if code := _code(tag.group()):
                yield _mention(reading, code, match.start(1) + tag.start(), match.start(1) + tag.end())
    if len(typed) != len(folded):
        return
    for match in _CAPITALS.finditer(typed):
        codes = [(part, _code(part.group().lower())) for part in re.finditer("[A-Z]{2}", match.group())]
        alone = len(codes) == 1
        if all(code for _, code in codes) and not any(
            part.group().lower() in _NOT_CODES for part, _ in codes if alone or len(codes) == 2
        ):
            yield from (
                _mention(reading, code, match.start() + part.start(), match.start() + part.end())
                for part, code in codes
            )
    for match in _TAG.finditer(typed):
        if code := _code(match.group(1)):
            yield _mention(reading, code, *match.span())


@lru_cache(maxsize=512)
def _code(tag: str) -> str:
    """The ISO 639-1 code of a tag; empty where it is none that we know."""
    try:
        code = langcodes.Language.get(tag).language or ""
    except ValueError:
        return ""
    return code if code in load("languages")["names"] else ""


def _by_short_name(reading: Reading) -> Iterator[Mention]:
    """Chinese names of one character, of which two stand together: 中英, 英译中, 日和韩."""
    short = load("languages")["short"]
    letters = "".join(short)
    pair = rf"([{letters}])[{_SHORT_PAIR}]?([{letters}])(?=[译翻互双对语文]|$|之间)"
    for match in re.finditer(pair, reading.folded):
        yield from (_mention(reading, short[match.group(n)], *match.span(n)) for n in (1, 2))


def _mention(reading: Reading, code: str, start: int, end: int) -> Mention:
    kind = "denied" if reading.denied_before(start, 3) else _role(reading, start)
    return Mention("languages", code, start, end, not reading.wished(start), kind)


def _role(reading: Reading, start: int) -> str:
    """What a translation does with the language at a place, by the word in front of it."""
    before = reading.folded[max(0, start - 24) : start].replace("'", " ").split()
    for language in reading.languages:
        table = load("languages")
        for word in before[-2:]:
            if word in table["source"].get(language, ()):
                return "source"
            if word in table["target"].get(language, ()):
                return "target"
    return ""
