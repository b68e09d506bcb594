# ruff: noqa: ARG002 - the library's signatures
"""Our rounds as strategies of Flower: one that judges every answer, around one that merges those that count.

Flower's own wrapper for central differential privacy fits between the two: it sees contributions whose signatures
were verified, and adds its noise to what the round made of them. Flower's strategies end a run where one reply is
malformed; here a bad reply becomes a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, Strategy

from registry.errors import BadData
from sync.federation.arrays import to_delta, to_record
from sync.federation.desk import Answer, Desk

ARRAYS: Final = "adapter"
CONFIG: Final = "config"
SIGNED: Final = "signed"
TASK: Final = "task"
ENVELOPE: Final = "envelope"


class Merging(Strategy):
    """Sends a round's arrays to every client that is there, and merges what it is given by our rules."""

    def __init__(self, desk: Desk, shapes: Mapping[str, tuple[int, int]]) -> None:
        self.desk, self.shapes = desk, shapes

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each client."""
        content = RecordDict({ARRAYS: arrays, CONFIG: config})
        return [
            Message(content, node, MessageType.TRAIN, ttl=self.desk.plan.deadline_s, group_id=str(server_round))
            for node in sorted(grid.get_node_ids())
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The arrays that the next round begins with."""
        deltas = [to_delta(reply.content.array_records[ARRAYS], self.shapes) for reply in replies]
        return to_record(self.desk.merged(deltas)), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing is asked of the clients: the gate judges, on rows that they do not know."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing."""
        return None

    def summary(self) -> None:
        """Nothing to add to what the record of the run says."""


class Judging(Merging):
    """Signs every task, verifies and checks every answer, and hands on what counts."""

    def __init__(self, desk: Desk, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(desk, shapes)
        self.sent: list[int] = []
        self.inner: Strategy = Merging(desk, shapes)
        private = desk.plan.private
        if private:  # noise for the fewest children that may count, which is enough for more
            self.inner = DifferentialPrivacyServerSideFixedClipping(
                self.inner, private.noise, private.clip, desk.plan.least
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The round's task, signed, for each client."""
        config = ConfigRecord({**config, TASK: self.desk.ask(server_round, to_delta(arrays, self.shapes))})
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        self.sent = [message.metadata.dst_node_id for message in messages]
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the round made of the answers that count (J4). Raises TooFew where they are too few."""
        came: dict[int, Message] = {}
        for reply in replies:
            came.setdefault(reply.metadata.src_node_id, reply)
        answers = [self.answer(node, came.get(node)) for node in self.sent]
        accepted = self.desk.receive(answers)
        arrays, metrics = self.inner.aggregate_train(server_round, [came[int(one.client)] for one in accepted])
        if arrays is None:
            return None, metrics
        return to_record(self.desk.next_start(to_delta(arrays, self.shapes))), metrics

    def answer(self, node: int, reply: Message | None) -> Answer:
        """What one client sent, as far as it can be read (J3)."""
        client = str(node)
        if reply is None:
            return Answer(client, problem="no answer that can be read came before the round's deadline")
        if reply.has_error():
            return Answer(client, problem=f"the client failed: {reply.error.reason!a:.300}")
        try:
            content = reply.content
            if set(content.array_records) != {ARRAYS}:
                raise BadData(f"an answer holds arrays named {ARRAYS!r} and no other")
            delta = to_delta(content.array_records[ARRAYS], self.shapes)
            signed = content.config_records.get(SIGNED, ConfigRecord()).get(ENVELOPE, b"")
        except BadData as error:
            return Answer(client, problem=error.message)
        return Answer(client, envelope=signed if isinstance(signed, bytes) else b"", delta=delta)
