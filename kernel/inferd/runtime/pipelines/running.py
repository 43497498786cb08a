"""One run of a pipeline: what its output needs is carried out, each step once, and each task as any other task."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from inferd.core.expressions import (
    INDEX,
    INPUT,
    ITEM,
    NULL,
    Index,
    Reference,
    Value,
    bytes_of,
    kind_of,
    length_of,
    walk,
    write_json,
)
from inferd.errors import InferdError, InternalError, InvalidFieldError, ShuttingDownError
from inferd.runtime.pipelines.journal import Happened, Journal
from inferd.runtime.pipelines.series import Batched, Given, Listed, Series, Window, check_count, check_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence

    from inferd.core.expressions import Step as Way
    from inferd.core.pipeline import Case, Pipeline, Step
    from inferd.runtime.pipelines.order import Order

MOST_WAIT_S = 5.0  # for a place in a queue that is full, until it is asked again
HELD_VALUES, HELD_BYTES = 8, 8 << 20  # of steps, that are not read again for each item
INLINE_BYTES = 64 << 10  # of an output that is a part of what is told of its run


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLimits:
    """Bounds; see `inferd.pipeline_settings` for what each means."""

    items: int
    value_bytes: int
    prompt_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a task has given: JSON, and what it took."""

    raw: str
    prompt_tokens: int
    output_tokens: int


class Runner(Protocol):
    """Runs the tasks of steps."""

    async def run(self, step: Step, texts: Sequence[str], *, order: Order, seed: int) -> Made:
        """Make a task of a step, given these texts, and wait for its end; when the block is left, the task ends.

        Raises:
            InferdError: It is refused, or failed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a pipeline has given: `digest` and `size_bytes` of it as JSON Lines, of so many `items`.

    Attributes:
        json: It, where that is short; else "".
        listed: Whether it is a list.
    """

    json: str
    digest: str
    size_bytes: int
    items: int
    listed: bool


class StepFailedError(Exception):
    """A task failed for the last time.

    Args:
        error: Why.
        step: Name of the step.
        index: The place of the item.
    """

    def __init__(self, error: InferdError, step: str, index: int) -> None:
        super().__init__(str(error))
        self.error, self.step, self.index = error, step, index


