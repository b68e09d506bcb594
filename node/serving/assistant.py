"""The assistant as a model: `assistant` on every interface that serves models. No model of language is behind it.

The conversation is what the user said in the messages, read again from the first; where the request names a session,
it is the stored one, gone on with by the last message. What the system said is not read; what the assistant said, only
to see that a yes is to the very thing that was offered. Tokens are words.

Of the metadata of a request it reads `session`, the name of a conversation, and `models`: all, or those of the tree.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from assistant.dialogue import offered, step
from assistant.extract import MAX_TURNS
from assistant.hearing import acts_in
from assistant.state import State
from node.context import Node
from node.conversation import UNDERSTAND, converse
from node.desk import Desk
from node.recommending import Shelf
from node.serving.errors import Refused
from node.serving.requests import (
    ChatRequest,
    CompletionRequest,
    Delta,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    ModelInfo,
    Usage,
)
from node.sessions import checked_name, keep_session, load_session
from recommender.advisor import Advisor
from recommender.hardware import this_machine
from registry.errors import BadData

NAME: Final = "assistant"
MAX_SAID_CHARS: Final = 40_000  # by the user, in all messages together
KEPT_STATES: Final = 256  # of conversations that come again with one message more
CREATED: Final = 1_795_219_200  # when it was first served: 2026-11-21


class AssistantBackend:
    """See `node.serving.requests.Backend`. The answer is worked out in a thread, and sent line by line."""

    def __init__(self, node: Node, now: Callable[[], datetime]) -> None:
        self._node, self._now = node, now
        self._shelf = Shelf(node)
        self._machine = lru_cache(maxsize=1)(this_machine)  # once: its free memory changes, and with it the questions
        self._replays: dict[bool, _Replay] = {}

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """The reply to the last message. Raises Refused for what has no meaning here."""
        _refuse_unsupported(request)
        text = await asyncio.to_thread(self._answer, request)
        words = len(text.split())
        prompt = sum(len(message.content.split()) for message in request.messages)
        most = request.sampling.max_tokens
        for line in _lines(text, most):
            yield Delta(text=line)
        cut = most is not None and words > most
        usage = Usage(prompt, min(words, most) if cut and most is not None else words)
        yield Delta(finish=FinishReason.LENGTH if cut else FinishReason.STOP, usage=usage)

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[Delta, None]:
        """It only talks. Raises Refused."""
        raise Refused("model", f"{request.model} only answers chats", "POST /v1/chat/completions")
        yield Delta()

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """It only talks. Raises Refused."""
        raise Refused("model", f"{request.model} only answers chats", "POST /v1/chat/completions")

    async def models(self) -> Sequence[ModelInfo]:
        """Itself."""
        return [ModelInfo(NAME, CREATED, self._node.settings.name)]

    def _answer(self, request: ChatRequest) -> str:
        turns = tuple(message.content for message in request.messages if message.role == "user")
        if not turns or not turns[-1].strip():
            raise Refused("messages", "the user has not said anything", "send a message of the role user")
        if len(turns) > MAX_TURNS or sum(map(len, turns)) > MAX_SAID_CHARS:
            most = f"at most {MAX_TURNS} messages of the user, with {MAX_SAID_CHARS:,} characters together"
            raise Refused("messages", "the conversation is too long", most)
        desk = Desk(self._node, request.tenant, from_outside=True, now=self._now)
        try:
            replay = self._replay(request)
            if name := request.metadata.get("session", ""):
                return self._go_on(name, turns[-1], replay.advisor, desk)
            state = replay.after(turns[:-1])
            if _agrees_to_another(state, request):
                return offered(state)
            _, said = converse(state, turns[-1], replay.advisor, desk)
        except Refused:
            raise
        except BadData as error:
            raise Refused("messages", error.message, error.hint) from error
        return said.text

    def _go_on(self, name: str, text: str, advisor: Advisor, desk: Desk) -> str:
        store = self._node.store
        try:
            state = load_session(store, desk.owner, checked_name(name), desk.now())
        except BadData as error:
            raise Refused("metadata.session", error.message, error.hint) from error
        state, said = converse(state, text, advisor, desk)
        keep_session(store, desk.owner, name, state, desk.now())
        return said.text

    def _replay(self, request: ChatRequest) -> _Replay:
        """The advisor on the catalogue as it is now, with what it remembers while the catalogue stays."""
        models = request.metadata.get("models", "all")
        if models not in ("all", "tree"):
            raise Refused("metadata.models", f"there are no models {models!a:.40}", "all, or: tree")
        tree_only = models == "tree"
        advisor = self._shelf.advisor(self._machine(), self._now(), tree_only=tree_only)
        kept = self._replays.get(tree_only)
        if kept is None or kept.advisor.index is not advisor.index:
            kept = self._replays[tree_only] = _Replay(advisor)
        return kept


class _Replay:
    """Conversations over one catalogue: `after` gives the state after some turns, and remembers it."""

    def __init__(self, advisor: Advisor) -> None:
        self.advisor = advisor
        self.after = lru_cache(maxsize=KEPT_STATES)(self._after)

    def _after(self, turns: tuple[str, ...]) -> State:
        return step(self.after(turns[:-1]), turns[-1], self.advisor, UNDERSTAND)[0] if turns else State()


def _agrees_to_another(state: State, request: ChatRequest) -> bool:
    """Whether a yes answers another offer than the one that the words now lead to, since the catalogue has changed."""
    answered, last = request.messages[-2:] if len(request.messages) > 1 else (None, request.messages[-1])
    if state.offer is None or answered is None or answered.role != "assistant":
        return False
    return "yes" in acts_in(last.content) and offered(state) not in answered.content


def _refuse_unsupported(request: ChatRequest) -> None:
    """Refuse what would change the answer of a model. How tokens are drawn cannot: none are drawn here."""
    sampling = request.sampling
    asked = {
        "n": request.n > 1,
        "tools": bool(request.tools),
        "format": request.format is not None,
        "logprobs": sampling.logprobs is not None,
        "logit_bias": bool(sampling.logit_bias),
        "stop": bool(sampling.stop),
        "stop_token_ids": bool(sampling.stop_token_ids),
    }
    for field, said in asked.items():
        if said:
            raise Refused(field, f"the model {NAME} does not support {field}", "leave it out", "unsupported_parameter")


def _lines(text: str, most: int | None) -> Iterator[str]:
    """The lines of a text, with their ends, of the first `most` words."""
    left = most if most is not None else len(text)
    for line in text.splitlines(keepends=True):
        words = line.split()
        if left <= 0:
            return
        yield line if len(words) <= left else " ".join(words[:left])
        left -= len(words)
