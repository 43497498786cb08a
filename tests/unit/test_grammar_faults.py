"""Grammars that take too long or too much, and cells that are killed: who is told, and who does not notice."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from inferd.core.task import FinishReason
from inferd.engine.cells import follow
from inferd.engine.cells.cell import Cells
from inferd.engine.token.limits import CELL_MEMORY_BYTES, EngineLimits, GrammarLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.submission import Continuation, SampleSoFar, Submission
from inferd.engine.work import ChatInput, Message
from inferd.errors import BackendFailedError, InferdError, LimitExceededError
from inferd.plugin import LoadRequest
from inferd.sampling import Grammar, GrammarKind, Sampling
from inferd.testing.fake import VOCABULARY, FakeBackend
from inferd.testing.kernel import write_fake_model

if TYPE_CHECKING:
    from inferd.engine.token.output import StepOutput

DEADLINE_S = 60.0
END = FinishReason.END_OF_TEXT
SLOW = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "integer", "multipleOf": 999983}')
WEDGES = ['start: /a+/ "a"', 'start: /[ ]+/ " end"', 'start: A B\nA: /x+/\nB: "x"']
HALF = Grammar(GrammarKind.LARK, 'start: "w" /a+/ "a" | "h" /[a-z]+/')  # hangs behind "w" only
LETTERS = Grammar(GrammarKind.REGEX, "[a-z]*")
PATIENT = GrammarLimits(compile_s=DEADLINE_S, step_s=DEADLINE_S)


class Running:
    """A loop over the fake model in a thread of its own; an output repeats the words of its prompt."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        request = LoadRequest(path=write_fake_model(folder), device="fake:0", capacity_bytes=1 << 30)
        self.outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
        self.texts: dict[int, str] = {}
        self.ends: dict[int, FinishReason | InferdError] = {}
        engine = EngineLimits(**limits)
        memory_bytes = engine.cell_memory_bytes
        self.cells = Cells(VOCABULARY, size=len(VOCABULARY.tokens), memory_bytes=memory_bytes)
        self.loop = Loop(FakeBackend().load(request, lambda _: None), engine, self.outputs.put, cells=self.cells)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def submit(self, handle: int, words: str, grammar: Grammar | None = None, **more: Any) -> None:
        sampling = Sampling(temperature=0, grammar=grammar, **({"max_tokens": 40} | more))
        self.loop.submit(Submission(handle, ChatInput((Message("user", words),)), sampling))

    def wait(self, enough: Callable[[], bool]) -> None:
        """Take outputs until there are enough of them."""
        while not enough():
            output = self.outputs.get(timeout=DEADLINE_S)
            for handle, text in zip(output.handles, output.texts, strict=True):
                self.texts[handle] = self.texts.get(handle, "") + text
            self.ends |= {ended.handle: ended.error or ended.reason for ended in output.ended}

    def end(self, *handles: int) -> list[FinishReason | InferdError]:
        """How tasks end."""
        self.wait(lambda: set(handles) <= set(self.ends))
        return [self.ends[handle] for handle in handles]

    def rooms(self) -> list[Any]:
        return list(self.loop._grammars._rooms._open.values())

    def close(self) -> None:
        self.loop.stop()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Makes loops, and ends them."""
    made: list[Running] = []

    def make(**limits: Any) -> Running:
        made.append(Running(tmp_path, **limits))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("source", WEDGES)
def test_a_grammar_whose_masks_never_come(run: Callable[..., Running], source: str) -> None:
    """Its task fails by name after the time of a token; tasks beside it, with grammars and without, end as ever."""
    running = run(grammar=replace(PATIENT, step_s=0.5))
    running.submit(1, "aaaa", Grammar(GrammarKind.LARK, source))
    running.submit(2, "hello")
    running.submit(3, "hello", Grammar(GrammarKind.REGEX, "he[a-z]{2}y"))
    hung, free, bound = running.end(1, 2, 3)
    assert isinstance(hung, LimitExceededError)
    assert hung.field == "spec.sampling.grammar"
    assert hung.metadata["bound"] == "workers.grammar_step_s"
    assert "longer than 0.5 s" in hung.message
    assert (free, bound) == (END, END)
    assert (running.texts[2], running.texts[3]) == ("hello", "helly")


def test_who_shares_a_grammar_with_one_that_hangs_goes_on(run: Callable[..., Running]) -> None:
    """The cell is killed and started again; the outputs that did not hang go on where they were, token for token."""
    running = run(grammar=replace(PATIENT, step_s=0.5))
    running.submit(1, "hello", HALF, ignore_eos=True, max_tokens=30)
    alone = running.end(1)
    running.submit(2, "hello", HALF, ignore_eos=True, max_tokens=30)
    running.submit(3, "waaaa", HALF)
    running.submit(4, "hello", HALF, ignore_eos=True, max_tokens=30)
    first, hung, second = running.end(2, 3, 4)
    assert isinstance(hung, LimitExceededError)
    assert [first, second] == alone * 2
    assert running.texts[1] == running.texts[2] == running.texts[4]
    assert len(running.texts[1]) == 30


def test_no_step_waits_for_a_grammar_that_hangs(run: Callable[..., Running]) -> None:
    """While the masks of one task do not come, another task that came later runs from its first token to its last."""
    running = run(grammar=replace(PATIENT, wait_s=0.01))
    running.submit(1, "aaaa", Grammar(GrammarKind.LARK, WEDGES[0]))
    running.wait(lambda: bool(running.rooms()))
    running.submit(2, "hello")
    assert running.end(2) == [END]
    assert 1 not in running.ends
    running.loop.cancel(1)


def test_compiling_that_takes_too_long(run: Callable[..., Running]) -> None:
    """A schema that takes long to compile is refused after its time, by name; meanwhile others come in."""
    running = run(grammar=replace(PATIENT, compile_s=1.0))
    running.submit(1, "12", SLOW)
    running.submit(2, "hello")
    running.submit(3, "hello", LETTERS)
    running.end(2, 3)
    assert 1 not in running.ends
    (slow,) = running.end(1)
    assert isinstance(slow, LimitExceededError)
    assert slow.metadata["bound"] == "workers.grammar_compile_s"
    assert "compiling it took longer than 1 s" in slow.message
    assert slow.field == "spec.sampling.grammar"


def test_a_grammar_that_took_too_long_is_not_tried_again_at_once(run: Callable[..., Running]) -> None:
    """The same grammar is refused without being compiled, for as long as it is known."""
    running = run(grammar=replace(PATIENT, compile_s=0.5))
    running.submit(1, "12", SLOW)
    first = running.end(1)
    spawned: list[str] = []
    running.cells.spawn = lambda role, *_: spawned.append(role)  # type: ignore[method-assign,assignment]
    running.submit(2, "12", SLOW)
    assert str(running.end(2)[0]) == str(first[0])
    assert not spawned


def test_compiling_ends_when_nobody_wants_it_any_more(run: Callable[..., Running]) -> None:
    """A task that is cancelled while its grammar is compiled leaves no process behind."""
    running = run(grammar=PATIENT)
    started = threading.Event()
    cells: list[Any] = []
    spawn = running.cells.spawn

    def note(role: str, *more: Any) -> Any:
        cell = spawn(role, *more)
        if role == "grammar":
            cells.append(cell)
            started.set()
        return cell

    running.cells.spawn = note  # type: ignore[method-assign,assignment]
    running.submit(1, "12", SLOW)
    assert started.wait(DEADLINE_S)
    process = psutil.Process(cells[0].pid)
    running.loop.cancel(1)
    assert process.wait(DEADLINE_S) is None
    running.submit(2, "hello")
    assert running.end(2) == [END]
    assert 1 not in running.ends


def test_a_grammar_that_takes_too_much_memory(run: Callable[..., Running]) -> None:
    """A grammar that grows without end is ended at its bound, long before its time is over, and says so."""
    running = run(grammar=PATIENT, cell_memory_bytes=12 << 20)
    running.submit(1, "aaaa", Grammar(GrammarKind.LARK, WEDGES[0]))
    running.submit(2, "hello", LETTERS)
    grown, other = running.end(1, 2)
    assert isinstance(grown, LimitExceededError)
    assert grown.metadata["bound"] == "workers.cell_memory_bytes"
    assert grown.metadata["limit"] == str(12 << 20)
    assert other == END


@pytest.mark.parametrize("whose", ["cell", "stem"])
def test_a_cell_that_is_killed_is_not_noticed(run: Callable[..., Running], whose: str) -> None:
    """When a cell, or the process that they come from, is killed in the middle, all outputs go on as if it were not."""
    running = run(grammar=PATIENT)
    running.submit(1, "hello", LETTERS, ignore_eos=True, max_tokens=1000)
    running.end(1)
    for handle in (2, 3):
        running.submit(handle, "hello", LETTERS, ignore_eos=True, max_tokens=1000)
    running.wait(lambda: 2 in running.texts and 3 in running.texts)
    cell = psutil.Process(running.rooms()[0]._cell.pid)
    victim = cell if whose == "cell" else cell.parent()
    assert victim is not None
    victim.send_signal(signal.SIGKILL)
    running.wait(lambda: {2, 3} <= set(running.ends))
    assert running.texts[2] == running.texts[3] == running.texts[1]
    assert running.ends[2] == running.ends[3] == running.ends[1]
    with suppress(psutil.NoSuchProcess):
        cell.wait(DEADLINE_S)


def test_an_output_at_which_the_cell_dies_again_and_again(run: Callable[..., Running]) -> None:
    """Its task fails by name at the second death; the others of its grammar go on."""
    running = run(grammar=PATIENT)
    running.submit(1, "hello", HALF, ignore_eos=True, max_tokens=30)
    running.end(1)
    running.submit(2, "hello", HALF, ignore_eos=True, max_tokens=30)
    running.submit(3, "waaaa", HALF)
    room = next(room for room in running.rooms() if room.grammar == HALF)
    killed: set[int] = set()
    while 3 not in running.ends:
        cell, hung = room._cell, room._outputs.get(room._at()[1])
        if room.late and cell is not None and hung is not None and hung.tokens[:1] == [ord("w")]:
            killed.add(cell.pid)
            cell.kill()
        if not running.outputs.empty():
            running.wait(running.outputs.empty)
    assert len(killed) >= 2
    error = running.ends[3]
    assert isinstance(error, BackendFailedError)
    assert "signal 9" in error.message
    assert running.end(2) == running.end(1)
    assert running.texts[2] == running.texts[1]


def test_dropped_tasks_hold_no_process(run: Callable[..., Running]) -> None:
    """Where one grammar is kept at most, a dropped task makes way for another's, and goes on exactly afterwards."""
    running = run(grammar=replace(PATIENT, most=1))
    running.submit(1, "hello", LETTERS, ignore_eos=True, max_tokens=1000)
    running.wait(lambda: len(running.texts.get(1, "")) > 2)
    running.loop.cancel(1)
    running.submit(2, "hello", Grammar(GrammarKind.REGEX, "he[a-z]{2}y"))
    assert running.end(2) == [END]
    assert 1 not in running.ends
    assert [room.grammar.source for room in running.rooms()] == ["he[a-z]{2}y"]
    told = SampleSoFar(list(running.texts[1].encode()))  # a token is a byte
    running.texts[4] = running.texts[1]
    sampling = Sampling(temperature=0, grammar=LETTERS, ignore_eos=True, max_tokens=1000)
    task_input = ChatInput((Message("user", "hello"),))
    running.loop.submit(
        Submission(4, task_input, sampling, continuation=Continuation(samples={0: told}, prompt_told=True))
    )
    running.submit(3, "hello", LETTERS, ignore_eos=True, max_tokens=1000)
    assert running.end(3) == running.end(4)
    assert running.texts[3] == running.texts[4]


