"""A parent's releases reach its children by TUF, over real sockets: what is listed, believed and refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response

from node.api.app import create_app
from node.clone import clone
from node.context import Node, open_node
from node.enrolments import revoke
from node.parent_repository import parent_listing
from node.pull import pull
from node.repository import Publisher, listed
from node.settings import Settings
from registry.documents import ReleasePin
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath, Ref
from registry.store import select
from registry.tables import HeadRow, PeerRow, ReleaseRow
from tests.world import enrol_child, make_node, put_base, put_enrolment, put_release, put_tree, snapshot, utc_now

CARDS = "en/finance/cards"
DAY = timedelta(days=1)


@dataclass
class Family:
    parent: Node
    child: Node
    pins: dict[str, ReleasePin]
    url: str
    serve: Callable[[FastAPI], str]


@pytest.fixture
def family(tmp_path: Path, serve: Callable[[FastAPI], str]) -> Iterator[Family]:
    parent = make_node(tmp_path / "parent", "en", "en/finance")
    pins = put_tree(parent, "en", "en/finance")
    url = serve(create_app(parent))
    child = make_node(tmp_path / "child", CARDS)
    enrol_child(child, parent, url, CARDS)
    yield Family(parent, child, pins, url, serve)
    child.close()
    parent.close()


def move_to(child: Node, url: str) -> None:
    """The child looks for its parent at another address, as an attacker on the way could make it."""
    with child.store.transaction() as session:
        session.scalars(select(PeerRow).where(PeerRow.role == "parent")).one().url = url


def names(node: Node) -> set[str]:
    """What a node would publish now."""
    with node.store.read() as session:
        return set(listed(node, session))


def published(node: Node) -> set[str]:
    """What it publishes, after a publisher that has published before looked again."""
    folder = node.home.repository
    newest = max(folder.glob("*.targets.json"), key=lambda file: int(file.name.partition(".")[0]))
    return set(json.loads(newest.read_bytes())["signed"]["targets"])


def answering(app: FastAPI, prefix: str, answer: Response) -> FastAPI:
    """An application that gives this answer to everything below a path."""

    @app.middleware("http")
    async def instead(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        return answer if request.url.path.startswith(prefix) else await go_on(request)

    return app


def test_a_child_pulls_what_its_parents_repository_lists(family: Family) -> None:
    """F1, F2: of every path the served version and those below it."""
    base = put_base(family.parent)
    newest = put_release(family.parent, "en/finance", base, version=2, above=family.pins["en"])
    put_release(family.parent, "en/finance", base, version=3, above=family.pins["en"], is_head=False)
    assert names(family.parent) == {"en/v1", "en/finance/v1", "en/finance/v2"}
    done = pull(family.child, None, utc_now())
    assert {one.path: one.version for one in done} == {"en": 1, "en/finance": 2}
    assert snapshot(family.child)[1] == {"en": family.pins["en"].digest, "en/finance": newest.digest}
    found = parent_listing(family.child, utc_now())
    assert found.find(Ref.parse("en/finance@v1")) == family.pins["en/finance"]
    assert found.find(Ref.parse("en/finance@v3")) is None


def test_the_list_of_heads_is_not_believed(family: Family) -> None:
    """F2: a node in between that hides the newest release, or shows another, is not asked."""
    app = create_app(family.parent)
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") != "/v1/heads"]
    app.get("/v1/heads")(list)
    move_to(family.child, family.serve(app))
    assert {one.path for one in pull(family.child, None, utc_now())} == {"en", "en/finance"}


def test_metadata_over_http(family: Family) -> None:
    """F1, F13."""
    get = lambda name: httpx.get(f"{family.url}/v1/tuf/metadata/{name}")  # noqa: E731
    for name in ("timestamp.json", "root.json"):
        assert (get(name).status_code, get(name).headers["cache-control"]) == (200, "no-store")
    for name in ("1.root.json", "1.targets.json", "1.snapshot.json"):
        assert "immutable" in get(name).headers["cache-control"]
    assert get("root.json").content == get("1.root.json").content
    for name in (
        "2.root.json",
        "targets.json",
        "01.root.json",
        ".lock",
        "..%2Fconfig.toml",
        "1.timestamp.json",
        "x" * 300,
    ):
        assert get(name).status_code == 404
    pin = family.pins["en/finance"]
    target = f"{family.url}/v1/tuf/targets"
    envelope = httpx.get(f"{family.url}/v1/releases/{pin.digest}").content
    assert httpx.get(f"{target}/en/finance/{pin.digest}.v1").content == envelope
    for name in (f"en/finance/{pin.digest}.v2", f"en/{pin.digest}.v1", f"en/finance/{'0' * 64}.v1", "en/finance/v1"):
        assert httpx.get(f"{target}/{name}").status_code == 404


def test_what_was_trained_here_is_listed_for_those_below_alone(tmp_path: Path) -> None:
    """F1."""
    node = make_node(tmp_path / "alone", "en")
    put_release(node, "en", put_base(node), adapter=b"mine")
    assert names(node) == set()
    put_enrolment(node, "en/somebody")
    assert names(node) == {"en/v1"}
    node.close()


def test_a_publisher_reads_releases_again_when_something_has_changed(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1: it looks at each timestamp request, and whatever decides what is listed is noticed."""
    parent, readings = family.parent, list[Node]()
    monkeypatch.setattr("node.repository.listed", lambda *of: readings.append(of[0]) or listed(*of))
    base, publisher = put_base(parent), Publisher(parent)
    changes: list[Callable[[], object]] = [
        lambda: put_release(parent, "en", base, version=2),
        lambda: put_release(parent, "de", base, adapter=b"mine"),
        lambda: put_release(parent, "en", base, version=3, is_head=False),
        lambda: put_enrolment(parent, "de/somebody"),
        lambda: revoke(parent, family.child.key.public.id, NodePath.parse(CARDS), utc_now()),
    ]
    for count, change in enumerate(changes, start=1):
        publisher.renew(utc_now())
        publisher.renew(utc_now())
        assert len(readings) == count
        change()
        publisher.renew(utc_now())
        assert published(parent) == names(parent)


