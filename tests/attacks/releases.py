"""Attacks of a parent on its child: releases, chains and files that were never meant, by a transport that lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from node.updates import keep_standing
from registry.documents import (
    AdapterShape,
    Enrolment,
    File,
    Release,
    ReleasePin,
    Update,
    Verdict,
    seal_document,
)
from registry.envelope import seal
from registry.keys import PrivateKey
from registry.paths import Ref
from registry.tables import PeerRow, UpdateRow
from sync.fetch import blob_path
from sync.pull import find_version, poll
from sync.push import Standing
from tests.attacks.adapters import (
    honest,
    joined,
    with_tensors,
    written,
)
from tests.attacks.files import PICKLE, added, empty_tensors, number
from tests.attacks.liar import Liar
from tests.attacks.scene import DAY, Attack
from tests.world import utc_now

Does = Callable[[Liar], str]


def one(signer: Callable[[Liar], PrivateKey] = lambda liar: liar.key, **changes: Any) -> Does:
    """Pull a release that differs from a sound one by this."""
    return lambda liar: liar.pull(liar.release(signer(liar), **changes))


def aged(created: float, expires: float, now: float = 0.0) -> Does:
    """Made and expiring so many days from the parent's now; the child's clock goes wrong by `now` days."""
    return lambda liar: liar.pull(
        liar.release(created=liar.now + created * DAY, expires=liar.now + expires * DAY), liar.now + now * DAY
    )


def enrolled(path: str, *, by: str = "key", days: float = 1.0, key: PrivateKey | None = None) -> Does:
    """A release signed by a stranger, and an enrolment that is to prove the stranger."""

    def does(liar: Liar) -> str:
        stranger = PrivateKey.generate()
        issuer = stranger if by == "stranger" else liar.key
        enrolment = Enrolment(
            path=path, key=(key or stranger).public.hex, issuer=issuer.public.id, issuer_path="en",
            created=liar.now - 9 * DAY, expires=liar.now + days * DAY,
        )  # fmt: skip
        liar.says[f"/v1/enrolments/{stranger.public.id}?path=en%2Fx"] = seal_document(enrolment, issuer)
        return liar.pull(liar.release(stranger, path="en/x"))

    return does


def rollback(liar: Liar) -> str:
    """The child has version 5; version 4 is offered."""
    liar.pull(liar.release(version=5))
    return liar.pull(liar.release(version=4))


def equivocation(**options: Any) -> Does:
    """Two releases of one version, both rightly signed."""

    def does(liar: Liar) -> str:
        liar.pull(liar.release())
        return liar.pull(liar.release(card=liar.put("README.md", b"# another\n")), **options)

    return does


def equivocation_above(liar: Liar) -> str:
    """Two releases of one version further up, each pinned by another release of the parent."""
    above = [liar.release(liar.root, path="master", card=liar.put("README.md", f"# {n}".encode())) for n in range(2)]
    liar.pull(liar.release(above=above[0]))
    return liar.pull(liar.release(version=2, above=above[1]))


def misnamed(**lies: Any) -> Does:
    return lambda liar: liar.pull(liar.release().model_copy(update=lies))


def another_envelope(liar: Liar) -> str:
    """Another release stands at the place of the one that is pinned."""
    asked, other = liar.release(version=3), liar.release(version=2)
    liar.says[f"/v1/releases/{asked.digest}"] = liar.says[f"/v1/releases/{other.digest}"]
    return liar.pull(asked)


def forced(old: str, new: str) -> Does:
    """A text that no class of ours would write, signed."""

    def does(liar: Liar) -> str:
        said = Release(**liar.fields()).to_bytes().decode()
        assert old in said
        envelope = seal(said.replace(old, new, 1).encode(), Release.PAYLOAD_TYPE, liar.key)
        return liar.pull(liar.serve(envelope, liar.key, "en", 1))

    return does


def an_update_in_its_place(liar: Liar) -> str:
    envelope = seal(Release(**liar.fields()).to_bytes(), Update.PAYLOAD_TYPE, liar.key)
    return liar.pull(liar.serve(envelope, liar.key, "en", 1))


def above(**changes: Any) -> Does:
    """A release whose release above differs from a sound one by this."""
    return lambda liar: liar.pull(liar.release(above=liar.release(liar.root, path="master", **changes)))


def of_another_base(liar: Liar) -> str:
    other = liar.base(LICENSE=b"another").digest
    return liar.pull(liar.release(above=liar.release(liar.root, path="master", base=other)))


def signed_above_by_another(liar: Liar) -> str:
    """The envelope above names a key whose signature it does not have."""
    top = liar.release(liar.root, path="master")
    fields = json.loads(liar.says[f"/v1/releases/{top.digest}"])
    fields["signatures"][0]["keyid"] = liar.key.public.id
    pin = liar.serve(json.dumps(fields, separators=(",", ":")).encode(), liar.key, "master", 1)
    return liar.pull(liar.release(above=pin))


def without(place: Callable[[Liar, ReleasePin], str]) -> Does:
    """Something of a chain is not served."""

    def does(liar: Liar) -> str:
        top = liar.release(liar.root, path="master", data=written(honest()))
        pin = liar.release(above=top)
        del liar.says[place(liar, top)]
        return liar.pull(pin)

    return does


def instead(answer: bytes) -> Does:
    """The adapter's bytes are others."""

    def does(liar: Liar) -> str:
        data = written(honest())
        pin = liar.release(data=data)
        liar.says[blob_path(hashlib.sha256(data).hexdigest())] = answer
        try:
            return liar.pull(pin)
        finally:
            assert liar.sent < 4 << 20, "bytes beyond the declared size were taken"

    return does


