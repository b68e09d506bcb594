from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import Semaphore

import httpx
import pytest
import torch

from node import daemon
from node.api.app import create_app
from node.cli.publish import _leaving, described
from node.context import Node
from node.enrolments import revoke
from node.models import load
from node.offer import Outgoing
from node.publish import PublishResult, publish
from node.trust import trusted_keys
from node.updates import list_updates, show_update
from registry.documents import File, ReleasePin, Update, Verdict, open_document, seal_document
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath, Ref
from registry.rows import Row, read_rows, write_rows
from registry.store import select
from registry.tables import PeerRow, RunRow, SequenceRow, UpdateRow
from sync.answers import answer
from sync.delta import Factor, write_adapter
from sync.inbox import Identity, settle
from sync.prompt import conversation, prompt_text
from sync.pull import fetch_release
from sync.transport import Refused
from sync.verdict import failure
from tests.processes import node_process
from tests.recorder import Recorder, recording
from tests.world import enrol_child, make_node, own_work, put_base, put_release, put_tree, utc_now

CARDS = NodePath.parse("en/finance/cards")
ADAPTER = b"what the child learned" * 90_000  # 1.98 MB: two pieces
ROWS = [{"input": f"prompt {i}", "output": f'{{"intent":"{i}"}}', "task": "intent"} for i in range(7)]


@dataclass
class Family:
    parent: Node
    child: Node
    above: ReleasePin
    own: ReleasePin
    url: str


def make_family(tmp_path: Path, parent: Node, url: str) -> Family:
    pins = put_tree(parent, "en", "en/finance")
    child = make_node(tmp_path / "child", "en/finance/cards", name="a child with a long name")
    enrol_child(child, parent, url, "en/finance/cards")
    fetch_release(
        child.peer(url),
        pins["en/finance"],
        trusted=trusted_keys(child, utc_now()),
        store=child.store,
        blobs=child.blobs,
        now=utc_now(),
    )
    own = own_work(child, pins["en/finance"], "en/finance/cards", ADAPTER)
    return Family(parent, child, pins["en/finance"], own, url)


def make_talking(tmp_path: Path, parent: Node, url: str, tiny_base: Path) -> Family:
    """A family whose child has a model that can answer."""
    child = make_node(tmp_path / "child", "en/finance/cards", threads=1, precision="fp32")
    base = put_base(parent, {file.name: file.read_bytes() for file in tiny_base.iterdir()})
    above = put_release(parent, "en", base)
    enrol_child(child, parent, url, str(CARDS))
    trusted = trusted_keys(child, utc_now())
    fetch_release(child.peer(url), above, trusted=trusted, store=child.store, blobs=child.blobs, now=utc_now())
    made = torch.Generator().manual_seed(3)
    talkative = Factor(torch.randn(4, 64, generator=made), 5 * torch.randn(32, 4, generator=made))
    shape = write_adapter({"model.layers.1.mlp.down_proj": talkative}, tmp_path / "adapter")
    own = own_work(child, above, str(CARDS), (tmp_path / "adapter").read_bytes(), shape=shape)
    return Family(parent, child, above, own, url)


def own_answers(child: Node, rows: list[Row]) -> list[str]:
    loaded = load(child, Ref(CARDS))[1]
    return answer(loaded, [prompt_text(loaded.tokenizer, conversation(row, str(CARDS))) for row in rows])


@pytest.fixture
def talking(tmp_path: Path, serve: Callable, tiny_base: Path) -> Iterator[Family]:
    parent = make_node(tmp_path / "parent", "en")
    family = make_talking(tmp_path, parent, serve(create_app(parent)), tiny_base)
    yield family
    family.child.close()
    parent.close()


@pytest.fixture
def family(tmp_path: Path, serve: Callable) -> Iterator[Family]:
    parent = make_node(tmp_path / "parent", "en", "en/finance")
    family = make_family(tmp_path, parent, serve(create_app(parent)))
    yield family
    family.child.close()
    parent.close()