def test_releases_of_a_parents_parent_come_through_it(family: Family, tmp_path: Path) -> None:
    """F9: three nodes, one above the other; the lowest believes its parent about what lies above."""
    below = make_node(tmp_path / "below", f"{CARDS}/gold")
    pull(family.child, None, utc_now())
    enrol_child(below, family.child, family.serve(create_app(family.child)), f"{CARDS}/gold")
    assert {one.path for one in pull(below, None, utc_now())} == {"en", "en/finance"}
    assert snapshot(below)[1] == snapshot(family.child)[1]
    below.close()


def test_a_parent_vouches_for_nothing_beside_its_places(family: Family) -> None:
    """F9, R7."""
    stranger = make_node(family.parent.home.root.parent / "stranger", "de")
    foreign = put_release(stranger, "de", put_base(stranger))
    with stranger.store.read() as session:
        row = session.get_one(ReleaseRow, foreign.digest)
        fields = {c.key: getattr(row, c.key) for c in ReleaseRow.__table__.columns} | {"own": False}
    family.parent.blobs.put_bytes(stranger.key.public.raw)
    with family.parent.store.transaction() as session:
        session.add(ReleaseRow(**fields))
        session.flush()
        session.add(HeadRow(path="de", release=foreign.digest, changed=utc_now()))
    assert "de/v1" in names(family.parent)
    with pytest.raises(BadData, match="not trusted for that path"):
        pull(family.child, NodePath.parse("de"), utc_now())
    stranger.close()


def test_a_frozen_parent_is_noticed(family: Family) -> None:
    """F6: whoever answers with yesterday's signatures alone."""
    pull(family.child, None, utc_now())
    frozen = create_app(family.parent, now=lambda: utc_now() - 3 * DAY)
    move_to(family.child, family.serve(frozen))
    with pytest.raises(BadData, match="expired"):
        pull(family.child, None, utc_now() + 2 * DAY)
    assert pull(family.child, None, utc_now())


def test_a_parent_from_a_backup_is_refused(family: Family, tmp_path: Path) -> None:
    """F7: an old state of the same node, with all its keys."""
    base = put_base(family.parent)
    Publisher(family.parent).renew(utc_now())
    shutil.copytree(family.parent.home.root, tmp_path / "backup")
    new = put_release(family.parent, "en", base, version=2)
    pull(family.child, None, utc_now())
    backup = open_node(Settings(home=tmp_path / "backup"))
    move_to(family.child, family.serve(create_app(backup)))
    with pytest.raises(BadData, match="older than what was seen"):
        pull(family.child, None, utc_now())
    assert snapshot(family.child)[1]["en"] == new.digest
    backup.close()


