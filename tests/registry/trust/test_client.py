"""A child follows a node's repository: what it takes, and the attacks that it must not fall for."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Targets

from registry.envelope import library_key
from registry.errors import BadData
from registry.keys import PrivateKey
from registry.trust.client import LIMITS, release_keys
from tests.registry.trust.site import DAY, NOW, Site, follow, kept


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trusted"


def edited(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Signed metadata with its content changed, the signatures left as they were."""
    fields = json.loads(data)
    change(fields["signed"])
    return json.dumps(fields).encode()


def resigned_root(site: Site, change: Callable[[dict[str, Any]], None]) -> None:
    """A next root with any content, signed by the keys that it should have."""
    fields = json.loads(site.files["root.json"])
    change(fields["signed"])
    fields["signed"]["version"] = site.root.version + 1
    signed = Metadata.from_dict(json.loads(json.dumps(fields))).signed  # from_dict takes its argument apart
    site.files[f"{site.root.version + 1}.root.json"] = site.sign("root", signed, [*site.keys["root"], site.node])


def second_id(site: Site) -> None:
    """A new root in which one key stands under two ids and both have to sign."""

    def change(signed: dict[str, Any]) -> None:
        (key_id,) = signed["roles"]["timestamp"]["keyids"]
        signed["keys"]["f" * 64] = signed["keys"][key_id]
        signed["roles"]["timestamp"] = {"keyids": [key_id, "f" * 64], "threshold": 2}

    resigned_root(site, change)


def other_key_type(site: Site) -> None:
    def change(signed: dict[str, Any]) -> None:
        (key_id,) = signed["roles"]["timestamp"]["keyids"]
        signed["keys"][key_id].update(keytype="rsa", scheme="rsassa-pss-sha256")

    resigned_root(site, change)


def weak_key(site: Site) -> None:
    """A point of small order: anyone can sign for it."""

    def change(signed: dict[str, Any]) -> None:
        (key_id,) = signed["roles"]["timestamp"]["keyids"]
        signed["keys"][key_id]["keyval"]["public"] = "01" + "00" * 31

    resigned_root(site, change)


def threshold(site: Site, value: object, role: str = "timestamp") -> None:
    """Signed as bytes that python-tuf itself would not write."""
    fields = json.loads(site.files["root.json"])
    fields["signed"]["roles"][role]["threshold"] = value
    fields["signed"]["version"] += 1
    site.files[f"{site.root.version + 1}.root.json"] = json.dumps(fields).encode()


def snapshot_back(site: Site) -> None:
    site.snapshot.version, site.timestamp.version = 1, 3
    site.publish()


def targets_back(site: Site) -> None:
    site.targets.version = 1
    site.step("snapshot", "timestamp")


def timestamp_back(site: Site) -> None:
    site.timestamp.version = 1
    site.publish()


def no_targets(site: Site) -> None:
    site.step()
    site.snapshot.meta = {"other.json": site.described("targets", site.targets)}
    site.put("snapshot", site.snapshot)
    site.timestamp.snapshot_meta = site.described("snapshot", site.snapshot)
    site.put("timestamp", site.timestamp)


def unlike_its_digest(site: Site, role: str) -> None:
    """Properly signed, the right version, but not the file that was described."""
    site.step()
    signed = getattr(site, role)
    signed.expires += timedelta(hours=1)
    site.put(role, signed)


def wrong_version(site: Site, role: str) -> None:
    """A file of another version under the expected name, described by nothing but its version."""
    site.step()
    signed = getattr(site, role)
    name = f"{signed.version}.{role}.json"
    signed.version += 5
    site.put(role, signed)
    site.files[name] = site.files[f"{signed.version}.{role}.json"]
    signed.version -= 5
    if role == "targets":
        site.snapshot.meta["targets.json"].hashes = site.snapshot.meta["targets.json"].length = None
        site.put("snapshot", site.snapshot)
        site.timestamp.snapshot_meta = site.described("snapshot", site.snapshot)
    else:
        site.timestamp.snapshot_meta.hashes = site.timestamp.snapshot_meta.length = None
    site.put("timestamp", site.timestamp)


