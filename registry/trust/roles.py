"""The roles of a repository: which keys they have in a root, what a root must be like, how long signatures last.

`root` says which keys the others have, and is the only one that may be kept off the machine. `targets` is signed with
the node's own key, so that the root says which node keys may speak. `snapshot` and `timestamp` have keys of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, get_args

from tuf.api.metadata import Root

from registry.envelope import library_key
from registry.errors import BadData
from registry.keys import PublicKey

RoleName = Literal["root", "targets", "snapshot", "timestamp"]
ROLES: Final[tuple[RoleName, ...]] = get_args(RoleName)


@dataclass(frozen=True, slots=True)
class Lives:
    """How long what a role signs is valid. It is signed anew when half of it is over (F6)."""

    root: timedelta
    metadata: timedelta  # targets and snapshot
    timestamp: timedelta

    def of(self, role: RoleName) -> timedelta:
        """The life of what a role signs."""
        return {"root": self.root, "timestamp": self.timestamp}.get(role, self.metadata)


def keys_of(root: Root, role: RoleName) -> list[PublicKey]:
    """The keys of a role; raises BadData on one that is not ours to use (K3)."""
    return [PublicKey.from_hex(str(root.keys[key].keyval["public"])) for key in root.roles[role].keyids]


def replace_keys(root: Root, role: RoleName, keys: Sequence[PublicKey], threshold: int) -> None:
    """Let a role have these keys and no others; `threshold` of them have to sign."""
    for key_id in list(root.roles[role].keyids):
        root.revoke_key(key_id, role)
    for key in keys:
        root.add_key(library_key(key), role)
    root.roles[role].threshold = threshold


def check_root(root: Root) -> None:
    """Raise BadData where a root may not be believed although it is signed (F3).

    python-tuf counts signatures by key id: one key under two ids would meet a threshold of two.
    """
    problem = next(_problems(root), None)
    if problem is not None:
        raise BadData(f"root v{root.version} {problem}", "tell the operator of the node")


def _problems(root: Root) -> Iterator[str]:
    if not root.consistent_snapshot:
        yield "does not promise consistent snapshots"
    for key_id, key in root.keys.items():
        if (key.keytype, key.scheme) != ("ed25519", "ed25519"):
            yield f"names a key that is not Ed25519: {key_id!a:.80}"
        try:
            if PublicKey.from_hex(str(key.keyval.get("public"))).id != key_id:
                yield f"names a key by an id that is not its own: {key_id!a:.80}"
        except BadData as error:
            yield f"names a key that cannot be used: {error.message}"
    for name, role in root.roles.items():
        if not set(role.keyids) <= root.keys.keys() or not 1 <= role.threshold <= len(role.keyids):
            yield f"asks for {role.threshold} of {len(role.keyids)} keys for {name}"
