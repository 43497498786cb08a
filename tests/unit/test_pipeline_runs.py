"""A run of a pipeline goes on behind what it has kept, whenever it was ended, and gives the same."""

import asyncio
import gc
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from inferd.core.expressions import Value
from inferd.core.ids import NO_LEASE, Tenant
from inferd.core.pipeline import Pipeline, PipelineState, Step
from inferd.core.priority import Priority
from inferd.errors import QueueFullError, ShuttingDownError
from inferd.function_errors import FunctionFailedError
from inferd.pipeline_settings import Pipelines
from inferd.runtime.pipelines.journal import ENTRY_BYTES, Happened, Journal
from inferd.runtime.pipelines.order import Order
from inferd.runtime.pipelines.running import Ended, HeldValues, Made, PipelineLimits, Run, StepFailedError
from inferd.services.pipeline_values import PipelineWire
from inferd.store.sqlite import SqliteStore
from inferd.store.store import Store, Write
from inferd_client.pipeline_declarations import declare

ORDER = Order(
    run_id="r",
    tenant=Tenant("t"),
    number=1,
    written=b"",
    created=0.0,
    expires=1.0,
    priority=Priority.NORMAL,
    lease_id=NO_LEASE,
    seed=7,
    labels={},
)
LIMITS = PipelineLimits(items=10_000, value_bytes=1 << 20, prompt_bytes=1 << 20)


@dataclass
class Rows:
    """A store, used at once."""

    store: Store

    async def read(self, reading: Callable[[Store], Any]) -> Any:
        return reading(self.store)

    async def keep_records(self, records: Sequence[Write]) -> None:
        await asyncio.sleep(0)
        self.store.write(records)


