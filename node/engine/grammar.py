"""Constraints on what a model may write: JSON schemas, regular expressions, Lark grammars, choices.

llguidance reads the grammars and says which tokens may come next. What it cannot enforce is refused: an answer either
follows the whole of its grammar or is not begun. Compiling is bounded by llguidance's own limits on the size of
grammars and lexers, so that it takes milliseconds for what people write and ends soon for what is made to take long.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from node.engine.errors import EngineError, RequestRefused
from node.engine.requests import GrammarSpec

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_TEXT: Final = 256 << 10
MAX_CHOICES: Final = 1024
MAX_REASON: Final = 300
CACHED: Final = 128
# JSON is written without white space, as the training rows of this project are: where it may stand, small models that
# begin with it go on until they are cut off, and nothing between the values is forced any more.
STYLE: Final[JsonCompileOptions] = {"whitespace_flexible": False}
# x-guidance in a schema may set the style; what would let an answer leave its schema may not be set.
STRICT: Final[JsonCompileOptions] = {"lenient": False, "coerce_one_of": False}
# A state of a lexer takes 1 to 2 kB.
LIMITS: Final = LLParserLimits(
    max_grammar_size=200_000, initial_lexer_fuel=1_000_000, max_lexer_states=50_000, verbose_errors=False
)


class Constraint:
    """What one answer has written so far and what it may write next. Lives as long as its sequence; not shared."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher

    def accept(self, tokens: Iterable[int]) -> None:
        """These tokens were written. Raises EngineError when they are not allowed, or the grammar became too large."""
        self.matcher.consume_tokens(list(tokens))
        self.check()

    def check(self) -> None:
        """Raises EngineError when llguidance has given up on the grammar: from then on every mask is empty."""
        if self.matcher.is_error():
            raise EngineError(
                f"the grammar cannot be followed any further: {_short(self.matcher.get_error())}",
                "simplify the schema or grammar",
            )

    def forced(self) -> list[int]:
        """The tokens that must come next because the grammar leaves no choice; often none."""
        return list(self.matcher.compute_ff_tokens())

    @property
    def finished(self) -> bool:
        """Whether nothing may follow."""
        return self.matcher.is_stopped()

    def fork(self) -> Constraint:
        """The same state for another answer."""
        return Constraint(self.matcher.deep_copy())


class Grammars:
    """Compiles grammars for one tokenizer, keeps the last ones compiled.

    `vocabulary` is the width of the model's logits, `ends` the tokens that may end an answer. Compiling is safe in
    several threads. The tokenizer is turned into llguidance's form at once: it takes a second where the vocabulary is
    large, and the first to ask for a grammar should not wait for it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocabulary: int, ends: Sequence[int]) -> None:
        self._words = -(-vocabulary // 32)
        self._tokenizer, self._why_not = _built(tokenizer, vocabulary, list(ends))
        self._compiled: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, spec: GrammarSpec) -> Constraint:
        """A constraint at its beginning. Raises RequestRefused with llguidance's reason."""
        key = (spec.kind, spec.text)
        with self._lock:
            if (known := self._compiled.get(key)) is not None:
                self._compiled.move_to_end(key)
                return Constraint(known.deep_copy())
        matcher = self._compile(spec)
        with self._lock:
            self._compiled[key] = matcher
            while len(self._compiled) > CACHED:
                self._compiled.popitem(last=False)
        return Constraint(matcher.deep_copy())

    def fill(self, constraints: Sequence[Constraint | None]) -> Tensor:
        """Bits of the tokens that may come next (rows, ceil(vocabulary / 32)) int32; all set where nothing is asked.

        One row after the other, without Python's lock: a row takes about 0.02 ms. llguidance's own pool of threads was
        slower at 1 to 64 rows, and so was a thread of ours beside the model: waking them costs more than the masks.
        """
        bits = torch.full((len(constraints), self._words), -1, dtype=torch.int32)
        size = self._words * bits.element_size()
        for row, constraint in enumerate(constraints):
            if constraint is not None:
                constraint.matcher.unsafe_compute_mask_ptr(bits.data_ptr() + row * size, size)
        return bits

    def _compile(self, spec: GrammarSpec) -> LLMatcher:
        if (size := len(spec.text)) > MAX_TEXT:
            raise RequestRefused(
                spec.field, f"the grammar has {size} characters, at most {MAX_TEXT} are read", "give a smaller one"
            )
        if any("\ud800" <= character <= "\udfff" for character in spec.text):
            raise RequestRefused(
                spec.field, "the grammar has half of a surrogate pair, which is no character", "send whole characters"
            )
        if self._tokenizer is None:
            hint = "ask another model, or leave it out and read the answer as it comes"
            raise RequestRefused(spec.field, f"this base takes no grammars: {self._why_not}", hint)
        matcher = LLMatcher(self._tokenizer, _grammar(spec), log_level=0, limits=LIMITS)
        matcher.compute_bitmask()  # builds what every answer begins with, and shows whether any can begin
        if matcher.is_error() or (warnings := matcher.get_grammar_warnings()):
            reason = matcher.get_error() if matcher.is_error() else "; ".join(warnings)
            raise _unenforceable(spec, reason)
        return matcher


