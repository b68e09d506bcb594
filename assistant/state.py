"""Where a conversation stands, and what is answered: values that can be stored as JSON and begun from again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from recommender.answers import Recommendations
from recommender.constraints import Constraints

Kind = Literal["clone", "finetune", "evaluate"]
KINDS: Final[tuple[Kind, ...]] = ("clone", "finetune", "evaluate")


class Action(BaseModel):
    """Something to be done with a model, on a file of rows. Who talks to the user carries it out, not this package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    model: str
    data: str = ""

    @property
    def lacks_data(self) -> bool:
        """Whether it needs a file of rows that nobody named."""
        return self.kind != "clone" and not self.data


class State(BaseModel):
    """A conversation. `said` is what `turns` were understood as; `chosen` came from options and critiques and wins.

    `asked` are the names of questions in their order, `pending` the one whose answer is awaited, `current` the model
    that was recommended last, `offer` what a plain yes would start, or what waits for the name of a file. `language` is
    that of the user's words so far, empty where nothing told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: tuple[str, ...] = ()
    said: Constraints = Constraints()
    chosen: Constraints = Constraints()
    asked: tuple[str, ...] = ()
    pending: str = ""
    current: str = ""
    offer: Action | None = None
    language: str = ""

    @property
    def need(self) -> Constraints:
        """What is known of the need."""
        return self.said.model_copy(update=dict(self.chosen.stated()))


@dataclass(frozen=True, slots=True)
class Reply:
    """What the user is told; the name of the question in it; what was recommended; what the user has agreed to.

    `status` is the number of the job that was asked after, 0 for the newest: who knows the jobs answers that.
    """

    text: str
    question: str = ""
    found: Recommendations | None = None
    action: Action | None = None
    status: int | None = None
