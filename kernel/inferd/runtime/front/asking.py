"""Models are asked for calls of functions, by ordinary tasks of whoever made the call."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, Protocol

from inferd.core.function import FUNCTION, PACKAGE
from inferd.core.ids import ModelName, TaskId
from inferd.core.task import ASK_LABEL, FinishReason
from inferd.core.task_events import EmbeddingOutput, Finished, Output, PromptOutput, TensorOutput
from inferd.errors import (
    InferdError,
    InternalError,
    InvalidFieldError,
    LimitExceededError,
    PermissionDeniedError,
    UnsupportedInputError,
    is_failure,
    present,
)
from inferd.moderation.rules import Classifier
from inferd.runtime.ask_grants import asker_of
from inferd.runtime.classifying import classifying_task, read_labels, text_input
from inferd.runtime.evaluation_work import TASK_ID_BYTES, Given, Whose, question, reading_task
from inferd.runtime.front.room import patiently
from inferd.runtime.instances import answering

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.ids import InstanceId, Tenant
    from inferd.core.task import TaskSpec
    from inferd.core.task_events import Logprobs
    from inferd.runtime.ask_grants import MayRun
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.memos import Memos
    from inferd.runtime.front.tasks import Tasks
    from inferd.runtime.moderation import Question

_log = logging.getLogger(__name__)

FINISHES: Final = {FinishReason.STOP_STRING: "stop", FinishReason.MAX_TOKENS: "length"}
"""What an answer says of why it ended; all else is "end"."""


class Do(Enum):
    """What is asked of a model; values as functions write them."""

    WRITE = "write"
    SCORE = "score"
    EMBED = "embed"
    LABEL = "label"
    COUNT = "count"
    RECALL = "recall"
    REMEMBER = "remember"
    FORGET = "forget"
    MEMOS = "memos"


KEEPING: Final = frozenset({Do.RECALL, Do.REMEMBER, Do.FORGET, Do.MEMOS})
"""What no model answers: it is about what functions keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a call asks.

    Attributes:
        do: What is to be done.
        model: By which model, as the function names it.
        task: The task, as the wire has it.
        endings: What is scored.
        texts: Whose tokens are counted.
        name, kept, after: Of what is kept: by which name, its value as JSON, and in the place of which version.
    """

    do: Do
    model: str = ""
    task: object = None
    endings: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    name: str = ""
    kept: str = field(default="", repr=False)
    after: int = 0


class Wire(Protocol):
    """What only who knows the wire can do."""

    def read(self, written: bytes) -> Asked:
        """What a call asks; checked.

        Raises:
            InvalidFieldError: It is none that can be.
        """

    def task(self, asked: Asked) -> TaskSpec:
        """The task that answers, as nobody's.

        Raises:
            InferdError: It is none that can be.
        """

    def conversation(self, asked: Asked) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The prompt, or the roles and texts of the messages, that a model is given."""


@dataclass(slots=True)
class OpenCall:
    """A call that asks. One writer: `Asking`."""

    waiting: deque[tuple[Question, bytes]] = field(default_factory=deque)
    running: set[asyncio.Task[None]] = field(default_factory=set)


@dataclass(slots=True)
class Gave:
    """What a task gave. One writer: who runs it."""

    text: str = ""
    finish: str = "end"
    logprobs: Logprobs | None = None
    embedding: Sequence[float] = ()
    tensors: TensorOutput | None = None