def send(family: Family, transfer: Path | None = None, rows: int = 0, **options: object) -> PublishResult:
    confirm = options.pop("confirm", lambda outgoing: True)
    now = options.pop("now", utc_now())
    return publish(family.child, CARDS, transfer, rows, confirm, now=now, **options)


def never(outgoing: Outgoing) -> bool:
    raise AssertionError("was asked again")


def rows_file(folder: Path, rows: list[dict[str, str]]) -> Path:
    file = folder / "chosen.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def stored(node: Node, digest: str) -> UpdateRow:
    with node.store.read() as session:
        row = session.get(UpdateRow, digest)
        assert row is not None
        return row


def test_publishing_delivers_the_envelope_and_the_adapter(family: Family) -> None:
    result = send(family)
    assert (result.state, result.new, result.sequence) == ("received", True, 1)
    there = stored(family.parent, result.digest)
    assert there.envelope == stored(family.child, result.digest).envelope
    assert family.parent.blobs.read(hashlib.sha256(ADAPTER).hexdigest(), 10**7) == ADAPTER


def test_publishing_again_sends_the_same_bytes_and_gets_the_same_answer(family: Family) -> None:
    """U8."""
    first = send(family)
    again = send(family, confirm=never, now=utc_now() + timedelta(hours=1))
    assert (again.digest, again.state, again.new) == (first.digest, first.state, False)
    assert len(list_updates(family.parent)) == len(list_updates(family.child)) == 1


def test_what_will_leave_is_shown_first_and_a_no_leaves_no_trace(talking: Family, tmp_path: Path) -> None:
    family = talking
    shown: list[Outgoing] = []

    def no(outgoing: Outgoing) -> bool:
        shown.append(outgoing)
        return False

    with pytest.raises(LocalFailure, match="nothing has left this machine"):
        send(family, rows_file(tmp_path, ROWS), confirm=no)
    (outgoing,) = shown
    assert [file.name for file in outgoing.files] == ["adapter_model.safetensors", "transfer.jsonl"]
    assert outgoing.files[0].size == (tmp_path / "adapter").stat().st_size
    assert [row.input for row in outgoing.samples] == [f"prompt {i}" for i in range(5)]
    assert outgoing.transfer_rows == 7
    assert list_updates(family.parent) == list_updates(family.child) == []
    sent = send(family, rows_file(tmp_path, ROWS))
    assert sent.sequence == 1
    assert sent.sent == outgoing


# What the adapter gives away


def says(monkeypatch: pytest.MonkeyPatch, family: Family, *said: str) -> None:
    """Let the run have been trained on two prompts, and the model say some."""
    with family.child.store.read() as session:
        run = session.scalars(select(RunRow)).one()
    folder = family.child.home.runs / run.id
    folder.mkdir(parents=True, exist_ok=True)
    write_rows([Row("my card is gone", "x"), Row("top me up please", "y")], folder / "train.jsonl")
    monkeypatch.setattr("sync.sampled.sampled", lambda *_, **__: [Row(text, "x") for text in said])


