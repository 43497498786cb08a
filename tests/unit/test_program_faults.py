"""What a program does wrongly with its replies and threads is its request's end, and nobody else's."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from time_limits import LONG_S

from inferd.engine.program import utils as pb
from inferd.engine.program.backend import ProgramBackend
from inferd.engine.program.lane import Lane
from inferd.engine.program.reply import FINAL, MOST_WAITING, Reply, ReplyError
from inferd.engine.program.session import ProgramSession
from inferd.engine.program.signature import signature_of
from inferd.engine.program.threads import PROGRAM, spares
from inferd.errors import BackendFailedError
from inferd.plugin import LoadError, LoadRequest
from inferd.worker.frames import failure


def full() -> Reply:
    """A reply whose next response must wait."""
    reply = Reply(once=False)
    reply.hold()
    for number in range(MOST_WAITING):
        reply.send(number, 0)
    return reply


def test_what_is_sent_to_nobody_is_not_kept() -> None:
    """After a cancel each response is dropped, and a program that sends on and on is ended."""
    reply = full()
    reply.cancel()
    for number in range(MOST_WAITING):
        reply.send(number, 0)
    assert not reply._waiting
    for _ in range(2):
        with pytest.raises(ReplyError, match="nobody waits for more"):
            reply.send("more", 0)
    reply.send(None, FINAL)


@pytest.mark.parametrize("ends", [lambda reply: reply.send(None, FINAL), lambda reply: reply.fail(KeyError("lost"))])
def test_an_end_holds_that_comes_while_another_response_waits(ends: Callable[[Reply], None]) -> None:
    """Whoever waits to send is refused then, and the reader is told the end, or the failure."""
    reply, begun, refused = full(), threading.Event(), threading.Event()
    wait = reply._changed.wait_for

    def waits(condition: Callable[[], Any], within_s: float | None = None) -> Any:
        begun.set()
        return wait(condition, within_s)

    reply._changed.wait_for = waits  # type: ignore[method-assign, assignment]

    def late() -> None:
        try:
            reply.send("late", 0)
        except ReplyError:
            refused.set()

    thread = threading.Thread(target=late, daemon=True)
    thread.start()
    assert begun.wait(LONG_S)
    ends(reply)
    assert refused.wait(LONG_S)
    thread.join(LONG_S)
    assert [reply.read() for _ in range(MOST_WAITING)] == list(range(MOST_WAITING))
    assert reply.begun
    read: list[Any] = []

    def last() -> None:
        try:
            read.append(reply.read())
        except KeyError:
            read.append("failed")

    reader = threading.Thread(target=last, daemon=True)
    reader.start()
    reader.join(LONG_S)
    assert read in ([None], ["failed"])


def test_an_exception_in_a_thread_of_a_program_fails_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on; a thread of the worker itself, which nobody would replace, still ends it."""
    module = ModuleType(PROGRAM)
    module.__file__ = __file__
    monkeypatch.setitem(sys.modules, PROGRAM, module)
    spared: list[bool] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: spared.append(spares(args)))

    class Program:
        def execute(self, requests: list[Any]) -> None:
            threading.Thread(target=tell, args=(requests[0].get_response_sender(),)).start()

    def tell(sender: Any) -> None:
        sender.send(pb.InferenceResponse([pb.Tensor("y", np.array([1], np.int32))]))
        raise KeyError("lost")

    said = [{"name": "y", "data_type": "TYPE_INT32", "dims": [1]}]
    signature = signature_of({"input": said, "output": said})
    asked = ProgramSession(Program(), Lane(), name="m", path=__file__, signature=signature, decoupled=True)
    sets: Any = asked.predict({}, ("y",))
    assert next(sets)["y"].array.tolist() == [1]
    with pytest.raises(BackendFailedError, match=r"'m_0', message: KeyError: 'lost' \(.*test_program_faults.py:"):
        next(sets)
    own = threading.Thread(target=Reply(once=True).send, args=(None, 0))
    own.start()
    own.join(LONG_S)
    assert spared == [True, False]
    monkeypatch.delitem(sys.modules, PROGRAM)
    other = threading.Thread(target=tell, args=(None,))
    other.start()
    other.join(LONG_S)
    assert spared == [True, False, False]  # no program is loaded


def test_an_error_is_told_that_has_what_is_no_unicode() -> None:
    """What foreign code says of its inputs goes on its way with the rest in order, in its message and its facts."""
    told = failure(BackendFailedError("bad \udcff file", metadata={"cause": "\udcff"}))
    assert (told.message, told.metadata["cause"]) == ("bad ? file", "?")


def decoupled(execute: Callable[[Any], Any], *, quiet_s: float) -> ProgramSession:
    """A session of a program that does this with a request."""

    class Program:
        def execute(self, requests: list[Any]) -> None:
            execute(requests[0])

    said = [{"name": "y", "data_type": "TYPE_INT32", "dims": [1]}]
    signature = signature_of({"input": said, "output": said})
    return ProgramSession(
        Program(), Lane(), name="m", path=__file__, signature=signature, decoupled=True, quiet_s=quiet_s
    )


def test_a_quiet_request_of_a_decoupled_program_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others may be told, it says that nothing has come; after too long it fails by itself."""
    monkeypatch.setattr("inferd.engine.program.session.TICK_S", 0.01)
    held: list[Any] = []
    sets: Any = decoupled(lambda request: held.append(request.get_response_sender()), quiet_s=1000).predict({}, ("y",))
    assert next(sets) == {}
    held[0].send(pb.InferenceResponse([pb.Tensor("y", np.array([1], np.int32))]), FINAL)
    assert [each["y"].array.tolist() for each in sets if each] == [[1]]
    sets = decoupled(lambda request: held.append(request.get_response_sender()), quiet_s=0.05).predict({}, ("y",))
    with pytest.raises(BackendFailedError, match=r"nothing was sent for 0.05 s.*inferd.quiet_s"):
        list(sets)


HANGS = """
import threading
class TritonPythonModel:
    def initialize(self, args):
        threading.Event().wait(5)
    def execute(self, requests):
        return []
"""


def test_a_program_that_does_not_begin_is_not_waited_for(tmp_path: Path) -> None:
    """After `inferd.begin_s` its load fails, and says by which parameter it may take longer."""
    path = tmp_path / "m" / "1" / "model.py"
    path.parent.mkdir(parents=True)
    path.write_text(HANGS)
    said = '[{"name": "y", "data_type": "TYPE_INT32", "dims": [1]}]'
    settings: dict[str, Any] = {"config": f'{{"input": {said}, "output": {said}}}', "model": "m", "version": "1"}
    settings |= {"memory_mib": 1, "files": "", "begin_s": 1, "quiet_s": 600}
    request = LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=1 << 30)
    with pytest.raises(LoadError, match=r"has not returned within 1 s; .* parameter inferd.begin_s"):
        ProgramBackend().load(request, lambda _: None)
