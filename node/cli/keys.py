"""`node keys`: who this node is, the keys of its roles, their passphrase, and other keys in their place."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, DefaultGroup, command
from node.cli.output import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from node.key_changes import KeyChange, RootKeys
    from node.settings import Settings

FILE = click.Path(path_type=Path, dir_okay=False)


def _root_key_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the keys of the root are, for commands that sign a new one."""
    new = click.option(
        "--new-key",
        multiple=True,
        type=FILE,
        help="File for a new root key, as on a stick; may be given several times.",
    )
    at = click.option(
        "--root-key", multiple=True, type=FILE, help="File of a root key that is not in the home; several times."
    )
    return at(new(function))


@click.group(cls=DefaultGroup, default="show", epilog="\b\nExample:\n  node keys")
def keys() -> None:
    """Show the public keys of this node, lock their files with a passphrase, or put others in their place."""


@command("node keys show --json")
def show(call: Call) -> Result:
    """Show fingerprint, public key and the keys of the roles; private keys are never shown."""
    from node.key_file import is_locked
    from registry.keys import PrivateKey

    settings = call.settings()
    file = settings.place.key_file
    public = PrivateKey.load(file, call.passphrase(settings)).public
    data = {
        "fingerprint": public.fingerprint,
        "id": public.id,
        "public_key": public.hex,
        "file": str(file),
        "locked": is_locked(file),
        "roles": _roles(settings),
    }
    return Result(data, _view)


@command("node keys passphrase")
@click.option("--remove", is_flag=True, help="Leave the key files without a passphrase.")
def passphrase(call: Call, *, remove: bool) -> Result:
    """Lock all key files in the home with a new passphrase: asked for twice, or the first line of stdin.

    A daemon then needs it in BANYAN_PASSPHRASE.
    """
    from node.key_file import change_passphrases

    settings = call.settings()
    file = settings.place.key_file
    old = call.passphrase(settings)
    others = sorted(one for pattern in ("*.pem", "*.pem.next") for one in file.parent.glob(pattern) if one != file)
    change_passphrases([*others, file], old, None if remove else _new_passphrase())
    return Result({"locked": not remove, "file": str(file)}, _outcome)


@command("node keys rotate timestamp")
@click.argument("role", type=click.Choice(["root", "targets", "snapshot", "timestamp"]))
@_root_key_options
@click.option("--threshold", type=click.IntRange(1, 16), help="How many root keys have to sign from now on.")
def rotate(
    call: Call, role: Any, *, root_key: tuple[Path, ...], new_key: tuple[Path, ...], threshold: int | None
) -> Result:
    """Give a role a new key; children follow by the root. `targets` is the node's own key, which signs releases.

    With --new-key, the root's new keys are written there and none stays in the home: keep them apart, and name them
    with --root-key at the next change. The daemon must not run meanwhile.
    """
    from datetime import UTC, datetime

    from node.key_changes import rotate as change

    if role != "root" and (new_key or threshold is not None):
        raise click.UsageError("--new-key and --threshold are for the role root; the others have one key")
    with call.node() as node:
        done = change(node, role, _root_keys(root_key, new_key, threshold), datetime.now(UTC))
        enrolled_at = node.settings.parent_url if role == "targets" else ""
    return Result({**_changed(done), "enrol_again_at": enrolled_at or None}, _rotated)


@command("node keys revoke 3f2a --why 'stolen with the laptop'")
@click.argument("key")
@click.option("--why", required=True, help="The reason, which is kept.")
@_root_key_options
def revoke(call: Call, key: str, *, why: str, root_key: tuple[Path, ...], new_key: tuple[Path, ...]) -> Result:
    """Take a key back, of this node's roles or of a child; KEY is the beginning of its id or fingerprint.

    A key of a role is replaced by a new one. A child's key may say nothing from now on; what it had contributed is
    listed by release.
    """
    from datetime import UTC, datetime

    from node.revocation import revoke as take_back

    with call.node() as node:
        done = take_back(node, key, why, _root_keys(root_key, new_key, None), datetime.now(UTC))
    data = {**asdict(done), "change": _changed(done.change) if done.change else None}
    return Result(data, _revoked)


for one in (show, passphrase, rotate, revoke):
    keys.add_command(one)


def _root_keys(at: tuple[Path, ...], new: tuple[Path, ...], threshold: int | None) -> RootKeys:
    from node.key_changes import RootKeys

    return RootKeys(at, new, threshold)


def _roles(settings: Settings) -> list[dict[str, Any]]:
    """The keys of the roles as the newest root names them; none before the first start."""
    from registry.trust.repository import newest_root
    from registry.trust.roles import ROLES, keys_of

    root = newest_root(settings.place.repository)
    if root is None:
        return []
    return [
        {
            "role": role,
            "keys": [key.id for key in keys_of(root, role)],
            "threshold": root.roles[role].threshold,
            "root_version": root.version,
            "root_expires": root.expires,
        }
        for role in ROLES
    ]


def _changed(change: KeyChange) -> dict[str, Any]:
    return {**asdict(change), "files": [str(file) for file in change.files]}


def _new_passphrase() -> str:
    if sys.stdin.isatty():
        text: str = click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
        return text
    return sys.stdin.readline(1024).rstrip("\r\n")


def _view(data: dict[str, Any]) -> RenderableType:
    locked = "with a passphrase" if data["locked"] else "without a passphrase: node keys passphrase"
    lines = [
        f"fingerprint  {data['fingerprint']}",
        f"key id       {data['id']}",
        f"public key   {data['public_key']}",
        f"file         {data['file']} ({locked})",
    ]
    for role in data["roles"]:
        lines += [f"{role['role']:<12} {key}" for key in role["keys"]]
        if role["role"] == "root":
            expires = role["root_expires"].strftime("%Y-%m-%d")
            lines.append(
                f"{'':<12} {role['threshold']} of {len(role['keys'])} sign; v{role['root_version']}, to {expires}"
            )
    return os.linesep.join(lines)


def _outcome(data: dict[str, Any]) -> RenderableType:
    return f"{data['file']} is now {'locked with the new passphrase' if data['locked'] else 'without a passphrase'}"


def _rotated(data: dict[str, Any]) -> RenderableType:
    lines = [f"{data['role']}: {data['threshold']} of these sign, by root v{data['root_version']}"]
    lines += [f"  {key}" for key in data["keys"]]
    lines += [f"file   {file}" for file in data["files"]]
    if data["enrol_again_at"]:
        lines.append(f"next:  node enrol {data['enrol_again_at']}  (the parent has to enrol the new key)")
    return "\n".join(lines)


def _revoked(data: dict[str, Any]) -> RenderableType:
    if data["change"]:
        return _rotated({**data["change"], "enrol_again_at": None})
    lines = [f"revoked: {data['key']} at {', '.join(data['places']) or 'no place that was left'}"]
    lines += [f"rejected now: update {digest}" for digest in data["rejected"]]
    for release in data["contributed"]:
        lines.append(f"{release['release']} contains {len(release['updates'])} of its updates:")
        lines += [f"  {digest}" for digest in release["updates"]]
    lines += [f"no longer listed: {name}, which it signed" for name in data["signed"]]
    if not data["contributed"]:
        lines.append("nothing of it is in a release")
    return "\n".join(lines)
