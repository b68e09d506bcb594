"""The repositories of this node as one asker sees them: which there are, their revisions, and what each revision is.

A release is seen where `node.api.shared` lets others see it and every release that it stands on: the files of a path
are the sum of all of them. The holder of the token sees everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from node.api.hub.errors import RepoNotFound, RevisionNotFound
from node.api.shared import shared
from node.bases import read_manifest
from node.context import Node
from node.repo_ids import Form, RepoId, base_id, commit_of, merged_id, read_repo_id
from registry.documents import BaseManifest
from registry.errors import BanyanError
from registry.paths import NodePath, Ref
from registry.store import Session, select
from registry.tables import HeadRow, ReleaseRow
from sync.chain import Link, stored_chain
from sync.pull import MAX_LISTED

MAIN = "main"
HASH_CHARS = 40


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository: its releases that the asker sees, the newest first; `head` is the one that `main` means."""

    id: str
    form: Form
    releases: tuple[ReleaseRow, ...]
    head: ReleaseRow | None
    is_private: bool = False  # seen by the holder of the token only


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one revision, which never changes: the chain of its release (of a base, any release on it)."""

    id: str
    form: Form
    commit: str
    release: str
    chain: tuple[Link, ...] = field(compare=False)
    manifest: BaseManifest = field(compare=False)

    @property
    def last(self) -> Link:
        """The release itself."""
        return self.chain[-1]

    @property
    def adapters(self) -> list[Link]:
        """The releases that change the base."""
        return [link for link in self.chain if link.release.adapter is not None]

    @property
    def is_whole(self) -> bool:
        """Whether the files are a whole model and not an adapter."""
        return self.form != "adapter" or not self.adapters


class Shelf:
    """What there is, for one kind of asker."""

    def __init__(self, node: Node, *, sees_all: bool) -> None:
        self._node = node
        self._sees_all = sees_all
        self._chain = lru_cache(maxsize=512)(lambda digest: tuple(stored_chain(node.store, node.blobs, digest)))
        self._manifest = lru_cache(maxsize=64)(lambda digest: read_manifest(node.blobs, digest))

    def repos(self) -> list[Repo]:
        """Every repository with a main revision, by id: paths, merged weights of those with adapters, bases."""
        wanted = select(ReleaseRow).join(HeadRow, HeadRow.release == ReleaseRow.digest).order_by(ReleaseRow.path)
        with self._node.store.read() as session:
            heads = self._seen(session, session.scalars(wanted.limit(MAX_LISTED)))
            public = {row.digest for row in self._public(session, heads)}
        found: dict[str, Repo] = {}
        for row in heads:
            path = NodePath.parse(row.path)
            one = Repo(path.hub_id, "adapter", (row,), row, row.digest not in public)
            try:
                has_adapters = any(link.release.adapter for link in self._chain(row.digest))
                base = base_id(self._manifest(row.base))
            except BanyanError:  # one that was damaged here does not hide the others
                continue
            found[one.id] = one
            if has_adapters:
                found[merged_id(path)] = replace(one, id=merged_id(path), form="merged")
            known = found.get(base)
            hidden = one.is_private and (known is None or known.is_private)
            found[base] = Repo(base, "base", (row,), row, hidden)
        return [found[name] for name in sorted(found)]

    def repo(self, text: str) -> Repo:
        """The repository of an id. Raises RepoNotFound."""
        wanted = read_repo_id(text)
        rows = self._rows_of_base(text, wanted) if wanted is None or wanted.base else self._rows_of_path(wanted)
        with self._node.store.read() as session:
            rows = self._seen(session, rows)
            public = {row.digest for row in self._public(session, rows)}
            head = session.get(HeadRow, rows[0].path) if rows else None
        if not rows:
            raise RepoNotFound(f"no model {text[:120]!a} is here", "GET /api/models lists those that are")
        form = wanted.form if wanted is not None else "base"
        served = [row for row in rows if head is not None and row.digest == head.release]
        main = rows[0] if form == "base" else next(iter(served), None)
        return Repo(text, form, tuple(rows), main, is_private=(main or rows[0]).digest not in public)

    def snapshot(self, repo: Repo, revision: str = MAIN) -> Snapshot:
        """A revision: `main`, `v7`, or a commit. Raises RevisionNotFound."""
        if repo.form == "base":
            return self._base_snapshot(repo, revision)
        row = _chosen(repo, revision)
        if row is None:
            known = ", ".join([MAIN, *dict.fromkeys(f"v{row.version}" for row in repo.releases[:20])])
            raise RevisionNotFound(f"{repo.id} has no revision {revision[:60]!a}", f"it has {known}")
        chain = self._chain(row.digest)
        return Snapshot(repo.id, repo.form, commit_of(row.digest), row.digest, chain, self._manifest(row.base))

    def _base_snapshot(self, repo: Repo, revision: str) -> Snapshot:
        """A base has one revision. Clients ask it for the adapter's revision, too: then it is the base of that."""
        row = repo.releases[0]
        commit = commit_of(row.base)
        if revision not in (MAIN, commit):
            if _chosen(repo, revision) is None:
                raise RevisionNotFound(f"{repo.id} has no revision {revision[:60]!a}", f"it has {MAIN} and {commit}")
            commit = revision if len(revision) == HASH_CHARS else commit
        return Snapshot(repo.id, "base", commit, row.digest, self._chain(row.digest), self._manifest(row.base))

    def _rows_of_path(self, wanted: RepoId) -> list[ReleaseRow]:
        of_path = select(ReleaseRow).where(ReleaseRow.path == str(wanted.path))
        with self._node.store.read() as session:
            return list(session.scalars(of_path.order_by(ReleaseRow.version.desc()).limit(MAX_LISTED)))

    def _rows_of_base(self, text: str, wanted: RepoId | None) -> list[ReleaseRow]:
        """The releases on a base, the newest first; by its plain name, of the base that was released last."""
        with self._node.store.read() as session:
            newest = select(ReleaseRow).order_by(ReleaseRow.created.desc(), ReleaseRow.digest)
            if wanted is not None and wanted.base:
                rows = list(session.scalars(newest.where(ReleaseRow.base.startswith(wanted.base)).limit(MAX_LISTED)))
                return [row for row in rows if base_id(self._manifest(row.base)) == text]
            digests = session.scalars(select(ReleaseRow.base).distinct())
            named = [digest for digest in digests if self._manifest(digest).name == text]
            rows = list(session.scalars(newest.where(ReleaseRow.base.in_(named)).limit(MAX_LISTED)))
            rows = self._seen(session, rows)
        return [row for row in rows if row.base == rows[0].base]

    def _seen(self, session: Session, rows: Iterable[ReleaseRow]) -> list[ReleaseRow]:
        return list(rows) if self._sees_all else self._public(session, rows)

    def _public(self, session: Session, rows: Iterable[ReleaseRow]) -> list[ReleaseRow]:
        """Those that others may see, and whose chains they may see (B6)."""
        return [row for row in shared(self._node, session, rows) if self._stands_in_public(session, row)]

    def _stands_in_public(self, session: Session, row: ReleaseRow) -> bool:
        try:
            above = [link.digest for link in self._chain(row.digest)[:-1]]
        except BanyanError:  # damaged here: nobody can be given it
            return False
        rows = list(session.scalars(select(ReleaseRow).where(ReleaseRow.digest.in_(above))))
        return len(shared(self._node, session, rows)) == len(above)


def _chosen(repo: Repo, revision: str) -> ReleaseRow | None:
    """The release that a revision means; of several keys' releases of one version, the served one, else our own."""
    if revision == MAIN:
        return repo.head
    if len(revision) == HASH_CHARS:
        return next((row for row in repo.releases if commit_of(row.digest) == revision), None)
    try:
        version = Ref.parse(f"en@{revision}").version
    except BanyanError:
        return None
    rows = [row for row in repo.releases if row.version == version]
    served = [row for row in rows if repo.head is not None and row.digest == repo.head.digest]
    return next(iter(served or [row for row in rows if row.own] or rows), None)
