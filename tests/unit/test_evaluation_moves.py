"""Evaluations as they are made and moved, without a kernel: what was acknowledged is what is kept."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.core.evaluation import Evaluation, EvaluationKind, EvaluationSpec, EvaluationState
from inferd.core.ids import ModelName, Tenant
from inferd.evaluation_settings import Evaluate
from inferd.runtime.front.evaluation_run import EvaluationRun
from inferd.runtime.front.evaluations import Evaluations
from inferd.runtime.kept_evaluations import HeldParts

SPEC = EvaluationSpec(model=ModelName("m"), kind=EvaluationKind.GENERATION)
CALLER: Any = SimpleNamespace(tenant=Tenant("t"))
LATE_TURNS = 20  # of the loop, that a write takes


class SlowParts(HeldParts):
    """Keeps what it is given a little later; one write that began later may be done before."""

    def __init__(self) -> None:
        super().__init__(1 << 20, share=4)
        self.kept: list[EvaluationState] = []
        self.made = 0
        self.makes, self.puts = asyncio.Event(), asyncio.Event()

    async def make(self, evaluation: Evaluation, data: bytes) -> None:
        self.makes.set()
        await self._wait(LATE_TURNS)
        self.made += 1
        await super().make(evaluation, data)

    async def put(self, evaluation: Evaluation, rows: bytes | None = None) -> None:
        self.puts.set()
        await asyncio.shield(asyncio.create_task(self._put(evaluation, rows)))  # a write goes on whoever waits for it

    async def _put(self, evaluation: Evaluation, rows: bytes | None) -> None:
        await self._wait(LATE_TURNS if evaluation.state is EvaluationState.RUNNING else 1)
        self.kept.append(evaluation.state)
        await super().put(evaluation, rows)

    @staticmethod
    async def _wait(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)


def evaluations(parts: SlowParts) -> Evaluations:
    """Those of a kernel whose functions find nothing wrong, and give nothing."""

    async def call(*_: Any, **__: Any) -> list[Any]:
        return []

    driver: Any = SimpleNamespace(keeper=None, views=SimpleNamespace(model=lambda _: None))
    made = Evaluations(driver, SimpleNamespace(streams=None), Evaluate(), share=4)  # type: ignore[arg-type] # what it uses
    made._parts = parts
    made._tasks = SimpleNamespace(call=call)  # type: ignore[assignment] # likewise
    return made


async def test_the_same_request_at_once_makes_one_evaluation() -> None:
    """However many of them are under way, one is made; who goes while it is kept leaves one that is known."""
    parts = SlowParts()
    front = evaluations(parts)
    asked = [front.create(SPEC, b'{"prompt": "a"}', CALLER, request_id="r") for _ in range(5)]
    assert len({made.evaluation_id for made in await asyncio.gather(*asked)}) == parts.made == 1
    parts.makes.clear()
    gone = asyncio.create_task(front.create(SPEC, b'{"prompt": "b"}', CALLER, request_id="s"))
    await parts.makes.wait()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    again = await front.create(SPEC, b'{"prompt": "b"}', CALLER, request_id="s")
    assert parts.made == 2
    assert front.get(again.evaluation_id, CALLER) == again


async def test_what_was_cancelled_is_kept_as_cancelled() -> None:
    """A move that was under way when it was cancelled is not kept behind that."""
    parts = SlowParts()
    front = evaluations(parts)
    made = await front.create(SPEC, b'{"prompt": "a"}', CALLER)
    running = asyncio.create_task(front.run())
    await parts.puts.wait()
    ended = await front.cancel(made.evaluation_id, CALLER)
    for _ in range(2 * LATE_TURNS):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert ended.state is EvaluationState.CANCELLED
    assert parts.kept[-1] is EvaluationState.CANCELLED


async def test_what_it_took_before_counts_with_the_next_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that began longer ago than evaluate.most_s ends at once, however short a time this kernel has had it."""
    parts = SlowParts()
    front = evaluations(parts)
    made = await front.create(SPEC, b'{"prompt": "a"}', CALLER)
    begun = replace(made, state=EvaluationState.RUNNING, started=time.time() - Evaluate().most_s - 1)

    async def never(_: EvaluationRun) -> Any:
        return await asyncio.Event().wait()

    monkeypatch.setattr(EvaluationRun, "go", never)

    async def kept() -> list[Evaluation]:
        return [begun]

    parts.evaluations = kept  # type: ignore[method-assign] # as a store has it
    after = evaluations(parts)
    await after.adopt()
    running = asyncio.create_task(after.run())
    known = after._known[made.evaluation_id]
    async with asyncio.timeout(60):
        while not known.evaluation.ended:
            await known.changed.wait(known.changed.version)
    ended = known.evaluation
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert ended.state is EvaluationState.FAILED
    assert ended.error is not None
    assert ended.error.metadata["bound"] == "evaluate.most_s"
