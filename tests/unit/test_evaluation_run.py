"""One evaluation, without a kernel: what is asked, what is asked again, and what ends it."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferd.core.evaluation import (
    FAILED_AT_FIRST,
    Evaluation,
    EvaluationKind,
    EvaluationSpec,
    EvaluationState,
    Figure,
    LabelFigures,
)
from inferd.core.ids import ModelName, Tenant
from inferd.core.task import Usage
from inferd.errors import (
    InvalidFieldError,
    LimitExceededError,
    ModelNotFoundError,
    StoreUnavailableError,
    WorkerDiedError,
)
from inferd.runtime.front import evaluation_run
from inferd.runtime.front.evaluation_compare import _check_same
from inferd.runtime.front.evaluation_run import MOST_WHY, EvaluationRun, read_ran
from inferd.runtime.front.evaluation_tasks import Gave
from inferd.runtime.kept_evaluations import Answer, HeldParts, StoredParts, read_evaluation, write_evaluation
from inferd.store.sqlite import SqliteStore

SPEC = EvaluationSpec(model=ModelName("m"), kind=EvaluationKind.GENERATION)
EVALUATION = Evaluation(evaluation_id="e", tenant=Tenant("t"), spec=SPEC, digest="d", lines=3, created=1.0)
DATA = b'{"prompt": "1"}\n\n{"prompt": "2"}\r\n{"prompt": "3"}'


class Tasks:
    """Answers with what it was asked, and measures nothing; what it is told to raise, it raises."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors
        self.asked: list[str] = []
        self.measured: list[int] = []

    async def call(self, _: Any, function: str, **given: Any) -> list[Any]:
        if function == "evaluation_items":
            nothing: dict[str, Any] = {"messages": None, "choices": [], "judged": [], "tests": ""}
            said = [{"prompt": str(number), **nothing} for number, _ in enumerate(given["lines"], 1)]
            return [said[:2], said[2:]]
        if function == "evaluation_rows":
            self.measured.append(len(given["lines"]))
            row = {"bleu": [], "expected": None, "predicted": None}
            return [{**row, "scores": {"f1": float(each["text"])}} for each in given["answers"]]
        (system,) = given["systems"]
        value = sum(system["scores"]["f1"])
        metric = {"name": "sum", "value": value, "low": value, "high": value}
        return [{"systems": [{"metrics": [metric], "labels": []}], "notes": []}]

    async def run(self, make: Any) -> Gave:
        prompt = make().work.input.prompt
        self.asked.append(prompt)
        if (error := self.errors.get(f"at_{prompt}") or self.errors.get("always")) is not None:
            raise error
        return Gave(text=prompt, usage=Usage(prompt_tokens=2, output_tokens=1), version=4)


async def made(tasks: Tasks, *, data: bytes = DATA, parts: Any = None, most: int = 1 << 20) -> tuple[Any, Any, Any]:
    """A run, where it is kept, and all that it tells."""
    parts = parts or HeldParts(most, share=4)
    await parts.make(EVALUATION, data)
    told: list[dict[str, Any]] = []
    run = EvaluationRun(
        evaluation=EVALUATION,
        parts=parts,
        tasks=tasks,  # type: ignore[arg-type] # all of it that a run uses
        in_flight=2,
        tell=lambda **changed: told.append(changed),
    )
    return run, parts, told


async def test_what_was_answered_is_not_asked_again() -> None:
    """Lines with an answer are left out; figures are of all of them, and so is what is counted."""
    tasks = Tasks()
    run, parts, told = await made(tasks)
    await parts.add(EVALUATION, [Answer(number=2, text="20", version=3, prompt_tokens=5, output_tokens=7)])
    changes, rows = await run.go()
    assert sorted(tasks.asked) == ["1", "3"]
    assert changes["figures"] == (Figure("sum", 24.0, 24.0, 24.0),)
    assert told[0]["done"] == 1
    assert told[-1] == {"done": 3, "failed": 0, "versions": (3, 4), "prompt_tokens": 9, "output_tokens": 9}
    assert b'"lines":[1,2,3]' in rows


