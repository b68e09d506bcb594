"""Simple parsers to stand beside ours: nothing, patterns for numbers and English words, ours without a memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from assistant.extract import extract
from tests.benchmarks.assistant.scores import SLOTS

_TASKS: Final = {
    "translation": r"translat|traduc|traduz|tłumacz|übersetz|翻译",
    "summarization": r"summar|resum|zusammenfass|streszcz",
    "text-classification": r"classif|sentiment|spam|intent",
    "token-classification": r"\bNER\b|entit|extract",
    "question-answering": r"question.answering|\bQA\b",
    "feature-extraction": r"embed|semantic search|similar",
    "text-generation": r"chat|assistant|write|draft|bot\b",
}
_LANGUAGES: Final = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "pl": "Polish",
    "sv": "Swedish",
    "da": "Danish",
    "zh": "Chinese",
    "ar": "Arabic",
    "bn": "Bengali",
    "hi": "Hindi",
    "nl": "Dutch",
}
_DOMAINS: Final = {
    "health": "hospital|patient|medical|health",
    "finance": "bank|insur|invoice|financ",
    "law": r"\blaw|legal|court|contract",
    "education": "school|student|universit",
    "software": r"\bcode|coding|software",
    "science": "scien|research paper",
    "travel": "flight|airline|hotel|travel",
    "retail": "shop|retail|product",
    "media": "news|media",
    "public-sector": "municipal|tax|council",
    "energy": r"energy|\bgrid\b|refinery",
}


def nothing(_: Sequence[str]) -> dict[str, Any]:
    """Every slot empty."""
    return dict.fromkeys(SLOTS)


def patterns(turns: Sequence[str]) -> dict[str, Any]:
    """First match of one pattern for each value over all turns; no corrections, no negation, no wishes."""
    text = " ".join(turns)

    def first(table: dict[str, str]) -> str | None:
        return next((value for value, pattern in table.items() if re.search(pattern, text, re.IGNORECASE)), None)

    def number(pattern: str) -> float | None:
        match = re.search(pattern, text, re.IGNORECASE)
        return float(match.group(1)) if match else None

    spoken = sorted(code for code, name in _LANGUAGES.items() if name in text)
    context = number(r"(\d+)\s?k\b")
    return nothing(turns) | {
        "task": first(_TASKS),
        "languages": spoken or None,
        "domain": first(_DOMAINS),
        "device": first(
            {"cuda": "nvidia|rtx|gtx|[ahtlv]100", "mps": r"\bmac|\bm[1-4]\b", "cpu": "cpu|no gpu|without gpu"}
        ),
        "memory_gb": number(r"(\d+(?:\.\d+)?)\s?(?:GB|GiB)"),
        "max_parameters_b": number(r"(\d+(?:\.\d+)?)\s?(?:B\b|billion)"),
        "min_context_tokens": round(context * 1024) if context else None,
        "min_tokens_per_s": number(r"(\d+)\s?(?:tok\w*)\s?(?:/|per)\s?s"),
        "license": first({"Apache-2.0": "apache", "MIT": r"\bMIT\b", "commercial": "commercial"}),
        "local_only": True if re.search("offline|on.prem|no cloud", text, re.IGNORECASE) else None,
        "finetune": True if re.search("fine.?tun", text, re.IGNORECASE) else None,
        "max_usd_per_mtok": number(r"\$\s?(\d+(?:\.\d+)?)"),
    }


def last_turn(turns: Sequence[str]) -> dict[str, Any]:
    """Our parser without a memory: only the last turn."""
    return extract(turns[-1:]).rules()


def forgetful(turns: Sequence[str]) -> dict[str, Any]:
    """Our parser without corrections: each turn by itself, the first value of each slot."""
    found = nothing(turns)
    for turn in turns:
        found = {slot: value if found[slot] is None else found[slot] for slot, value in extract([turn]).rules().items()}
    return found
