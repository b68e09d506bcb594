"""The wire of the Hub interface: what each trap of its clients asks for, and who sees what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from node.api.app import create_app
from node.api.hub.resolve import part_of
from node.api.rates import Rates
from node.repo_ids import base_id, commit_of, read_repo_id
from registry.tables import ReleaseRow
from sync.delta import Delta
from tests.node.hub.conftest import TOKEN, Tree
from tests.toy_tree import put_toy_release
from tests.world import make_node, put_base, put_release

HOLDER = {"Authorization": f"Bearer {TOKEN}"}
EVERYWHERE = (
    "/api/models",
    "/api/models?full=true&limit=1",
    "/api/models/banyan/en.shapes?blobs=true",
    "/api/models/banyan/en.shapes_merged/tree/main?recursive=true&expand=true",
    "/api/models/banyan/en.shapes/tree/v1?recursive=false",
    "/api/models/banyan/en.shapes/refs",
    "/api/models/banyan/en.shapes/commits/main",
    "/banyan/en.shapes/resolve/main/adapter_model.safetensors",
    "/banyan/en.shapes_merged/resolve/main/model.safetensors",
    "/banyan/en.shapes/resolve/main/README.md",
)


@pytest.fixture(scope="module")
def hub(endpoint: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint, timeout=60) as client:
        yield client


def test_ids_have_one_meaning_each() -> None:
    known = {
        text: found and (found.form, str(found.path), found.base)
        for text in (
            "banyan/en.health",
            "banyan/en.health_merged",
            "banyan/master",
            "banyan/seedling_0123456789ab",
            "banyan/seedling",
            "other/en",
            "banyan/en..health",
            "banyan/_merged",
            "banyan/../etc/passwd",
            "",
        )
        for found in [read_repo_id(text)]
    }
    assert known == {
        "banyan/en.health": ("adapter", "en/health", None),
        "banyan/en.health_merged": ("merged", "en/health", None),
        "banyan/master": ("adapter", "master", None),
        "banyan/seedling_0123456789ab": ("base", "None", "0123456789ab"),
        "banyan/seedling": None,
        "other/en": None,
        "banyan/en..health": None,
        "banyan/_merged": None,
        "banyan/../etc/passwd": None,
        "": None,
    }


@pytest.mark.parametrize("place", EVERYWHERE)
def test_xet_is_never_mentioned(hub: httpx.Client, place: str) -> None:
    """B4: its clients would ask elsewhere for the bytes."""
    reply = hub.get(place)
    assert reply.status_code == 200
    assert "xet" not in str(reply.headers).lower()
    assert b"xet" not in reply.content.lower()


def test_files_are_told_as_they_are_sent(tree: Tree, hub: httpx.Client) -> None:
    """B1: what is told of a commit holds for its files."""
    commit = tree.pins["en/shapes"].digest[:40]
    for name in ("banyan/en.shapes", "banyan/en.shapes_merged", base_id(tree.base)):
        told = hub.get(f"/api/models/{name}/tree/main").json()
        assert {one["path"] for one in told} == {
            one["rfilename"] for one in hub.get(f"/api/models/{name}").json()["siblings"]
        }
        for one in told:
            place = f"/{name}/resolve/main/{one['path']}"
            head, whole = hub.head(place), hub.get(place)
            assert head.headers["content-length"] == str(one["size"]) == str(len(whole.content))
            assert head.content == b""
            assert head.headers["x-repo-commit"] == (commit_of(tree.base.digest) if "_" in name[-14:-12] else commit)
            assert head.headers["etag"] == whole.headers["etag"]
            if "lfs" in one:
                assert one["lfs"]["oid"] == hashlib.sha256(whole.content).hexdigest() == head.headers["etag"].strip('"')
            elif not (name.endswith("_merged") and one["path"] == "model.safetensors"):
                header = f"blob {one['size']}\0".encode()
                assert one["oid"] == hashlib.sha1(header + whole.content).hexdigest() == head.headers["etag"].strip('"')


@pytest.mark.parametrize(
    ("place", "status", "code"),
    [
        ("/api/models/banyan/en.nothing", 404, "RepoNotFound"),
        ("/api/models/gpt2", 404, "RepoNotFound"),
        ("/gpt2/resolve/main/config.json", 404, "RepoNotFound"),
        ("/api/models/banyan/tiny_000000000000", 404, "RepoNotFound"),
        ("/api/models/banyan/en.shapes/revision/v7", 404, "RevisionNotFound"),
        ("/api/models/banyan/en.shapes/revision/v0", 404, "RevisionNotFound"),
        ("/api/models/banyan/en.shapes/revision/other", 404, "RevisionNotFound"),
        (f"/api/models/banyan/en.shapes/revision/{'0' * 40}", 404, "RevisionNotFound"),
        ("/banyan/en.shapes/resolve/refs/pr/1/config.json", 404, "RevisionNotFound"),
        ("/banyan/en.shapes/resolve/main/config.json", 404, "EntryNotFound"),
        ("/banyan/en.shapes/resolve/main/..%2F..%2Fkeys%2Fnode.pem", 404, "EntryNotFound"),
        ("/api/models/banyan/en.shapes/tree/main/additional_chat_templates", 404, "EntryNotFound"),
        ("/api/models?sort=beauty", 400, "bad_data"),
        ("/api/models?num_parameters=max:1B", 400, "BadRequest"),
        ("/api/models?limit=999999999999", 400, "BadRequest"),
        ("/api/whoami-v2", 401, "Unauthorized"),
    ],
)
def test_errors_say_what_they_are(hub: httpx.Client, place: str, status: int, code: str) -> None:
    """B5."""
    reply = hub.get(place)
    assert (reply.status_code, reply.headers["x-error-code"]) == (status, code)
    assert reply.headers["x-error-message"]
    assert reply.headers["x-request-id"]
    assert isinstance(reply.json()["error"], str)
    assert ("x-repo-commit" in reply.headers) == (code == "EntryNotFound")  # clients remember the absence by it


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        (b'{"paths": ["README.md", "no.txt"], "expand": true}', ["README.md"]),
        (b"paths=README.md&paths=lineage.json&expand=True", ["README.md", "lineage.json"]),
        (b"paths=no.txt", []),
        (b"", []),
        (b"{", None),
        (b"\xff", None),
        (b'{"paths": 7}', None),
        (b"&".join([b"paths=a"] * 2000), None),
    ],
)
def test_paths_are_asked_for_as_json_or_as_a_form(hub: httpx.Client, body: bytes, paths: list[str] | None) -> None:
    reply = hub.post("/api/models/banyan/en.shapes/paths-info/main", content=body)
    assert reply.status_code == (400 if paths is None else 200)
    if paths is not None:
        assert [one["path"] for one in reply.json()] == paths
        assert all("lastCommit" in one for one in reply.json()) == (b"true" in body.lower() or not paths)


def test_times_have_the_spelling_that_clients_read(hub: httpx.Client) -> None:
    told = hub.get("/api/models/banyan/en.shapes").json()
    dates = [told["lastModified"], told["createdAt"], hub.get("/api/models/banyan/en/commits/main").json()[0]["date"]]
    for date in dates:
        assert datetime.strptime(date, "%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: DTZ007 - as the client does


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("", (0, 100)),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=99-", (99, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=100-", None),
        ("bytes=-0", None),
        ("bytes=5-2", (0, 100)),
        ("bytes=0-1,5-6", (0, 100)),
        ("bytes=a-b", (0, 100)),
        ("lines=1-2", (0, 100)),
    ],
)
def test_ranges_are_read_as_the_standard_says(header: str, part: tuple[int, int] | None) -> None:
    assert part_of(header, 100) == part


@pytest.mark.parametrize(
    "place",
    [
        "/banyan/en.shapes_merged/resolve/main/model.safetensors",
        "/banyan/en.shapes.tools/resolve/main/adapter_model.safetensors",
        "/banyan/en.shapes/resolve/main/README.md",
    ],
)
def test_a_reader_goes_on_where_it_stopped(hub: httpx.Client, place: str) -> None:
    whole = hub.get(place)
    cut = len(whole.content) // 3
    rest = hub.get(place, headers={"Range": f"bytes={cut}-", "If-Range": whole.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, whole.content[cut:])
    assert rest.headers["content-range"] == f"bytes {cut}-{len(whole.content) - 1}/{len(whole.content)}"
    other = hub.get(place, headers={"Range": f"bytes={cut}-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, whole.content)
    behind = hub.get(place, headers={"Range": f"bytes={len(whole.content)}-"})
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(whole.content)}")


def test_lists_come_in_pages(hub: httpx.Client) -> None:
    whole = [one["id"] for one in hub.get("/api/models").json()]
    place, found = "/api/models?limit=2", []
    while place:
        reply = hub.get(place)
        assert len(reply.json()) <= 2
        found += [one["id"] for one in reply.json()]
        place = reply.links.get("next", {}).get("url", "")
    assert found == whole
    assert len(whole) == 6


def test_a_merged_model_is_told_as_a_whole_one(tree: Tree, hub: httpx.Client) -> None:
    told = hub.get("/api/models/banyan/en.shapes_merged").json()
    assert (told["library_name"], told["cardData"]["base_model_relation"]) == ("transformers", "merge")
    assert told["baseModels"] == {"relation": "merge", "models": [{"id": base_id(tree.base)}]}
    assert told["config"]["model_type"] == "llama"
    assert hub.get(f"/api/models/{base_id(tree.base)}").json()["childrenModelCount"] == {"adapter": 2}


def test_what_stands_on_own_work_is_not_shown_either(
    tmp_path: Path, model_folder: Path, deltas: dict[str, Delta], serve: Callable[..., str]
) -> None:
    """B6: the files of a path are the sum of all above it, so a public release must not give away a private one."""
    node = make_node(tmp_path / "home", "en", hub_token=TOKEN)
    base = put_base(node, {file.name: file.read_bytes() for file in model_folder.iterdir()})
    own = put_toy_release(node, "en", base, delta=deltas["en/shapes"])
    put_toy_release(node, "en/below", base, above=own)
    url = serve(create_app(node))
    assert [pin["path"] for pin in httpx.get(f"{url}/v1/heads").json()] == ["en/below"]  # a bare envelope
    for name in ("en", "en_merged", "en.below", "en.below_merged"):
        assert httpx.get(f"{url}/api/models/banyan/{name}").status_code == 404
        assert httpx.get(f"{url}/banyan/{name}/resolve/main/README.md").status_code == 404
        assert httpx.get(f"{url}/api/models/banyan/{name}", headers=HOLDER).json()["private"] is True
    assert httpx.get(f"{url}/api/models").json() == []
    assert len(httpx.get(f"{url}/api/models", headers=HOLDER).json()) == 5
    node.close()


def test_a_node_without_a_token_knows_no_holder(tmp_path: Path, serve: Callable[..., str]) -> None:
    node = make_node(tmp_path / "home", "en")
    put_release(node, "en", put_base(node), adapter=b"private")
    url = serve(create_app(node))
    for token in ("Bearer", "Bearer None", "Basic Og=="):
        headers = {"Authorization": token}
        assert httpx.get(f"{url}/api/whoami-v2", headers=headers).status_code == 401
        assert httpx.get(f"{url}/api/models", headers=headers).json() == []
        reply = httpx.post(f"{url}/api/repos/create", json={"name": "en.x"}, headers=headers)
        assert (reply.status_code, "node config set hub_token" in reply.json()["error"]) == (403, True)
    node.close()


def test_too_many_requests_are_told_when_to_come_back(tree: Tree, serve: Callable[..., str]) -> None:
    node = tree.open()
    url = serve(create_app(node, rates=Rates(requests_per_s=0.1, burst=2)))
    replies = [httpx.get(f"{url}/api/models") for _ in range(4)]
    assert replies[-1].status_code == 429
    assert replies[-1].headers["retry-after"] == "1"
    node.close()


def test_a_damaged_release_does_not_hide_the_others(
    tmp_path: Path, model_folder: Path, deltas: dict[str, Delta], serve: Callable[..., str]
) -> None:
    node = make_node(tmp_path / "home", "en", share_own=True)
    base = put_base(node, {file.name: file.read_bytes() for file in model_folder.iterdir()})
    put_toy_release(node, "en", base)
    broken = put_toy_release(node, "en/broken", base, delta=deltas["en/shapes"])
    with node.store.transaction() as session:
        row = session.get(ReleaseRow, broken.digest)
        assert row is not None
        row.envelope = json.dumps({"payload": ""}).encode()
    url = serve(create_app(node))
    assert [one["id"] for one in httpx.get(f"{url}/api/models").json()] == ["banyan/en", base_id(base)]
    node.close()