def with_base(**files: bytes) -> Does:
    return lambda liar: liar.pull(liar.release(base=liar.base(**files).digest))


def base_files(*files: File) -> Does:
    return lambda liar: liar.pull(liar.release(base=liar.serve_base(files).digest))


def large_card(size: int) -> Does:
    return lambda liar: liar.pull(liar.release(card=liar.put("README.md", b"x", size=size)))


def twice_in_a_manifest(liar: Liar) -> str:
    """Two files of a base that are one on some systems; the manifest is written by hand."""
    said = liar.base().to_bytes().replace(b'"model.safetensors"', b'"CONFIG.JSON"')
    return liar.pull(liar.release(base=liar.put("base", said).sha256))


def spaced_manifest(liar: Liar) -> str:
    said = json.dumps(json.loads(liar.base().to_bytes())).encode()
    return liar.pull(liar.release(base=liar.put("base", said).sha256))


def lists(answer: bytes, path: str = "/v1/heads") -> Does:
    def does(liar: Liar) -> str:
        liar.says[path] = answer
        return str(poll(liar.peer) if path == "/v1/heads" else find_version(liar.peer, EN))

    return does


def verdict(by_parent: bool, update: str | None = None, kind: str = Verdict.PAYLOAD_TYPE) -> Does:
    """The child's own update comes back with a verdict."""

    def does(liar: Liar) -> str:
        own = UpdateRow(
            digest="a" * 64, direction="out", issuer=liar.child.key.public.id, path="en/x", sequence=1,
            state="received", envelope=b"", received=liar.now, changed=liar.now,
        )  # fmt: skip
        with liar.child.store.transaction() as session:
            session.add(own)
            parent = session.get(PeerRow, liar.key.public.id)
        assert parent is not None
        said = Verdict(update=update or own.digest, outcome="accepted", checks=(), reason="", created=liar.now)
        envelope = seal(said.to_bytes(), kind, liar.key if by_parent else PrivateKey.generate())
        standing = Standing(state="accepted", verdict=envelope.decode(), missing=())
        try:
            return keep_standing(liar.child, own.digest, standing, parent, liar.now).state
        finally:
            with liar.child.store.transaction() as session:
                row = session.get(UpdateRow, own.digest)
                assert row is not None
                assert (row.state, row.verdict) == ("received", None)
                session.delete(row)  # it has no envelope: it was only made to be asked about

    return does


EN = Ref.parse("en")
HALF = AdapterShape(rank=8, alpha=8.0, targets=("q_proj", "v_proj"), dtype="F32")
PINS = json.dumps([{"path": "en", "version": 1, "digest": "0" * 64}] * 20_001).encode()

