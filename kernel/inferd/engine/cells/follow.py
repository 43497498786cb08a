"""A cell that compiles one grammar, and follows outputs through it.

The masks lie in memory that it shares with the worker: behind a `Board`, a row for each output.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING

from inferd.engine.cells.board import BOARD_BYTES, Board
from inferd.engine.cells.compiling import compile_grammar
from inferd.errors import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from llguidance import LLMatcher, LLTokenizer

    from inferd.plugin.channel import Channel

    _Judge = Callable[[list[int]], dict[str, str] | None]


class Follower:
    """The work of the cell.

    Args:
        tokenizer: What grammars are compiled for.
        ends: Tokens that end a text.
    """

    def __init__(self, tokenizer: LLTokenizer, *, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._outputs: dict[int, _Output] = {}
        self._judge: _Judge | None = None

    def serve(self, channel: Channel, descriptors: list[int]) -> None:
        """Compile the grammar that comes first, then follow outputs until the channel is closed."""
        message, _ = channel.receive()
        root, error, check, unfollowed = compile_grammar(self._tokenizer, message)
        channel.send({"error": error, "checked": check is not None, "unfollowed": unfollowed})
        if root is None:
            return
        if check is not None:
            self._judge = lambda tokens: check.fault(self._text(tokens))
        memory = mmap.mmap(descriptors[0], 0)
        rows = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + BOARD_BYTES
        self._follow(channel, root, Board(memory), rows, mask_bytes=message["mask_bytes"])

    def _text(self, tokens: list[int]) -> str:
        """What tokens say, without the one that ends it."""
        said = tokens[:-1] if tokens[-1] in self._ends else tokens
        return self._tokenizer.decode_bytes(said).decode(errors="replace")

    def _follow(self, channel: Channel, root: LLMatcher, board: Board, rows: int, *, mask_bytes: int) -> None:
        """Per message: which outputs are over, and of others what came: [number, whether it is new, tokens].

        The first answer says which outputs are complete with that, or what is wrong with one that is, the second
        what is wrong with going on, or "": then the masks are there.
        """
        while True:
            (over, entries), _ = channel.receive()
            for number in over:
                self._outputs.pop(number, None)
            complete = []
            for number, new, tokens in entries:
                board.begin(number)
                if new:
                    self._outputs[number] = _Output(root, self._judge)
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

    def __init__(self, root: LLMatcher, judge: _Judge | None) -> None:
        self._matcher = root.deep_copy()
        self._judge = judge
        self._tokens: list[int] = []  # where they are checked
        self._panic = ""

    def take(self, tokens: list[int]) -> bool | dict[str, str]:
        """Take the next tokens; whether the output is complete with them, and nothing can follow, or what is wrong."""
        try:
            self._matcher.consume_tokens(tokens)
            complete = bool(tokens) and self._matcher.is_stopped() and not self._matcher.is_error()
        except BaseException as error:  # noqa: BLE001 - a panic of Rust code is no Exception
            self._panic = _say(error)
            return False
        if self._judge is None:
            return complete
        self._tokens += tokens
        return (self._judge(self._tokens) or True) if complete else False

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