@dataclass
class Upper:
    """Runs tasks that write what they are given in capitals; it ends with the kernel after so many."""

    left: int = 1_000_000
    asked: list[tuple[str, str]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    fails: dict[str, list[Exception]] = field(default_factory=dict)

    async def run(self, step: Step, texts: Sequence[str], *, order: Order, seed: int) -> Made:
        await asyncio.sleep(0)
        self.left -= 1
        if self.left < 0:
            raise ShuttingDownError("the kernel ends")
        self.asked.append((step.name, texts[0]))
        self.seeds.append(seed)
        if errors := self.fails.get(texts[0]):
            raise errors.pop(0)
        assert order is ORDER
        return Made(raw=json.dumps(texts[0].upper()), prompt_tokens=1, output_tokens=2)


def pipeline(*steps: dict[str, Any], **more: Any) -> Pipeline:
    declared = declare({"steps": list(steps), **more})
    read = PipelineWire(Pipelines(), 1 << 20).read(declared.SerializeToString())
    read.check()
    return read


def say(name: str, prompt: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "generate": {"model": "m", "prompt": prompt}, **more}


REDUCE = (
    say("each", "{item}", map={"over": "{input}", "in_flight": 3}),
    say("pairs", "{item | lines}", map={"over": "{each}", "batch": 2}),
    say("short", "all {pairs | join}"),
    say("long", "first {pairs[0]}"),
    {"name": "answer", "branch": [{"when": "length(pairs) > 100", "value": "{long}"}, {"value": "{short}"}]},
)


async def carry(graph: Pipeline, given: Any, runner: Upper, rows: Rows | None = None) -> tuple[Ended, Journal]:
    journal = Journal(rows, "t", "r", steps=len(graph.steps), most_bytes=1 << 20)
    await journal.replay()
    return await Run(ORDER, graph, journal, Value.of(given), runner, LIMITS).go(), journal


async def test_steps_take_what_others_give() -> None:
    """Items, batches, joined texts and a branch: the output is what they say, and what no case needs is not done."""
    runner = Upper()
    ended, journal = await carry(pipeline(*REDUCE), ["a", "b", "c"], runner)
    assert json.loads(ended.json) == "ALL A\nB\n\nC"
    assert {name for name, _ in runner.asked} == {"each", "pairs", "short"}
    assert journal.usage == [6, 6, 12]
    assert [entry.sequence for entry in journal.entries(0, 100)] == list(range(1, journal.last + 1))


@pytest.mark.parametrize("seed", range(3))
async def test_a_run_that_is_ended_at_any_moment_goes_on(tmp_path: Path, seed: int) -> None:
    """Ended after any number of tasks, again and again, a run gives the same digest; what is kept is not done again."""
    random_ = random.Random(seed)
    given, graph = [f"text {number}" for number in range(60)], pipeline(*REDUCE)
    whole, _ = await carry(graph, given, plain := Upper())
    asked: list[tuple[str, str]] = []
    for _ in range(200):
        store = SqliteStore(tmp_path / "store.db")
        runner = Upper(left=random_.randrange(12))
        try:
            ended, journal = await carry(graph, given, runner, Rows(store))
        except ShuttingDownError:
            asked += runner.asked
            continue
        finally:
            store.close()
        asked += runner.asked
        break
    assert ended == whole
    assert set(asked) == set(plain.asked)
    assert len(asked) < 2 * len(plain.asked)  # only what was in flight at an end is done twice
    done = [each for each in journal.entries(0, 10_000) if each.kind is Happened.DONE]
    assert len(done) == len({(each.step, each.number) for each in done}) == sum(book.done for book in journal.steps)


async def test_tries_and_what_is_waited_for() -> None:
    """A task is tried again as often and for what its step says, with another seed; a full queue is waited for."""
    failed = FunctionFailedError("no")
    graph = pipeline(say("a", "{input}", retry={"count": 2, "reasons": ["FUNCTION_FAILED"]}))
    runner = Upper(fails={"x": [failed, QueueFullError("full", retry_after_s=0.0), failed]})
    ended, journal = await carry(graph, "x", runner)
    assert json.loads(ended.json) == "X"
    assert len(set(runner.seeds)) == 3
    assert [e.reason for e in journal.entries(0, 9) if e.kind is Happened.RETRIED] == ["FUNCTION_FAILED"] * 2
    with pytest.raises(StepFailedError) as told:
        await carry(graph, "x", Upper(fails={"x": [failed] * 3}))
    assert (told.value.step, told.value.index, told.value.error) == ("a", 0, failed)


async def test_conditions_leave_items_and_steps_out() -> None:
    """What a condition does not hold for is null, an item or a step, and costs no task; what is not there is null."""
    runner = Upper()
    graph = pipeline(
        say("some", "{item.text}", map="{input}", when="item.keep == true"),
        say("none", "{input}", when="length(some) > 99"),
        {"name": "both", "map": "{some}", "branch": [{"when": "item == null", "value": "{none}"}, {"value": "{item}"}]},
    )
    ended, journal = await carry(graph, [{"text": "a", "keep": True}, {"text": "b"}], runner)
    assert json.loads(ended.json) == ["A", None]
    assert runner.asked == [("some", "a")]
    assert journal.steps[1].left_out


async def test_what_items_give_is_bounded() -> None:
    """What all items of a run give together is bounded, by the name of the bound."""
    graph = pipeline(say("a", "{item}", map="{input}"))
    journal = Journal(None, "t", "r", steps=1, most_bytes=800)
    with pytest.raises(StepFailedError, match=r"pipelines\.run_bytes"):
        await Run(ORDER, graph, journal, Value.of(["x" * 8] * 3), Upper(), LIMITS).go()


@dataclass
class Counting(Rows):
    """The same, and how often it was read."""

    reads: int = 0

    async def read(self, reading: Callable[[Store], Any]) -> Any:
        self.reads += 1
        await asyncio.sleep(0)
        return await Rows.read(self, reading)


async def test_a_whole_list_is_read_once_for_all_items(tmp_path: Path) -> None:
    """A list that each item names is read in a few turns of the store, once, and not again for each item."""
    graph = pipeline(
        {"name": "all", "map": {"over": "{input}", "in_flight": 8}, "branch": [{"value": "{item}"}]},
        {
            "name": "each",
            "map": {"over": "{all}", "in_flight": 8},
            "branch": [{"when": "item in all", "value": "{item}"}],
        },
    )
    rows = Counting(SqliteStore(tmp_path / "s.db"))
    given = [f"{number} ä" for number in range(600)]
    ended, journal = await carry(graph, given, Upper(), rows)
    assert rows.reads < 20
    assert ended.items == 600
    assert await journal.values(0, 0, 600) == [json.dumps(each, ensure_ascii=False) for each in given]
    rows.store.close()


async def test_what_is_counted_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """What entries take is counted in bytes of UTF-8, those of items that are left out too, by each kernel alike."""
    rows = Rows(SqliteStore(tmp_path / "s.db"))
    graph = pipeline({"name": "a", "map": "{input}", "when": "index < 1", "branch": [{"value": "{item}"}]})
    _, journal = await carry(graph, ["äöü", "b"], Upper(), rows)
    again = Journal(rows, "t", "r", steps=1, most_bytes=1 << 20)
    await again.replay()
    assert journal.size_bytes == again.size_bytes == len('"äöü"null'.encode()) + 3 * ENTRY_BYTES
    assert journal.steps[0].sizes == again.steps[0].sizes
    rows.store.close()


def test_an_order_is_read_as_it_was_put() -> None:
    """What is kept of a run is read by the kernel after this one as it was."""
    ended = replace(
        ORDER,
        state=PipelineState.SUCCEEDED,
        written=bytes(range(256)),
        output=Ended(json="1", digest="d", size_bytes=2, items=1, listed=False),
        usage=(1, 2, 3),
    )
    assert Order.read(ended.put().value) == ended


async def test_what_all_runs_hold_has_a_bound() -> None:
    """Values beyond it are read again and held no more, whichever run they are of; what comes of it is the same."""
    given = [f"text {number}" for number in range(9)]
    whole, _ = await carry(pipeline(*REDUCE), given, Upper())
    held = HeldValues(100)
    runs = []
    for _ in range(3):
        graph = pipeline(*REDUCE)
        journal = Journal(None, "t", "r", steps=len(graph.steps), most_bytes=1 << 20)
        await journal.replay()
        runs.append(Run(ORDER, graph, journal, Value.of(given), Upper(), LIMITS, held))
        assert (await runs[-1].go()).digest == whole.digest
        assert sum(held._bytes.values()) <= 100
    assert held._bytes[runs[0]] > 0
    assert len(held._bytes) == 3
    del runs, journal
    gc.collect()
    assert not held._bytes
