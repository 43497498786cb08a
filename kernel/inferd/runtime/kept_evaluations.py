"""Evaluations as they are kept: their records, and beside each its data, its answers and what was measured of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from inferd.core.dataset import Source
from inferd.core.evaluation import Evaluation, EvaluationKind, EvaluationSpec, EvaluationState, Figure, LabelFigures
from inferd.core.priority import Priority
from inferd.errors import LimitExceededError
from inferd.runtime.found import leave_out
from inferd.runtime.kept_events import read_error, write_error
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import Append, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.ids import Tenant
    from inferd.errors import InferdError
    from inferd.runtime.keeper import Keeper
    from inferd.store.store import Store, Write

DATA, ROWS, ANSWERS = ".data", ".rows", ".answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a line of the data.

    Attributes:
        number: Of the line, from 1.
        text: What the model wrote.
        logprobs: Of a choice, how likely each text is.
        passed: Of a program, whether its tests passed.
        why: And why not.
        rating: What another model rated it; 0 for nothing.
        version: Of the model that answered; 0 where that is not known.
        prompt_tokens, output_tokens: Of its tasks.
        error: Why there is no answer.
    """

    number: int
    text: str = ""
    logprobs: tuple[float, ...] = ()
    passed: bool = False
    why: str = ""
    rating: int = 0
    version: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: InferdError | None = None

    def write(self) -> bytes:
        """It, as it is kept: what is not given is left out."""
        given = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name)}
        return _json({**given, "error": write_error(self.error)} if self.error is not None else given)

    @classmethod
    def read(cls, value: bytes) -> Answer:
        """What was written."""
        said = json.loads(value)
        return cls(**{**said, "logprobs": tuple(said.get("logprobs", ())), "error": read_error(said.get("error"))})


def write_evaluation(evaluation: Evaluation) -> bytes:
    """The record of an evaluation."""
    said = {each.name: getattr(evaluation, each.name) for each in fields(evaluation)}
    spec = {**asdict(evaluation.spec), "kind": evaluation.spec.kind.name, "priority": evaluation.spec.priority.name}
    figures = [asdict(each) for each in evaluation.figures]
    labels = [asdict(each) for each in evaluation.labels]
    error = write_error(evaluation.error)
    state = evaluation.state.name
    dataset = None if evaluation.dataset is None else asdict(evaluation.dataset)
    given = {"spec": spec, "figures": figures, "labels": labels, "error": error, "state": state, "dataset": dataset}
    return _json({**said, **given})


def read_evaluation(value: bytes) -> Evaluation:
    """What was written; raises one of `UNREADABLE` for what is no record of an evaluation."""
    said = json.loads(value)
    spec, dataset = said["spec"], said.get("dataset")  # which kernels before this one did not write
    read = EvaluationSpec(
        **{
            **spec,
            "kind": EvaluationKind[spec["kind"]],
            "priority": Priority[spec["priority"]],
            "labels": tuple(spec["labels"]),
            "ends": tuple(spec["ends"]),
        }
    )
    return Evaluation(
        **{
            **said,
            "spec": read,
            "state": EvaluationState[said["state"]],
            "versions": tuple(said["versions"]),
            "figures": tuple(Figure(**each) for each in said["figures"]),
            "labels": tuple(LabelFigures(**each) for each in said["labels"]),
            "error": read_error(said["error"]),
            "notes": tuple(said["notes"]),
            "dataset": None if dataset is None else Source(**dataset),
        }
    )


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class EvaluationParts(Protocol):
    """Where evaluations are kept. What raises, raises StoreUnavailableError; what it was to keep is as it was."""

    async def evaluations(self) -> list[Evaluation]:
        """Those that kernels before this one have kept and that can be read."""

    async def make(self, evaluation: Evaluation, data: bytes) -> None:
        """Keep a new one, with its data."""

    async def put(self, evaluation: Evaluation, rows: bytes | None = None) -> None:
        """Keep it as it stands, and what was measured."""

    async def add(self, evaluation: Evaluation, answers: Sequence[Answer]) -> None:
        """Keep answers; a second one to the same line takes the place of the first."""

    async def answers(self, evaluation: Evaluation, numbers: range) -> list[Answer]:
        """The answers to these lines that there are, by number."""

    async def data(self, evaluation: Evaluation) -> bytes:
        """Its data."""

    async def rows(self, evaluation: Evaluation) -> bytes:
        """What was measured."""

    async def drop(self, evaluation: Evaluation) -> None:
        """Keep nothing of it any more."""

    def forget(self, evaluation: Evaluation) -> None:
        """Hold nothing of it in memory: its tenant was shredded."""


