"""Grammars as llguidance compiles them, and what is left to check of outputs that follow them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import re2
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from inferd.engine.cause import OVER_LIMITS
from inferd.engine.cells.patterns import weaken
from inferd.engine.cells.verdicts import PatternCheck, SchemaCheck
from inferd.engine.cells.weaken import Weakener, settle
from inferd.errors import words_of

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

    from inferd.engine.cells.verdicts import Check

_UNSATISFIABLE: Final = "Unsatisfiable schema"
_NOTES: Final = ("Unknown format",)  # a format that nobody knows says nothing
_KEYS: Final = re.compile(r'"([^"]+)"')


class Compiled(NamedTuple):
    """What became of a grammar.

    Attributes:
        matcher: At the beginning of an output, where it stays; None where there is none.
        error: Why.
        check: What outputs are to be checked for when they are complete; None where the grammar follows all.
        unfollowed: What it does not follow, for people.
    """

    matcher: LLMatcher | None
    error: str = ""
    check: Check | None = None
    unfollowed: tuple[str, ...] = ()


def compile_grammar(tokenizer: LLTokenizer, message: Any) -> Compiled:
    """Compile the grammar of a message, or one that allows more where that cannot be."""
    try:
        return _KINDS[message["kind"]](_Compiler(tokenizer, message["limits"]), message)
    except Exception as error:  # noqa: BLE001 - foreign code, which says so what is wrong with the grammar
        return Compiled(None, words_of(error))
    except BaseException as error:  # noqa: BLE001 - a panic of Rust code is no Exception
        return Compiled(None, f"the grammar library failed: {words_of(error)}")


class _Compiler:
    """Compiles for one tokenizer, within bounds."""

    def __init__(self, tokenizer: LLTokenizer, limits: Any) -> None:
        self._tokenizer = tokenizer
        self._limits = LLParserLimits(**limits, verbose_errors=False)

    def compile(self, source: str) -> Compiled:
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)
        return Compiled(None, matcher.get_error()) if matcher.is_error() else Compiled(matcher)

    def schema(self, schema: Any) -> Compiled:
        """Small models write spaces for ever where any number is allowed: only one after a separator is."""
        style: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
        style |= {"lenient": True, "coerce_one_of": True}  # what that leaves out, it tells
        try:
            source = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=style)
        except ValueError as error:  # it is nested too deep
            return Compiled(None, words_of(error))
        made = self.compile(source)
        if made.matcher is None:
            return made
        told = made.matcher.get_grammar_warnings()
        return made._replace(unfollowed=tuple(line for line in told if not line.startswith(_NOTES)))

    def is_pattern(self, source: str) -> bool:
        """Whether an expression can be followed as one of a schema."""
        return self.schema({"type": "string", "pattern": source}).matcher is not None


def _json(compiler: _Compiler, message: Any) -> Compiled:
    schema = json.loads(message["source"])
    if schema is False:
        raise ValueError("the schema is false, against which nothing is valid")
    if schema is True:
        schema = {}  # it allows what {} does (JSON Schema 2020-12, 4.3.2)
    if not isinstance(schema, dict):
        raise ValueError(f"the schema is {message['source'][:40]!r}; it must be a JSON object, true or false")  # noqa: TRY004
    made = compiler.schema(settle(schema))
    if made.matcher is not None and not made.unfollowed:
        return made
    if made.error.startswith(_UNSATISFIABLE) or _is_over(made.error):
        return made
    try:
        check = SchemaCheck(schema)
    except (ValueError, RecursionError) as error:
        return Compiled(None, made.error or _first_line(error))
    unfollowed = made.unfollowed or (made.error.strip().partition("\n")[0],)
    plain = made
    for weaker in Weakener(schema, compiler.is_pattern).ladder():
        made = compiler.schema(weaker)
        if made.matcher is None and plain.matcher is not None:
            made = plain
        if made.matcher is not None or _is_over(made.error):
            break
    return made._replace(check=check, unfollowed=unfollowed) if made.matcher is not None else made


def _regex(compiler: _Compiler, message: Any) -> Compiled:
    source = message["source"]
    made = compiler.compile(LLMatcher.grammar_from_regex(source))
    if made.matcher is not None or _is_over(made.error):
        return made
    try:
        check = PatternCheck(source)
    except re2.error:  # it is wrong for all
        return made
    weaker = weaken(source)
    again = compiler.compile(LLMatcher.grammar_from_regex(weaker.source))
    if again.matcher is None:
        return made
    return again if weaker.exact else again._replace(check=check, unfollowed=("what looks around",))


def _lark(compiler: _Compiler, message: Any) -> Compiled:
    return compiler.compile(LLMatcher.grammar_from_lark(message["source"]))


def _choice(compiler: _Compiler, message: Any) -> Compiled:
    """A Lark rule; its strings are written like those of JSON."""
    if not message["texts"]:
        raise ValueError("no text to choose from; give at least one")
    return compiler.compile(LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, message["texts"]))))


def _is_over(error: str) -> bool:
    return any(words in error.lower() for words in OVER_LIMITS)


def _first_line(error: Exception) -> str:
    return words_of(error).strip().partition("\n")[0]


_KINDS: Final = {"JSON_SCHEMA": _json, "REGEX": _regex, "LARK": _lark, "CHOICE": _choice}
