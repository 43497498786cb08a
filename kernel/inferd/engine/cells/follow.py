"""A cell that compiles one grammar, and follows outputs through it.

The masks lie in memory that it shares with the worker: behind a `Board`, a row for each output.
"""

from __future__ import annotations

import ctypes
import json
import mmap
from typing import TYPE_CHECKING, Any, Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from inferd.engine.cells.board import BOARD_BYTES, Board
from inferd.errors import words_of

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

    from inferd.plugin.channel import Channel


class Follower:
    """The work of the cell.

    Args:
        tokenizer: What grammars are compiled for.
    """

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._outputs: dict[int, _Output] = {}

    def serve(self, channel: Channel, descriptors: list[int]) -> None:
        """Compile the grammar that comes first, then follow outputs until the channel is closed."""
        message, _ = channel.receive()
        root, error = _compile(self._tokenizer, message)
        channel.send({"error": error})
        if root is None:
            return
        memory = mmap.mmap(descriptors[0], 0)
        rows = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + BOARD_BYTES
        self._follow(channel, root, Board(memory), rows, mask_bytes=message["mask_bytes"])

    def _follow(self, channel: Channel, root: LLMatcher, board: Board, rows: int, *, mask_bytes: int) -> None:
        """Per message: which outputs are over, and of others what came: [number, whether it is new, tokens].

        The first answer says which outputs are complete with that, the second what is wrong with each, or "": then the
        masks are there.
        """
        while True:
            (over, entries), _ = channel.receive()
            for number in over:
                self._outputs.pop(number, None)
            complete = []
            for number, new, tokens in entries:
                board.begin(number)
                if new:
                    self._outputs[number] = _Output(root)
                complete.append(self._outputs[number].take(tokens))
            channel.send(complete)
            errors = []
            for (number, _, _), ended in zip(entries, complete, strict=True):
                board.begin(number)
                errors.append("" if ended else self._outputs[number].fill(rows + number * mask_bytes, mask_bytes))
            board.idle()
            channel.send(errors)


class _Output:
    """One output on its way through the grammar."""

    def __init__(self, root: LLMatcher) -> None:
        self._matcher = root.deep_copy()
        self._panic = ""

    def take(self, tokens: list[int]) -> bool:
        """Take the next tokens; whether the output is complete with them, and nothing can follow."""
        try:
            self._matcher.consume_tokens(tokens)
            return bool(tokens) and self._matcher.is_stopped() and not self._matcher.is_error()
        except BaseException as error:  # noqa: BLE001 - a panic of Rust code is no Exception
            self._panic = _say(error)
            return False

    def fill(self, address: int, size: int) -> str:
        """Write the mask of the next token to an address; what is wrong, or ""."""
        try:
            if not self._panic:
                self._matcher.unsafe_compute_mask_ptr(address, size)
                return self._matcher.get_error()
        except BaseException as error:  # noqa: BLE001 - as above
            self._panic = _say(error)
        return self._panic


def _say(error: BaseException) -> str:
    return f"the grammar library failed: {words_of(error)}"


def _compile(tokenizer: LLTokenizer, message: Any) -> tuple[LLMatcher | None, str]:
    """A matcher at the beginning of an output, where it stays; None and what is wrong where there is none."""
    try:
        source = _SOURCES[message["kind"]](message)
        limits = LLParserLimits(**message["limits"], verbose_errors=False)
        matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits)
    except Exception as error:  # noqa: BLE001 - foreign code, which says so what is wrong with the grammar
        return None, words_of(error)
    except BaseException as error:  # noqa: BLE001 - a panic of Rust code is no Exception
        return None, _say(error)
    return (None, matcher.get_error()) if matcher.is_error() else (matcher, "")


def _json_source(message: Any) -> str:
    """Small models write spaces for ever where any number is allowed: only one after a separator is."""
    style: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
    schema = json.loads(message["source"])
    if schema is False:
        raise ValueError("the schema is false, against which nothing is valid")
    if schema is not True and not isinstance(schema, dict):
        raise ValueError(f"the schema is {message['source'][:40]!r}; it must be a JSON object, true or false")
    source = "{}" if schema is True else message["source"]  # true allows what {} does (JSON Schema 2020-12, 4.3.2)
    return LLMatcher.grammar_from_json_schema(source, overrides=style)


def _regex_source(message: Any) -> str:
    return LLMatcher.grammar_from_regex(message["source"])


def _lark_source(message: Any) -> str:
    return LLMatcher.grammar_from_lark(message["source"])


def _choice_source(message: Any) -> str:
    """A Lark rule; its strings are written like those of JSON."""
    if not message["texts"]:
        raise ValueError("no text to choose from; give at least one")
    return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, message["texts"])))


_SOURCES: Final = {
    "JSON_SCHEMA": _json_source,
    "REGEX": _regex_source,
    "LARK": _lark_source,
    "CHOICE": _choice_source,
}
