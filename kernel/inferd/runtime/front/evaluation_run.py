"""One evaluation: its lines are answered by ordinary tasks, and the answers are kept, measured and made figures of."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from inferd.core.evaluation import FAILED_AT_FIRST, Evaluation, EvaluationKind, Figure, LabelFigures
from inferd.errors import InferdError, LimitExceededError, StoreUnavailableError
from inferd.function_errors import FunctionFailedError
from inferd.runtime.evaluation_work import Given, Whose, choosing_task, writing_task
from inferd.runtime.front.evaluation_tasks import is_of_line
from inferd.runtime.kept_evaluations import Answer, lines_of, numbered_lines, plain_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from inferd.core.evaluation import EvaluationSpec
    from inferd.runtime.front.evaluation_tasks import EvaluationTasks, Gave
    from inferd.runtime.kept_evaluations import EvaluationParts

RATINGS: Final = ("1", "2", "3", "4", "5")
RATING_TOKENS: Final = 8
CHOICE_TOKENS: Final = 256  # most of a label
BATCH_BYTES: Final = 1 << 20  # of lines and answers that are measured by one call
BATCH_LINES: Final = 1000
MOST_WHY: Final = 500  # characters that are kept of why a program has not passed
RATED: Final = (
    "Rate how well the answer below answers the question, from 1 (wrong or useless) to 5 (right, complete and clear)."
)
RETRY_S: Final = 1.0  # until what could not be kept is written again


@dataclass(frozen=True, slots=True)
class Item:
    """What a model is asked for a line.

    Attributes:
        number: Of the line, from 1.
        given: What it is given.
        choices: Texts whose likelihood is asked for.
        judged: What stands between the rubric and its answer when that is rated, and behind it; empty where it is not.
        tests: Of a program.
    """

    number: int
    given: Given
    choices: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()
    tests: str = ""


def read_item(number: int, said: Any) -> Item:
    """A line, as the function told it that reads data.

    Raises:
        FunctionFailedError: It told something else.
    """
    try:
        messages = tuple((str(each["role"]), str(each["content"])) for each in said["messages"] or ())
        return Item(
            number,
            Given(prompt=str(said["prompt"] or ""), messages=messages),
            choices=tuple(map(str, said["choices"])),
            judged=tuple(map(str, said["judged"])),
            tests=str(said["tests"]),
        )
    except (KeyError, TypeError) as error:
        raise FunctionFailedError(f"evaluation_items gave what is no line: {type(error).__name__}") from None


def read_ran(pieces: Sequence[Any]) -> dict[str, Any]:
    """What came of a program, by the names of an `Answer`; told by its process, in which it may do anything."""
    try:
        (ran,) = pieces
        return {"passed": ran["passed"] is True, "why": str(ran["why"])[:MOST_WHY]}
    except (KeyError, TypeError, ValueError):
        return {"passed": False, "why": "its process gave no result"}


@dataclass(slots=True, kw_only=True)
class EvaluationRun:
    """One evaluation from where it stands to its end. One writer: itself.

    Attributes:
        evaluation: It.
        parts: Where it is kept.
        tasks: By which its lines are answered.
        in_flight: Lines at once.
        tell: Is given what has changed of it, by name.
    """

    evaluation: Evaluation
    parts: EvaluationParts
    tasks: EvaluationTasks
    in_flight: int
    tell: Callable[..., None]
    _versions: set[int] = field(default_factory=set)
    _done: int = 0
    _failed: int = 0
    _prompt_tokens: int = 0
    _output_tokens: int = 0
    _columns: dict[str, Any] = field(default_factory=dict)
    _due: list[Answer] = field(default_factory=list)
    _writes: int = 0
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def go(self) -> tuple[dict[str, Any], bytes]:
        """Answer what is not answered yet, and measure all of it: what changes with its end, and the rows to be kept.

        Raises:
            InferdError: It cannot be brought to its end.
        """
        data = await self._stubborn(lambda: self.parts.data(self.evaluation))
        lines = lines_of(data)
        items = await read_items(self.tasks, self._whose, self.evaluation, lines)
        answered = set()
        for answer in await self._stubborn(lambda: self.parts.answers(self.evaluation, range(1, len(items) + 1))):
            self._count(answer)
            answered.add(answer.number)
        self._tell()
        await self._answer_all(deque(item for item in items if item.number not in answered))
        await self._measure(lines)
        rows = json.dumps(self._columns, separators=(",", ":")).encode()
        return await self._figures(), rows

    @property
    def _whose(self) -> Whose:
        evaluation = self.evaluation
        return Whose(
            tenant=evaluation.tenant, evaluation_id=evaluation.evaluation_id, priority=evaluation.spec.priority
        )

    def _count(self, answer: Answer) -> None:
        self._done += 1
        self._failed += answer.error is not None
        self._versions |= {answer.version} - {0}
        self._prompt_tokens += answer.prompt_tokens
        self._output_tokens += answer.output_tokens

    def _tell(self) -> None:
        self.tell(
            done=self._done,
            failed=self._failed,
            versions=tuple(sorted(self._versions)),
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
        )

    async def _answer_all(self, waiting: deque[Item]) -> None:
        async def work() -> None:
            while waiting:
                answer = await self._answer(waiting.popleft())
                await self._keep(answer)
                self._count(answer)
                self._tell()
                if answer.error is not None and self._failed == self._done >= FAILED_AT_FIRST:
                    raise answer.error

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.in_flight, len(waiting))):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _keep(self, answer: Answer) -> None:
        """Keep an answer, in one write with those that come while another is under way."""
        self._due.append(answer)
        write = self._writes
        async with self._writing:
            if write == self._writes:  # else it was in the write of one before
                answers, self._due = self._due, []
                self._writes += 1
                await self._stubborn(partial(self.parts.add, self.evaluation, answers))

    async def _stubborn(self, keep: Callable[[], Awaitable[Any]]) -> Any:
        """Read or write, again and again while the store cannot: the evaluation waits, and loses nothing."""
        while True:
            try:
                return await keep()
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_S)

    async def _answer(self, item: Item) -> Answer:
        gave: list[Gave] = []
        said: dict[str, Any] = {}
        try:
            said = await self._ask(item, gave)
        except InferdError as error:
            if not is_of_line(error):
                raise
            said = {"error": error}
        usages = [each.usage for each in gave if each.usage is not None]
        return Answer(
            number=item.number,
            version=max((each.version for each in gave), default=0),
            prompt_tokens=sum(each.prompt_tokens for each in usages),
            output_tokens=sum(each.output_tokens for each in usages),
            **said,
        )

    async def _ask(self, item: Item, gave: list[Gave]) -> dict[str, Any]:
        """What comes of a line, by the names of an `Answer`; all that tasks of the model gave is added to `gave`."""
        spec, model, whose = self.evaluation.spec, self.evaluation.spec.model, self._whose
        if spec.kind is EvaluationKind.CHOICE:
            return {"logprobs": await self._logprobs(item, gave)}
        if spec.kind is EvaluationKind.CLASSIFICATION:
            gave.append(
                await self.tasks.run(
                    lambda: choosing_task(whose, model, item.given, spec.labels, most_tokens=CHOICE_TOKENS)
                )
            )
            return {"text": gave[0].text}
        gave.append(
            await self.tasks.run(
                lambda: writing_task(whose, model, item.given, most_tokens=spec.most_tokens, ends=spec.ends)
            )
        )
        text = gave[0].text
        if spec.kind is EvaluationKind.CODE:
            return {"text": text, **await self._run_program(item, text)}
        if spec.kind is EvaluationKind.JUDGE:
            return {"text": text, "rating": await self._rate(item, text)}
        return {"text": text}

    async def _logprobs(self, item: Item, gave: list[Gave]) -> tuple[float, ...]:
        model, whose = self.evaluation.spec.model, self._whose
        separator = "" if item.given.messages else self.evaluation.spec.separator
        before = await self.tasks.tokens(whose, model, item.given)
        found = []
        for choice in item.choices:
            logprob, one = await self.tasks.logprob(whose, model, item.given, separator + choice, before)
            gave.append(one)
            found.append(logprob)
        return tuple(found)

    async def _run_program(self, item: Item, text: str) -> dict[str, Any]:
        try:
            pieces = await self.tasks.call(
                self._whose, "evaluation_program", answer=text, tests=item.tests, prompt=item.given.prompt
            )
        except (FunctionFailedError, LimitExceededError) as error:  # it ended its process, or took too long or too much
            return {"passed": False, "why": error.message[:MOST_WHY]}
        return read_ran(pieces)

    async def _rate(self, item: Item, text: str) -> int:
        before, behind = item.judged
        asked = (self.evaluation.spec.rubric or RATED) + before + text + behind
        given = Given(messages=(("user", asked),)) if self.evaluation.spec.chat else Given(prompt=asked)
        judge: Any = self.evaluation.spec.judge
        rated = await self.tasks.run(
            lambda: choosing_task(self._whose, judge, given, RATINGS, most_tokens=RATING_TOKENS)
        )
        return int(rated.text.strip()) if rated.text.strip() in RATINGS else 0

    async def _measure(self, lines: Sequence[str]) -> None:
        """Have all answers measured, batch by batch, and put what is measured in columns."""
        columns: dict[str, Any] = {"lines": [], "scores": {}, "bleu": [], "expected": [], "predicted": []}
        begin = 0
        while begin < len(lines):
            answers, begin = await self._batch(lines, begin)
            if not answers:
                continue
            rows = await self.tasks.call(
                self._whose,
                "evaluation_rows",
                kind=self.evaluation.spec.kind.name.lower(),
                lines=[lines[answer.number - 1] for answer in answers],
                answers=[plain_answer(answer) for answer in answers],
                labels=list(self.evaluation.spec.labels),
            )
            for answer, row in zip(answers, rows, strict=True):
                add_row(columns, answer.number, row)
        self._columns = columns

    async def _batch(self, lines: Sequence[str], begin: int) -> tuple[list[Answer], int]:
        """Answers from a line on that are measured together, and the line behind; without those that failed."""
        numbers = range(begin + 1, min(begin + BATCH_LINES, len(lines)) + 1)
        found: list[Answer] = await self._stubborn(lambda: self.parts.answers(self.evaluation, numbers))
        batch: list[Answer] = []
        size_bytes = 0
        for answer in found:
            size_bytes += len(lines[answer.number - 1]) + len(answer.text)
            if batch and size_bytes > BATCH_BYTES:
                return batch, answer.number - 1
            if answer.error is None:
                batch.append(answer)
        return batch, numbers.stop - 1

    async def _figures(self) -> dict[str, Any]:
        spec = self.evaluation.spec
        if not self._columns["lines"]:
            answers: list[Answer] = await self._stubborn(lambda: self.parts.answers(self.evaluation, range(1, 2)))
            raise answers[0].error or FunctionFailedError("no line was answered")
        (report,) = await self.tasks.call(
            self._whose,
            "evaluation_report",
            kind=spec.kind.name.lower(),
            systems=[{"name": spec.model, **self._columns}],
            labels=list(spec.labels),
            seed=spec.seed,
        )
        return read_figures(report, 0)


async def read_items(tasks: EvaluationTasks, whose: Whose, evaluation: Evaluation, lines: Sequence[str]) -> list[Item]:
    """What a model is asked for each line.

    Raises:
        InvalidFieldError: A line is wrong; it is named.
        InferdError: They cannot be read now.
    """
    spec = evaluation.spec
    pieces = await tasks.call(
        whose,
        "evaluation_items",
        kind=spec.kind.name.lower(),
        lines=lines,
        labels=list(spec.labels),
        chat=spec.chat,
    )
    items = [read_item(number, said) for number, said in enumerate((said for piece in pieces for said in piece), 1)]
    if len(items) != len(lines):
        raise FunctionFailedError(f"evaluation_items gave {len(items)} of {len(lines)} lines")
    return items


async def check_lines(tasks: EvaluationTasks, whose: Whose, evaluation: Evaluation, data: bytes) -> None:
    """Have each line of data looked at; nothing is held of them.

    Raises:
        InvalidFieldError: A line is wrong; it is named by its number in the data.
        InferdError: They cannot be read now.
    """
    found = numbered_lines(data)
    given: dict[str, Any] = {"kind": evaluation.spec.kind.name.lower(), "lines": [line for _, line in found]}
    if found[-1][0] != len(found):
        given["numbers"] = [number for number, _ in found]
    await tasks.call(whose, "evaluation_items", labels=list(evaluation.spec.labels), check=True, **given)


def add_row(columns: dict[str, Any], number: int, row: Mapping[str, Any]) -> None:
    """Put what was measured of a line into columns, as `evaluation_report` takes them."""
    columns["lines"].append(number)
    for name, value in row["scores"].items():
        columns["scores"].setdefault(name, []).append(value)
    if row["bleu"]:
        columns["bleu"].append(row["bleu"])
    if row["expected"] is not None:
        columns["expected"].append(row["expected"])
        columns["predicted"].append(row["predicted"])


def read_figures(report: Mapping[str, Any], place: int) -> dict[str, Any]:
    """What a report has of the system at a place, by the names of an `Evaluation`."""
    system = report["systems"][place]
    return {
        "figures": tuple(Figure(**each) for each in system["metrics"]),
        "labels": tuple(LabelFigures(**each) for each in system["labels"]),
        "notes": tuple(report["notes"]),
    }


def scores_of(columns: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """What was measured of each line, by its number."""
    names = list(columns["scores"])
    for number, *values in zip(columns["lines"], *columns["scores"].values(), strict=True):
        yield number, dict(zip(names, values, strict=True))


def fingerprint_of(spec: EvaluationSpec, data: bytes) -> str:
    """Equal for two calls with the same contents; `data` are the lines, or what says where they are."""
    return sha256(repr(spec).encode() + spec.rubric.encode() + sha256(data).digest()).hexdigest()


def over(bound: str, value: int, limit: int, what: str) -> LimitExceededError:
    """That there is more data than may be."""
    return LimitExceededError(
        f"data has {value} {what} and {bound} is {limit}",
        metadata={"bound": bound, "value": str(value), "limit": str(limit)},
        field="data",
    )