def test_panics_of_the_library_are_errors() -> None:
    """A panic of Rust code, which is no Exception, becomes the error of its grammar or of its output."""

    class PanicException(BaseException):
        pass

    class Matcher:
        def deep_copy(self) -> "Matcher":
            return self

        def is_stopped(self) -> bool:
            return False

        def is_error(self) -> bool:
            return False

        def get_error(self) -> str:
            return ""

        def consume_tokens(self, tokens: list[int]) -> None:
            if tokens:
                raise PanicException("index out of bounds")

        def unsafe_compute_mask_ptr(self, *_: int) -> None:
            raise PanicException("attempt to divide by zero")

    outputs = [follow._Output(Matcher(), None) for _ in range(2)]  # type: ignore[arg-type]
    assert [output.take(tokens) for output, tokens in zip(outputs, ([], [1]), strict=True)] == [False, False]
    assert outputs[0].fill(0, 0) == "the grammar library failed: attempt to divide by zero"
    assert outputs[1].fill(0, 0) == "the grammar library failed: index out of bounds"


def test_cells_end_with_their_worker() -> None:
    """When a worker is killed, the process beside it and a cell that hangs are gone with it."""
    script = (
        "import json, sys, threading\n"
        "from inferd.engine.cells.cell import Cells\n"
        "from inferd.testing.fake import VOCABULARY\n"
        "import os\n"
        f"cells = Cells(VOCABULARY, size=len(VOCABULARY.tokens), memory_bytes={CELL_MEMORY_BYTES})\n"
        "memory = os.memfd_create('m'); os.ftruncate(memory, 1 << 16)\n"
        "cell = cells.spawn('grammar', (memory,))\n"
        "limits = dict(initial_lexer_fuel=10**6)\n"
        "cell.channel.send({'kind': 'JSON_SCHEMA', 'source': sys.argv[1], 'limits': limits, 'mask_bytes': 64})\n"
        "print(cell.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, json.loads(json.dumps(SLOW.source))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        cell = psutil.Process(int(worker.stdout.readline()))
        stem = cell.parent()
        assert stem is not None
        assert stem.ppid() == worker.pid
        os.kill(worker.pid, signal.SIGKILL)
        for process in (stem, cell):
            with suppress(psutil.NoSuchProcess):
                process.wait(DEADLINE_S)


def test_the_stem_has_one_thread() -> None:
    """What cells are forked from has no thread but its own: no lock of another is held for ever in a cell."""
    cells = Cells(VOCABULARY, size=len(VOCABULARY.tokens), memory_bytes=CELL_MEMORY_BYTES)
    memory = os.memfd_create("m")
    cell = cells.spawn("grammar", (memory,))
    stem = psutil.Process(cell.pid).parent()
    assert stem is not None
    assert stem.num_threads() == 1
    assert psutil.Process(cell.pid).num_threads() == 1
    cell.end()
    cells.close()
    os.close(memory)