async def test_a_line_that_fails_is_kept_with_its_error_and_counts_in_no_figure() -> None:
    """What is about one line alone ends that; what is about all of them ends the evaluation."""
    tasks = Tasks(at_2=WorkerDiedError("it died", metadata={"log": "x"}))
    run, parts, told = await made(tasks)
    changes, _ = await run.go()
    assert changes["figures"][0].value == 4.0
    assert (told[-1]["done"], told[-1]["failed"]) == (3, 1)
    (answer,) = await parts.answers(EVALUATION, range(2, 3))
    assert (answer.error.reason, answer.error.message) == ("WORKER_DIED", "it died")
    run, _, _ = await made(Tasks(at_2=ModelNotFoundError("no model")))
    with pytest.raises(ModelNotFoundError):
        await run.go()


async def test_lines_that_all_fail_end_it_early() -> None:
    """After so many failures, and no answer, the rest is not asked."""
    tasks = Tasks(always=InvalidFieldError("too long"))
    run, _, _ = await made(tasks, data=b'{"prompt": "x"}\n' * 200)
    with pytest.raises(InvalidFieldError, match="too long"):
        await run.go()
    assert FAILED_AT_FIRST <= len(tasks.asked) <= FAILED_AT_FIRST + 2


async def test_a_store_that_fails_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that cannot be kept is written again, and not asked for again."""
    monkeypatch.setattr(evaluation_run, "RETRY_S", 0.0)

    class Failing(HeldParts):
        left = 3

        async def add(self, evaluation: Evaluation, answers: Sequence[Answer]) -> None:
            self.left -= 1
            if self.left >= 0:
                raise StoreUnavailableError("full")
            await super().add(evaluation, answers)

    tasks = Tasks()
    run, _, _ = await made(tasks, parts=Failing(1 << 20, share=4))
    changes, _ = await run.go()
    assert changes["figures"][0].value == 6.0
    assert sorted(tasks.asked) == ["1", "2", "3"]


async def test_answers_are_measured_in_batches_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call of a function is given more than so many bytes of lines and answers, or one line that has more."""
    monkeypatch.setattr(evaluation_run, "BATCH_BYTES", 40)
    tasks = Tasks()
    run, _, _ = await made(tasks)
    changes, _ = await run.go()
    assert tasks.measured == [2, 1]
    assert changes["figures"][0].value == 6.0


def test_a_record_is_read_as_it_was_written() -> None:
    """All fields of an evaluation and of an answer come back, errors with their reasons."""
    spec = replace(SPEC, labels=("a", "ü"), ends=("\n",), judge="j", rubric="r", chat=True, title="x", seed=7)
    whole = replace(
        EVALUATION,
        spec=spec,
        state=EvaluationState.FAILED,
        started=2.5,
        versions=(1, 2),
        figures=(Figure("f1", 0.1, 0.0, 0.2),),
        labels=(LabelFigures("a", 0.1, 0.2, 0.3, 4),),
        notes=("n",),
        request_id="q",
        error=InvalidFieldError("wrong", field="data"),
    )
    read = read_evaluation(write_evaluation(whole))
    assert read.error is not None
    assert (read.error.reason, read.error.message, read.error.field) == ("INVALID_FIELD", "wrong", "data")
    assert replace(read, error=None) == replace(whole, error=None)
    answer = Answer(number=3, logprobs=(-0.1, -1e-9), passed=True, why="w", rating=4)
    assert Answer.read(answer.write()) == answer