class StoredParts:
    """Keeps evaluations in the store.

    Args:
        keeper: Of the kernel.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def evaluations(self) -> list[Evaluation]:
        """As `EvaluationParts.evaluations`."""
        found: list[Evaluation] = await self._keeper.read(_evaluations)
        return found

    async def make(self, evaluation: Evaluation, data: bytes) -> None:
        """As `EvaluationParts.make`."""
        await self._write(
            _record(evaluation), Put(evaluation.tenant, Kind.EVALUATION_PART, _key(evaluation, DATA), data)
        )

    async def put(self, evaluation: Evaluation, rows: bytes | None = None) -> None:
        """As `EvaluationParts.put`."""
        parts = [] if rows is None else [Put(evaluation.tenant, Kind.EVALUATION_PART, _key(evaluation, ROWS), rows)]
        await self._write(_record(evaluation), *parts)

    async def add(self, evaluation: Evaluation, answers: Sequence[Answer]) -> None:
        """As `EvaluationParts.add`."""
        tenant, key = evaluation.tenant, _key(evaluation, ANSWERS)
        await self._write(*(Append(tenant, Kind.EVALUATION_PART, key, each.number, each.write()) for each in answers))

    async def answers(self, evaluation: Evaluation, numbers: range) -> list[Answer]:
        """As `EvaluationParts.answers`."""
        key = _key(evaluation, ANSWERS)

        def read(store: Store) -> list[Answer]:
            found = []
            for value in store.pieces(evaluation.tenant, Kind.EVALUATION_PART, key, after=numbers.start - 1):
                answer = Answer.read(value)
                if answer.number >= numbers.stop:
                    break
                found.append(answer)
            return found

        found: list[Answer] = await self._keeper.read(read)
        return found

    async def data(self, evaluation: Evaluation) -> bytes:
        """As `EvaluationParts.data`."""
        return await self._part(evaluation, DATA)

    async def rows(self, evaluation: Evaluation) -> bytes:
        """As `EvaluationParts.rows`."""
        return await self._part(evaluation, ROWS)

    async def drop(self, evaluation: Evaluation) -> None:
        """As `EvaluationParts.drop`."""
        parts = [
            Drop(evaluation.tenant, Kind.EVALUATION_PART, _key(evaluation, part)) for part in (DATA, ROWS, ANSWERS)
        ]
        await self._write(Drop(evaluation.tenant, Kind.EVALUATION, evaluation.evaluation_id), *parts)

    def forget(self, evaluation: Evaluation) -> None:
        """Nothing of it is in memory."""

    async def _part(self, evaluation: Evaluation, part: str) -> bytes:
        names = [(evaluation.tenant, _key(evaluation, part))]
        read = partial(_values, names=names)
        values: list[bytes] = await self._keeper.read(read)
        return values[0] if values else b""

    async def _write(self, *writes: Write) -> None:
        await self._keeper.keep_records(writes)


@dataclass(slots=True)
class _Held:
    """What is held of an evaluation."""

    data: bytes = b""
    rows: bytes = b""
    answers: dict[int, bytes] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Of all of it."""
        return len(self.data) + len(self.rows) + sum(map(len, self.answers.values()))


