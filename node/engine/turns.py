"""Which row of a step's logits is whose, and what the model thought of tokens: of the chosen ones and of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass

from torch import Tensor

from node.engine.answers import Answer, named
from node.engine.sampler import NONE, Likely, likelihoods
from node.engine.scheduler import Step
from node.engine.sequence import Sequence
from node.engine.text import TokenBytes


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer whose next token is chosen in this step, from this row of the logits."""

    answer: Answer
    row: int


def turns_of(step: Step, answers: Mapping[Sequence, Answer]) -> list[Turn]:
    """Who gets a token in this step: the sequences that are run to their end, and who waited for their prompts."""
    turns: list[Turn] = []
    row = -1
    for piece in step.pieces:
        row += piece.logits
        if piece.start + piece.count == piece.sequence.length:
            answer = answers[piece.sequence]
            turns += [Turn(answer, row), *(Turn(other, row) for other in answer.waiting)]
    return turns


def read_prompts(step: Step, logits: Tensor, answers: Mapping[Sequence, Answer], names: TokenBytes) -> None:
    """Note what the model thought of the tokens of prompts, for the answers that are to tell."""
    row = 0
    for piece in step.pieces:
        answer = answers[piece.sequence]
        following = piece.sequence.prompt[piece.start + 1 : piece.start + piece.count + 1]
        if answer.params.prompt_logprobs and following and not piece.sequence.output:
            tops = [answer.params.logprobs or 0] * len(following)
            likely = likelihoods(logits[row : row + len(following)], following, tops)
            found = [named(token, one, names) for token, one in zip(following, likely, strict=True)]
            for one in (answer, *answer.waiting):
                one.prompt_logprobs += found
        row += piece.logits


def thoughts(logits: Tensor, turns: Many[Turn], tokens: Many[int]) -> list[Likely | None]:
    """What the model thought of each turn's token, where its request asks for that."""
    found: list[Likely | None] = [None] * len(turns)
    asked = [i for i, turn in enumerate(turns) if turn.answer.params.logprobs is not None and tokens[i] != NONE]
    tops = [turns[i].answer.params.logprobs or 0 for i in asked]
    likely = likelihoods(logits[asked], [tokens[i] for i in asked], tops) if asked else []
    for i, one in zip(asked, likely, strict=True):
        found[i] = one
    return found
