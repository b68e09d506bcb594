"""What an update is compared with: earlier updates of its path, and updates of others at its place.

What is measured of an adapter once is kept beside its update, so that later ones are compared with it without reading
the file again. What the figures say is left to `sync.checks`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from registry.documents import Update, read_offering
from registry.errors import BadData, LocalFailure
from registry.rows import Row
from registry.store import select
from registry.tables import UpdateRow
from sync.checks.files import check_files
from sync.checks.size import norms_of
from sync.checks.spectrum import Form, spectrum_of
from sync.compose import Composer
from sync.delta import Delta
from sync.lifecycle import State, update_row
from sync.travelled import travelled

MAX_HISTORY: Final = 32
MAX_SIBLINGS: Final = 20
MAX_LOOKED_AT: Final = 500  # updates read to find those of other issuers
# Whose updates count as siblings: those that passed the checks, and those that wait for them with a sound file.
WAITING: Final[tuple[State, ...]] = ("verified", "checked")
PASSED: Final[tuple[State, ...]] = ("accepted", "aggregated", "gated", "released", "announced")


def history_of(composer: Composer, update: Update) -> list[UpdateRow]:
    """The updates that were let into releases of the same path before, the latest first."""
    wanted = select(UpdateRow).where(
        UpdateRow.direction == "in",
        UpdateRow.release.is_not(None),
        UpdateRow.state != "undone",
        UpdateRow.path == update.path,
    )
    with composer.store.read() as session:
        return list(session.scalars(wanted.order_by(UpdateRow.changed.desc()).limit(MAX_HISTORY)))


def siblings_of(composer: Composer, update: Update, config: dict[str, Any]) -> list[UpdateRow]:
    """The newest update at the same place and base of each other issuer, the latest first (C26).

    `config` is the configuration of the base: a file that has not been checked yet is checked before it counts.
    """
    wanted = select(UpdateRow).where(
        UpdateRow.direction == "in", UpdateRow.state.in_((*WAITING, *PASSED)), UpdateRow.issuer != update.issuer
    )
    with composer.store.read() as session:
        rows = list(
            session.scalars(wanted.order_by(UpdateRow.received.desc(), UpdateRow.sequence.desc()).limit(MAX_LOOKED_AT))
        )
    found: dict[str, UpdateRow] = {}
    for row in rows:
        if len(found) < MAX_SIBLINGS and row.issuer not in found and _comparable(composer, row, update, config):
            found[row.issuer] = row
    return list(found.values())


def _comparable(composer: Composer, row: UpdateRow, update: Update, config: dict[str, Any]) -> bool:
    other = read_offering(row.envelope)
    if not isinstance(other, Update):  # answers have no direction
        return False
    if (other.release.path, other.base) != (update.release.path, update.base):
        return False
    if not composer.blobs.has(other.adapter.file.sha256):
        return False
    if row.state in PASSED:
        return True
    file = composer.blobs.path(other.adapter.file.sha256)
    return all(result.passed for result in check_files(file, other.adapter, config))


def delta_of(composer: Composer, row: UpdateRow) -> Delta:
    """The adapter of an update whose file is here and sound."""
    return composer.delta(_update(row).adapter)


def requests_of(composer: Composer, row: UpdateRow) -> list[Row]:
    """The transfer set of an update; nothing where it has none here, or one that is not what was declared."""
    update = _update(row)
    if update.transfer is None or not composer.blobs.has(update.transfer.sha256):
        return []
    try:
        return [taught.row for taught in travelled(composer.blobs, update)]
    except BadData:
        return []


def has_adapter(composer: Composer, row: UpdateRow) -> bool:
    """Whether something can be measured: it is no distillation set, and its file is here."""
    update = read_offering(row.envelope)
    return isinstance(update, Update) and composer.blobs.has(update.adapter.file.sha256)


def kept_norms(composer: Composer, row: UpdateRow) -> dict[str, float] | None:
    """The norm of each module of an update; None where its adapter is gone and they were never measured."""
    found = _kept(composer, row, row.norms, norms_of, "norms")
    return None if found is None else dict(found)


def kept_spectrum(composer: Composer, row: UpdateRow) -> dict[str, Form] | None:
    """The form of each module (`sync.checks.spectrum`) of an update, likewise."""
    found = _kept(composer, row, row.spectrum, spectrum_of, "spectrum")
    return None if found is None else {name: tuple(form) for name, form in found.items()}


def _kept(
    composer: Composer, row: UpdateRow, text: str | None, measure: Callable[[Delta], dict[str, Any]], column: str
) -> dict[str, Any] | None:
    """What a column holds of an update, measured and written there where it holds nothing yet."""
    if text is not None:
        return dict(json.loads(text))
    if not has_adapter(composer, row):
        return None
    found = measure(delta_of(composer, row))
    with composer.store.transaction() as session:
        setattr(update_row(session, row.digest), column, json.dumps(found, allow_nan=False))
    return found


def _update(row: UpdateRow) -> Update:
    update = read_offering(row.envelope)  # verified when it came in
    if not isinstance(update, Update):
        raise LocalFailure(f"update {row.digest} has no adapter", "node doctor")
    return update
