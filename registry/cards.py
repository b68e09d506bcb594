"""Model cards as the Hugging Face Hub reads them: facts in YAML front matter, then a page for people.

Writing and reading the format is huggingface_hub's work. A card tells; what is so is in the signed release beside it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import yaml  # type: ignore[import-untyped]

from registry.documents import Evaluation
from registry.errors import BadData
from registry.paths import NodePath, Ref

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MAX_CARD_BYTES: Final = 1 << 18
MAX_CARD_DEPTH: Final = 30
MAX_LICENCE_CHARS: Final = 200
DEFAULT_LICENCE: Final = "Apache-2.0"  # of a version whose card before states none

_TASK: Final = "text-generation"
_OWN_LICENCE: Final = "LicenseRef-"  # SPDX: a licence that is not on its list


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says of a version. Languages are BCP-47 tags, the licence an SPDX expression, texts Markdown."""

    ref: Ref
    title: str
    languages: tuple[str, ...]
    licence: str
    base_model: str | None  # a Hub id; None for a model that was trained from scratch
    relation: Literal["adapter", "finetune", "merge", "quantized"] | None
    library: Literal["peft", "transformers"]
    tags: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()  # Hub ids of data that it was trained on
    evaluations: tuple[Evaluation, ...] = ()
    summary: str = ""
    training: str = ""
    limits: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a card's model-index."""

    dataset: str
    config: str | None
    split: str | None
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Card:
    """What could be read from a card, ours or anybody's; None or nothing where it does not say so legibly."""

    body: str
    name: str | None = None
    languages: tuple[str, ...] = ()
    licence: str | None = None  # SPDX; LicenseRef-... for one that SPDX does not list
    base_models: tuple[str, ...] = ()
    relation: str | None = None
    library: str | None = None
    tags: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()


def render_card(facts: CardFacts) -> str:
    """Write a card; raises BadData for a licence or a language that is not one, or a thing that is measured twice."""
    from huggingface_hub import ModelCard, ModelCardData  # 0.15 s, not needed by most commands

    expression = spdx_licence(facts.licence)
    simple = re.fullmatch(r"[A-Za-z0-9.-]+", expression) and not expression.startswith(_OWN_LICENCE)
    data = ModelCardData(
        language=[_language(tag) for tag in facts.languages] or None,
        license=expression.lower() if simple else "other",
        license_name=None if simple else expression,
        base_model=facts.base_model,
        base_model_relation=facts.relation,
        library_name=facts.library,
        pipeline_tag=_TASK,
        datasets=list(facts.datasets) or None,
        tags=["banyan", *facts.tags],
        model_name=str(facts.ref),
        eval_results=_results(facts.evaluations) or None,
    )
    if not facts.evaluations:
        del data.model_name  # only a name for the model-index
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(facts, expression)}")
    return str(card)


def render_next_card(
    before: str,
    ref: Ref,
    base_name: str,
    *,
    evaluations: Sequence[Evaluation],
    summary: str,
    training: str = "",
) -> str:
    """Write the card of a path's next version: the languages and the licence are those of the card before.

    Raises BadData where the front matter of the card before cannot be read.
    """
    known = parse_card(before)
    facts = CardFacts(
        ref=ref,
        title=str(ref.path),
        languages=known.languages,
        licence=known.licence or DEFAULT_LICENCE,
        base_model=base_name,
        relation="adapter",
        library="peft",
        evaluations=tuple(evaluations),
        summary=summary,
        training=training,
    )
    return render_card(facts)


def parse_card(text: str) -> Card:
    """Read anybody's card, leaving out what cannot be read; raises BadData where the front matter is not YAML."""
    from huggingface_hub import ModelCard, ModelCardData
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    if len(text.encode(errors="replace")) > MAX_CARD_BYTES:
        raise BadData(f"the model card is too long: the limit is {MAX_CARD_BYTES} bytes")
    front = REGEX_YAML_BLOCK.search(text)
    if front is None:
        return Card(body=text.strip())
    try:
        _refuse_traps(front[2])
        card = ModelCard(text, ignore_metadata_errors=True)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise BadData(
            "the model card's front matter cannot be read", hint="it is YAML between two lines of ---"
        ) from error
    data = cast("ModelCardData", card.data)
    return Card(
        name=_text(data.model_name),
        languages=tuple(filter(None, map(_readable_language, _listed(data.language)))),
        licence=_readable_licence(data.license, data.license_name),
        base_models=_texts(data.base_model),
        relation=_text(data.get("base_model_relation")),
        library=_text(data.library_name),
        tags=_texts(data.tags),
        figures=tuple(filter(None, map(_figure, data.eval_results or ()))),
        body=card.text.strip(),
    )


