"""Models of others that the user tells this node of: they are recommended and not served.

From a table (`recommender.model_table`), from a model's folder, or from the configuration and the card of a repository
on the Hub. Configurations are read as data; no weights are loaded and no code that comes with a model is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import prod
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from node.context import Node
from node.hub import HUB_ID, RepositoryFacts, fetch_facts
from node.model_folder import MAX_INDEX_BYTES, read_json
from recommender.candidate import Candidate
from recommender.model_config import kind_of, shape_of
from recommender.model_table import MAX_TABLE_BYTES, Line, read_table
from recommender.snapshot.licences import sellable
from registry.cards import MAX_CARD_BYTES, Card, parse_card, spdx_licence
from registry.errors import BadData, LocalFailure
from registry.store import Session, func, select
from registry.tables import EvidenceRow, KnownModelRow
from sync.checks.base import CONFIG, MAX_JSON_BYTES, WEIGHTS_INDEX
from sync.checks.tensors import read_header

MOST_KNOWN: Final = 200_000
_FACTS: Final = TypeAdapter(Candidate)
_USUAL_BYTES: Final = 2.0  # of a parameter on the Hub, where nothing is said


@dataclass(frozen=True, slots=True)
class Told:
    """What a source said: models by name and the lines with a score."""

    source: str
    candidates: Mapping[str, Candidate]
    scores: tuple[Line, ...] = ()


def add_known(
    node: Node, source: str, now: datetime, *, revision: str | None = None, name: str = "", licence: str | None = None
) -> Told:
    """Keep what a table file, a folder or a repository of the Hub says; what was kept from there before is replaced.

    Raises BadData naming the line of a table, or what a configuration lacks; LocalFailure for disk and network.
    """
    told = _read(source, revision, name, spdx_licence(licence) if licence else None, node.settings.request_timeout_s)
    with node.store.transaction() as session:
        _forget_scores(session, told)
        for model, one in told.candidates.items():
            row = session.get(KnownModelRow, model)
            if row is None:
                row = KnownModelRow(id=model, facts="", source=told.source, created=now)
                session.add(row)
            row.facts, row.source, row.created = _FACTS.dump_json(one).decode(), told.source, now
        session.add_all([_evidence(line, told.source, now) for line in told.scores])
        if (session.scalar(select(func.count()).select_from(KnownModelRow)) or 0) > MOST_KNOWN:
            raise BadData(
                f"more than {MOST_KNOWN:,} models would be known", "node catalogue remove, or a smaller table"
            )
    return told


def known_models(node: Node) -> dict[str, Candidate]:
    """The models that the user told of, by name."""
    with node.store.read() as session:
        return {row.id: _FACTS.validate_json(row.facts) for row in session.scalars(select(KnownModelRow))}


def sources_of(node: Node) -> list[tuple[str, str, datetime]]:
    """Name, source and time of each, newest first."""
    with node.store.read() as session:
        rows = session.scalars(select(KnownModelRow).order_by(KnownModelRow.created.desc(), KnownModelRow.id))
        return [(row.id, row.source, row.created) for row in rows]


def newest_known(node: Node) -> tuple[int, datetime | None]:
    """How many are known, and when the newest came."""
    with node.store.read() as session:
        count, newest = session.execute(select(func.count(), func.max(KnownModelRow.created))).one()
        return count, newest


def forget_known(node: Node, model: str) -> None:
    """Forget a model and its scores. Raises BadData where it is not known."""
    with node.store.transaction() as session:
        row = session.get(KnownModelRow, model)
        if row is None:
            raise BadData(f"the user told nothing of {model!a:.100}", "node catalogue show")
        session.delete(row)
        for one in session.scalars(
            select(EvidenceRow).where(EvidenceRow.model == model, EvidenceRow.release.is_(None))
        ):
            session.delete(one)


def _forget_scores(session: Session, told: Told) -> None:
    of_source = EvidenceRow.source.startswith(f"{told.source}: ", autoescape=True)
    kept = select(EvidenceRow).where(EvidenceRow.release.is_(None), of_source)
    for row in session.scalars(kept):
        session.delete(row)


def _evidence(line: Line, source: str, now: datetime) -> EvidenceRow:
    return EvidenceRow(
        model=line.model,
        benchmark=line.benchmark or f"a line of {source}",
        task=line.task,
        languages=json.dumps(line.languages),
        domains=json.dumps([*line.domains[:1], *line.subdomains[:1]]),
        score=line.score,
        half_width=line.half_width,
        rows=line.rows,
        here=False,
        source=f"{source}: {line.source or 'nobody named'}",
        licence=line.score_license,
        created=now,
    )


def _read(source: str, revision: str | None, name: str, licence: str | None, timeout_s: float) -> Told:
    place = Path(source).expanduser()
    if place.is_file():
        table = read_table(_bytes(place), place.name)
        return Told(place.name, table.candidates, table.scores)
    if place.is_dir():
        found = _of_folder(place)
        said = Told("a folder", _candidate(name or place.resolve().name, found, licence))
    elif HUB_ID.fullmatch(source):
        found = fetch_facts(source, revision or "main", timeout_s)
        said = Told(f"the Hub at {found.commit[:12]}", _candidate(name or source, found, licence))
    else:
        raise BadData(
            f"there is no {source}", "give a table (CSV or JSON), a model's folder, or a Hub id such as owner/model"
        )
    return said


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise LocalFailure(f"{file} cannot be read: {error.strerror}", f"check its owner: ls -l {file}") from error


def _of_folder(folder: Path) -> RepositoryFacts:
    if not (folder / CONFIG).is_file():
        raise BadData(f"{folder} has no {CONFIG}", "give the folder of one model")
    config = read_json(folder / CONFIG, MAX_JSON_BYTES)
    parameters, size = _parameters(sorted(folder.glob("*.safetensors"))), 0
    if not parameters and (folder / WEIGHTS_INDEX).is_file():
        size = _total_size(read_json(folder / WEIGHTS_INDEX, MAX_INDEX_BYTES))
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:MAX_CARD_BYTES] if card.is_file() else ""
    return RepositoryFacts("", config, text, parameters, size, embeds=(folder / "modules.json").is_file())


def _parameters(files: Iterable[Path]) -> int:
    """Numbers in all tensors, by the headers of the files."""
    return sum(prod(tensor.shape) for file in files for tensor in read_header(file).tensors.values())


def _total_size(index: Mapping[str, Any]) -> int:
    metadata = index.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return size if isinstance(size, int) and 0 < size < 1 << 50 else 0


def _candidate(name: str, found: RepositoryFacts, licence: str | None) -> dict[str, Candidate]:
    shape, context = shape_of(found.config)
    card = _card(found.card)
    stated = licence or (card.licence if card else None)
    parameters = found.parameters or int(found.weight_bytes / (shape.weight_bytes or _USUAL_BYTES))
    return {
        name: Candidate(
            name,
            "import",
            "embedding" if found.embeds else kind_of(found.config),
            parameters_b=parameters / 1e9 if parameters else None,
            context_tokens=context,
            license=stated,
            commercial=sellable(stated),
            languages=tuple(sorted({tag.partition("-")[0].lower() for tag in card.languages})) if card else (),
            architecture=shape,
        )
    }


def _card(text: str) -> Card | None:
    try:
        return parse_card(text) if text else None
    except BadData:
        return None