def _built(tokenizer: PreTrainedTokenizerFast, vocabulary: int, ends: list[int]) -> tuple[LLTokenizer | None, str]:
    """The tokenizer in llguidance's form, or why there is none; the base is served without grammars then."""
    if not ends:
        return None, "it has no token that ends an answer"
    try:
        return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=ends), ""
    except ValueError as error:
        return None, f"llguidance does not read its tokenizer, {_short(str(error))}"


def _grammar(spec: GrammarSpec) -> str:
    """The grammar in llguidance's own form. Raises RequestRefused when it is not even JSON where it has to be."""
    if spec.kind == "regex":
        return str(LLMatcher.grammar_from_regex(spec.text))
    if spec.kind == "lark":
        return str(LLMatcher.grammar_from_lark(spec.text))
    if spec.kind == "choice":
        return str(LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, _choices(spec)))))
    schema = {"type": "object"} if spec.kind == "json_object" else _json(spec)
    if not isinstance(schema, dict):
        raise RequestRefused(spec.field, "a JSON schema is an object here", "where everything is allowed, that is {}")
    try:
        return str(LLMatcher.grammar_from_json_schema(schema, defaults=STYLE, overrides=STRICT))
    except ValueError as error:
        raise _unenforceable(spec, str(error)) from error


def _choices(spec: GrammarSpec) -> list[str]:
    choices = _json(spec)
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise RequestRefused(spec.field, "choices are a list of strings that are not empty", 'such as ["yes", "no"]')
    if not 1 <= len(choices) <= MAX_CHOICES:
        allowed = f"there are {len(choices)} choices, 1 to {MAX_CHOICES} are allowed"
        raise RequestRefused(spec.field, allowed, "give fewer of them" if choices else "give at least one")
    return choices


def _json(spec: GrammarSpec) -> Any:
    try:
        return json.loads(spec.text)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(
            spec.field, f"this {spec.kind} is not JSON: {_short(str(error))}", "send it as JSON text"
        ) from error


def _unenforceable(spec: GrammarSpec, reason: str) -> RequestRefused:
    """A refusal with what llguidance says of it."""
    hint = "change or leave out what is named there: an answer has to follow all of it, or is not begun"
    return RequestRefused(spec.field, f"this {spec.kind} cannot be enforced: {_short(reason)}", hint)


def _short(reason: str) -> str:
    """One line of what llguidance says; it quotes the grammar at length."""
    line = " ".join(reason.split())
    return line if len(line) <= MAX_REASON else f"{line[:MAX_REASON]}…"