class HeldParts:
    """Holds evaluations in memory, where the kernel has no store.

    Args:
        most_bytes: Of all of them, `evaluate.held_bytes`.
        share: A tenant may have so many times what is free of that for it.
    """

    def __init__(self, most_bytes: int, *, share: float) -> None:
        self._most_bytes = most_bytes
        self._share = share
        self._held: dict[str, _Held] = {}
        self._bytes: Counter[Tenant] = Counter()

    async def evaluations(self) -> list[Evaluation]:
        """None."""
        return []

    async def make(self, evaluation: Evaluation, data: bytes) -> None:
        """As `EvaluationParts.make`.

        Raises:
            LimitExceededError: There is no room; so for what follows.
        """
        self._take(evaluation.tenant, len(data))
        self._held[evaluation.evaluation_id] = _Held(data=data)

    async def put(self, evaluation: Evaluation, rows: bytes | None = None) -> None:
        """As `EvaluationParts.put`."""
        if rows is not None and (held := self._held.get(evaluation.evaluation_id)) is not None:
            self._take(evaluation.tenant, len(rows) - len(held.rows))
            held.rows = rows

    async def add(self, evaluation: Evaluation, answers: Sequence[Answer]) -> None:
        """As `EvaluationParts.add`."""
        held = self._held.get(evaluation.evaluation_id, _Held())
        for answer in answers if evaluation.evaluation_id in self._held else ():
            written = answer.write()
            self._take(evaluation.tenant, len(written) - len(held.answers.get(answer.number, b"")))
            held.answers[answer.number] = written

    async def answers(self, evaluation: Evaluation, numbers: range) -> list[Answer]:
        """As `EvaluationParts.answers`."""
        held = self._held.get(evaluation.evaluation_id, _Held()).answers
        return [Answer.read(held[number]) for number in sorted(held) if number in numbers]

    async def data(self, evaluation: Evaluation) -> bytes:
        """As `EvaluationParts.data`."""
        return self._held.get(evaluation.evaluation_id, _Held()).data

    async def rows(self, evaluation: Evaluation) -> bytes:
        """As `EvaluationParts.rows`."""
        return self._held.get(evaluation.evaluation_id, _Held()).rows

    async def drop(self, evaluation: Evaluation) -> None:
        """As `EvaluationParts.drop`."""
        self.forget(evaluation)

    def forget(self, evaluation: Evaluation) -> None:
        """As `EvaluationParts.forget`."""
        if (held := self._held.pop(evaluation.evaluation_id, None)) is not None:
            self._bytes[evaluation.tenant] -= held.size_bytes
            self._bytes += Counter()  # which leaves out those that have nothing

    def _take(self, tenant: Tenant, size_bytes: int) -> None:
        have, total, most = self._bytes[tenant], self._bytes.total(), self._most_bytes
        free = most - total
        if size_bytes > 0 and (size_bytes > free or have + size_bytes > self._share * free):
            raise LimitExceededError(
                f"evaluations hold {total} bytes in memory, {have} of them of tenant {tenant!r}, {size_bytes} more are"
                f" wanted, and evaluate.held_bytes is {most}, of which a tenant may have {self._share:g} times what is"
                " free; delete some, or give the kernel a store",
                metadata={"bound": "evaluate.held_bytes", "value": str(have), "limit": str(most)},
            )
        self._bytes[tenant] += size_bytes


def _record(evaluation: Evaluation) -> Put:
    return Put(evaluation.tenant, Kind.EVALUATION, evaluation.evaluation_id, write_evaluation(evaluation))


def _key(evaluation: Evaluation, part: str) -> str:
    return evaluation.evaluation_id + part


def _values(store: Store, names: Sequence[tuple[str, str]]) -> list[bytes]:
    return [record.value for record in store.some(Kind.EVALUATION_PART, names)]


def _evaluations(store: Store) -> list[Evaluation]:
    found: list[Evaluation] = []
    for record in store.records(Kind.EVALUATION, partial(leave_out, "evaluation")):
        try:
            found.append(read_evaluation(record.value))
        except UNREADABLE as error:
            leave_out("evaluation", record.tenant, record.key, error)
    return found


def lines_of(data: bytes) -> list[str]:
    """The lines of data that are not empty.

    Raises:
        ValueError: It is no UTF-8.
    """
    return [line for _, line in numbered_lines(data)]


def numbered_lines(data: bytes) -> list[tuple[int, str]]:
    """The same, with the number that each has among all lines, from 1.

    Raises:
        ValueError: It is no UTF-8.
    """
    return [(number, line) for number, line in enumerate(data.decode().split("\n"), 1) if line.strip()]


def plain_answer(answer: Answer) -> dict[str, Any]:
    """An answer, as functions take it."""
    return {
        "text": answer.text,
        "logprobs": list(answer.logprobs),
        "passed": answer.passed,
        "rating": answer.rating,
    }
