"""What a cell does that runs one call of a function, and then ends: nothing that it changed is seen by the next one."""

from __future__ import annotations

import json
import mmap
import os
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferd.allocator import keep_little
from inferd.engine.cause import last_line
from inferd.engine.function.ends import LONGEST, LONGEST_TRACE
from inferd.engine.function.offered import collect
from inferd.engine.function.shape import RefusedError
from inferd.errors import is_failure, words_of
from inferd.logs import describe
from inferd.plugin.asking import AskError, offer_asking
from inferd.plugin.functions import offer_data, offer_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from inferd.engine.function.offered import Offered
    from inferd.plugin.channel import Channel

TOGETHER_BYTES: Final = 256 << 10  # most of what several calls of one task gave, that is sent at once


class Caller:
    """Calls the functions of a package, which is imported when this is made.

    Args:
        module: That offers them.

    Raises:
        Exception: Whatever importing it raises, see `collect`.
    """

    def __init__(self, module: str) -> None:
        keep_little()
        self._offered = collect(module)
        self._prepared = set[Callable[[], object]]()

    def prepare(self, name: str, version: int, files: Mapping[str, str]) -> None:
        """Load what calls of a function need, once, where all of them are forked from; it may read these files.

        Raises:
            Exception: Whatever its package raises there.
        """
        offered = self._offered.get((name, version))
        if offered is None or (prepare := offered.mark.prepare) is None or prepare in self._prepared:
            return
        offer_files(files)
        prepare()
        self._prepared.add(prepare)

    def serve(self, channel: Channel, descriptors: list[int]) -> None:
        """Answer one order: what there is to call ("list"), or a call; its data is in memories of descriptors."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a function prints may be what a task says
        order, given = channel.receive()
        if order["do"] == "list":
            channel.send({"functions": [self._told(each) for each in self._offered.values()]})
            return
        offered = self._offered.get((order["name"], order["version"]))
        if offered is None:
            channel.send({"end": "missing"})
            return
        try:
            offer_files(order.get("files", {}))
            asking = Asking(channel, most=offered.mark.asks, most_bytes=order.get("ask_bytes", 0))
            offer_asking(asking.ask if offered.mark.asks else None, asking.tell)
            offer_data(_mapped(descriptors, order.get("data", ())))
            if (each := order.get("each")) is None:
                end = self._call(channel, offered, given)
            else:
                together = Together(channel, asking, streams=offered.shape.streams, **each)
                end = self._call_each(together, offered, given)
        except MemoryError:
            end = {"end": "memory"}
        channel.send(end)

    def _told(self, offered: Offered) -> dict[str, Any]:
        mark = offered.mark
        return {
            "name": mark.name,
            "version": mark.version,
            "timeout_s": mark.timeout_s,
            "memory_bytes": mark.memory_bytes,
            "asks": mark.asks,
        }

    def _call(self, channel: Channel | Together, offered: Offered, given: bytes) -> dict[str, Any]:
        """Run it and send what it gives; how it ended."""
        shape = offered.shape
        try:
            parameters = shape.read(given)
        except RefusedError as error:
            return {"end": "input", "path": error.path[:LONGEST], "why": error.why[:LONGEST]}
        except BaseException as error:  # noqa: BLE001 - of a validator of the package; told
            return _failed(error, offered)
        pieces = _pieces(offered, parameters)
        while True:
            try:
                piece = next(pieces, None)
            except BaseException as error:  # noqa: BLE001 - of the package; told
                return _failed(error, offered)
            if piece is None:
                return {"end": "done"}
            try:
                written = shape.write(piece[0])
            except RefusedError as error:
                return {"end": "output", "path": error.path[:LONGEST], "why": error.why[:LONGEST]}
            except BaseException as error:  # noqa: BLE001 - of a serializer of the package; told
                return _failed(error, offered)
            channel.send({}, written)

    def _call_each(self, together: Together, offered: Offered, given: bytes) -> dict[str, Any]:
        """Run it for each of several inputs, and send what it gives in arrays; how it ended, and for which of them."""
        try:
            inputs = json.loads(given)
        except (ValueError, RecursionError) as error:
            return {"end": "input", "path": "", "why": f"it is no JSON: {error}"[:LONGEST]}
        if not isinstance(inputs, list):
            return {"end": "input", "path": "", "why": f"it is {type(inputs).__name__}; it must be an array of inputs"}
        for number, each in enumerate(inputs):
            try:
                end = self._call(together, offered, json.dumps(each).encode())
            except OverBoundError as error:
                return {"end": "large", "bound": error.bound, "size": error.size_bytes, "path": f"[{number}]"}
            if end["end"] != "done":
                return {**end, "path": f"[{number}]{end.get('path', '')}"}
            together.next()
        together.flush()
        return {"end": "done"}


class Asking:
    """Has the worker ask models for a call, and waits for what comes of that. Any thread of the call may.

    Args:
        channel: To the worker.
        most: How often a call may ask.
        most_bytes: Most of what is asked at once.

    Attributes:
        count: How often the call under way has asked.
    """

    def __init__(self, channel: Channel, *, most: int, most_bytes: int) -> None:
        self.count = 0
        self._channel, self._most, self._most_bytes = channel, most, most_bytes
        self._one = threading.Lock()

    def ask(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As `inferd.plugin.asking.Asker`.

        Raises:
            AskError: The call has asked as often as its function said, or asks too much at once.
        """
        written = json.dumps(asked).encode()
        with self._one:
            self.count += len(asked)
            if self.count > self._most:
                raise AskError(
                    "LIMIT_EXCEEDED",
                    f"the function asks models {self.count} times, and says that it does so {self._most} times at most;"
                    " raise asks of its @function, or give it less to do",
                    {"bound": "asks", "value": str(self.count), "limit": str(self._most)},
                )
            if len(written) > self._most_bytes:
                raise AskError(
                    "LIMIT_EXCEEDED",
                    f"what is asked at once has {len(written)} bytes, and functions.ask_bytes is {self._most_bytes};"
                    " ask it one after the other, or give the function less to do",
                    {"bound": "functions.ask_bytes", "value": str(len(written)), "limit": str(self._most_bytes)},
                )
            self._channel.send({"ask": len(asked)}, written)
            answers: list[dict[str, Any]] = json.loads(self._channel.receive()[1])
            return answers

    def tell(self, fraction: float) -> None:
        """How far the call is."""
        with self._one:
            self._channel.send({"progress": fraction})