def test_an_old_home_becomes_a_repository_by_itself(family: Family, tmp_path: Path) -> None:
    """F1, F5: a home from before, at both ends; its child takes the root that the pinned key vouches for."""
    shutil.rmtree(family.parent.home.repository, ignore_errors=True)
    for role in ("root", "snapshot", "timestamp"):
        (family.parent.home.key_file.parent / f"{role}.pem").unlink(missing_ok=True)
    shutil.rmtree(family.child.home.trusted)
    move_to(family.child, family.serve(create_app(family.parent)))
    assert {one.path for one in pull(family.child, None, utc_now())} == {"en", "en/finance"}


def test_a_parent_of_an_older_version_is_named(family: Family) -> None:
    unknown = Response('{"error": {"message": "not found", "hint": "", "code": "not_found"}}', 404)
    move_to(family.child, family.serve(answering(create_app(family.parent), "/v1/tuf/", unknown)))
    with pytest.raises(BadData, match="does not serve it") as caught:
        pull(family.child, None, utc_now())
    assert "older version" in caught.value.hint


def test_from_another_address_nothing_is_known_to_be_new(family: Family, tmp_path: Path) -> None:
    """F2: a mirror's signatures count, its list does not make a head of what the parent never listed."""
    mirror = make_node(tmp_path / "mirror", "de")
    with pytest.raises(LocalFailure, match="does not serve"):
        clone(family.child, Ref.parse("en"), tmp_path / "out", now=utc_now(), source=family.serve(create_app(mirror)))
    assert [folder.name for folder in family.child.home.trusted.iterdir()] == [family.parent.key.public.id]
    mirror.close()


def test_what_a_revoked_key_signed_is_no_longer_listed(family: Family, tmp_path: Path) -> None:
    """F11."""
    key = family.child.key
    with family.parent.store.transaction() as session:
        row = session.scalars(select(ReleaseRow).where(ReleaseRow.path == "en/finance")).one()
        fields = {c.key: getattr(row, c.key) for c in ReleaseRow.__table__.columns}
        fields |= {"digest": "d" * 64, "path": CARDS, "signer": key.public.id, "own": False}
        session.add(ReleaseRow(**fields))
        session.flush()
        session.add(HeadRow(path=CARDS, release="d" * 64, changed=utc_now()))
    assert f"{CARDS}/v1" in names(family.parent)
    revoke(family.parent, key.public.id, NodePath.parse(CARDS), utc_now())
    assert f"{CARDS}/v1" not in names(family.parent)


def run_client(*words: object) -> int:
    done = subprocess.run([sys.executable, "-m", "tests.tuf_client", *map(str, words)], check=False, timeout=60)
    return done.returncode


def test_the_client_as_the_conformance_suite_drives_it(family: Family, tmp_path: Path) -> None:
    """F2: `init`, `refresh` and `download` against a real node, with their exit codes and files."""
    httpx.get(f"{family.url}/v1/tuf/metadata/timestamp.json")
    (tmp_path / "root.json").write_bytes(httpx.get(f"{family.url}/v1/tuf/metadata/1.root.json").content)
    at = ("--metadata-dir", tmp_path / "metadata")
    url = ("--metadata-url", f"{family.url}/v1/tuf/metadata")
    assert run_client(*at, "init", tmp_path / "root.json") == 0
    assert run_client(*at, *url, "refresh") == 0
    assert {"root.json", "timestamp.json", "snapshot.json", "targets.json"} <= {
        file.name for file in (tmp_path / "metadata").iterdir()
    }
    where = ("--target-base-url", f"{family.url}/v1/tuf/targets", "--target-dir", tmp_path / "out")
    assert run_client(*at, *url, "--target-name", "en/finance/v1", *where, "download") == 0
    envelope = httpx.get(f"{family.url}/v1/releases/{family.pins['en/finance'].digest}").content
    assert [file.read_bytes() for file in (tmp_path / "out").iterdir()] == [envelope]
    assert run_client(*at, *url, "--target-name", "en/finance/v9", *where, "download") == 1
    assert run_client(*at, "--metadata-url", "http://127.0.0.1:9/metadata", "refresh") == 1
