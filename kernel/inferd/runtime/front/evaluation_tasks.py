"""The tasks of evaluations: run one after the other or beside each other, and what each gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from inferd.core.task_events import Finished, Output, PromptOutput, TensorOutput
from inferd.errors import InferdError, InvalidFieldError, present
from inferd.function_errors import FunctionFailedError, FunctionNotFoundError
from inferd.runtime.evaluation_work import calling_task, question, read_piece, reading_task
from inferd.runtime.front.room import patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.ids import ModelName
    from inferd.core.task import TaskSpec, Usage
    from inferd.core.task_events import Logprobs
    from inferd.runtime.driver import Driver
    from inferd.runtime.evaluation_work import Given, Whose
    from inferd.runtime.front.tasks import Tasks

REFUSES: Final = "refuses its input: "  # in what is said of a function that does


@dataclass(slots=True)
class Gave:
    """What a task gave. One writer: who runs it."""

    text: str = ""
    logprobs: Logprobs | None = None
    pieces: list[Any] = field(default_factory=list)
    usage: Usage | None = None
    version: int = 0


class EvaluationTasks:
    """Runs tasks of evaluations.

    Args:
        driver: Of the kernel.
        tasks: By which they are run.
    """

    def __init__(self, driver: Driver, tasks: Tasks) -> None:
        self._driver = driver
        self._tasks = tasks

    async def run(self, make: Callable[[], TaskSpec]) -> Gave:
        """Run a task to its end; one that finds no room is made again when there may be some.

        Raises:
            InferdError: It is refused, or failed.
        """
        return await patiently(lambda: self._run(make()))

    async def call(self, whose: Whose, function: str, **given: Any) -> list[Any]:
        """The pieces that a function gives.

        Raises:
            InvalidFieldError: It refuses what it is given, in its words.
            InferdError: It cannot be called, or failed.
        """
        try:
            return (await self.run(lambda: calling_task(whose, function, given))).pieces
        except FunctionNotFoundError as error:
            raise FunctionNotFoundError(
                f"evaluations need the function {function!r}; its package is left out by functions.packages, or cannot"
                f" be used: see `inferd functions ls` ({error.message})",
                metadata={"function": function},
            ) from None
        except InvalidFieldError as error:
            words = error.message.partition(REFUSES)[2]
            raise InvalidFieldError(words or error.message) from None

    async def logprob(
        self, whose: Whose, model: ModelName, begin: Given, ending: str, before: Sequence[int]
    ) -> tuple[float, Gave]:
        """How likely an ending is behind what a model is given, whose tokens are those `before`.

        Where both meet, tokens may be others than those of the beginning alone: what is behind the tokens that both
        have counts as the ending.

        Raises:
            InvalidFieldError: The ending has no token of its own, or none stands before it.
            InferdError: A task is refused, or failed.
        """
        whole = await self.tokens(whose, model, begin, ending)
        common = next((n for n, (one, two) in enumerate(zip(before, whole, strict=False)) if one != two), len(before))
        if not 0 < common < len(whole):
            raise InvalidFieldError(
                f"the choice {ending[:80]!r} has no token behind one of what the model is given: of {len(whole)} tokens"
                f" {common} are those of the beginning",
                field="choices",
            )
        gave = await self.run(lambda: reading_task(whose, model, whole, last=len(whole) - common))
        return float(sum(present(gave.logprobs).logprobs)), gave

    async def tokens(self, whose: Whose, model: ModelName, given: Given, ending: str | None = None) -> list[int]:
        """The tokens of what a model is given.

        Raises:
            InferdError: It cannot be loaded, or has none.
        """
        ask = self._driver.questions.query
        answer = await patiently(lambda: ask(model, question(given, ending), tenant=whose.tenant))
        return list(answer.token_ids)

    async def _run(self, spec: TaskSpec) -> Gave:
        gave, finished = Gave(), None
        async with self._tasks.run(spec, size_bytes=spec.demand.memory_bytes) as stream:
            async for batch in stream.follow(0):
                for _, event in batch:
                    match event:
                        case Output():
                            gave.text += event.text
                        case PromptOutput():
                            gave.logprobs = event.logprobs
                        case TensorOutput():
                            gave.pieces.append(_piece(event))
                        case Finished():
                            finished = event
                        case _:
                            continue
        ended = present(finished)
        gave.usage, gave.version = ended.outcome.usage, ended.receipt.version
        return gave


def _piece(output: TensorOutput) -> Any:
    try:
        return read_piece(output)
    except (ValueError, RecursionError) as error:
        raise FunctionFailedError(f"what a function gave is no JSON: {type(error).__name__}") from None


def is_of_line(error: InferdError) -> bool:
    """Whether an error is about one line alone, and says nothing of the others."""
    return error.reason in OF_LINE


OF_LINE: Final = frozenset(
    {
        *("INVALID_FIELD", "PROMPT_TOO_LONG", "CHAT_TEMPLATE_FAILED", "OUTPUT_INVALID", "LIMIT_EXCEEDED", "POISON"),
        *("MODERATED", "MODERATION_UNAVAILABLE", "WORKER_DIED", "BACKEND_FAILED", "TASK_CANCELLED", "EVENTS_DROPPED"),
        *("FUNCTION_FAILED", "INTERNAL"),
    }
)
"""Reasons of errors that are about one line alone."""
