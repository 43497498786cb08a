"""What grammars hold of a worker's descriptors and threads, and what happens when it has none left."""

import errno
import gc
import os
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inferd.core.task import FinishReason
from inferd.engine.cells.cell import CellError, Cells
from inferd.engine.token.limits import CELL_MEMORY_BYTES, EngineLimits, GrammarLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.submission import Submission
from inferd.engine.work import TextInput
from inferd.errors import BackendFailedError, InferdError, InternalError, InvalidFieldError
from inferd.plugin import LoadRequest
from inferd.sampling import Grammar, GrammarKind, Sampling
from inferd.testing.fake import VOCABULARY, FakeBackend
from inferd.testing.kernel import write_fake_model

if TYPE_CHECKING:
    from inferd.engine.token.output import StepOutput

DEADLINE_S = 60.0
MOST = 2


class Running:
    """A loop over the fake model that keeps `MOST` grammars."""

    def __init__(self, folder: Path) -> None:
        request = LoadRequest(path=write_fake_model(folder), device="fake:0", capacity_bytes=1 << 30)
        limits = EngineLimits(grammar=GrammarLimits(compile_s=DEADLINE_S, step_s=DEADLINE_S, most=MOST))
        self.outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
        self.cells = Cells(VOCABULARY, size=len(VOCABULARY.tokens), memory_bytes=CELL_MEMORY_BYTES)
        self.loop = Loop(FakeBackend().load(request, lambda _: None), limits, self.outputs.put, cells=self.cells)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def end(self, handle: int, pattern: str | None = None) -> FinishReason | InferdError:
        """How a task ends."""
        grammar = None if pattern is None else Grammar(GrammarKind.REGEX, pattern)
        self.loop.submit(Submission(handle, TextInput("aaaa"), Sampling(temperature=0, max_tokens=40, grammar=grammar)))
        while True:
            for ended in self.outputs.get(timeout=DEADLINE_S).ended:
                assert ended.handle == handle
                return ended.error or ended.reason

    def close(self) -> None:
        self.loop.stop()
        self.thread.join(DEADLINE_S)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.close()


def held() -> list[str]:
    """What the descriptors of this process are of."""
    found = []
    for link in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # that of the listing
            found.append(str(link.readlink()))
    return found


def test_descriptors_are_given_back_at_once(running: Running) -> None:
    """However many grammars come, good and bad, only those that are kept hold any; no garbage is waited for."""
    running.end(1, "a{3}")
    gc.disable()
    try:
        before = held()
        for handle in range(2, 22):
            how = running.end(handle, f"a{{{handle}}}" + "(" * (handle % 2))
            assert isinstance(how, InvalidFieldError) if handle % 2 else how == FinishReason.END_OF_TEXT
        links = held()
    finally:
        gc.enable()
    of_masks = [sum("memfd:masks" in link for link in each) for each in (before, links)]
    assert of_masks[1] <= of_masks[0] + 2 * MOST  # the descriptor, and that of the mapping
    assert len(links) <= len(before) + 8 * MOST


def test_a_loop_that_ends_holds_nothing(tmp_path: Path) -> None:
    """Grammars that are kept are given up when the loop ends."""
    before = sum("memfd:masks" in link for link in held())
    made = Running(tmp_path)
    assert made.end(1, "a{3}") == FinishReason.END_OF_TEXT
    gc.disable()
    try:
        made.close()
        assert sum("memfd:masks" in link for link in held()) == before
    finally:
        gc.enable()


def no_more(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EMFILE, "Too many open files")


def test_no_descriptor_for_a_grammar(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory to share with a cell, the task fails and says so; those after it are taken."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", no_more)
        error = running.end(1, "a{3}")
    assert isinstance(error, BackendFailedError)
    assert "Too many open files" in error.message
    assert running.end(2, "a{3}") == FinishReason.END_OF_TEXT


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many files"), RuntimeError("can't start new thread")])
def test_what_fails_when_a_grammar_is_opened(
    running: Running, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Without a descriptor or a thread for it only that task fails: the thread that takes tasks in goes on."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(running.loop._grammars, "open", fail)
        told = running.end(1, "a{3}")
    assert isinstance(told, InternalError)
    assert str(error.args[-1]) in told.message
    assert running.end(2) == FinishReason.MAX_TOKENS
    assert running.end(3, "a{3}") == FinishReason.END_OF_TEXT


def test_no_thread_for_a_grammar(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar for which no thread can be started fails its own task, and can be asked for again."""
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if thread.name.startswith("grammar"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_others)
        assert isinstance(running.end(1, "a{3}"), InternalError)
    assert running.end(2, "a{3}") == FinishReason.END_OF_TEXT


def test_cells_that_live_survive_a_want_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that cannot be started for want of a descriptor costs none of the others."""
    cells = Cells(VOCABULARY, size=len(VOCABULARY.tokens), memory_bytes=CELL_MEMORY_BYTES)
    cell = cells.spawn("encode")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", no_more)
        with pytest.raises(CellError, match="Too many open files"):
            cells.spawn("encode")
    cell.channel.send({"template": False, "own": None, "plain": []}, "aé".encode(), timeout_s=DEADLINE_S)
    assert cell.channel.receive(timeout_s=DEADLINE_S)[0] == {}
    cell.end()
    cells.close()
