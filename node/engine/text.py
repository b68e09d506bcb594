"""From tokens to text while they come: bytes of tokens, whole characters, stop strings.

Text is what the tokens add to the prompt, so a space at the front of a first token stays. Special tokens have no text.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from node.engine.errors import EngineError

BYTE_OF: Final[Mapping[str, int]] = {character: byte for byte, character in bytes_to_unicode().items()}
BYTE_PIECE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE_MARK: Final = "\u2581"


class TokenBytes:
    """The bytes that each token stands for, for byte-level BPE and for SentencePiece with byte fallback.

    Raises EngineError for a tokenizer of another kind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._known: dict[int, bytes] = {}
        decoder = tokenizer.backend_tokenizer.decoder
        parts = set(_types(json.loads(decoder.__getstate__()))) if decoder is not None else set()
        if not parts & {"ByteLevel", "ByteFallback", "Metaspace"}:
            kinds = ", ".join(sorted(parts)) or "none"
            raise EngineError(
                f"the tokenizer's decoder ({kinds}) does not say which bytes a token stands for",
                "use a base with a byte-level BPE or a SentencePiece tokenizer",
            )
        self._byte_level = "ByteLevel" in parts

    def __getitem__(self, token: int) -> bytes:
        """The bytes of a token; its name for a special one, nothing for an id without a token."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._bytes(token)
        return known

    def text(self, token: int) -> bytes:
        """The bytes that a token adds to an answer: none for special ones."""
        return b"" if token in self._special else self[token]

    def _bytes(self, token: int) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if self._byte_level:
            mapped = [BYTE_OF.get(character) for character in piece]
            whole = [byte for byte in mapped if byte is not None]
            return bytes(whole) if len(whole) == len(piece) else piece.encode()
        if found := BYTE_PIECE.fullmatch(piece):
            return bytes.fromhex(found[1])
        return str(piece).replace(SPACE_MARK, " ").encode()


def _types(decoder: Any) -> Iterator[str]:
    """Every type named in a decoder's description."""
    yield decoder["type"]
    for part in decoder.get("decoders", ()):
        yield from _types(part)


class TextStream:
    """The text of one answer: whole characters only, up to the first stop string, which is left out.

    Text that could still become a stop string is held back. What comes out does not depend on how the tokens came:
    the stop string that is complete first ends the text, the longest of those that end there.
    """

    def __init__(self, token_bytes: TokenBytes, stops: Sequence[str] = ()) -> None:
        self._bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped_by: str | None = None

    def add(self, tokens: Iterable[int]) -> str:
        """The text that is certain now. Nothing any more once `stopped_by` is set."""
        new = self._decoder.decode(b"".join(map(self._bytes.text, tokens)))
        return self._released(new) if new else ""

    def end(self) -> str:
        """The rest: what was held back, and U+FFFD for a character that was never completed."""
        text = self._released(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _released(self, new: str) -> str:
        if self.stopped_by is not None:
            return ""
        if not self._stops:
            return new
        text = self._held + new
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.stopped_by = min(found)
            self._held = ""
            return text[:at]
        keep = len(text) - max(_overlap(text, stop) for stop in self._stops)
        self._held = text[keep:]
        return text[:keep]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of the text that a stop string, not yet complete, could begin with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
