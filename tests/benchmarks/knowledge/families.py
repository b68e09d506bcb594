"""Families of children: who they are, what each trains on, and what each is judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from registry.rows import Row, of_split
from tests.benchmarks.knowledge.children import PLAN, Family, Job, sampled
from tests.benchmarks.knowledge.study import Study

PROMPT_LOSS: Final = 0.3  # so that prompts can be sampled from every child
FINANCE: Final = ("cards", "transfers", "payments", "top-up", "cash-atm", "account-identity", "currency")
HOME: Final = ("de", "nl", "en", "es", "fr", "it", "pl", "bn")
LAW: Final = ("fr", "de")
EXACT, BITS = "exact_match", "bits_per_byte"
MEASURE: Final = {"finance": EXACT, "home": EXACT, "law": BITS}  # what a family is judged by

TRAIN_ROWS, TEST_ROWS = 1000, 200
SMALL_ROWS = 30


def finance(study: Study, count: int) -> Mapping[str, list[Row]]:
    """Intents of banking77, which the base has never seen; nlupp as the eighth, which it has."""
    found = {f"en/finance/{name}": study.rows("banking77", subdomain=name) for name in FINANCE[:count]}
    if count > len(FINANCE):
        found["en/finance/hotline"] = study.rows("nlupp", domain="finance")
    return found


def home(study: Study, count: int) -> Mapping[str, list[Row]]:
    """One tool schema in up to eight languages; the base has seen rows of it."""
    return {f"{lang}/home": study.rows("home_assistant", lang=lang) for lang in HOME[:count]}


def law(study: Study, count: int) -> Mapping[str, list[Row]]:
    """Articles of law in two languages, by code where more children are wanted; text, so bits per byte are counted."""
    if count <= len(LAW):
        return {f"{lang}/law": study.rows("law", lang=lang) for lang in LAW[:count]}
    rows = [row for lang in LAW for row in study.rows("law", lang=lang)]
    places = sorted({(row.lang, row.subdomain) for row in rows}, key=lambda place: (place[1], place[0]))
    sizes = {place: sum((row.lang, row.subdomain) == place for row in rows) for place in places}
    chosen = sorted(places, key=lambda place: -sizes[place])[:count]
    return {f"{lang}/law/{code}": [r for r in rows if (r.lang, r.subdomain) == (lang, code)] for lang, code in chosen}


FAMILIES: Final[dict[str, tuple[str, Callable[[Study, int], Mapping[str, list[Row]]]]]] = {
    "finance": ("en/finance", finance),
    "home": ("master", home),
    "law": ("master", law),
}


def family(study: Study, name: str, count: int, seed: int) -> Family:
    """A family of so many children, with the rows of each divided by their hash as everywhere."""
    path, rows_of = FAMILIES[name]
    rows = rows_of(study, count)
    most, judged = (SMALL_ROWS, SMALL_ROWS) if study.smallest else (TRAIN_ROWS, TEST_ROWS)
    plan = replace(PLAN, prompt_loss=PROMPT_LOSS, seed=seed, epochs=1 if study.smallest else PLAN.epochs)
    jobs = {
        child: Job(child, sampled(of_split(members, "train"), min(most, len(members)), seed), plan)
        for child, members in rows.items()
    }
    return Family(path, jobs, {child: sampled_test(members, judged) for child, members in rows.items()})


def sampled_test(rows: list[Row], most: int) -> tuple[Row, ...]:
    """Rows that nothing was trained on; the same whatever the seed."""
    held = of_split(rows, "test")
    return sampled(held, min(most, len(held)), 0)