RELEASES = (
    Attack("signed by a stranger", "R7", one(lambda _: PrivateKey.generate()), "BadData: .*not trusted for that path"),
    Attack(
        "signed by the child itself for the parent's place",
        "R7",
        one(lambda liar: liar.child.key),
        "BadData: .*not trusted",
    ),
    Attack("a stranger enrolled for the place beside", "R7", enrolled("en/y"), "BadData: .*not trusted"),
    Attack("a stranger enrolled by itself", "R7", enrolled("en/x", by="stranger"), "BadData: .*not trusted"),
    Attack("a stranger whose enrolment has ended", "R7", enrolled("en/x", days=-1), "BadData: .*not trusted"),
    Attack("the enrolment of another key", "R7", enrolled("en/x", key=PrivateKey.generate()), "BadData: .*not trusted"),
    Attack("an older version", "R12", rollback, "BadData: .*rollback refused"),
    Attack("a second release of a version", "R2", equivocation(), "BadData: .*two different releases"),
    Attack(
        "a second release of a version, by number", "R2", equivocation(as_head=False), "TwoReleases: .*two different"
    ),
    Attack(
        "a second release of a version above",
        "R2",
        equivocation_above,
        "TwoReleases: .*two different releases master@v1",
    ),
    Attack("a release under another version", "R4", misnamed(version=2), "BadData: .*was asked for"),
    Attack("a release under another path", "R4", misnamed(path="en/x"), "BadData: .*(was asked for|not trusted)"),
    Attack("another release in its place", "R4", another_envelope, "BadData: .*answered with release"),
    Attack("an update in its place", "E4", an_update_in_its_place, "BadData: .*update.v1"),
    Attack(
        "a pin on itself",
        "R3",
        forced('"above":null', '"above":{"path":"en","version":1,"digest":"' + "0" * 64 + '"}'),
        "BadData: .*not above",
    ),
    Attack(
        "a pin on a place below",
        "R3",
        forced('"above":null', '"above":{"path":"en/x","version":1,"digest":"' + "0" * 64 + '"}'),
        "BadData: .*not above",
    ),
    Attack(
        "a pin on a place beside",
        "R3",
        forced('"above":null', '"above":{"path":"de","version":1,"digest":"' + "0" * 64 + '"}'),
        "BadData: .*not above",
    ),
    Attack("version 0", "D6", forced('"version":1', '"version":0'), "BadData: .*version"),
    Attack("version 2^31", "D6", forced('"version":1', f'"version":{2**31}'), "BadData: .*version"),
    Attack(
        "a contribution twice",
        "D15",
        forced('"contributions":[]', '"contributions":["' + "1" * 64 + '","' + "1" * 64 + '"]'),
        "BadData: .*contribution",
    ),
    Attack(
        "a field more in a release",
        "D3",
        forced('"anchors":null', '"anchors":null,"tokenizer":null'),
        "BadData: .*tokenizer",
    ),
    Attack("a chain of another base", "R5", of_another_base, "BadData: .*different bases"),
    Attack(
        "a chain whose signature is another key's", "R8", signed_above_by_another, "BadData: .*signature does not hold"
    ),
    Attack(
        "a chain without its release above", "R9", without(lambda liar, top: f"/v1/releases/{top.digest}"), "Refused"
    ),
    Attack(
        "a chain without its signer's key", "R8", without(lambda liar, top: blob_path(liar.root.public.id)), "Refused"
    ),
    Attack(
        "a chain without an adapter",
        "R9",
        without(lambda liar, top: blob_path(hashlib.sha256(written(honest())).hexdigest())),
        "Refused",
    ),
    Attack("an expired release", "R11", aged(-3, -1), "BadData: .*expired on"),
    Attack("a release from the future", "R10", aged(1, 9), "BadData: .*24.0 hours from now"),
    Attack(
        "a release of the last day of time",
        "R10",
        one(
            created=datetime(9999, 12, 30, tzinfo=utc_now().tzinfo),
            expires=datetime(9999, 12, 31, tzinfo=utc_now().tzinfo),
        ),
        "BadData: .*hours from now",
    ),
    Attack("the child's clock is a day slow", "R10", aged(0, 9, now=-1), "BadData: .*this machine's clock says"),
    Attack("the child's clock is a day fast", "R11", aged(0, 0.5, now=1), "BadData: .*expired on"),
    Attack("poisoned: NaN", "R15", one(data=with_tensors(number(float("nan")))), "BadData: .*files.finite"),
    Attack(
        "poisoned: infinity, further up",
        "R15",
        above(data=with_tensors(number(float("inf")))),
        "BadData: .*files.finite",
    ),
    Attack(
        "poisoned: the embeddings",
        "R15",
        one(data=with_tensors(added("base_model.model.model.embed_tokens.weight", 9, 32))),
        "BadData: .*files.names",
    ),
    Attack(
        "poisoned: another rank than declared",
        "R15",
        one(data=written(honest()), shape=HALF),
        "BadData: .*files.shapes",
    ),
    Attack("poisoned: a pickle", "R15", one(data=PICKLE), "BadData: .*a pickle"),
    Attack(
        "poisoned: a header of a million tensors", "R15", one(data=empty_tensors(1_000_000)), "BadData: .*files.header"
    ),
    Attack(
        "the base brings a pickle", "R15", with_base(pytorch_model__bin=PICKLE), "BadData: .*brings pytorch_model.bin"
    ),
    Attack(
        "the base brings a program",
        "R15",
        with_base(modeling_llama__py=b"import os"),
        "BadData: .*brings modeling_llama",
    ),
    Attack(
        "the base brings an adapter", "R15", with_base(adapter_config__json=b"{}"), "BadData: .*brings adapter_config"
    ),
    Attack("the base's weights are a pickle", "R15", with_base(model__safetensors=PICKLE), "BadData: .*a pickle"),
    Attack(
        "the base's weights have a million tensors",
        "R15",
        with_base(model__safetensors=empty_tensors(10**6)),
        "BadData: .*header",
    ),
    Attack(
        "the base's weights overlap",
        "R15",
        with_base(
            model__safetensors=joined(
                b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
                bytes(8),
            )
        ),
        "BadData: .*overlaps",
    ),
    Attack(
        "the base asks to run code",
        "R15",
        with_base(config__json=b'{"auto_map":{"AutoConfig":"x.Y"}}'),
        "BadData: .*Python code",
    ),
    Attack(
        "the base's configuration is nested 100,000 deep",
        "R15",
        with_base(config__json=b"[" * 100_000),
        "BadData: .*not JSON",
    ),
    Attack(
        "the base's configuration has 5 MiB",
        "R15",
        with_base(config__json=b'{"x":"' + b"x" * (5 << 20) + b'"}'),
        "BadData: .*too large",
    ),
    Attack("the base's files are one file on some systems", "D13", twice_in_a_manifest, "BadData: .*twice"),
    Attack("the base's manifest in another spelling", "D13", spaced_manifest, "BadData: .*byte form"),
    Attack("a file of 2^40 bytes", "T9", large_card(1 << 40), "BadData: .*allowed for one file"),
    Attack("a file of half of all disks", "T9", large_card(60 << 30), "(LocalFailure: .*are free|BadData)"),
    Attack("a file shorter than declared", "T2", large_card(2), "BadData: .*sent 1 of the 2 bytes"),
    Attack("a file with other bytes", "T1", instead(bytes(len(written(honest())))), "BadData: .*not those of"),
    Attack("a file that is cut off", "T2", instead(written(honest())[:-1]), "BadData: .*sent"),
    Attack("a file with a byte more", "T2", instead(written(honest()) + b"x"), "BadData: .*the limit is"),
    Attack("a file without end", "T2", instead(b"endless"), "BadData: .*the limit is"),
    Attack("a line that breaks again and again", "T8", instead(b"broken"), "Broken: "),
    Attack(
        "an envelope of 2 MiB",
        "E2",
        lambda liar: liar.pull(liar.serve(b" " * (2 << 20), liar.key, "en", 1)),
        "BadData: .*more than 1048576",
    ),
    Attack("a list of heads that is none", "H10", lists(b'{"en":1}'), "BadData: .*list of releases"),
    Attack("a list of 20,001 heads", "H10", lists(PINS), "BadData: .*list of releases"),
    Attack("a list of 5 MiB", "H10", lists(b"[" + b" " * (5 << 20) + b"]"), "BadData: .*more than 4194304"),
    Attack("a list nested 100,000 deep", "H10", lists(b"[" * 100_000), "BadData: .*list of releases"),
    Attack(
        "a list of a place that is none",
        "D5",
        lists(b'[{"path":"../en","version":1,"digest":"' + b"0" * 64 + b'"}]'),
        "BadData: .*list of releases",
    ),
    Attack(
        "a list of versions without signers",
        "H10",
        lists(PINS[:110] + b"]", "/v1/releases?path=en"),
        "BadData: .*list of releases",
    ),
    Attack("a verdict that the parent did not sign", "V8", verdict(by_parent=False), "BadData: .*may not sign"),
    Attack("a verdict on another update", "V8", verdict(by_parent=True, update="b" * 64), "BadData: .*another update"),
    Attack(
        "a verdict under another type",
        "E4",
        verdict(by_parent=True, kind=Release.PAYLOAD_TYPE),
        "BadData: .*release.v1",
    ),
)
