"""What an adapter gives away of the rows that it was trained on, told before it leaves (U9, U13).

Whoever has an adapter can sample prompts from it, and its parent does. So before an update is signed, prompts are
sampled from this node's own model, and those that repeat a training row, word for word or nearly, are counted. The rows
are compared here and go nowhere; the two numbers travel as a claim. Answers are not compared: labels repeat by their
nature.
"""

from __future__ import annotations

from typing import Final

from node.context import Node
from node.offer import Offer
from node.transfer import TRAINING_ROWS
from registry.documents import Evaluation
from registry.errors import LocalFailure
from registry.rows import read_rows

SAMPLED: Final = "sampled"
MAX_ROWS_BYTES: Final = 1 << 32
SEED: Final = 7


def memorised(node: Node, offer: Offer) -> Evaluation | None:
    """The claim on an offer's model: of so many sampled prompts, the shares that repeat a training row.

    None where there are no training rows here, as of what others taught, or the model says no prompts: then there is
    nothing to compare. Raises LocalFailure when more of them repeat a row than may.
    """
    from node.models import load
    from sync.repeated import repeated
    from sync.sampled import sampled

    if offer.run is None or not node.settings.memorisation_prompts:
        return None
    file = node.home.runs / offer.run.id / TRAINING_ROWS
    if not file.is_file():
        return None
    _, loaded = load(node, offer.ref)
    said = sampled(loaded, str(offer.ref.path), node.settings.memorisation_prompts, SEED)
    if not said:
        return None
    found = repeated([row.input for row in said], [row.input for row in read_rows(file, MAX_ROWS_BYTES)])
    if found.share > node.settings.memorisation_max_share:
        raise LocalFailure(
            f"of {found.prompts} prompts sampled from {offer.ref}, {found.verbatim} repeat a training row word for "
            f"word and {found.nearly} nearly: more than {node.settings.memorisation_max_share:.0%}",
            "train it for fewer epochs or with --prompt-loss 0, or raise memorisation_max_share",
        )
    return Evaluation(
        dataset=SAMPLED,
        split="train",
        rows=found.prompts,
        metrics={"verbatim": found.verbatim / found.prompts, "nearly": found.nearly / found.prompts},
        path=str(offer.ref.path),
    )