def _mapped(descriptors: Sequence[int], places: Sequence[tuple[int, int]]) -> list[memoryview]:
    """Parts of memories, mapped: nothing of them is copied."""
    found = []
    for descriptor, (start, size_bytes) in zip(descriptors, places, strict=True):
        whole = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) if os.fstat(descriptor).st_size else b""
        found.append(memoryview(whole)[start : start + size_bytes])
    return found


class OverBoundError(Exception):
    """A call of several gave more than is told at once.

    Attributes:
        bound: Which one: "piece" or "array".
        size_bytes: What it gave.
    """

    def __init__(self, bound: str, size_bytes: int) -> None:
        super().__init__(bound)
        self.bound = bound
        self.size_bytes = size_bytes


class Together:
    """Takes what calls of a function give, and sends it as arrays of what some of them gave.

    Args:
        channel: Where it goes.
        asking: Counts what each call asks.
        streams: Whether each gives several pieces, which are an array then.
        piece_bytes: Largest piece.
        array_bytes: Largest array of the pieces of one call.
    """

    def __init__(self, channel: Channel, asking: Asking, *, streams: bool, piece_bytes: int, array_bytes: int) -> None:
        self._channel = channel
        self._asking = asking
        self._streams = streams
        self._piece_bytes = piece_bytes
        self._array_bytes = array_bytes
        self._most_bytes = min(TOGETHER_BYTES, piece_bytes)
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0  # of the call under way, as an array
        self._values: list[bytes] = []
        self._values_bytes = 0

    def send(self, _: dict[str, str], piece: bytes) -> None:
        """A piece of the call under way.

        Raises:
            OverBoundError: It is too large, or all of the call are.
        """
        if len(piece) > self._piece_bytes:
            raise OverBoundError("piece", len(piece))
        self._pieces_bytes += len(piece) + 1
        if self._streams and self._pieces_bytes > self._array_bytes:
            raise OverBoundError("array", self._pieces_bytes)
        self._pieces.append(piece)

    def next(self) -> None:
        """The call under way is done."""
        pieces = b",".join(self._pieces)
        value = b"[%s]" % pieces if self._streams else pieces
        self._pieces.clear()
        self._pieces_bytes = 0
        self._asking.count = 0
        if self._values_bytes + len(value) > self._most_bytes:  # a large one is alone in its array
            self.flush()
        self._values.append(value)
        self._values_bytes += len(value) + 1

    def flush(self) -> None:
        """Send what there is."""
        if self._values:
            self._channel.send({}, b"[%s]" % b",".join(self._values))
        self._values.clear()
        self._values_bytes = 0


def _pieces(offered: Offered, parameters: dict[str, Any]) -> Iterator[tuple[Any]]:
    given = offered.call(**parameters)
    if not offered.shape.streams:
        yield (given,)
        return
    for piece in given:
        yield (piece,)


def _failed(error: BaseException, offered: Offered) -> dict[str, Any]:
    """How a call ended whose package raised.

    Raises:
        BaseException: That, where it is about memory, or about this process.
    """
    if isinstance(error, MemoryError) or not is_failure(error):
        raise error
    if isinstance(error, AskError):
        facts = {str(name)[:LONGEST]: str(value)[:LONGEST] for name, value in error.metadata.items()}
        return {"end": "asked", "reason": error.reason, "why": error.message[:LONGEST], "facts": facts}
    return _raised(error, offered)


def _raised(error: BaseException, offered: Offered) -> dict[str, str]:
    """What a function raised: its words are for its client, its places for the log."""
    refuses = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    return {
        "end": "refused" if refuses else "raised",
        "why": words_of(error)[:LONGEST] if refuses else _placed(error, offered),
        "trace": describe(error)[-LONGEST_TRACE:],
    }


def _placed(error: BaseException, offered: Offered) -> str:
    """The last line of an exception, with the line of the package that it came from."""
    line = last_line(error)[:LONGEST]
    package = str(Path(offered.call.__code__.co_filename).parent)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(package)]
    return f"{line} ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else line