def card_data(text: str) -> dict[str, Any]:
    """What the front matter of a card says, as plain JSON; nothing where it cannot be read or is no mapping."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    front = REGEX_YAML_BLOCK.search(text[:MAX_CARD_BYTES])
    if front is None:
        return {}
    try:
        _refuse_traps(front[2])
        data = json.loads(json.dumps(yaml.safe_load(front[2]), default=str, allow_nan=False))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def spdx_licence(expression: str) -> str:
    """The usual spelling of an SPDX licence expression; raises BadData for anything else."""
    from boolean.boolean import ParseError  # type: ignore[import-untyped]
    from license_expression import ExpressionError  # type: ignore[import-untyped]

    hint = f"write an SPDX identifier such as Apache-2.0 or CC-BY-4.0, or {_OWN_LICENCE}name for a licence of its own"
    if not 0 < len(expression) <= MAX_LICENCE_CHARS:
        raise BadData(f"not a licence: {expression!a:.100}", hint=hint)
    licensing = _spdx_list()
    try:
        parsed = licensing.parse(expression)
        unknown = [key for key in licensing.unknown_license_keys(parsed) if not key.startswith(_OWN_LICENCE)]
    except (ExpressionError, ParseError) as error:
        raise BadData(f"not a licence: {expression!a:.100}", hint=hint) from error
    if parsed is None or unknown:
        raise BadData(f"SPDX does not list this licence: {', '.join(unknown) or expression!a:.100}", hint=hint)
    return str(parsed.render())


@cache
def _spdx_list() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _results(evaluations: tuple[Evaluation, ...]) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    results, seen = [], set()
    for evaluation in evaluations:
        place = (_dataset_id(evaluation.dataset), evaluation.path, evaluation.split)
        if place in seen:
            raise BadData(f"measured twice: {evaluation.dataset}, {evaluation.split}, at {evaluation.path}")
        seen.add(place)
        results += [
            EvalResult(
                task_type=_TASK,
                dataset_type=place[0],
                dataset_name=evaluation.dataset,
                dataset_config=evaluation.path,
                dataset_split=evaluation.split,
                dataset_args={"rows": evaluation.rows},
                metric_type=metric,
                metric_value=value,
            )
            for metric, value in evaluation.metrics.items()
        ]
    return results


def _dataset_id(name: str) -> str:
    return re.sub(r"[^a-z0-9._/-]+", "-", name.lower()).strip("-") or "data"


def _body(facts: CardFacts, licence: str) -> str:
    sections = [
        f"# {facts.title}",
        facts.summary,
        f"## Use\n\n```sh\nnode clone {facts.ref}\nnode generate {facts.ref}\n```",
        _figures_table(facts.evaluations),
        facts.training and f"## Training\n\n{facts.training}",
        facts.limits and f"## What it cannot do\n\n{facts.limits}",
        f"## Licence\n\n{licence}" + (f", and that of its base `{facts.base_model}`." if facts.base_model else "."),
    ]
    return "\n\n".join(section.strip() for section in sections if section.strip()) + "\n"


def _figures_table(evaluations: tuple[Evaluation, ...]) -> str:
    if not evaluations:
        return ""
    metrics = list(dict.fromkeys(metric for evaluation in evaluations for metric in evaluation.metrics))
    lines = [["data set", "split", "path", "rows", *metrics]]
    for evaluation in evaluations:
        values = [f"{evaluation.metrics[name]:.4g}" if name in evaluation.metrics else "" for name in metrics]
        lines.append([evaluation.dataset, evaluation.split, evaluation.path, str(evaluation.rows), *values])
    lines.insert(1, ["---"] * len(lines[0]))
    rows = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "## Figures\n\n" + "\n".join(rows)


def _refuse_traps(front: str) -> None:
    """Deep nesting and lists of aliases of lists are short to write and endless to read; no card needs them."""
    depth = 0
    for event in yaml.parse(front, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_CARD_DEPTH or isinstance(event, yaml.AliasEvent):
            raise ValueError("the front matter is nested too deeply or has aliases")


def _language(tag: str) -> str:
    path = NodePath.parse(tag)
    if len(path.parts) != 1:
        raise BadData(f"not a language: {tag!a:.60}", hint="write a BCP-47 tag: en, de, pt-BR")
    return str(path)


def _readable_language(tag: object) -> str | None:
    import langcodes

    written = "no" if tag is False else tag  # YAML reads the Norwegian tag as a truth value
    if not isinstance(written, str) or len(written) > 40 or not langcodes.tag_is_valid(written):
        return None
    return langcodes.standardize_tag(written)


def _readable_licence(licence: object, name: object) -> str | None:
    stated = name if licence in ("other", "unknown") and isinstance(name, str) else licence
    if not isinstance(stated, str) or not stated.strip():
        return None
    try:
        return spdx_licence(stated)
    except BadData:
        own = re.sub(r"[^A-Za-z0-9.]+", "-", stated).strip("-")[:100]
        return f"{_OWN_LICENCE}{own}" if own else None


def _figure(result: EvalResult) -> Figure | None:
    value = result.metric_value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if not isinstance(result.metric_type, str) or not isinstance(result.dataset_name, str):
        return None
    config, split = _text(result.dataset_config), _text(result.dataset_split)
    return Figure(result.dataset_name, config, split, result.metric_type, float(value))


def _listed(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in _listed(value) if isinstance(item, str))