def signed_by(site: Site, role: str, *keys: PrivateKey) -> None:
    """All right but for who signed one role."""
    site.step()
    site.put(role, getattr(site, role), keys)
    if role == "targets":
        site.snapshot.meta = {"targets.json": site.described("targets", site.targets)}
        site.put("snapshot", site.snapshot)
    if role != "timestamp":
        site.timestamp.snapshot_meta = site.described("snapshot", site.snapshot)
        site.put("timestamp", site.timestamp)


def expired(site: Site, role: str) -> None:
    getattr(site, role).expires = NOW - timedelta(seconds=1)
    if role == "root":
        site.root.version += 1
        site.publish_root()
    site.step()


def root_without(site: Site, which: str) -> None:
    """New root keys; the root is signed by the old ones alone, the new ones alone, or too few of them."""
    old, new = site.keys["root"], [PrivateKey.generate() for _ in range(3)]
    site.replace("root", *new, threshold=2)
    signers = {"old": new, "new": old, "enough": [*old, new[0]], "any": []}[which]
    site.files[f"{site.root.version}.root.json"] = site.sign("root", site.root, signers)


def root_jumps(site: Site) -> None:
    site.root.version += 2
    site.publish_root()
    site.files["2.root.json"] = site.files["3.root.json"]


def signed_twice(site: Site) -> None:
    """A threshold of two, met by one key that signed twice."""
    site.replace("timestamp", *(PrivateKey.generate() for _ in range(2)), threshold=2)
    site.step()
    site.put("timestamp", site.timestamp, site.keys["timestamp"][:1])
    fields = json.loads(site.files["timestamp.json"])
    fields["signatures"] *= 2
    site.files["timestamp.json"] = json.dumps(fields).encode()


def endless(site: Site, name: str, size: int) -> None:
    site.step()
    site.files[name] = b" " * size + site.files[name] if name in site.files else b" " * size


def endless_by_its_length(site: Site) -> None:
    """A stolen timestamp key promises a snapshot of a terabyte."""
    site.step()
    site.timestamp.snapshot_meta.length = 1 << 40
    site.put("timestamp", site.timestamp)


def served(site: Site, name: str, data: bytes) -> None:
    site.step()
    site.files[name] = data


