"""Structured output: what an output must be, as the tokens that are allowed next.

Grammars are compiled and followed by llguidance (https://github.com/guidance-ai/llguidance). What a client may make it
cost is bounded by its limits, which count work, not time, so that the same grammar is always taken or always refused.
"""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import fill_next_token_bitmask_par, get_bitmask_shape

from inferd.core.task import Grammar, GrammarKind
from inferd.errors import BackendFailedError, InferdError, InvalidFieldError, LimitExceededError, UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from llguidance._lib import JsonCompileOptions
    from numpy.typing import NDArray

    from inferd.engine.sequence import Sequence as EngineSequence
    from inferd.engine.tokenizer import Tokenizer

    Masks = NDArray[np.uint32]

FIELD: Final = "spec.sampling.grammar"

LEXER_FUEL: Final = 1_000_000
"""Most work of compiling one grammar: about 20 ms."""
STEP_LEXER_FUEL: Final = 200_000
"""Most work for one token: about 15 ms, beside the forward pass."""
STEP_ITEMS: Final = 50_000
"""Most parser items of one token: about 3 ms."""
ROW_ITEMS: Final = 2_000
"""Most ways to go on at one place of the output."""
LEXER_STATES: Final = 64_000
"""Most states of the lexer of one grammar: about 100 MB."""
GRAMMAR_SYMBOLS: Final = 500_000
"""Most symbols of the rules of one grammar."""
COMPILED: Final = 64
"""Compiled grammars that are kept, the ones used last."""

_SPECIAL: Final = b"\xff"  # llguidance's mark in front of the name of a token that gives no text
_OVER_LIMITS: Final = ("too many", "too big", "; max is")  # how llguidance's errors say that a limit was hit
_LONGEST_WORD: Final = 64  # bytes
_LONGEST_CAUSE: Final = 1000  # characters; a schema's own words may be in it


