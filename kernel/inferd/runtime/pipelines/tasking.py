"""A task of a step: an ordinary one of the tenant, and what comes of it as JSON."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from inferd.core.expressions import bytes_of, read_json, write_json
from inferd.core.pipeline import Gives
from inferd.core.task import FinishReason
from inferd.core.task_events import EmbeddingOutput, Finished, Output, TensorOutput
from inferd.errors import InferdError, OutputInvalidError, present
from inferd.runtime.pipelines.running import Made
from inferd.runtime.pipelines.series import check_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.core.function import Function
    from inferd.core.pipeline import Pipeline, Step
    from inferd.core.task import TaskSpec
    from inferd.runtime.clock import Clock
    from inferd.runtime.front.tasks import Tasks
    from inferd.runtime.pipelines.order import Order

INTERVAL_S = 1.0  # between looks at output: nobody watches single tokens


class Wire(Protocol):
    """What only who knows the wire can do."""

    def read(self, written: bytes) -> Pipeline:
        """A pipeline; not checked.

        Raises:
            InvalidFieldError: It is none.
        """

    def settled(self, written: bytes, functions: Mapping[int, Function]) -> bytes:
        """A pipeline whose steps call these versions of their functions, by the numbers of the steps."""

    def task(
        self, step: Step, texts: Sequence[str], *, order: Order, deadline: float, seed: int
    ) -> tuple[TaskSpec, int]:
        """A task of a step, given these texts, and what its request takes in bytes.

        Raises:
            InferdError: It is none that can be.
        """

    def piece(self, output: TensorOutput) -> str:
        """What a call has given, as JSON."""


class TaskRunner:
    """Runs tasks of steps.

    Args:
        tasks: All tasks.
        clock: Of the kernel.
        wire: Makes them.
        value_bytes: Most that one may give.
    """

    def __init__(self, tasks: Tasks, clock: Clock, wire: Wire, value_bytes: int) -> None:
        self._tasks, self._clock, self._wire, self._value_bytes = tasks, clock, wire, value_bytes

    async def run(self, step: Step, texts: Sequence[str], *, order: Order, seed: int) -> Made:
        """As `Runner.run`."""
        deadline = self._clock.instant(order.expires)
        if step.timeout_s is not None:
            deadline = min(deadline, self._clock.now() + step.timeout_s)
        spec, size_bytes = self._wire.task(step, texts, order=order, deadline=deadline, seed=seed)
        task_id = spec.task_id
        try:
            return await self._follow(spec, size_bytes, step)
        except InferdError as error:
            error.metadata.setdefault("task_id", task_id)
            raise

    async def _follow(self, spec: TaskSpec, size_bytes: int, step: Step) -> Made:
        gives = present(step.work).gives
        samples: dict[int, list[str]] = defaultdict(list)
        pieces, finished, had = list[str](), None, 0
        async with self._tasks.run(spec, size_bytes=size_bytes) as stream:
            del spec  # it stays with the core, for as long as that needs it
            async for batch in stream.follow(0, INTERVAL_S, gathers=True):
                for _, event in batch:
                    if isinstance(event, Output):
                        samples[event.sample].append(event.text)
                        had += bytes_of(event.text)
                    elif isinstance(event, TensorOutput):
                        pieces.append(self._wire.piece(event))
                        had += bytes_of(pieces[-1])
                    elif isinstance(event, EmbeddingOutput):
                        pieces.append(write_json(list(event.values)))
                    elif isinstance(event, Finished):
                        finished = event
                check_size(had, self._value_bytes, f"what step {step.name!r} gives")
        outcome = present(finished).outcome
        if gives in (Gives.TEXT, Gives.JSON):
            texts = ["".join(samples[number]) for number in sorted(samples)] or [""]
            if gives is Gives.JSON:
                raws = [_json_of(text, step, outcome.reason) for text in texts]
            else:
                raws = [write_json(text) for text in texts]
            raw = raws[0] if len(raws) == 1 else f"[{','.join(raws)}]"
        else:
            raw = f"[{','.join(pieces)}]" if gives is Gives.PIECES else "".join(pieces[:1]) or "null"
        return Made(raw=raw, prompt_tokens=outcome.usage.prompt_tokens, output_tokens=outcome.usage.output_tokens)


def _json_of(text: str, step: Step, reason: FinishReason) -> str:
    """What a grammar of JSON has led to.

    Raises:
        OutputInvalidError: It ended before it was complete.
    """
    try:
        return write_json(read_json(text, "the output"))
    except InferdError:
        early = reason in (FinishReason.MAX_TOKENS, FinishReason.STOP_STRING)
        fix = "it ended early: raise sampling.max_tokens, or bound the lengths in its schema" if early else "try again"
        raise OutputInvalidError(
            f"the output of step {step.name!r} is no whole JSON value; {fix}", metadata={"step": step.name}
        ) from None