ATTACKS: dict[str, tuple[str, Callable[[Site], None]]] = {
    **{f"unsigned {r}": ("F5", lambda s, r=r: signed_by(s, r)) for r in ("targets", "snapshot", "timestamp")},
    **{
        f"stranger signs {r}": ("F5", lambda s, r=r: signed_by(s, r, PrivateKey.generate()))
        for r in ("targets", "snapshot", "timestamp")
    },
    "node key signs timestamp": ("F5", lambda s: signed_by(s, "timestamp", s.node)),
    "timestamp key signs targets": ("F5", lambda s: signed_by(s, "targets", *s.keys["timestamp"])),
    "one key signs twice": ("F5", signed_twice),
    "timestamp rolled back": ("F7", timestamp_back),
    "snapshot rolled back": ("F7", snapshot_back),
    "targets rolled back": ("F7", targets_back),
    "targets dropped": ("F7", no_targets),
    "mixed snapshot": ("F7", lambda s: unlike_its_digest(s, "snapshot")),
    "mixed targets": ("F7", lambda s: unlike_its_digest(s, "targets")),
    "wrong snapshot version": ("F7", lambda s: wrong_version(s, "snapshot")),
    "wrong targets version": ("F7", lambda s: wrong_version(s, "targets")),
    **{f"expired {r}": ("F6", lambda s, r=r: expired(s, r)) for r in ("root", "targets", "snapshot", "timestamp")},
    "root not signed by the old keys": ("F5", lambda s: root_without(s, "old")),
    "root not signed by the new keys": ("F5", lambda s: root_without(s, "new")),
    "root signed by too few": ("F5", lambda s: root_without(s, "enough")),
    "root unsigned": ("F5", lambda s: root_without(s, "any")),
    "root leaves a version out": ("F7", root_jumps),
    "root changed after signing": ("F5", lambda s: threshold(s, 3, "root")),
    "one key under two ids": ("F3", second_id),
    "threshold 0": ("F3", lambda s: threshold(s, 0)),
    "threshold -1": ("F3", lambda s: threshold(s, -1)),
    "threshold no number": ("F3", lambda s: threshold(s, "1")),
    "threshold above the keys": (
        "F3",
        lambda s: resigned_root(s, lambda root: root["roles"]["timestamp"].update(threshold=2)),
    ),
    "key of another kind": ("F3", other_key_type),
    "weak key": ("F3", weak_key),
    "no consistent snapshots": ("F3", lambda s: resigned_root(s, lambda root: root.update(consistent_snapshot=False))),
    "endless timestamp": ("F8", lambda s: endless(s, "timestamp.json", LIMITS.timestamp_max_length)),
    "endless root": ("F8", lambda s: endless(s, "2.root.json", LIMITS.root_max_length + 1)),
    "endless snapshot": ("F8", lambda s: endless(s, "3.snapshot.json", LIMITS.snapshot_max_length)),
    "endless targets": ("F8", lambda s: endless(s, "3.targets.json", LIMITS.targets_max_length)),
    "a terabyte of snapshot": ("F8", endless_by_its_length),
    "another role's file": ("F5", lambda s: served(s, "timestamp.json", s.files["1.snapshot.json"])),
    "no JSON": ("F5", lambda s: served(s, "timestamp.json", b"\xff\xfe")),
    "a list": ("F5", lambda s: served(s, "timestamp.json", b"[]")),
    "deep JSON": ("F5", lambda s: served(s, "timestamp.json", b"[" * 15_000)),
    "a version that is text": (
        "F5",
        lambda s: served(s, "timestamp.json", edited(s.files["timestamp.json"], lambda t: t.update(version="9"))),
    ),
    "another major version": (
        "F5",
        lambda s: served(
            s, "timestamp.json", edited(s.files["timestamp.json"], lambda t: t.update(spec_version="2.0.0"))
        ),
    ),
    "no timestamp": ("F6", lambda s: s.files.pop("timestamp.json")),
    "no snapshot": ("F7", lambda s: (s.step(), s.files.pop("3.snapshot.json"))),
    "no targets": ("F7", lambda s: (s.step(), s.files.pop("3.targets.json"))),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_changes_nothing_that_is_believed(site: Site, folder: Path, name: str) -> None:
    """F3, F5, F6, F7, F8: after it, an honest repository is followed as before."""
    site.step()
    follow(folder, site)
    honest, before = site.copy(), kept(folder)
    ATTACKS[name][1](site)
    with pytest.raises(BadData) as caught:
        follow(folder, site)
    assert caught.value.hint
    assert kept(folder)["targets"] == before["targets"]
    if (folder / "root_history/2.root.json").exists():
        return  # that root was well signed, only what came with it was not
    for role in ("targets", "snapshot", "timestamp"):
        getattr(honest, role).version += 10  # above all that thieves of its keys have signed
    honest.publish()
    assert follow(folder, honest, NOW + timedelta(minutes=1)).targets.keys() == {"en/v1"}


@pytest.mark.parametrize("name", [name for name in ATTACKS if "root" in name or "threshold" in name])
def test_a_root_that_is_refused_is_never_kept(site: Site, folder: Path, name: str) -> None:
    """F3, F5."""
    follow(folder, site)
    ATTACKS[name][1](site)
    with pytest.raises(BadData):
        follow(folder, site)
    expected = ["1.root.json", *(["2.root.json"] if name == "expired root" else [])]  # well signed, only old
    assert sorted(file.name for file in (folder / "root_history").iterdir()) == expected


def test_news_is_taken_and_a_quiet_repository_costs_two_requests(site: Site, folder: Path) -> None:
    """F2."""
    follow(folder, site)
    site.list("en/v2", b"the second")
    site.step()
    assert follow(folder, site).targets.keys() == {"en/v1", "en/v2"}
    site.asked.clear()
    follow(folder, site)
    assert site.asked == ["2.root.json", "timestamp.json"]


def test_the_first_root_must_be_vouched_for_by_the_pinned_key(site: Site, folder: Path) -> None:
    """F5."""
    stranger = Site()
    stranger.keys["targets"] = site.keys["targets"]  # it says that it is our node, and cannot sign for it
    for signers in (site.keys["root"], [*site.keys["root"], *stranger.keys["root"]]):
        site.files["root.json"] = site.sign("root", site.root, signers)
        with pytest.raises(BadData, match="signed by the pinned key"):
            follow(folder, site)
    assert not (folder / "bootstrap.json").exists()
    site.publish_root()
    follow(folder, site)


def test_a_pinned_key_that_was_changed_since_leads_to_the_new_one(site: Site, folder: Path) -> None:
    """F4, F5: what a node that was enrolled before there were repositories finds."""
    pinned = site.node
    for _ in range(3):
        site.replace("targets", PrivateKey.generate())
    site.step()
    new, site.keys["targets"] = site.keys["targets"], [pinned]
    client = follow(folder, site)
    assert release_keys(client.root) == [new[0].public]


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (3, 2), (5, 3), (5, 5)])
def test_root_keys_change_by_old_and_new_thresholds(site: Site, folder: Path, count: int, needed: int) -> None:
    """F10."""
    follow(folder, site)
    for _ in range(3):
        site.replace("root", *(PrivateKey.generate() for _ in range(count)), threshold=needed)
    assert follow(folder, site).root.version == 4