class Keeper:
    """Reads and writes a store, as that of a kernel does, but at once."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def read(self, reading: Any) -> Any:
        return reading(self._store)

    async def keep_records(self, writes: Any) -> None:
        self._store.write(writes)


@pytest.mark.parametrize("kept", [True, False])
async def test_what_is_kept_is_the_same_in_a_store_and_in_memory(tmp_path: Path, *, kept: bool) -> None:
    """Data, answers by number in any order, rows; all of it goes when the evaluation does, and no other."""
    with closing(SqliteStore(tmp_path / "store")) as store:
        parts: Any = StoredParts(Keeper(store)) if kept else HeldParts(1000, share=4)  # type: ignore[arg-type] # what it uses
        other = replace(EVALUATION, evaluation_id="e.2")
        for each in (EVALUATION, other):
            await parts.make(each, DATA)
            await parts.add(each, [Answer(number=3, text="xxx"), Answer(number=1)])
            for text in ("x", "xx"):
                await parts.add(each, [Answer(number=2, text=text)])
        assert await parts.data(EVALUATION) == DATA
        assert [each.number for each in await parts.answers(EVALUATION, range(2, 4))] == [2, 3]
        assert await parts.rows(EVALUATION) == b""
        await parts.put(replace(EVALUATION, state=EvaluationState.SUCCEEDED), b"{}")
        assert await parts.rows(EVALUATION) == b"{}"
        found = {each.evaluation_id: each.state for each in await parts.evaluations()}
        assert found == ({"e": EvaluationState.SUCCEEDED, "e.2": EvaluationState.QUEUED} if kept else {})
        await parts.drop(EVALUATION)
        assert not await parts.answers(EVALUATION, range(1, 9))
        assert await parts.data(EVALUATION) == await parts.rows(EVALUATION) == b""
        assert len(await parts.answers(other, range(1, 9))) == 3
        if kept:
            await parts.drop(other)
            assert not list(store.kept())
        else:
            with pytest.raises(LimitExceededError, match=r"evaluate\.held_bytes is 1000"):
                await parts.add(other, [Answer(number=1, text="x" * 1000)])


async def test_answers_that_come_during_a_write_are_written_together() -> None:
    """While one write is under way others wait, and are one write then: a slow disk holds no line up by itself."""
    sizes: list[int] = []

    class Slow(HeldParts):
        async def add(self, evaluation: Evaluation, answers: Sequence[Answer]) -> None:
            sizes.append(len(answers))
            for _ in range(20):  # the others come meanwhile
                await asyncio.sleep(0)
            await super().add(evaluation, answers)

    tasks = Tasks()
    run, _, told = await made(tasks, data=b'{"prompt": "x"}\n' * 40, parts=Slow(1 << 20, share=4))
    run.in_flight = 8
    await run.go()
    assert told[-1]["done"] == sum(sizes) == 40
    assert len(sizes) < 20


@pytest.mark.parametrize(
    ("pieces", "passed", "why"),
    [
        ([{"passed": True, "why": ""}], True, ""),
        ([{"passed": False, "why": "x" * 900_000}], False, "x" * MOST_WHY),
        ([{"passed": "yes", "why": ["a"]}], False, "['a']"),
        ([{}], False, "its process gave no result"),
        ([], False, "its process gave no result"),
        ([[]], False, "its process gave no result"),
    ],
)
def test_what_the_process_of_a_program_gives_is_not_trusted(pieces: list[Any], *, passed: bool, why: str) -> None:
    """A program that changes what its process gives has not passed, and takes no more room than others."""
    assert read_ran(pieces) == {"passed": passed, "why": why}


async def test_a_tenant_leaves_others_some_of_what_is_held_in_memory() -> None:
    """What is held of a tenant's evaluations is at most a share of what is free, so those of others go on."""
    parts = HeldParts(1000, share=4)
    for number in range(80):
        await parts.make(replace(EVALUATION, evaluation_id=str(number)), b"x" * 10)
    with pytest.raises(LimitExceededError, match="of which a tenant may have 4 times what is free"):
        await parts.make(replace(EVALUATION, evaluation_id="80"), b"x" * 10)
    other = replace(EVALUATION, evaluation_id="other", tenant=Tenant("u"))
    await parts.make(other, b"x" * 100)
    await parts.add(other, [Answer(number=1)])
    for number in range(80):
        await parts.drop(replace(EVALUATION, evaluation_id=str(number)))
    await parts.make(EVALUATION, b"x" * 600)


def test_ratings_of_other_judges_or_by_other_rubrics_are_not_compared() -> None:
    """What they differ by says nothing of the models; both are named, also where rubrics begin alike."""
    judged = replace(SPEC, kind=EvaluationKind.JUDGE, judge="j", rubric="r" * 200)
    first = replace(EVALUATION, spec=judged)
    _check_same(first, replace(first, evaluation_id="f"), "evaluation_ids[1]")
    for change, said in (({"judge": "k"}, "judge k and"), ({"rubric": "r" * 201}, "has rubric sha256:")):
        with pytest.raises(InvalidFieldError, match=said):
            _check_same(first, replace(first, spec=replace(judged, **change)), "evaluation_ids[1]")
