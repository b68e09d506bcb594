"""The conversation: a state and a text give the next state and the reply. No input or output, no clock, no chance.

The understanding (`extract`) and the recommender (`Advisor`) are arguments. Nothing is ever started here: an action is
offered, and after a plain yes it stands in the reply for whoever talks to the user. Replies are in the user's language.
"""

from __future__ import annotations

from typing import Any

from assistant import explain
from assistant.critiques import critiqued
from assistant.hearing import CRITIQUES, Extract, Heard, acts_in, asks_for_model, file_in, hear, job_in
from assistant.next_question import next_question
from assistant.questions import question
from assistant.state import KINDS, Action, Reply, State
from assistant.voice import Voice, language_after, voice
from recommender.advisor import Advisor


def step(state: State, text: str, advisor: Advisor, extract: Extract) -> tuple[State, Reply]:
    """Take in what the user wrote, and answer.

    Raises:
        BadData: the conversation is too long (see `extract`); the state stays as it was.
    """
    state = state.model_copy(update={"language": language_after(text, state.language)})
    if state.offer is not None:
        offer, state = state.offer, state.model_copy(update={"offer": None})
        if (answered := _answered(state, offer, text, advisor)) is not None:
            return answered
    if state.current and not state.pending and "finetune" in acts_in(text):  # read as a need it would be a rule
        return _offer(state, Action(kind="finetune", model=state.current, data=file_in(text)), advisor)
    heard = hear(state, text, extract)
    if heard.answered or heard.news:
        return _advance(heard.state if heard.answered else _unasked(heard.state, state.pending), advisor)
    return _told(state, heard, text, advisor)


def offered(state: State) -> str:
    """What the user was asked for a plain yes to, or for a file; "" where nothing is open."""
    if state.offer is None:
        return ""
    tongue, offer = voice(state.language), state.offer
    if offer.lacks_data:
        return tongue.say("which_file")
    return tongue.say(f"offer_{offer.kind}", model=offer.model, data=offer.data)


def recalled(state: State) -> str:
    """Where a conversation was when it was left: what it had asked, or the model recommended; "" for neither."""
    tongue = voice(state.language)
    if state.offer is not None:
        return offered(state)
    if state.pending:
        return tongue.ask(question(state.pending))
    return tongue.say("where_we_were", model=state.current) if state.current else ""


def _answered(state: State, offer: Action, text: str, advisor: Advisor) -> tuple[State, Reply] | None:
    """What follows on an open offer: the name of its file, a plain yes or no; None where it was passed over."""
    said, tongue = acts_in(text), voice(state.language)
    if offer.lacks_data and (file := file_in(text)):
        return _offer(state, offer.model_copy(update={"data": file}), advisor)
    if "no" in said:
        return state, Reply(f"{tongue.say('nothing_started')} {tongue.say('anything_else')}")
    if "yes" in said and not offer.lacks_data:
        return state, Reply("", action=offer)
    return None


def _unasked(state: State, name: str) -> State:
    """The state in which a question that was passed over for other news may come again."""
    return state.model_copy(update={"asked": tuple(one for one in state.asked if one != name)})


def _advance(state: State, advisor: Advisor) -> tuple[State, Reply]:
    """The next question where one is worth asking, else a recommendation, or why there is none."""
    found, tongue = advisor.recommend(state.need), voice(state.language)
    if not found.answers:
        nowhere = state.model_copy(update={"pending": "", "current": ""})
        return nowhere, Reply(explain.nothing(found, tongue), found=found)
    asked = next_question(state.need, advisor, state.asked)
    if asked is not None:
        waiting = state.model_copy(update={"asked": (*state.asked, asked.name), "pending": asked.name})
        return waiting, Reply(tongue.ask(asked), asked.name, found)
    done = state.model_copy(update={"pending": "", "current": found.answers[0].candidate.id})
    return done, Reply(explain.recommended(found, tongue), found=found)


def _told(state: State, heard: Heard, text: str, advisor: Advisor) -> tuple[State, Reply]:
    """Answer a text that says nothing new about the need; what was off the subject is not remembered."""
    acts, tongue = heard.acts, voice(state.language)
    if "status" in acts:
        return state, Reply("", status=job_in(text))
    wanted = next((kind for kind in KINDS if kind in acts), None)
    if state.current and wanted is not None:
        return _offer(state, Action(kind=wanted, model=state.current, data=_file_for(wanted, text)), advisor)
    critique = next((one for one in CRITIQUES if one in acts), None)
    if state.current and critique is not None:
        return _criticised(state, critique, advisor)
    if state.current and acts & {"why", "others"}:
        found = advisor.recommend(state.need)
        explained = explain.reasons(found, tongue) if "why" in acts else explain.others(found, tongue)
        return state, Reply(explained, found=found)
    return _off_subject(state, acts, text, advisor)


def _off_subject(state: State, acts: frozenset[str], text: str, advisor: Advisor) -> tuple[State, Reply]:
    """Say what this is about, and where the conversation stands."""
    tongue = voice(state.language)
    if state.pending:
        asked = question(state.pending)
        return state, Reply(f"{tongue.say('not_understood')} {tongue.ask(asked)}", asked.name)
    about, anything_else = tongue.say("about"), tongue.say("anything_else")
    if state.current:
        return state, Reply(anything_else if acts & {"yes", "no"} else f"{about} {anything_else}")
    begun, reply = _advance(state, advisor)
    if not asks_for_model(text):
        reply = Reply(f"{about}\n{reply.text}", reply.question, reply.found)
    return begun, reply


def _file_for(kind: str, text: str) -> str:
    return file_in(text) if kind != "clone" else ""


def _offer(state: State, action: Action, advisor: Advisor) -> tuple[State, Reply]:
    """Ask for a plain yes, or first for the file; a model that is not of this tree has to come in before."""
    tongue = voice(state.language)
    if not any(one.id == action.model and one.source == "tree" for one in advisor.index.columns.candidates):
        return state, Reply(tongue.say("not_here", model=action.model))
    waiting = state.model_copy(update={"offer": action, "pending": ""})
    return waiting, Reply(offered(waiting))


def _criticised(state: State, critique: str, advisor: Advisor) -> tuple[State, Reply]:
    """Look for what differs from the current model as asked; where there is none the need stays as it was."""
    tongue: Voice = voice(state.language)
    found = advisor.recommend(state.need)
    current = next((one for one in found.answers if one.candidate.id == state.current), found.answers[0])
    delta: dict[str, Any] = critiqued(critique, current)
    if not delta:
        return state, Reply(tongue.say(f"unknown_{critique}", model=state.current))
    tried = state.model_copy(update={"chosen": state.chosen.model_copy(update=delta)})
    then = advisor.recommend(tried.need)
    if not then.answers:
        why = f"{tongue.say(f'no_{critique}')} {explain.nothing(then, tongue)}"
        return state, Reply(f"{why}\n{tongue.say('stay', model=state.current)}")
    first = then.answers[0].candidate.id
    head = tongue.say("same_model") if first == state.current else tongue.say(critique, model=state.current)
    done = tried.model_copy(update={"current": first, "pending": ""})
    return done, Reply(f"{head}\n{explain.recommended(then, tongue)}", found=then)
