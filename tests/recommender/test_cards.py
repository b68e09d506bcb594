"""Cards are found by meaning and by words, and weights are learned from what requests were about."""

from __future__ import annotations

import numpy as np

from recommender.cards import SIGNALS, WEIGHTS, Cards, CardText, learned

CARDS = [
    CardText("acme/speech-base", "Audio. Automatic speech recognition", "Transcribes spoken English into text."),
    CardText("acme/depth", "Computer vision. Depth estimation", "Estimates how far away everything in a photo is."),
    CardText("acme/opus-de-fr", "Translation", "Translates German text into French."),
    CardText("acme/tapas", "Table question answering", "Answers questions about the cells of a table."),
]
REQUESTS = [
    "Write down what is said in a recording",
    "Tell the distance of objects in my picture",
    "German to French, please",
]


def test_a_request_finds_its_card() -> None:
    signals = Cards.of(CARDS).signals(REQUESTS)
    assert signals.shape == (3, 4, len(SIGNALS))
    assert (signals @ np.array(WEIGHTS)).argmax(1).tolist() == [0, 1, 2]


def test_a_single_request_is_answered_too_and_nonsense_harms_nobody() -> None:
    cards = Cards.of(CARDS)
    assert int((cards.signals(["opus"]) @ np.array(WEIGHTS)).argmax()) == 2
    assert np.isfinite(cards.signals(["", "%%%"])).all()


def test_weights_follow_the_signal_that_tells() -> None:
    generator = np.random.default_rng(0)
    right = generator.integers(0, 30, 200)
    signals = generator.normal(size=(200, 30, len(SIGNALS)))
    signals[np.arange(200), right, 1] += 3
    weights = learned(signals, right)
    assert weights[1] > 1.5
    assert np.abs(np.delete(weights, 1)).max() < 0.5
