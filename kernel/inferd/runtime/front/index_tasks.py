"""The tasks of indexes: functions that are called with segments in memories, vectors, and answers."""

from __future__ import annotations

import base64
import json
from array import array
from math import sqrt
from typing import TYPE_CHECKING, Any, Final

from inferd.core.task_events import EmbeddingOutput, TensorOutput
from inferd.errors import InvalidFieldError, PromptTooLongError
from inferd.function_errors import FunctionFailedError, FunctionNotFoundError
from inferd.runtime.evaluation_work import read_piece
from inferd.runtime.front.room import patiently
from inferd.runtime.index_work import calling_task, embedding_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from inferd.core.task import TaskSpec
    from inferd.core.task_events import TaskEvent
    from inferd.runtime.front.tasks import Tasks
    from inferd.runtime.index_work import Asker
    from inferd.shared import Part

REFUSES: Final = "refuses its input: "  # in what is said of a function that does
LEAST_CHARACTERS: Final = 16  # of a part of a chunk that is too long for its model


class IndexTasks:
    """Runs tasks of indexes.

    Args:
        tasks: By which they are run.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def call(
        self,
        asker: Asker,
        function: str,
        data: Sequence[Part] = (),
        *,
        takes: Callable[[Any], None] = lambda _: None,
        **given: Any,
    ) -> list[Any]:
        """The pieces that a function gives, which is given data in memories beside its input.

        `takes` is given each as it comes; what it raises ends the call.

        Raises:
            InvalidFieldError: It refuses what it is given, in its words.
            InferdError: It cannot be called, or failed.
        """

        def make() -> TaskSpec:
            return calling_task(asker, function, given, data)

        pieces: list[Any] = []

        async def hear(event: TaskEvent) -> None:
            if isinstance(event, TensorOutput):
                piece = _piece(event)
                takes(piece)
                pieces.append(piece)

        try:
            await self.run(make, hear)
        except FunctionNotFoundError as error:
            raise FunctionNotFoundError(
                f"this needs the function {function!r}; its package is left out by functions.packages, or cannot be"
                f" used: see `inferd functions ls` ({error.message})",
                metadata={"function": function},
            ) from None
        except InvalidFieldError as error:
            words = error.message.partition(REFUSES)[2]
            raise InvalidFieldError(words or error.message) from None
        return pieces

    async def whole(self, asker: Asker, function: str, data: Sequence[Part] = (), **given: Any) -> Any:
        """What a function gives as JSON in parts, which is larger than a piece may be.

        Raises:
            InferdError: It cannot be called, or failed.
        """
        parts = await self.call(asker, function, data, **given)
        try:
            return json.loads("".join(parts))
        except (TypeError, ValueError, RecursionError) as error:
            raise FunctionFailedError(f"{function} gave what is no JSON in parts: {type(error).__name__}") from None

    async def files(self, asker: Asker, function: str, data: Sequence[Part], **given: Any) -> dict[str, bytes]:
        """The files that a function gives in pieces, by their names.

        Raises:
            InferdError: It cannot be called, or failed.
        """
        found: dict[str, bytearray] = {}
        for piece in await self.call(asker, function, data, **given):
            try:
                found.setdefault(str(piece["file"]), bytearray()).extend(base64.b64decode(piece["data"], validate=True))
            except (KeyError, TypeError, ValueError) as error:
                raise FunctionFailedError(
                    f"{function} gave what is no part of a file: {type(error).__name__}"
                ) from None
        return {name: bytes(data) for name, data in found.items()}

    async def embed(
        self, asker: Asker, model: str, text: str, *, heard: Callable[[TaskEvent], None] = lambda _: None
    ) -> array[float]:
        """The vector of a text, of length 1. One that is too long for the model is cut, and has its parts' mean.

        `heard` is given each event of its tasks.

        Raises:
            InferdError: The model cannot be loaded, or makes no vectors, or the task failed.
        """
        vector: array[float] = array("f")

        async def hear(event: TaskEvent) -> None:
            heard(event)
            if isinstance(event, EmbeddingOutput):
                vector.extend(event.values)

        try:
            await self.run(lambda: embedding_task(asker, model, text), hear)
        except PromptTooLongError:
            if len(text) < 2 * LEAST_CHARACTERS:
                raise
            middle = len(text) // 2
            one = await self.embed(asker, model, text[:middle], heard=heard)
            other = await self.embed(asker, model, text[middle:], heard=heard)
            return _unit(array("f", (a + b for a, b in zip(one, other, strict=True))))
        if not vector:
            raise InvalidFieldError(f"model {model!r} gave no vector; name one that makes embeddings", field="model")
        return vector

    async def run(self, make: Callable[[], TaskSpec], heard: Callable[[TaskEvent], Awaitable[None]]) -> None:
        """Run a task to its end, and tell what it tells; one that finds no room is made again when there may be some.

        Raises:
            InferdError: It is refused, or failed.
        """

        async def run() -> None:
            spec = make()
            async with self._tasks.run(spec, size_bytes=spec.demand.memory_bytes) as stream:
                async for batch in stream.follow(0):
                    for _, event in batch:
                        await heard(event)

        await patiently(run)


def _unit(vector: array[float]) -> array[float]:
    length = sqrt(sum(each * each for each in vector)) or 1.0
    return array("f", (each / length for each in vector))


def _piece(output: TensorOutput) -> Any:
    try:
        return read_piece(output)
    except (ValueError, RecursionError) as error:
        raise FunctionFailedError(f"what a function gave is no JSON: {type(error).__name__}") from None
