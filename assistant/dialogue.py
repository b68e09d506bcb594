"""The conversation: a state and a text give the next state and the reply. No input or output, no clock, no chance.

The understanding (`extract`) and the recommender (`Advisor`) are arguments. Nothing is ever started here: an action is
offered, and after a plain yes it stands in the reply for whoever talks to the user.
"""

from __future__ import annotations

from typing import Any, Final

from assistant import explain
from assistant.critiques import critiqued
from assistant.hearing import CRITIQUES, Extract, Heard, acts_in, asks_for_model, hear
from assistant.next_question import next_question
from assistant.questions import question
from assistant.state import KINDS, Action, Kind, Reply, State
from recommender.advisor import Advisor

_DOES: Final[dict[Kind, str]] = {
    "clone": "fetch its files to this machine",
    "finetune": "train an adapter on your rows, here; they stay on this machine",
    "evaluate": "measure it on rows here",
}
_NOTHING_STARTED: Final = "Nothing was started."
_ANYTHING_ELSE: Final = "Tell me what should be different, or: clone, fine-tune, evaluate."


def step(state: State, text: str, advisor: Advisor, extract: Extract) -> tuple[State, Reply]:
    """Take in what the user wrote, and answer.

    Raises:
        BadData: the conversation is too long (see `extract`); the state stays as it was.
    """
    if state.offer is not None:
        offer, state = state.offer, state.model_copy(update={"offer": None})
        said = acts_in(text)
        if "yes" in said:
            return state, Reply(f"Starting: {offer.kind} {offer.model}.", action=offer)
        if "no" in said:
            return state, Reply(f"{_NOTHING_STARTED} {_ANYTHING_ELSE}")
    if state.current and not state.pending and "finetune" in acts_in(text):  # read as a need it would be a rule
        return _offered(state, Action(kind="finetune", model=state.current))
    heard = hear(state, text, extract)
    if heard.answered or heard.news:
        return _advance(heard.state if heard.answered else _unasked(heard.state, state.pending), advisor)
    return _told(state, heard, text, advisor)


def _unasked(state: State, name: str) -> State:
    """The state in which a question that was passed over for other news may come again."""
    return state.model_copy(update={"asked": tuple(one for one in state.asked if one != name)})


def _advance(state: State, advisor: Advisor) -> tuple[State, Reply]:
    """The next question where one is worth asking, else a recommendation, or why there is none."""
    found = advisor.recommend(state.need)
    if not found.answers:
        return state.model_copy(update={"pending": "", "current": ""}), Reply(explain.nothing(found), found=found)
    asked = next_question(state.need, advisor, state.asked)
    if asked is not None:
        waiting = state.model_copy(update={"asked": (*state.asked, asked.name), "pending": asked.name})
        return waiting, Reply(asked.text(), asked.name, found)
    done = state.model_copy(update={"pending": "", "current": found.answers[0].candidate.id})
    return done, Reply(explain.recommended(found), found=found)


def _told(state: State, heard: Heard, text: str, advisor: Advisor) -> tuple[State, Reply]:
    """Answer a text that says nothing new about the need; what was off the subject is not remembered."""
    acts = heard.acts
    wanted = next((kind for kind in KINDS if kind in acts), None)
    if state.current and wanted is not None:
        return _offered(state, Action(kind=wanted, model=state.current))
    critique = next((one for one in CRITIQUES if one in acts), None)
    if state.current and critique is not None:
        return _criticised(state, critique, advisor)
    if state.current and acts & {"why", "others"}:
        found = advisor.recommend(state.need)
        return state, Reply(explain.reasons(found) if "why" in acts else explain.others(found), found=found)
    if state.pending:
        asked = question(state.pending)
        return state, Reply(f"I did not understand that as an answer. {asked.text()}", asked.name)
    if state.current:
        return state, Reply(_ANYTHING_ELSE if acts & {"yes", "no"} else f"{explain.ABOUT} {_ANYTHING_ELSE}")
    begun, reply = _advance(state, advisor)
    if not asks_for_model(text):
        reply = Reply(f"{explain.ABOUT}\n{reply.text}", reply.question, reply.found)
    return begun, reply


def _offered(state: State, action: Action) -> tuple[State, Reply]:
    text = f"{action.kind} {action.model}: I would {_DOES[action.kind]}. Shall I? (yes / no)"
    return state.model_copy(update={"offer": action, "pending": ""}), Reply(text)


def _criticised(state: State, critique: str, advisor: Advisor) -> tuple[State, Reply]:
    """Look for what differs from the current model as asked; where there is none the need stays as it was."""
    found = advisor.recommend(state.need)
    current = next((one for one in found.answers if one.candidate.id == state.current), found.answers[0])
    delta: dict[str, Any] = critiqued(critique, current)
    if not delta:
        return state, Reply(f"I cannot tell what would be {critique}: that is not known of {state.current}.")
    chosen = state.chosen.model_copy(update=delta)
    tried = state.model_copy(update={"chosen": chosen})
    then = advisor.recommend(tried.need)
    if not then.answers:
        return state, Reply(f"Nothing {critique} meets the rest. {explain.nothing(then)}\nI stay with {state.current}.")
    first = then.answers[0]
    done = tried.model_copy(update={"current": first.candidate.id, "pending": ""})
    same = first.candidate.id == state.current
    head = "The same model, in another form" if same else f"{critique.capitalize()} than {state.current}"
    return done, Reply(f"{head}:\n{explain.recommended(then)}", found=then)
