"""Flower's messages without its processes: a grid that hands each one to an app in the same process.

What a client does to its reply, and whether it answers at all, can be changed for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

Twist = Callable[[Message], Message | None]


def honest(reply: Message) -> Message | None:
    return reply


@dataclass
class DirectGrid:
    """Clients by the number of their node; `twists` say what becomes of the replies of some."""

    apps: dict[int, ClientApp]
    twists: dict[int, Twist] = field(default_factory=dict)
    replies: dict[str, Message] = field(default_factory=dict)

    def get_node_ids(self) -> list[int]:
        return list(self.apps)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        numbers = []
        for count, message in enumerate(messages):
            node = message.metadata.dst_node_id
            number = f"{message.metadata.group_id}-{count}"
            message.metadata.__dict__["_message_id"] = number
            context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
            try:
                reply: Message | None = self.apps[node](message, context)
            except Exception as error:  # noqa: BLE001 - as Flower's own runner does
                reply = Message(Error(code=1, reason=str(error)), reply_to=message)
            assert reply is not None
            if (sent := self.twists.get(node, honest)(reply)) is not None:
                self.replies[number] = sent
            numbers.append(number)
        return numbers

    def pull_messages(self, numbers: Iterable[str]) -> list[Message]:
        return [self.replies.pop(number) for number in numbers if number in self.replies]