class HeldValues:
    """How many bytes of values all runs hold together, as JSON; parsed they take some times as much.

    One writer: the kernel's loop. What is not used any more does not count.

    Args:
        most_bytes: Of all.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = WeakKeyDictionary[Run, int]()

    def tell(self, run: Run, size_bytes: int) -> bool:
        """A run holds so many; whether that is within what all may."""
        self._bytes[run] = size_bytes
        return sum(self._bytes.values()) <= self._most_bytes


class Run:
    """A run under way. One writer: itself.

    Args:
        order: What is to be run.
        pipeline: Its graph.
        journal: What has happened of it so far.
        given: The input: a value, the lines of a blob or the rows of a dataset; or what reads it, if it is needed.
        runner: Runs tasks.
        limits: How far it goes.
        held: What all runs hold; None for this one alone.
    """

    def __init__(  # noqa: PLR0917 - of one run
        self,
        order: Order,
        pipeline: Pipeline,
        journal: Journal,
        given: Value | Series | Callable[[], Awaitable[Value | Series]],
        runner: Runner,
        limits: PipelineLimits,
        held: HeldValues | None = None,
    ) -> None:
        self._held = held or HeldValues(HELD_BYTES)
        self._order, self._pipeline, self._journal = order, pipeline, journal
        self._given, self._runner, self._limits = given, runner, limits
        self._doing: dict[int, asyncio.Task[None]] = {}
        self._reading = asyncio.Lock()
        self._values: dict[str, Value] = {}  # those that were read last, by names of steps

    async def go(self) -> Ended:
        """Carry out what is left of it.

        Raises:
            StepFailedError: A task failed for the last time.
            InferdError: A value is none that its step can take, a bound was hit, or the kernel ends.
        """
        try:
            await self._need((self._pipeline.output,))
            return await self._end()
        finally:
            for each in self._doing.values():
                each.cancel()
            await asyncio.gather(*self._doing.values(), return_exceptions=True)

    # Steps.

    async def _need(self, references: Iterable[Reference]) -> None:
        """Wait until the steps are done that these name."""
        numbers = {number for each in references if (number := self._pipeline.find(each)) is not None}
        await asyncio.gather(*map(self._done, sorted(numbers)))

    def _done(self, number: int) -> asyncio.Task[None]:
        if number not in self._doing:
            self._doing[number] = asyncio.create_task(
                self._do(number), name=f"step {self._pipeline.steps[number].name}"
            )
        return self._doing[number]

    async def _do(self, number: int) -> None:
        """Do a step, or what is left of it."""
        step, book = self._pipeline.steps[number], self._journal.steps[number]
        if book.finished:
            return
        if step.when is not None and not step.each:
            await self._need(step.when.references)
            if not step.when.holds(await self._find(step.when.references, lenient=True)):
                await self._journal.add(Happened.LEFT_OUT, number)
                return
        if step.cases and step.map is None:
            await self._branch(number, step)
            return
        own = (ITEM, INDEX)
        await self._need(each for each in step.all_references if each.root not in own)
        if step.map is None:
            if book.items is None:
                await self._journal.add(Happened.BEGAN, number, 1)
            await self._item(number, step, 0, None)
        else:
            await self._each(number, step, step.map.over)

    async def _branch(self, number: int, step: Step) -> None:
        """Settle which case a step has the value of: of the others nothing is carried out."""
        book, chosen = self._journal.steps[number], "null"
        for at, case in enumerate(step.cases):
            if case.when is not None:
                await self._need(case.when.references)
            if await self._holds(case, None, 0):
                await self._need((case.value,))
                chosen = str(at)
                break
        if book.items is None:
            await self._journal.add(Happened.BEGAN, number, 1)
        await self._journal.add(Happened.DONE, number, 0, chosen)

    async def _each(self, number: int, step: Step, over: Reference) -> None:
        if step.map is None:
            return
        series, book = await self._series(over, step), self._journal.steps[number]
        check_count(series.count, self._limits.items, f"the list of step {step.name!r}")
        if step.map.batch:
            series = Batched(series, step.map.batch, self._limits.value_bytes)
        if book.items is None:
            await self._journal.add(Happened.BEGAN, number, series.count)
        if book.items != series.count:
            raise InternalError(f"step {step.name!r} had {book.items} items and has {series.count}: its list changed")
        left, window = (index for index in range(series.count) if not book.places[index]), Window(series)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(step.map.in_flight, series.count - book.done)):
                    group.create_task(self._items(number, step, left, window))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _items(self, number: int, step: Step, left: Iterator[int], window: Window) -> None:
        for index in left:
            await self._item(number, step, index, Value(await window.get(index)))

    async def _item(self, number: int, step: Step, index: int, item: Value | None) -> None:
        """Do an item, or a step that has no list."""
        try:
            if step.when is not None and step.each:
                found = await self._find(step.when.references, item, index, lenient=True)
                if not step.when.holds(found):
                    await self._journal.add(Happened.SKIPPED, number, index, "null")
                    return
            if step.work is None:
                raw = await self._case(step.cases, item, index)
                await self._journal.add(Happened.DONE, number, index, raw)
                return
            found = await self._find(step.given, item, index)
            most, at = self._limits.prompt_bytes, f"step {step.name!r}"
            texts = [text.text(found, most, at) for text in step.work.texts]
            made = await self._tried(number, step, index, texts)
            check_size(bytes_of(made.raw), self._limits.value_bytes, f"what step {step.name!r} gives")
            await self._journal.add(Happened.DONE, number, index, made.raw, made.prompt_tokens, made.output_tokens)
        except ShuttingDownError:
            raise
        except InferdError as error:
            raise StepFailedError(error, step.name, index) from None

    async def _case(self, cases: Collection[Case], item: Value | None, index: int) -> str:
        for case in cases:
            if await self._holds(case, item, index):
                return (await self._find((case.value,), item, index))[case.value].raw
        return "null"

    async def _holds(self, case: Case, item: Value | None, index: int) -> bool:
        if case.when is None:
            return True
        return case.when.holds(await self._find(case.when.references, item, index, lenient=True))

    async def _tried(self, number: int, step: Step, index: int, texts: Sequence[str]) -> Made:
        """Run its task, as often as it may be; a full queue is waited for."""
        tries = 0
        while True:
            key = f"{self._order.seed}/{number}/{index}/{tries}".encode()
            try:
                return await self._runner.run(
                    step, texts, order=self._order, seed=int.from_bytes(sha256(key).digest()[:7])
                )
            except ShuttingDownError:
                raise
            except InferdError as error:
                if error.retry_after_s is not None and error.code == "RESOURCE_EXHAUSTED":
                    await asyncio.sleep(min(error.retry_after_s, MOST_WAIT_S))
                    continue
                retry = step.retry
                if tries >= retry.count or (retry.reasons and error.reason not in retry.reasons):
                    raise
                tries += 1
                await self._journal.add(Happened.RETRIED, number, index, "", error.reason)

    # Values.

    async def _find(
        self, references: Iterable[Reference], item: Value | None = None, index: int = 0, *, lenient: bool = False
    ) -> dict[Reference, Value]:
        """What these stand for; `lenient` is whether what is not there is null."""
        found = {}
        for each in references:
            if each not in found:
                try:
                    found[each] = await self._resolve(each, item, index)
                except InvalidFieldError:
                    if not lenient:
                        raise
                    found[each] = NULL
        return found

    async def _resolve(self, reference: Reference, item: Value | None, index: int) -> Value:
        root, told = reference.root, str(reference)
        if root == INDEX:
            return Value.of(index)
        if root == ITEM:
            if item is None:
                raise InternalError(f"a defect of inferd: {told} outside of a list")
            return _into(item, reference.path, index, reference)
        base = await self._base(reference)
        if isinstance(base, Reference):
            return await self._resolve(base, item, index)
        if isinstance(base, Value):
            return _into(base, reference.path, index, reference)
        path = reference.path
        if not path:
            return Value.of(base.count) if reference.counts else await self._whole(base, reference)
        if isinstance(path[0], str):
            raise InvalidFieldError(f"{told}: there is no {path[0]!r}, it is a list of {base.count}")
        at = index if isinstance(path[0], Index) else path[0]
        if at >= base.count:
            raise InvalidFieldError(f"{told}: there is no [{at}], it is a list of {base.count}")
        (one,) = await base.some(at, at + 1)
        return _into(Value(one), path[1:], index, reference)

    async def _base(self, reference: Reference) -> Value | Series | Reference:
        """What a root stands for: a value, a list that is not read, or of a branch the same of what it has chosen."""
        if reference.root == INPUT:
            if callable(self._given):
                self._given = await self._given()
            return self._given
        number = self._pipeline.numbers[reference.root]
        step, book = self._pipeline.steps[number], self._journal.steps[number]
        if book.left_out:
            return NULL
        if step.map is not None:
            return Given(self._journal, number)
        value = await self._value(number)
        if step.work is not None or value.raw == "null":
            return value
        chosen = step.cases[value.data].value
        return Reference(chosen.root, (*chosen.path, *reference.path), counts=reference.counts)

    async def _value(self, number: int) -> Value:
        """What a step without a list has given; the last ones are held, as each item of a list may need them."""
        name = self._pipeline.steps[number].name
        if (value := self._values.get(name)) is None:
            (raw,) = await self._journal.values(number, 0, 1)
            value = self._hold(name, raw)
        return value

    def _hold(self, name: str, raw: str) -> Value:
        """A value that was read; those that were before it go where they are too many or too large."""
        value = self._values[name] = Value(raw)
        size = sum(len(each.raw) for each in self._values.values())
        while len(self._values) > HELD_VALUES or (size > HELD_BYTES and len(self._values) > 1):
            size -= len(self._values.pop(next(iter(self._values))).raw)
        while not self._held.tell(self, size) and self._values:  # it is used, and read again when it is needed again
            size -= len(self._values.pop(next(iter(self._values))).raw)
        return value

    async def _whole(self, series: Series, reference: Reference) -> Value:
        """All of a list as one value."""
        async with self._reading:  # of many items that need it at once one reads it
            if (held := self._values.get(reference.root)) is not None:
                return held
            size = sum(series.size_of(at) for at in range(series.count))
            check_size(size, self._limits.value_bytes, f"{reference}, as one value,")
            raw = f"[{','.join(await series.some(0, series.count))}]"
            check_size(bytes_of(raw), self._limits.value_bytes, f"{reference}, as one value,")  # rows: known only now
            return self._hold(reference.root, raw)

    async def _series(self, over: Reference, step: Step) -> Series:
        """The list that a step is done for."""
        base: Value | Series | Reference = over
        while isinstance(base, Reference) and not base.path and base.root not in (ITEM, INDEX):
            base = await self._base(base)
        if not isinstance(base, Value | Reference):
            return base
        value = (await self._find((over,)))[over]
        if not isinstance(value.data, list):
            raise StepFailedError(
                InvalidFieldError(f"map.over is {over} and that is {kind_of(value.data)}; it must be a list"),
                step.name,
                0,
            )
        return Listed([write_json(each) for each in value.data])

    # The end.

    async def output(self) -> tuple[Series, bool]:
        """What it gives, and whether that is a list; once it has."""
        return await self._told(self._pipeline.output)

    async def told(self, number: int) -> tuple[Series, bool]:
        """The same of a step."""
        return await self._told(Reference(self._pipeline.steps[number].name))

    async def _told(self, reference: Reference) -> tuple[Series, bool]:
        base: Value | Series | Reference = reference
        while isinstance(base, Reference) and not base.path:
            base = await self._base(base)
        if not isinstance(base, Value | Reference):
            return base, True
        value = (await self._find((reference,)))[reference]
        if value.raw[:1] == "[":
            return Listed([write_json(each) for each in value.data]), True
        return Listed([value.raw]), False

    async def _end(self) -> Ended:
        series, listed = await self.output()
        digest, size, window, lines = sha256(), 0, Window(series), list[str]()
        for index in range(series.count):
            line = (await window.get(index)).encode() + b"\n"
            digest.update(line)
            size += len(line)
            if size <= INLINE_BYTES:
                lines.append(line.decode().rstrip("\n"))
        inline = "" if size > INLINE_BYTES else f"[{','.join(lines)}]" if listed else lines[0]
        return Ended(json=inline, digest=digest.hexdigest(), size_bytes=size, items=series.count, listed=listed)


def _into(value: Value, path: Sequence[Way], index: int, reference: Reference) -> Value:
    """What stands at a way into a value, or how long that is."""
    if not path and not reference.counts:
        return value
    found = walk(value.data, path, index, str(reference))
    return Value.of(length_of(found, str(reference)) if reference.counts else found)
