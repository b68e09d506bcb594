"""Words of data files as parts of regular expressions, for what stands right beside a number or a name.

The words stand in the files by key and language, as for `lexicon`: a `*` ends a stem, and a space is any white space.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import Final

from assistant.lexicon import load
from assistant.text import fold

_STEM: Final = r"[\w\u0980-\u09ff]*"
_LATIN: Final = re.compile(r"[0-9a-z]")


@lru_cache(maxsize=128)
def one_of(file: str, *keys: str, whole: bool = False, ends: bool = False) -> str:
    """A group of the words under some keys of a data file, the longest first.

    `whole`: Latin ones stand alone; `ends`: nothing goes on behind them, a digit may stand before.
    """
    words = {fold(word) for key in keys for word in chain.from_iterable(load(file)[key].values())}
    return f"(?:{'|'.join(_parts(words, begins=whole, ends=whole or ends))})"


def _parts(words: set[str], *, begins: bool, ends: bool) -> Iterator[str]:
    for word in sorted(words, key=lambda word: (-len(word), word)):
        stem = word.removesuffix("*")
        part = r"\s+".join(map(re.escape, stem.split(" ")))
        before = r"\b" if begins and _LATIN.match(stem) else ""
        after = r"\b" if ends and _LATIN.match(stem[-1]) and stem == word else ""
        yield f"{before}{part}{_STEM if stem != word else after}"
