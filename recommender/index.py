"""A catalogue made ready for questions: its columns, how its models would run, and how good each is over all needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recommender.candidate import Candidate
from recommender.columns import Columns
from recommender.constraints import Constraints
from recommender.fits import Forms
from recommender.rank import SHORTLIST, Predict


@dataclass(frozen=True, slots=True)
class Index:
    """Made once per catalogue.

    `prior` is the expected quality without any need (-inf where nothing is known) in a catalogue that is larger than a
    shortlist; in a smaller one nobody asks for it, and it is 0.

    The columns are the index: at a million models a mask over them is quicker than a search tree with a filter.
    """

    columns: Columns
    forms: Forms
    prior: NDArray[np.float32]

    @classmethod
    def of(cls, candidates: Sequence[Candidate], predict: Predict) -> Index:
        """Looks at every candidate once; seconds at a million."""
        columns = Columns.of(candidates)
        prior = np.zeros(len(candidates), dtype=np.float32)
        if len(candidates) > SHORTLIST:
            prior = np.nan_to_num(predict(candidates, Constraints()).mean, nan=-np.inf).astype(np.float32)
        return cls(columns, Forms.of(columns), prior)

    def bytes(self) -> int:
        """Memory that it takes beside the candidates."""
        forms = self.forms
        arrays = [forms.cache_gb_per_token, forms.logits_gb, forms.margin, forms.context, forms.published_gb]
        arrays += forms.training_gb.values()
        steps = (forms.least, *forms.steps)
        each = sum(step.memory_gb.nbytes + step.read_gb.nbytes + step.forms.nbytes for step in steps)
        return self.columns.bytes() + self.prior.nbytes + each + sum(array.nbytes for array in arrays)
