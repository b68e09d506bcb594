"""An update under inspection: stages 2 to 7 of the checks on its files, cheapest first.

The later stages only see files that passed the second. What each of them asks is said in `sync.checks`; here it is put
together with what the parent knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from registry.documents import CheckResult, Update
from registry.errors import BadData
from registry.paths import NodePath
from registry.rows import Row, read_rows
from registry.tables import UpdateRow
from sync.aggregate.geometry import gram
from sync.checks.agreement import check_answers, comparable
from sync.checks.behaviour import check_behaviour, check_canaries
from sync.checks.files import check_files
from sync.checks.probes import asked_by, probes_of
from sync.checks.root_set import check_root, root_update
from sync.checks.siblings import check_siblings
from sync.checks.size import check_size, check_terms, norms_of
from sync.checks.spectrum import check_spectrum, spectrum_of
from sync.checks.triggers import probe_triggers
from sync.cohort import delta_of, history_of, kept_norms, kept_spectrum, requests_of, siblings_of
from sync.delta import Delta, read_adapter
from sync.model import LoadedModel, add
from sync.parent import Parent
from sync.score import evaluate_rows, reanswered
from sync.travelled import MAX_ROWS_BYTES


def inspect_update(parent: Parent, update: Update, adapter: Path, transfer: Path | None) -> list[CheckResult]:
    """Every result on an update whose files are here; raises BadData where its transfer set is not what it says."""
    chain = parent.composer.chain(update.release.digest)
    base = parent.composer.base_folder(update.base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    results = check_files(adapter, update.adapter, config)
    if not all(result.passed for result in results):
        return results
    loaded = parent.composer.load_chain(chain)
    delta = read_adapter(adapter, update.adapter.shape)
    siblings = siblings_of(parent.composer, update, config)
    results += _beside_others(parent, update, delta, base_norms(loaded), siblings)
    known = parent.known(update.release.path)
    root = root_update(loaded, known, update.release.path, update.release.digest, parent.runs)
    results.append(check_root(delta, root, len(known), min_cosine=parent.plan.thresholds.root_min_cosine))
    others = (requests_of(parent.composer, row) for row in siblings)
    return results + _behaviour(parent, update, delta, loaded, known, transfer_rows(update, transfer), others)


def transfer_rows(update: Update, transfer: Path | None) -> list[Row]:
    """The rows of a transfer set; raises BadData where it is not readable or not as large as declared (C21)."""
    rows = read_rows(transfer, MAX_ROWS_BYTES, update.transfer_rows) if transfer else []
    if len(rows) != update.transfer_rows:
        raise BadData(f"the transfer set has {len(rows)} rows, the update declares {update.transfer_rows}")
    return rows


def _beside_others(
    parent: Parent, update: Update, delta: Delta, weights: dict[str, float], siblings: Sequence[UpdateRow]
) -> list[CheckResult]:
    """Stages 3 to 5: the change beside the base, beside earlier ones of its path, beside those of others."""
    composer, limits = parent.composer, parent.plan.thresholds
    earlier = history_of(composer, update)
    norms = [kept for row in earlier if (kept := kept_norms(composer, row)) is not None]
    forms = [form for row in [*earlier, *siblings] if (form := kept_spectrum(composer, row)) is not None]
    return [
        *check_size(norms_of(delta), weights, norms, z_limit=limits.size_max_z),
        check_terms(delta, weights),
        *check_spectrum(spectrum_of(delta), forms, max_z=limits.spectrum_max_z),
        *check_siblings(
            gram([delta, *(delta_of(composer, row) for row in siblings)]),
            max_z=limits.siblings_max_z,
            max_cosine=limits.siblings_max_cosine,
        ),
    ]


def _behaviour(
    parent: Parent,
    update: Update,
    delta: Delta,
    loaded: LoadedModel,
    known: Sequence[Row],
    transfer: Sequence[Row],
    others: Iterable[Sequence[Row]],
) -> list[CheckResult]:
    """Stage 7, and what stage 5 asks, on the release, `loaded`, with the update added to it; the model is left so."""
    limits, path = parent.plan.thresholds, update.release.path
    before = parent.right_before(loaded, update.release.digest, known, path)
    news = evaluate_rows(loaded, transfer, update.path)[1] if transfer and parent.plan.measure_gain else None
    canaries = reanswered(loaded, parent.canary_rows(NodePath.parse(path)), path)
    add(loaded, delta)
    results = check_behaviour(
        before,
        loaded,
        known,
        transfer,  # all of them: what is not judged could be anything
        path=path,
        sender=update.path,
        max_loss_points=limits.max_loss_points,
        min_agreement=limits.min_agreement,
        transfer_before=news,
    )
    results.append(check_canaries(loaded, canaries, path, max_changed=limits.canaries_max_changed))
    if not all(result.passed for result in results):
        return results  # rejected, whatever the probes, the dearest of all checks, would find
    seed = update.adapter.file.sha256
    asked = comparable(transfer, others, seed)
    results.append(check_answers(loaded, asked, update.path, min_agreement=limits.siblings_min_agreement))
    probes = [*probes_of(known, path, seed), *probes_of(transfer or known, update.path, seed)]

    def release(prompts: Sequence[str]) -> list[str]:
        add(loaded, delta, by=-1.0)
        try:
            return asked_by(loaded)(prompts)
        finally:
            add(loaded, delta)

    most = limits.triggers_max_collapse
    return [*results, probe_triggers(loaded, release, probes, seed, max_collapse=most)]


def base_norms(loaded: LoadedModel) -> dict[str, float]:
    """Frobenius norms of the modules of the model that a delta would be added to."""
    return {name: float(module.weight.detach().float().norm()) for name, module in loaded.linear_modules()}