def test_a_fast_forward_is_undone_by_new_keys(site: Site, folder: Path) -> None:
    """F10: a thief raises the versions as far as they go; the honest node starts again below them."""
    site.timestamp.version = site.snapshot.version = 2**31 - 1
    site.publish()
    follow(folder, site)
    site.timestamp.version = site.snapshot.version = 2
    site.publish()
    with pytest.raises(BadData, match="older than what was seen"):
        follow(folder, site)
    for role in ("timestamp", "snapshot"):
        site.replace(role, PrivateKey.generate())
    site.publish()
    assert follow(folder, site).targets.keys() == {"en/v1"}


def test_a_key_that_was_replaced_signs_nothing_more(site: Site, folder: Path) -> None:
    """F10."""
    stolen = site.keys["timestamp"][0]
    follow(folder, site)
    site.replace("timestamp", PrivateKey.generate())
    site.step()
    site.put("timestamp", site.timestamp, [stolen])
    with pytest.raises(BadData, match="signed by 0/1"):
        follow(folder, site)


def test_what_is_believed_grows_old(site: Site, folder: Path) -> None:
    """F6: a node that is kept from news notices when the last timestamp ends."""
    follow(folder, site)
    follow(folder, site, NOW + DAY - timedelta(seconds=1))
    with pytest.raises(BadData, match="expired") as caught:
        follow(folder, site, NOW + DAY + timedelta(seconds=1))
    assert "clock" in caught.value.hint


@pytest.mark.parametrize("damage", [b"", b"{}", b"\0" * 500])
@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json", "root_history/2.root.json"])
def test_a_damaged_file_is_fetched_again(site: Site, folder: Path, name: str, damage: bytes) -> None:
    """F12."""
    site.replace("root", PrivateKey.generate())
    follow(folder, site)
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(damage)
    (folder / ".new-left").write_bytes(b"of a killed process")
    follow(folder, site)
    assert (folder / name).read_bytes() == before
    assert not (folder / ".new-left").exists()


def delegating(site: Site, name: str) -> Delegations:
    key = site.node.public
    role = DelegatedRole(name, [key.id], 1, terminating=False, paths=["*/*"])
    return Delegations({key.id: library_key(key)}, {name: role})


@pytest.mark.parametrize("name", ["../x", "#", "/x", "?", "a/../../b", "\\..\\x", "." * 200])
def test_a_delegated_role_of_any_name_stays_in_the_folder(site: Site, folder: Path, name: str) -> None:
    """F9: and what it lists is not what the node lists."""
    site.targets.delegations = delegating(site, name)
    site.publish_with(**{quote(name, ""): Targets(version=1, expires=NOW + DAY)})
    client = follow(folder, site)
    assert client.targets.keys() == {"en/v1"}
    assert client.get_targetinfo("en/v9") is None
    assert {file.parent for file in folder.parent.rglob("*")} <= {folder.parent, folder, folder / "root_history"}


def test_delegations_in_a_circle_end(site: Site, folder: Path) -> None:
    """F8."""
    site.targets.delegations = delegating(site, "a")
    a, b = (Targets(version=1, expires=NOW + DAY, delegations=delegating(site, other)) for other in "ba")
    site.publish_with(a=a, b=b)
    assert follow(folder, site).get_targetinfo("en/v9") is None