def test_what_a_model_repeats_of_its_training_rows_is_told_and_travels_as_two_numbers(
    talking: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U9, U13."""
    says(monkeypatch, talking, "My card is gone!", *(f"new prompt {number}" for number in range(9)))
    sent = send(talking).sent
    (claim,) = [claim for claim in sent.claims if claim.dataset == "sampled"]
    assert (claim.rows, claim.metrics) == (10, {"verbatim": 0.1, "nearly": 0.0})
    assert "of 10 prompts that the model says by itself, 10.0% repeat" in str(_leaving(described(sent)))


def test_a_model_that_repeats_too_much_is_not_published(talking: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """U13."""
    says(monkeypatch, talking, "my card is gone", "top me up pleas", "something else")
    with pytest.raises(LocalFailure, match="1 repeat a training row word for word and 1 nearly: more than 20%"):
        send(talking)
    assert list_updates(talking.child) == []


def test_a_model_that_says_nothing_gives_nothing_away(talking: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, talking)
    assert [claim.dataset for claim in send(talking).sent.claims if claim.dataset == "sampled"] == []


# What leaves this machine, byte for byte


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[tuple[Family, Recorder]]:
    """A child whose parent is a real process behind a recorder."""
    parent = make_node(tmp_path / "parent", "en", "en/finance")
    with node_process(parent.home.root) as url, recording(url) as recorder:
        family = make_family(tmp_path, parent, recorder.url)
        recorder.received.clear()
        yield family, recorder
        family.child.close()
    parent.close()


def request(recorder: Recorder, line: str, body: bytes | None = None, *headers: str) -> bytes:
    """A request as it must be on the wire, every byte of it."""
    head = [f"{line} HTTP/1.1", f"Host: {recorder.url.removeprefix('http://')}", "Accept: */*", "User-Agent: banyan"]
    head += ["Accept-Encoding: identity", "Connection: close", *headers]
    head += [f"Content-Length: {len(body)}"] if body is not None else []
    return "\r\n".join(head).encode() + b"\r\n\r\n" + (body or b"")


def upload(recorder: Recorder, update: str, data: bytes) -> list[bytes]:
    place = f"/v1/updates/{update}/files/{hashlib.sha256(data).hexdigest()}"
    kind, step = "Content-Type: application/offset+octet-stream", 1 << 20
    pieces = [
        request(recorder, f"PUT {place}", data[at : at + step], f"Upload-Offset: {at}", kind)
        for at in range(0, len(data), step)
    ]
    return [request(recorder, f"HEAD {place}"), *pieces]


def expected(recorder: Recorder, family: Family, result: PublishResult, *files: bytes) -> list[bytes]:
    envelope = stored(family.child, result.digest).envelope
    kind = "Content-Type: application/vnd.dsse.envelope.v1+json"
    uploads = [one for data in files for one in upload(recorder, result.digest, data)]
    asking = request(recorder, f"GET /v1/updates/{result.digest}")
    return [request(recorder, "POST /v1/updates", envelope, kind), *uploads, asking]


def signed_words(family: Family, result: PublishResult) -> dict[str, object]:
    envelope = json.loads(stored(family.child, result.digest).envelope)
    assert envelope.keys() == {"payload", "payloadType", "signatures"}
    return json.loads(base64.b64decode(envelope["payload"]))


def update_words(family: Family, words: dict[str, object]) -> dict[str, object]:
    """Every field of the update that may leave, by name and value."""
    figures = {"dataset": "held-out", "split": "test", "rows": 200, "metrics": {"exact_match": 0.75}}
    return {
        "path": "en/finance/cards",
        "issuer": family.child.key.public.id,
        "audience": family.parent.key.public.id,
        "base": words["base"],
        "release": family.above.model_dump(),
        "sequence": 1,
        "created": words["created"],
        "expires": words["expires"],
        "adapter": {
            "file": {
                "name": "adapter_model.safetensors",
                "size": len(ADAPTER),
                "sha256": hashlib.sha256(ADAPTER).hexdigest(),
            },
            "shape": {"rank": 4, "alpha": 4.0, "targets": ["q_proj"], "dtype": "F32"},
        },
        "claims": [{**figures, "path": "en/finance/cards"}],
        "run": hashlib.sha256(b'{"run":"of en/finance/cards"}').hexdigest(),
        "transfer": None,
        "transfer_rows": 0,
    }


def test_by_default_nothing_but_the_envelope_and_the_adapter_leaves(recorded: tuple[Family, Recorder]) -> None:
    """U9."""
    family, recorder = recorded
    result = send(family)
    assert recorder.requests() == expected(recorder, family, result, ADAPTER)
    words = signed_words(family, result)
    assert words == update_words(family, words)


def test_with_consent_chosen_prompts_leave_with_the_models_own_answers_and_nothing_else(
    tmp_path: Path, tiny_base: Path
) -> None:
    """U9, U10: what the owner's file answers stays here, also where a prompt stands there twice."""
    parent = make_node(tmp_path / "parent", "en")
    with node_process(parent.home.root) as url, recording(url) as recorder:
        family = make_talking(tmp_path, parent, recorder.url, tiny_base)
        recorder.received.clear()
        told = [{"input": f"prompt {i % 7}", "output": f"the secret of {i}", "task": "intent"} for i in range(9)]
        result = send(family, rows_file(tmp_path, told))
        prompts = [Row(f"prompt {i}", "", task="intent") for i in range(7)]
        rows = [
            {"input": row.input, "output": given, "task": "intent"}
            for row, given in zip(prompts, own_answers(family.child, prompts), strict=True)
        ]
        assert all(row["output"] for row in rows)
        lines = [json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for row in rows]
        files = ((tmp_path / "adapter").read_bytes(), b"".join(lines))
        assert recorder.requests() == expected(recorder, family, result, *files)
        words = signed_words(family, result)
        assert (words["transfer_rows"], words["transfer"]["sha256"]) == (7, hashlib.sha256(files[1]).hexdigest())
        assert b"secret" not in b"".join(recorder.requests())
        family.child.close()
    parent.close()


def test_training_prompts_travel_with_the_models_own_answers(talking: Family) -> None:
    """Neither the true answers nor rows that were not picked leave; what was picked is the same at each try."""
    parent, child = talking.parent, talking.child
    with child.store.read() as session:
        run = session.scalars(select(RunRow)).one()
    (child.home.runs / run.id).mkdir()
    training = [Row(f"what of {i}?", f"the secret of {i}", task="ask", group="patient 7") for i in range(20)]
    write_rows(training, child.home.runs / run.id / "train.jsonl")
    shown: list[Outgoing] = []

    def no(outgoing: Outgoing) -> bool:
        shown.append(outgoing)
        return False

    for _ in range(2):
        with pytest.raises(LocalFailure, match="not confirmed"):
            publish(child, CARDS, None, 4, no, now=utc_now())
    assert shown[0].samples == shown[1].samples
    result = publish(child, CARDS, None, 4, lambda outgoing: True, now=utc_now())
    transfer = result.sent.files[1]
    rows = read_rows(parent.blobs.path(transfer.sha256), transfer.size)
    assert 1 <= len(rows) == result.sent.transfer_rows <= 4
    assert {row.input for row in rows} <= {row.input for row in training}
    assert b"secret" not in parent.blobs.read(transfer.sha256, transfer.size)
    assert b"patient" not in parent.blobs.read(transfer.sha256, transfer.size)
    assert [row.output for row in rows] == own_answers(child, rows)
    with pytest.raises(BadData, match="the run had 20"):
        publish(child, CARDS, None, 21, never, now=utc_now())


# Interrupted, refused, misled


def test_an_upload_goes_on_where_it_was_interrupted(recorded: tuple[Family, Recorder]) -> None:
    family, recorder = recorded

    class KilledError(Exception):
        pass

    def kill(progress: object) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        send(family, on_progress=kill)
    recorder.received.clear()
    result = send(family, confirm=never)
    assert result.state == "received"
    starts = [one.partition(b"\r\n\r\n")[0] for one in recorder.requests() if one.startswith(b"PUT")]
    assert [b"Upload-Offset: 1048576" in head for head in starts] == [True]
    assert family.parent.blobs.has(hashlib.sha256(ADAPTER).hexdigest())


def test_a_parent_that_is_down_or_slow_costs_no_number(family: Family, answering: Callable) -> None:
    with family.child.store.transaction() as session:
        parent = session.scalars(select(PeerRow)).one()
        parent.url = "http://127.0.0.1:9"
    with pytest.raises(LocalFailure, match="cannot be reached"):
        send(family)
    (row,) = list_updates(family.child, "out")
    assert row.state == "ready"
    with family.child.store.transaction() as session:
        session.scalars(select(PeerRow)).one().url = family.url
    result = send(family, confirm=never)
    assert (result.digest, result.sequence, result.state) == (row.digest, 1, "received")


def test_a_refusal_comes_with_the_parents_signed_reasons(family: Family) -> None:
    with family.parent.store.transaction() as session:
        session.add(SequenceRow(issuer=family.child.key.public.id, path=str(CARDS), highest=5))
    result = send(family)
    assert result.state == "rejected"
    assert "sequence 1 was used before" in result.reason
    detail = show_update(family.child, result.digest[:8], utc_now())
    assert detail.verdict is not None
    assert [check.name for check in detail.checks if not check.passed] == ["envelope.sequence"]
    assert send(family, confirm=never).digest == result.digest
    anew = send(family, anew=True)
    assert (anew.new, anew.sequence) == (True, 2)


def test_a_key_that_is_not_enrolled_is_refused(family: Family) -> None:
    revoke(family.parent, family.child.key.public.id, CARDS, utc_now())
    with pytest.raises(Refused, match="revoked") as caught:
        send(family)
    assert caught.value.status == 403
    assert list_updates(family.parent) == []


def test_an_update_that_expired_on_its_way_is_signed_anew(family: Family) -> None:
    first = send(family, now=utc_now() - timedelta(days=29))
    second = send(family, now=utc_now() + timedelta(days=2))
    assert (second.new, second.sequence) == (True, first.sequence + 1)


def test_the_verdict_of_the_parent_is_fetched_and_verified(family: Family) -> None:
    result = send(family)
    assert show_update(family.child, result.digest, utc_now()).verdict is None
    own = Identity(family.parent.key, family.parent.paths)
    with family.parent.store.transaction() as session:
        row = session.get(UpdateRow, result.digest)
        assert row is not None
        row.state = "quarantined"
    settle(family.parent.store, result.digest, "rejected", failure("person", "poisoned"), own, utc_now())
    detail = show_update(family.child, result.digest, utc_now())
    assert detail.verdict is not None
    assert (detail.summary.state, detail.verdict.reason) == ("rejected", "person: poisoned")
    assert detail.problem == ""


def test_a_verdict_that_the_parent_did_not_sign_does_not_count(family: Family) -> None:
    """V8."""
    result = send(family)
    forged = seal_document(
        Verdict(update=result.digest, outcome="accepted", checks=(), reason="", created=utc_now()), family.child.key
    )
    other = seal_document(
        Verdict(update="0" * 64, outcome="accepted", checks=(), reason="", created=utc_now()), family.parent.key
    )
    for envelope, words in ((forged, "may not sign"), (other, "another update")):
        with family.parent.store.transaction() as session:
            row = session.get(UpdateRow, result.digest)
            assert row is not None
            row.state, row.verdict = "accepted", envelope
        detail = show_update(family.child, result.digest, utc_now())
        assert words in detail.problem
        assert (detail.summary.state, detail.verdict) == ("received", None)


def test_what_cannot_be_published_says_what_to_do(family: Family, tmp_path: Path) -> None:
    for file, words in (
        (b"", "is empty"),
        (b"\xff\xfe", "UTF-16"),
        (b'{"input": "x"}\n', "output"),
        (b'{"input": "x", "output": "y", "secret": 1}\n', "secret"),
    ):
        (tmp_path / "rows.jsonl").write_bytes(file)
        with pytest.raises(BadData, match=words):
            send(family, tmp_path / "rows.jsonl")
    with pytest.raises(BadData, match="there is no file"):
        send(family, tmp_path / "missing")
    with pytest.raises(BadData, match="either a transfer set or a number"):
        send(family, rows_file(tmp_path, ROWS), 5)
    with pytest.raises(LocalFailure, match="training rows") as caught:
        send(family, rows=5)
    assert "--transfer-set" in caught.value.hint
    with pytest.raises(LocalFailure, match="no release of en/travel"):
        publish(family.child, NodePath.parse("en/travel"), None, 0, never, now=utc_now())
    with pytest.raises(LocalFailure, match="not this node's own work"):
        publish(family.child, NodePath.parse("en/finance"), None, 0, never, now=utc_now())
    with pytest.raises(LocalFailure, match="no parent"):
        publish(family.parent, NodePath.parse("en/finance"), None, 0, never, now=utc_now())
    assert list_updates(family.child) == []


def test_rows_beyond_the_limit_do_not_travel(family: Family, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="at most 5000 may travel"):
        send(family, rows_file(tmp_path, [{"input": str(i), "output": "x"} for i in range(5001)]))


def test_an_upload_takes_the_declared_bytes_and_no_others(family: Family) -> None:
    """T2, T4, T5: gaps, too many bytes, wrong bytes and files of nobody are refused; repeated bytes do no harm."""
    with pytest.raises(ZeroDivisionError):  # stopped after the first piece
        send(family, on_progress=lambda progress: 1 / 0)
    (row,) = list_updates(family.child)
    place = f"{family.url}/v1/updates/{row.digest}/files/"
    adapter = place + hashlib.sha256(ADAPTER).hexdigest()

    def put_at(url: str, offset: int, data: bytes) -> int:
        return httpx.put(url, content=data, headers={"Upload-Offset": str(offset)}).status_code

    first = 1 << 20
    assert httpx.head(adapter).headers["Upload-Offset"] == str(first)
    assert put_at(adapter, first + 1, b"x") == 409
    assert put_at(adapter, first, ADAPTER[first:] + b"x") == 400
    assert put_at(adapter, first, b"x" * ((4 << 20) + 1)) == 413
    assert put_at(place + "0" * 64, 0, b"x") == 400
    assert put_at(adapter, 0, ADAPTER[:100]) == 204
    assert httpx.head(adapter).headers["Upload-Offset"] == str(first)
    assert put_at(adapter, first, b"x" * (len(ADAPTER) - first)) == 400  # whole, and not what was signed
    assert httpx.head(adapter).headers["Upload-Offset"] == "0"
    assert send(family, confirm=never).state == "received"
    assert family.parent.blobs.read(hashlib.sha256(ADAPTER).hexdigest(), 10**7) == ADAPTER


def test_updates_are_listed_and_found_by_the_beginning_of_their_digest(family: Family) -> None:
    result = send(family)
    (sent,) = list_updates(family.child, "out")
    (taken,) = list_updates(family.parent, "in")
    assert (sent.digest, sent.release, sent.state) == (result.digest, family.own.digest, "received")
    assert (taken.digest, taken.issuer) == (result.digest, family.child.key.public.id)
    assert list_updates(family.child, "in") == []
    detail = show_update(family.parent, result.digest[:6], utc_now())
    assert detail.update.adapter.file.size == len(ADAPTER)
    with pytest.raises(LocalFailure, match="no update"):
        show_update(family.parent, "0000", utc_now())
    with pytest.raises(BadData, match="beginning of a digest"):
        show_update(family.parent, "../..", utc_now())


def test_the_stored_update_is_what_was_signed(family: Family) -> None:
    result = send(family)
    update, opened = open_document(stored(family.parent, result.digest).envelope, Update, [family.child.key.public])
    assert opened.digest == result.digest
    assert update.release == family.above


def test_what_is_shown_says_whose_answers_leave() -> None:
    """The owner reads that the answers are the model's, and how many earlier turns go with a prompt."""
    file = File(name="transfer.jsonl", size=9, sha256="a" * 64)
    row = Row("and now?", "the model's words", history=(("user", "hi"), ("assistant", "ho")))
    outgoing = Outgoing("http://p", "ab cd", "en", 1, 100, (file,), (), 1, (row,))
    shown = str(_leaving(described(outgoing)))
    assert "1 prompts, each with this model's own answer; your answers stay here" in shown
    assert "'and now?' after 2 earlier turns, which travel too -> \"the model's words\"" in shown


def test_a_parent_decides_when_an_update_is_whole_and_not_at_its_next_look(
    tmp_path: Path, serve: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look again tomorrow. The update is no adapter at all, so that its verdict takes no model."""
    looked, look = Semaphore(0), daemon._Loops._compute

    def counted(loops: daemon._Loops, now: datetime) -> None:
        look(loops, now)
        looked.release()

    monkeypatch.setattr(daemon._Loops, "_compute", counted)
    with closing(make_node(tmp_path / "parent", "en", "en/finance", poll_interval_s=86_400.0)) as parent:
        family = make_family(tmp_path, parent, serve(create_app(parent)))
        with closing(family.child), daemon.rounds(parent):
            assert looked.acquire(timeout=60)  # the look of the start
            digest = send(family).digest
            assert looked.acquire(timeout=60)
            assert show_update(parent, digest, utc_now()).summary.state == "rejected"
