"""The checks that a release of the parent passes before it is served here (Q1): files, size, behaviour.

They are those of the parent's inbox, with this node's own rows and with what it served until now. Files are checked
before any of them is loaded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from node.bases import read_manifest
from node.context import Node
from node.trust import trusted_keys
from node.validation import canary_rows, validation_rows
from registry.documents import CheckResult, Release, ReleasePin
from registry.errors import BadData, BanyanError
from registry.paths import NodePath
from registry.rows import Row, read_rows
from registry.store import Session, select
from registry.tables import HeadRow, ReleaseRow
from sync.arrivals import arrival, earlier_norms, reason_of, settle_arrival
from sync.chain import Link, stored_chain
from sync.checks.fetched import check_base
from sync.checks.files import check_files
from sync.fetch import OnProgress, no_progress
from sync.pull import fetch_release
from sync.transport import Peer
from sync.verdict import failure

if TYPE_CHECKING:
    from sync.compose import Composer
    from sync.model import LoadedModel

MAX_JSON_BYTES: Final = 4 << 20
MAX_ROWS_BYTES: Final = 256 << 20
MAX_JUDGED_ROWS: Final = 500
MAX_HISTORY: Final = 32


@dataclass(frozen=True, slots=True)
class _Before:
    """What the release that is served until now answers: which of the rows, the `known` ones first, and canaries.

    After the rows whose answers are known come some of its anchors, with its own answers.
    """

    rows: list[Row]
    known: int
    right: list[bool]
    canaries: list[Row]


def fetch_checked(
    node: Node,
    peer: Peer,
    pin: ReleasePin,
    now: datetime,
    vouched: frozenset[str],
    on_progress: OnProgress = no_progress,
) -> str:
    """Fetch a release and, if the checks accept it, serve it; else why it is held back, which is not tried again.

    Raises as `fetch_release` does.
    """
    known = arrival(node.store, pin.digest)
    if known is not None and known.state != "accepted":
        return f"{known.state}: {reason_of(known)}"
    fetch_release(
        peer,
        pin,
        trusted=trusted_keys(node, now),
        vouched=vouched,
        store=node.store,
        blobs=node.blobs,
        now=now,
        on_progress=on_progress,
        judge=lambda chain: _settled(node, chain, now),
    )
    known = arrival(node.store, pin.digest)
    return "" if known is None or known.state == "accepted" else f"{known.state}: {reason_of(known)}"


def _settled(node: Node, chain: Sequence[Link], now: datetime) -> Callable[[Session], bool]:
    """The verdict on the last release of a fetched chain, to be written down. One that has a verdict is not checked."""
    if arrival(node.store, chain[-1].digest) is not None:
        return settle_arrival(chain[-1], [], None, node.key, now)
    results, norms = check_release(node, chain)
    return settle_arrival(chain[-1], results, norms, node.key, now)


def check_release(node: Node, chain: Sequence[Link]) -> tuple[list[CheckResult], dict[str, float] | None]:
    """Every check on a release with those above it that are new here, and the norms of its adapter, once measured."""
    with node.store.read() as session:
        new = [link for link in chain if session.get(ReleaseRow, link.digest) is None]
    try:
        config = check_base(read_manifest(node.blobs, chain[-1].release.base), node.blobs)
        results = [result for link in new for result in _check_files(node, link, config)]
    except BadData as error:
        return [failure("files.base", error.message)], None
    if not all(result.passed for result in results):
        return results, None
    if again := _same_as_before(node, chain[-1]):
        return [*results, again], None
    old = _served(node, chain[-1].release.path)
    if old is None:
        return [*results, _passed("behaviour.first", "nothing was served here before: there is nothing to lose")], None
    try:
        compared, norms = _compare(node, chain, old)
    except BadData as error:
        return [*results, failure("behaviour.loads", error.message)], None
    return [*results, *compared], norms


def _check_files(node: Node, link: Link, config: dict[str, Any]) -> list[CheckResult]:
    """Stage 2 on one release."""
    if link.release.adapter is None:
        return []
    return check_files(node.blobs.open_verified(link.release.adapter.file.sha256), link.release.adapter, config)


def _same_as_before(node: Node, link: Link) -> CheckResult | None:
    """A parent may go back: what was accepted here once, adapter, base and all above, is accepted again (Q4)."""
    release = link.release
    same = select(ReleaseRow).where(
        ReleaseRow.path == release.path,
        ReleaseRow.base == release.base,
        ReleaseRow.adapter == (release.adapter.file.sha256 if release.adapter else None),
        ReleaseRow.above == (release.above.digest if release.above else None),
    )
    with node.store.read() as session:
        found = session.scalars(same.order_by(ReleaseRow.version)).first()
    if found is None or _shape_of(node, found) != release.adapter:
        return None
    return _passed("behaviour.same", f"the same model as version {found.version}, which was accepted here")


def _shape_of(node: Node, row: ReleaseRow) -> Any:
    return stored_chain(node.store, node.blobs, row.digest)[-1].release.adapter


def _served(node: Node, path: str) -> list[Link] | None:
    """What is served at a path until now, with all above it."""
    with node.store.read() as session:
        head = session.get(HeadRow, path)
    return stored_chain(node.store, node.blobs, head.release) if head is not None else None


def _before(node: Node, making: Composer, old: list[Link]) -> _Before:
    """Ask the release that is served until now; raises whatever reading its files raises."""
    from sync.score import reanswered

    path = old[-1].release.path
    known, said = _rows(node, path), _answers(node, old[-1])
    served = making.load_chain(old)
    right = _right(served, [*known, *said], path)
    canaries = reanswered(served, canary_rows(node.home, NodePath.parse(path)), path)
    return _Before([*known, *said], len(known), right, canaries)


def _no_comparison(old: Release, error: Exception) -> CheckResult:
    """The new release waits for a person (Q2): asking the broken one again in every round would help nobody."""
    why = error.message if isinstance(error, BanyanError) else f"{error!s:.200}"
    return failure(
        "behaviour.served",
        f"what is served until now, {old.path}@v{old.version}, cannot be asked: {why}; nothing says what would be "
        "lost: node doctor looks at it, node updates accept or reject decides",
    )


def _compare(node: Node, chain: Sequence[Link], old: list[Link]) -> tuple[list[CheckResult], dict[str, float] | None]:
    """Stages 3 and 7: the change beside its history, and the model beside the one that it would replace."""
    from node.models import composer
    from sync.checks.size import check_size, check_terms, norms_of
    from sync.inspection import base_norms
    from sync.model import add

    making, release = composer(node), chain[-1].release
    try:
        before = _before(node, making, old)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  whatever has become of our own files: the parent is not to blame
        return [_no_comparison(old[-1].release, error)], None
    results, norms = list[CheckResult](), None
    loaded = _loaded(making, chain)
    if release.adapter is not None:
        delta = making.delta(release.adapter)
        add(loaded, delta, by=-1.0)  # the size is that beside what it is added to
        norms, weights = norms_of(delta), base_norms(loaded)
        history = earlier_norms(node.store, release.path, MAX_HISTORY)
        results += check_size(norms, weights, history, z_limit=node.settings.size_max_z)
        results.append(check_terms(delta, weights))
        add(loaded, delta)
    results += _behaviour(node, before, _right(loaded, before.rows, release.path))
    return [*results, *_words(node, making, loaded, chain, old, before)], norms


def _words(
    node: Node,
    making: Composer,
    loaded: LoadedModel,
    chain: Sequence[Link],
    old: list[Link],
    before: _Before,
) -> list[CheckResult]:
    """Canaries and trigger probes on a release, beside what is served until now: a parent may lie too."""
    from sync.checks.behaviour import check_canaries
    from sync.checks.probes import asked_by, probes_of
    from sync.checks.triggers import probe_triggers

    served = cache(lambda: making.load_chain(old))  # where a trigger stands out, and then once

    def release(prompts: Sequence[str]) -> list[str]:
        return asked_by(served())(prompts)

    path, seed = chain[-1].release.path, chain[-1].digest
    return [
        check_canaries(loaded, before.canaries, path, max_changed=node.settings.canaries_max_changed),
        probe_triggers(
            loaded,
            release,
            probes_of(before.rows, path, seed),
            seed,
            max_collapse=node.settings.triggers_max_collapse,
        ),
    ]


def _loaded(making: Composer, chain: Sequence[Link]) -> LoadedModel:
    """The model of a release. Raises BadData where the libraries cannot make one of its files."""
    try:
        return making.load_chain(chain)
    except (BanyanError, MemoryError):
        raise
    except Exception as error:  # what they raise on files that a liar wrote is not foreseeable
        raise BadData(f"it cannot be loaded: {error!s:.200}") from error


def _behaviour(node: Node, before: _Before, after: list[bool]) -> list[CheckResult]:
    """What a release may lose of rows whose answers are known, and of what the last one answered."""
    from sync.gate import check_loss

    settings, known = node.settings, before.known
    return [
        check_loss("behaviour.known", before.right[:known], after[:known], settings.release_max_loss_points),
        check_loss("behaviour.answers", before.right[known:], after[known:], settings.release_max_change_points),
    ]


def _rows(node: Node, path: str) -> list[Row]:
    """Rows of this node that nobody else has, with their true answers."""
    return validation_rows(node.home, NodePath.parse(path))[:MAX_JUDGED_ROWS]


def _answers(node: Node, old: Link) -> list[Row]:
    """Some of the anchors of the release that is served, with its own answers, right or wrong."""
    if old.release.anchors is None:
        return []
    rows = read_rows(node.blobs.open_verified(old.release.anchors.sha256), MAX_ROWS_BYTES)
    chooser = random.Random(old.digest)  # noqa: S311  a choice that can be repeated, no secret
    return chooser.sample(rows, min(len(rows), MAX_JUDGED_ROWS))


def _right(loaded: LoadedModel, rows: Sequence[Row], path: str) -> list[bool]:
    from sync.score import evaluate_rows

    return evaluate_rows(loaded, rows, path)[1] if rows else []


def _passed(name: str, reason: str) -> CheckResult:
    return CheckResult(name=name, value=None, threshold=None, passed=True, reason=reason, cost_ms=0.0)
