"""Grammars of several tenants and classes: whose are compiled, and who has a room where there are too few."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inferd.core.ids import Tenant
from inferd.core.task import FinishReason
from inferd.engine.cells.cell import Cells
from inferd.engine.token.limits import CELL_MEMORY_BYTES, EngineLimits, GrammarLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.rooms import EACH
from inferd.engine.token.submission import Share, Submission
from inferd.engine.work import ChatInput, Message
from inferd.errors import InferdError
from inferd.plugin import LoadRequest
from inferd.sampling import Grammar, GrammarKind, Sampling
from inferd.testing.fake import VOCABULARY, FakeBackend
from inferd.testing.kernel import write_fake_model

if TYPE_CHECKING:
    from inferd.engine.token.output import StepOutput

DEADLINE_S = 60.0
END = FinishReason.END_OF_TEXT
LOW, NORMAL, HIGH = 1, 2, 3
PATIENT = GrammarLimits(compile_s=10**6, step_s=DEADLINE_S)
ENDLESS = "[a-z]*"
LONG = 1000


def regex(source: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, source)


def slow(number: int) -> Grammar:
    """One that takes minutes to compile."""
    return Grammar(GrammarKind.JSON_SCHEMA, f'{{"type": "integer", "multipleOf": {999_983 + 2 * number}}}')


class Running:
    """A loop over the fake model, which repeats the words of its prompt."""

    def __init__(self, folder: Path, most: int) -> None:
        request = LoadRequest(path=write_fake_model(folder), device="fake:0", capacity_bytes=1 << 30)
        self.outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
        self.texts: dict[int, str] = {}
        self.ends: dict[int, FinishReason | InferdError] = {}
        self.cells = Cells(VOCABULARY, size=len(VOCABULARY.tokens), memory_bytes=CELL_MEMORY_BYTES)
        limits = EngineLimits(grammar=replace(PATIENT, most=most))
        self.loop = Loop(FakeBackend().load(request, lambda _: None), limits, self.outputs.put, cells=self.cells)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def submit(self, handle: int, grammar: Grammar, tenant: str, priority: int = NORMAL, tokens: int = 40) -> None:
        self.loop.submit(
            Submission(
                handle,
                ChatInput((Message("user", "hello"),)),
                Sampling(temperature=0, grammar=grammar, max_tokens=tokens, ignore_eos=tokens == LONG),
                priority=priority,
                share=Share(tenant=Tenant(tenant)),
            )
        )

    def wait(self, enough: Callable[[], bool]) -> None:
        """Take outputs until something is so; it may be so without one."""
        until = time.monotonic() + DEADLINE_S
        while not enough():
            assert time.monotonic() < until
            try:
                output = self.outputs.get(timeout=0.05)
            except queue.Empty:
                continue
            for handle, text in zip(output.handles, output.texts, strict=True):
                self.texts[handle] = self.texts.get(handle, "") + text
            self.ends |= {ended.handle: ended.error or ended.reason for ended in output.ended}

    def end(self, *handles: int) -> list[FinishReason | InferdError]:
        """How tasks end."""
        self.wait(lambda: set(handles) <= set(self.ends))
        return [self.ends[handle] for handle in handles]

    @property
    def places(self) -> int:
        return len(self.loop._grammars._rooms._places)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[int], Running]]:
    """Makes a loop that keeps so many grammars, and ends it."""
    made: list[Running] = []

    def make(most: int) -> Running:
        made.append(Running(tmp_path, most))
        return made[-1]

    yield make
    for each in made:
        each.loop.stop()
        each.thread.join(DEADLINE_S)
        assert not each.thread.is_alive()


def threads() -> int:
    return sum(thread.name == "grammar" for thread in threading.enumerate())


def test_another_tenant_is_compiled_at_once(run: Callable[[int], Running]) -> None:
    """However many grammars one tenant sends that take long, those of another are compiled beside them."""
    running = run(64)
    for handle in range(30):
        running.submit(handle, slow(handle), "a", HIGH)
    for handle in (100, 101, 102):
        running.submit(handle, regex(f"he[a-z]{{{handle - 98}}}"), "b", LOW)
        running.end(handle)
    assert threads() <= EACH + 1  # those that wait hold none, and no room; the last of the other may be ending
    assert running.places <= EACH + 3
    assert not set(range(30)) & set(running.ends)


def test_who_wants_what_another_waits_for_waits_in_his_own_line(run: Callable[[int], Running]) -> None:
    """A grammar that one tenant has to wait for is compiled as soon as the turn of any who wants it comes."""
    running = run(64)
    for handle in range(EACH):
        running.submit(handle, slow(handle), "a")
    running.submit(50, regex("he[a-z]{3}"), "a")
    running.submit(51, regex("he[a-z]{3}"), "b")
    assert running.end(50, 51) == [END, END]


def test_who_is_withdrawn_waits_no_more(run: Callable[[int], Running]) -> None:
    """Grammars that wait for their turn are forgotten with their tasks, and those behind them have it."""
    running = run(64)
    for handle in range(30):
        running.submit(handle, slow(handle), "a")
    running.submit(100, regex("he[a-z]{3}"), "a")
    for handle in range(30):
        running.loop.cancel(handle)
    assert running.end(100) == [END]
    assert len(running.loop._grammars._rooms._gate) == 0


def test_a_higher_class_takes_the_room_of_a_lower(run: Callable[[int], Running]) -> None:
    """Where all rooms are in use, a task of a higher class has one at once; who lost it goes on where it was."""
    running = run(1)
    running.submit(1, regex(ENDLESS), "a", tokens=LONG)
    alone = running.end(1)
    running.submit(2, regex(ENDLESS), "a", LOW, tokens=LONG)
    running.wait(lambda: len(running.texts.get(2, "")) > 2)
    running.submit(3, regex("he[a-z]{3}"), "a", HIGH)
    assert running.end(3) == [END]
    assert 2 not in running.ends
    assert running.places <= 1
    assert running.end(2) == alone
    assert running.texts[2] == running.texts[1]


def test_rooms_are_shared_between_tenants(run: Callable[[int], Running]) -> None:
    """Where one tenant is in all rooms, another one of its class gets one; all outputs are what they are alone."""
    running = run(3)
    running.submit(1, regex(ENDLESS), "a", tokens=LONG)
    running.end(1)
    many = range(10, 14)
    for handle in many:
        running.submit(handle, regex(f"[a-z]*|{handle}"), "a", tokens=LONG)
    running.wait(lambda: sum(len(running.texts.get(handle, "")) > 2 for handle in many) >= 3)
    running.submit(3, regex("he[a-z]{3}"), "b")
    assert running.end(3) == [END]
    assert not set(many) & set(running.ends)
    running.end(*many)
    assert {running.texts[handle] for handle in many} == {running.texts[1]}
    assert running.places <= 3


def test_who_shares_a_room_that_is_taken_away(run: Callable[[int], Running]) -> None:
    """Several outputs of one grammar, one of them cancelled meanwhile, go on together in another room."""
    running = run(1)
    running.submit(1, regex(ENDLESS), "a", tokens=LONG)
    alone = running.end(1)
    for handle in (2, 3, 4):
        running.submit(handle, regex(ENDLESS), "a", LOW, tokens=LONG)
    running.wait(lambda: all(len(running.texts.get(handle, "")) > 2 for handle in (2, 3, 4)))
    running.submit(5, slow(0), "b", HIGH)  # keeps the room
    running.wait(lambda: not running.loop._places.rows)
    running.loop.cancel(3)
    running.loop.cancel(5)
    assert running.end(2, 4) == alone * 2
    assert running.texts[2] == running.texts[4] == running.texts[1]


def test_a_room_that_is_taken_away_from_nobody_is_gone(run: Callable[[int], Running]) -> None:
    """When all who were in a room that is another's end, nothing of it stays."""
    running = run(1)
    running.submit(2, regex(ENDLESS), "a", LOW, tokens=LONG)
    running.wait(lambda: len(running.texts.get(2, "")) > 2)
    (room,) = running.loop._grammars._rooms._places
    running.submit(5, slow(0), "b", HIGH)
    running.wait(lambda: room.taken)
    running.loop.cancel(2)
    running.loop.cancel(5)
    running.submit(6, regex("he[a-z]{3}"), "a", LOW)
    assert running.end(6) == [END]
    assert room.gone
    assert room not in running.loop._grammars._rooms._again
