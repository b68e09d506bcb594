"""How each model of a catalogue would run on a machine: in which form, in how much memory, how fast.

What does not depend on the machine is computed once per catalogue (`Forms`), so that a question costs a few passes over
float32 arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recommender.columns import KINDS, Columns, Mask
from recommender.hardware import GB, Machine
from recommender.memory import (
    BATCH_TOKENS,
    BITS,
    CACHE_BYTES,
    DEFAULT_CONTEXT,
    ENGINE_CACHE_BYTES,
    RUNTIME_BYTES,
    Floats,
    bits_of,
    engine_need,
    inference_need,
    training_need,
)
from recommender.speed import shipped_constants

Singles = NDArray[np.float32]

# From the most compact to what is published. Q8_0 answers as the original does; Q4_K_M is what most people run.
PRECISIONS: Final = ("Q4_K_M", "Q8_0", "BF16")
AS_STORED: Final = "as stored"
FORMS: Final = (AS_STORED, *PRECISIONS)
MOST_READ_GB: Final = 1e30
PLEASANT_TOKENS_PER_S: Final = 10.0  # about as fast as people read; below it, fewer bits are worth having


@dataclass(frozen=True, slots=True)
class Step:
    """What the next form takes beyond the one before: GB of memory, GB a token reads, 1 in `forms`; 0 for others."""

    memory_gb: Singles
    read_gb: Singles
    forms: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Forms:
    """What memory and speed of every model follow from, arrays over models; GB of 10^9 bytes, margins included.

    `least` is the most compact form that a model can have, `steps` lead from there to more precise ones.
    """

    least: Step
    steps: tuple[Step, ...]
    cache_gb_per_token: Singles
    logits_gb: Singles
    margin: Singles
    context: Singles
    published_gb: Singles
    published: Mask
    training_gb: dict[str, Singles]

    @classmethod
    def of(cls, columns: Columns) -> Forms:
        """Computed once for a catalogue."""
        sizes, margin = columns.sizes, columns.sizes.safety
        stored = np.where(np.isnan(columns.stored_bits), 16.0, columns.stored_bits)
        flexible = (columns.kind == KINDS.index("generative")) & ~columns.quantised & ~columns.tree
        flexible &= np.isnan(columns.published_gb)
        forms = [_form(columns, stored, np.ones(len(columns), dtype=np.bool_))]
        forms += [_form(columns, bits_of(sizes, name), flexible & (BITS[name] <= stored)) for name in PRECISIONS]
        least, *more = _steps(forms)
        return cls(
            least=least,
            steps=tuple(more),
            cache_gb_per_token=_single(
                np.where(columns.tree, ENGINE_CACHE_BYTES, CACHE_BYTES) * sizes.cached * margin / GB
            ),
            logits_gb=_single(4.0 * BATCH_TOKENS * sizes.vocabulary * margin / GB),
            margin=_single(margin),
            context=_single(np.where(np.isnan(columns.context), np.inf, np.maximum(columns.context, 1.0))),
            published_gb=_single(columns.published_gb),
            published=~np.isnan(columns.published_gb),
            training_gb={
                "cpu": _single(training_need(sizes, "cpu") * margin / GB),
                "cuda": _single(training_need(sizes, "cuda") * margin / GB),
            },
        )


def _form(columns: Columns, bits: Floats, possible: Mask) -> tuple[Floats, Floats, Mask]:
    """GB without cache and runtime, GB that a token reads, and who can have the form."""
    sizes = columns.sizes
    need = inference_need(sizes, bits, 0.0, "cpu")
    engine = engine_need(sizes, 0.0)
    ours = engine.weights + engine.runtime - need.runtime  # a program's runtime is added when the device is known
    memory = np.where(columns.tree, ours, need.weights + need.buffers) * sizes.safety / GB
    mixture = 1 + shipped_constants().experts * (sizes.active < sizes.parameters)
    return memory, sizes.active * bits / 8 * mixture / GB, possible


def _steps(forms: Sequence[tuple[Floats, Floats, Mask]]) -> Iterator[Step]:
    """The forms as steps from the most compact one: whoever cannot have a form stays where it is."""
    (stored, stored_read, _), (compact, compact_read, can), *precise = forms
    memory, read = np.where(can, compact, stored), np.where(can, compact_read, stored_read)
    yield Step(_single(memory), _single(read), can.astype(np.int8))
    for there, there_read, possible in precise:
        more, more_read = np.where(possible, there - memory, 0.0), np.where(possible, there_read - read, 0.0)
        yield Step(_single(more), _single(more_read), possible.astype(np.int8))
        memory, read = memory + more, read + more_read


def _single(values: Floats) -> Singles:
    return values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Fits:
    """Arrays over models; nan where the size of a model is not known. `form` is an index into FORMS.

    `memory_gb` is the estimate with its margin, for the context that was asked for; `training_gb` of a LoRA fine-tune.
    """

    form: NDArray[np.int8]
    memory_gb: Singles
    tokens_per_s: Singles
    training_gb: Singles


def fits_of(
    forms: Forms, machine: Machine, *, context_tokens: int | None, least_tokens_per_s: float | None, factor: float = 1.0
) -> Fits:
    """How the models would run on a machine.

    Generative models that are not quantised yet get the most precise form that fits and is fast enough, else the most
    compact one. `factor` is how much faster than estimated this machine was in its own measurements.
    """
    rest = np.minimum(forms.context, np.float32(context_tokens or DEFAULT_CONTEXT))
    rest *= forms.cache_gb_per_token
    rest += forms.margin * np.float32(RUNTIME_BYTES[machine.device] / GB)
    if machine.device != "cpu":
        rest += forms.logits_gb  # a GPU's graph is laid out in full
    bandwidth = shipped_constants().efficiency * machine.bandwidth_gb_s
    most_read_gb = _most_read(least_tokens_per_s or PLEASANT_TOKENS_PER_S, bandwidth, factor)
    chosen, read, memory = forms.least.forms.copy(), forms.least.read_gb.copy(), forms.least.memory_gb + rest
    good: Mask | None = None
    for step in forms.steps:
        fits = (memory + step.memory_gb <= np.float32(machine.memory_gb)) & (read + step.read_gb <= most_read_gb)
        good = fits if good is None else good & fits
        chosen += step.forms * good
        memory += step.memory_gb * good
        read += step.read_gb * good
    np.copyto(memory, forms.published_gb, where=forms.published)
    read /= np.float32(bandwidth)
    read += np.float32(shipped_constants().fixed_s)
    return Fits(
        form=chosen,
        memory_gb=memory,
        tokens_per_s=np.float32(factor) / read,
        training_gb=forms.training_gb["cpu" if machine.device == "cpu" else "cuda"],
    )


def _most_read(tokens_per_s: float, bandwidth: float, factor: float) -> np.float32:
    """GB that a token may read for so many tokens a second."""
    return np.float32(min(MOST_READ_GB, max(0.0, (factor / tokens_per_s - shipped_constants().fixed_s) * bandwidth)))