class Grammars:
    """Compiles the grammars of one model. `compile` is slow: it is not called from the thread of the steps.

    Args:
        tokenizer: The model's.
        ends: Tokens that end a text; allowed where the output is complete.
    """

    def __init__(self, tokenizer: Tokenizer, *, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = sorted(ends)
        self._compiled = lru_cache(COMPILED)(self._compile)  # many tasks send the same grammar
        self._limits = LLParserLimits(
            initial_lexer_fuel=LEXER_FUEL,
            step_lexer_fuel=STEP_LEXER_FUEL,
            step_max_items=STEP_ITEMS,
            max_items_in_row=ROW_ITEMS,
            max_lexer_states=LEXER_STATES,
            max_grammar_size=GRAMMAR_SYMBOLS,
            verbose_errors=False,
        )

    def compile(self, grammar: Grammar, *, ignore_ends: bool = False) -> Constraint:
        """What follows the grammar through one output.

        Args:
            grammar: In one of the languages of `GrammarKind`.
            ignore_ends: Tokens that end a text are not allowed as long as the output can go on.

        Raises:
            InvalidFieldError: The grammar is wrong, uses what is not supported, or is too large.
            UnsupportedInputError: The model has no token that ends a text.
        """
        if not self._ends:
            raise UnsupportedInputError("the model has no end-of-text token, which a grammar needs; send none")
        return Constraint(self._compiled(grammar).deep_copy(), barred=self._ends if ignore_ends else ())

    def _compile(self, grammar: Grammar) -> LLMatcher:
        """At the beginning of an output; it stays there."""
        try:
            source = _SOURCES[grammar.kind](grammar)
        except ValueError as error:
            raise _invalid(grammar, str(error)) from None
        matcher = LLMatcher(self._inner, source, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise _invalid(grammar, matcher.get_error())
        return matcher

    @cached_property
    def _inner(self) -> LLTokenizer:
        return LLTokenizer(TokenizerWrapper(_Words(self._tokenizer, self._ends)), eos_token=self._ends)


class Constraint:
    """Follows one output through its grammar. One writer: the thread of the steps.

    Args:
        matcher: At the beginning of the output, or somewhere in it.
        barred: Tokens that are not allowed as long as others are.
    """

    __slots__ = ("barred", "matcher")

    def __init__(self, matcher: LLMatcher, *, barred: Sequence[int]) -> None:
        self.matcher = matcher
        self.barred = barred

    def accept(self, token_id: int) -> bool:
        """Take the next token; True when the output is complete and nothing can follow."""
        self.matcher.consume_token(token_id)
        return self.matcher.is_stopped() and not self.matcher.is_error()


def why_stuck(sequence: EngineSequence) -> InferdError:
    """Why a sequence cannot get a next token although its logits are sound."""
    if sequence.constraint is None:
        cause = "bad words, logit bias and min_tokens bar every token"
    elif not sequence.constraint.matcher.is_error():
        cause = "bad words, logit bias or min_tokens bar every token that the grammar allows"
    else:
        cause = f"the grammar cannot be followed: {_first_line(sequence.constraint.matcher.get_error())}"
        if any(words in cause.lower() for words in _OVER_LIMITS):
            return LimitExceededError(f"{cause}; make it simpler", metadata={"cause": cause})
    return BackendFailedError(f"no token is left to choose from: {cause}", metadata={"cause": cause})


class MaskFiller:
    """The allowed tokens of the rows of a step, computed beside its forward pass. One writer: the thread of the steps.

    Args:
        rows: Most rows of a step.
        vocabulary_size: Number of logits in a row.
    """

    def __init__(self, *, rows: int, vocabulary_size: int) -> None:
        self._masks: Masks = np.empty(get_bitmask_shape(rows, vocabulary_size), np.uint32)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._pending: Future[Masks] | None = None

    @cached_property
    def _executor(self) -> LLExecutor:
        return LLExecutor()

    def begin(self, constraints: Sequence[Constraint | None]) -> None:
        """Begin with the masks of a step: one constraint or None for each row."""
        some = [(row, constraint) for row, constraint in enumerate(constraints) if constraint is not None]
        self._pending = self._thread.submit(self._fill, some, len(constraints)) if some else None

    def finish(self) -> Masks | None:
        """The masks that were begun, shape (R, ceil(V / 32)); bit i of a row, lowest first, allows token i.

        None when no row has a constraint. A row whose grammar failed is 0. Valid until the
        next `begin`.
        """
        pending, self._pending = self._pending, None
        return None if pending is None else pending.result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _fill(self, constraints: Sequence[tuple[int, Constraint]], rows: int) -> Masks:
        masks = self._masks[:rows]
        masks.fill(0xFFFFFFFF)
        pairs = [(constraint.matcher, row) for row, constraint in constraints]
        fill_next_token_bitmask_par(self._executor, pairs, masks.view(np.int32))
        for row, constraint in constraints:
            if constraint.matcher.is_error():
                masks[row] = 0
            elif constraint.barred:
                _bar(masks[row], constraint.barred)
        return masks


class _Words:
    """The tokens of a model as llguidance wants them described."""

    bos_token_id: Final = None

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = ends[0]
        self.tokens = [piece.encode() if isinstance(piece, str) else piece for piece in tokenizer.pieces]
        self.special_token_ids = []
        for number, word in enumerate(self.tokens):
            if word.startswith(_SPECIAL):  # a byte that is in no UTF-8 text, so never allowed
                self.tokens[number] = b""
            elif not word and (name := tokenizer.name(number)):
                self.tokens[number] = _SPECIAL + name.encode()
                self.special_token_ids.append(number)

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens of exactly this text: where a grammar leaves no choice, they are the model's own for it."""
        if isinstance(text, bytes):
            raise TypeError("a text, not bytes")  # so that llguidance keeps incomplete characters to itself
        ids = self._tokenizer.encode(text, template=True)
        data = text.encode()
        if b"".join(self.tokens[number] for number in ids) == data:
            return ids
        return self._greedy(data)  # the tokenizer puts a space in front of a text, or changes its characters

    def _greedy(self, data: bytes) -> list[int]:
        """The longest token first."""
        ids, at = [], 0
        while at < len(data):
            end = next(end for end in range(min(len(data), at + _LONGEST_WORD), at, -1) if data[at:end] in self._ids)
            ids.append(self._ids[data[at:end]])
            at = end
        return ids

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {word: number for number, word in enumerate(self.tokens) if word}


def _json_source(grammar: Grammar) -> str:
    """Small models write spaces for ever where any number is allowed: only one after a separator is."""
    style: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
    return LLMatcher.grammar_from_json_schema(grammar.source, overrides=style)


def _regex_source(grammar: Grammar) -> str:
    return LLMatcher.grammar_from_regex(grammar.source)


def _lark_source(grammar: Grammar) -> str:
    return LLMatcher.grammar_from_lark(grammar.source)


def _choice_source(grammar: Grammar) -> str:
    """A Lark rule; its strings are written like those of JSON."""
    if not grammar.texts:
        raise ValueError("no text to choose from; give at least one")
    return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(text) for text in grammar.texts))


_SOURCES: Final = {
    GrammarKind.JSON_SCHEMA: _json_source,
    GrammarKind.REGEX: _regex_source,
    GrammarKind.LARK: _lark_source,
    GrammarKind.CHOICE: _choice_source,
}


def _bar(mask: NDArray[np.uint32], token_ids: Sequence[int]) -> None:
    """Disallow tokens, unless nothing else is allowed."""
    rest = mask.copy()
    for number in token_ids:
        rest[number // 32] &= ~np.uint32(1 << number % 32)
    if rest.any():
        mask[:] = rest


def _invalid(grammar: Grammar, cause: str) -> InvalidFieldError:
    kind = grammar.kind.name.lower()
    cause = cause.strip()[:_LONGEST_CAUSE]
    return InvalidFieldError(f"the grammar ({kind}) is refused: {cause}", field=FIELD, metadata={"cause": cause})


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