class Asking:
    """Has models asked for calls. One writer: itself.

    A question is answered once, by what a model gave or by an error. Its tasks have the tenant, the class, the lease
    and at most the deadline of the call, and end with it.

    Args:
        driver: Of the kernel.
        tasks: By which models are asked.
        wire: Reads what is asked.
        in_flight: Questions of one call at once.
        timeout_s: How long one may take.
        memos: What functions keep.
        holds: Whether whoever made a call may still run a model for a tenant.

    Attributes:
        memos: See there.
    """

    def __init__(
        self,
        driver: Driver,
        tasks: Tasks,
        wire: Wire,
        *,
        in_flight: int,
        timeout_s: float,
        memos: Memos,
        holds: Callable[[MayRun, Tenant, ModelName], bool],
    ) -> None:
        self._driver = driver
        self._tasks = tasks
        self._wire = wire
        self._in_flight = in_flight
        self._timeout_s = timeout_s
        self.memos = memos
        self._holds = holds
        self._calls: dict[tuple[InstanceId, int], OpenCall] = {}
        driver.asks.run_by(self)

    def asked(self, question: Question, written: bytes) -> None:
        """As `inferd.runtime.asks.Runner.asked`."""
        call = self._calls.setdefault((question.instance_id, question.handle), OpenCall())
        call.waiting.append((question, written))
        if len(call.running) < self._in_flight:
            task = asyncio.create_task(self._work(call), name="asked by a function")
            call.running.add(task)
            task.add_done_callback(call.running.discard)

    def let_go(self, instance_id: InstanceId, handle: int) -> None:
        """As `inferd.runtime.asks.Runner.let_go`."""
        if (call := self._calls.pop((instance_id, handle), None)) is not None:
            call.waiting.clear()
            for task in call.running:
                task.cancel()

    async def _work(self, call: OpenCall) -> None:
        while call.waiting:
            await self._see_to(*call.waiting.popleft())

    async def _see_to(self, asked: Question, written: bytes) -> None:
        given: dict[str, Any] | None = None
        error: InferdError | None = InternalError("the model could not be asked")
        try:
            async with asyncio.timeout(self._timeout_s):
                given = await self._answer(asked, written)
            error = None
        except TimeoutError:
            error = LimitExceededError(
                f"the model did not answer within {self._timeout_s:g} s, which is functions.ask_timeout_s",
                metadata={
                    "bound": "functions.ask_timeout_s",
                    "value": f"more than {self._timeout_s:g}",
                    "limit": f"{self._timeout_s:g}",
                },
            )
        except InferdError as failed:
            error = failed
        except BaseException as defect:  # the next questions are answered all the same
            if not is_failure(defect):
                raise
            _log.exception("what a function asked could not be answered")
        finally:
            self._driver.asks.answer(asked, given, error=error)

    async def _answer(self, question: Question, written: bytes) -> dict[str, Any]:
        known = self._driver.views.find_task(question.task_id)
        if known is None:
            raise InternalError("the call that asks is not known any more")
        asked = self._wire.read(written)
        if asked.do in KEEPING:
            return await self._keep(known.spec, asked)
        call, model = known.spec, self._named(known.spec, asked.model)
        match asked.do:
            case Do.SCORE:
                return await self._score(question, call, model, asked)
            case Do.COUNT:
                return await self._count(call, model, asked.texts)
            case Do.LABEL:
                return await self._label(question, call, model, asked)
        spec = replace(self._wire.task(asked), model=model)
        gave, usage = await self._run(question, call, spec)
        said: dict[str, Any] = {"embedding": list(gave.embedding)} if asked.do is Do.EMBED else {"text": gave.text}
        return {**said, "finish": gave.finish, **usage}

    async def _keep(self, call: TaskSpec, asked: Asked) -> dict[str, Any]:
        match asked.do:
            case Do.RECALL:
                return await self.memos.recall(call, asked.name)
            case Do.REMEMBER:
                return await self.memos.remember(call, asked.name, asked.kept, asked.after)
            case Do.FORGET:
                return await self.memos.forget(call, asked.name)
            case _:
                return self.memos.names(call)

    def _named(self, call: TaskSpec, given: str) -> ModelName:
        """The model that a function means.

        Raises:
            UnsupportedInputError: It is none.
            PermissionDeniedError: Whoever made the call may not run it.
        """
        if given.startswith((FUNCTION, PACKAGE)):
            raise UnsupportedInputError(
                f"{given[:80]!r} is no model: a function asks models, and calls no functions; have a pipeline do both",
                field="ask.model",
            )
        own = self._driver.views.aliases.get(ModelName(given), ModelName(given))
        asker = asker_of(call)
        if not asker.grant.permits(own) or not self._holds(asker, call.tenant, own):  # or not any more
            raise PermissionDeniedError(
                f"who called the function may not run model {given[:80]!r}",
                metadata={"model": given[:80], "verb": "run", "kind": "task"},
            )
        return own

    async def _score(self, question: Question, call: TaskSpec, model: ModelName, asked: Asked) -> dict[str, Any]:
        """How likely each ending is; where tokens go over the border, what is behind the common ones counts as it."""
        prompt, messages = self._wire.conversation(asked)
        begin = Given(prompt=prompt, messages=messages)
        before, logprobs, total = await self._tokens(call, model, begin), list[float](), dict[str, int]()
        for ending in asked.endings:
            whole = await self._tokens(call, model, begin, ending)
            pairs = enumerate(zip(before, whole, strict=False))
            common = next((n for n, (one, two) in pairs if one != two), len(before))
            if not 0 < common < len(whole):
                raise InvalidFieldError(
                    f"the ending {ending[:80]!r} has no token behind one of what the model is given",
                    field="ask.endings",
                )
            spec = reading_task(Whose(tenant=call.tenant), model, whole, last=len(whole) - common)
            gave, usage = await self._run(question, call, spec)
            logprobs.append(float(sum(present(gave.logprobs).logprobs)))
            total = {name: total.get(name, 0) + value for name, value in usage.items()}
        return {"logprobs": logprobs, **total}

    async def _count(self, call: TaskSpec, model: ModelName, texts: Sequence[str]) -> dict[str, Any]:
        counts = [len(await self._tokens(call, model, Given(prompt=text), bare=True)) for text in texts or ("",)]
        instance = answering(self._driver.views.model(model), call.lease_id)
        facts = None if instance is None else instance.facts
        return {
            "counts": counts if texts else [],
            "context_tokens": 0 if facts is None else facts.context_tokens,
            "parameters": 0 if facts is None else facts.parameters,
        }

    async def _label(self, question: Question, call: TaskSpec, model: ModelName, asked: Asked) -> dict[str, Any]:
        text, _ = self._wire.conversation(asked)
        try:
            name = text_input(await self._driver.questions.signature(model, lease_id=call.lease_id))
            made = classifying_task(Classifier(model=model, labels=()), text, input_name=name, deadline=0.0)
            gave, usage = await self._run(question, call, made)
            return {"labels": read_labels(present(gave.tensors)), **usage}
        except ValueError as error:
            raise UnsupportedInputError(
                f"model {model!r} is no classifier of texts: {error}", field="ask.model"
            ) from None

    async def _tokens(
        self, call: TaskSpec, model: ModelName, given: Given, ending: str | None = None, *, bare: bool = False
    ) -> list[int]:
        ask, asked = self._driver.questions.query, question(given, ending)
        asked.bare = bare
        answer = await patiently(lambda: ask(model, asked, tenant=call.tenant, lease_id=call.lease_id))
        return list(answer.token_ids)

    async def _run(self, question: Question, call: TaskSpec, made: TaskSpec) -> tuple[Gave, dict[str, int]]:
        """What a task for a call gave, and its tokens; one that finds no room is made again when there may be some."""
        until = self._driver.clock.now() + self._timeout_s
        spec = replace(
            made,
            tenant=call.tenant,
            priority=call.priority,
            lease_id=call.lease_id,
            deadline=until if call.deadline is None else min(until, call.deadline),
            labels={ASK_LABEL: call.task_id},
        )
        gave, usage = await patiently(lambda: self._follow(replace(spec, task_id=TaskId(token_hex(TASK_ID_BYTES)))))
        self._driver.asks.count(question, usage)
        return gave, {"prompt_tokens": usage.prompt_tokens, "output_tokens": usage.output_tokens}

    async def _follow(self, spec: TaskSpec) -> tuple[Gave, Any]:
        gave, finished = Gave(), None
        async with self._tasks.run(spec, size_bytes=spec.demand.memory_bytes) as stream:
            async for batch in stream.follow(0):
                for _, event in batch:
                    match event:
                        case Output():
                            gave.text += event.text
                        case PromptOutput():
                            gave.logprobs = event.logprobs
                        case EmbeddingOutput():
                            gave.embedding = event.values
                        case TensorOutput():
                            gave.tensors = event
                        case Finished():
                            finished = event
        outcome = present(finished).outcome
        gave.finish = FINISHES.get(outcome.reason, "end")
        return gave, outcome.usage
