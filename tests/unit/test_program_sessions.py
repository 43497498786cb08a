"""Programs as sessions of tensors: what they answer, when, and what is told where they answer wrongly."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from time_limits import LONG_S

from inferd.engine.program import utils as pb
from inferd.engine.program.backend import ProgramBackend
from inferd.engine.program.lane import Lane
from inferd.engine.program.reply import MOST_WAITING
from inferd.engine.program.session import ProgramSession
from inferd.engine.program.signature import signature_of
from inferd.errors import BackendFailedError
from inferd.plugin import ElementType, LoadError, LoadRequest, Tensor

CONFIG: dict[str, Any] = {
    "input": [{"name": "x", "data_type": "TYPE_INT32", "dims": [-1]}],
    "output": [{"name": "y", "data_type": "TYPE_INT32", "dims": [-1]}],
}
FINAL = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class Program:
    """Answers with what a function gives for a request."""

    def __init__(self, answer: Callable[[pb.InferenceRequest], Any]) -> None:
        self._answer = answer

    def execute(self, requests: list[pb.InferenceRequest]) -> Any:
        (request,) = requests
        return self._answer(request)


def session(answer: Callable[[pb.InferenceRequest], Any], *, decoupled: bool = False) -> ProgramSession:
    return ProgramSession(
        Program(answer), Lane(), name="m", path="model.py", signature=signature_of(CONFIG), decoupled=decoupled
    )


def ask(asked: ProgramSession, *numbers: int) -> Any:
    array = np.array(numbers or (1,), np.int32)
    return asked.predict({"x": Tensor(element_type=ElementType.INT32, shape=array.shape, array=array)}, ("y",))


def response(*numbers: int, dtype: Any = np.int32) -> pb.InferenceResponse:
    return pb.InferenceResponse([pb.Tensor("y", np.array(numbers, dtype))])


def numbers(sets: Any) -> list[list[int]]:
    return [each["y"].array.tolist() for each in sets]


def test_a_response_comes_however_it_is_given() -> None:
    """A program may return its one response, send it from any thread, or give it by a coroutine."""

    async def later(_: pb.InferenceRequest) -> Any:
        await asyncio.sleep(0)
        return [response(3)]

    def send(request: pb.InferenceRequest) -> Any:
        threading.Thread(target=request.get_response_sender().send, args=(response(2), FINAL)).start()
        return [None]

    def sent(request: pb.InferenceRequest) -> Any:
        request.get_response_sender().send(response(4), FINAL)

    def apart(request: pb.InferenceRequest) -> Any:
        sender = request.get_response_sender()
        sender.send(response(5))
        sender.send(flags=FINAL)

    for answer, expected in ((lambda _: [response(1)], 1), (send, 2), (later, 3), (sent, 4), (apart, 5)):
        assert ask(session(answer))["y"].array.tolist() == [expected]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda _: None, "expected a list of InferenceResponse in the execute function return"),
        (lambda _: [], "InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0"),
        (lambda _: [response(1), response(2)], "InferenceResponse(s) size is:2"),
        (lambda _: [3], "found type 'int'"),
        (lambda r: [r.get_response_sender().send(response(1), FINAL) or response(2)], "sent, and another one returned"),
        (lambda _: [None], "none was sent"),
        (lambda _: [response(1, dtype=np.float64)], "output 'y' is TYPE_FP64; the configuration says TYPE_INT32"),
        (lambda _: [pb.InferenceResponse([])], "the response has no output 'y'; it has none"),
        (lambda _: 1 // 0, "ZeroDivisionError"),
        (lambda r: r.exec(), "a model.py runs no other model of the kernel"),
        (lambda _: [pb.Tensor("y", [1])], "Tensor takes a name and a numpy array"),
        (lambda r: [r.get_response_sender().send(None, 0)], "must be provided when the response flags is set to zero"),
        (lambda r: [r.get_response_sender().send(None, FINAL)], "cannot send complete final before sending a response"),
        (lambda r: [r.get_response_sender().send(response(1), 4)], "Unsupported flag value"),
        (lambda r: [s := r.get_response_sender(), s.send(response(1)), s.send(response(2))], "more than one response"),
    ],
)
def test_what_a_program_does_wrongly_is_told(answer: Callable[[Any], Any], words: str) -> None:
    """Each wrong answer fails its request with a sentence that names it, in the words of Triton where it has some."""
    with pytest.raises(BackendFailedError) as caught:
        ask(session(answer))
    assert caught.value.message.startswith("Failed to process the request(s) for model instance 'm_0', message: ")
    assert words in caught.value.message


def test_errors_of_requests_are_told_by_their_codes() -> None:
    """INVALID_ARG is the client's fault, every other code the model's; the words are the program's own."""
    fault = pb.TritonError("too small", pb.TritonError.INVALID_ARG)
    with pytest.raises(ValueError, match="too small"):
        ask(session(lambda _: [pb.InferenceResponse(error=fault)]))
    with pytest.raises(BackendFailedError, match=r"^out of luck$"):
        ask(session(lambda _: [pb.InferenceResponse(error=pb.TritonError("out of luck"))]))


def test_a_decoupled_program_tells_as_much_as_it_likes() -> None:
    """More than waits at once, from its own call or a thread; its end is sent, or that nobody can send any more."""

    def now(request: pb.InferenceRequest) -> None:
        sender = request.get_response_sender()
        for number in range(3 * MOST_WAITING):
            sender.send(response(number))

    def later(request: pb.InferenceRequest) -> None:
        threading.Thread(target=now, args=(request,)).start()

    async def coroutine(request: pb.InferenceRequest) -> None:
        await asyncio.sleep(0)
        request.get_response_sender().send(response(7), FINAL)

    for answer in (now, later):
        assert numbers(ask(session(answer, decoupled=True))) == [[number] for number in range(3 * MOST_WAITING)]
    assert numbers(ask(session(coroutine, decoupled=True))) == [[7]]
    assert numbers(ask(session(lambda _: None, decoupled=True))) == []  # it has forgotten the request


def test_a_decoupled_program_that_fails_says_so_behind_what_it_has_sent() -> None:
    """An exception, also of a coroutine, and a returned response fail the request; what was sent before is told."""

    def fails(request: pb.InferenceRequest) -> None:
        request.get_response_sender().send(response(1))
        raise RuntimeError("broken")

    async def breaks(request: pb.InferenceRequest) -> None:
        request.get_response_sender().send(response(1))
        await asyncio.sleep(0)
        raise RuntimeError("broken")

    def returns(request: pb.InferenceRequest) -> Any:
        request.get_response_sender().send(response(1))
        return [response(2)]

    for answer, words in ((fails, "broken"), (breaks, "broken"), (returns, "must return None")):
        sets = ask(session(answer, decoupled=True))
        assert next(sets)["y"].array.tolist() == [1]
        with pytest.raises(BackendFailedError, match=words):
            next(sets)


def test_a_program_is_told_that_nobody_waits() -> None:
    """Whoever closes what it was told ends the waits of its sender; what is sent then goes nowhere."""
    told = threading.Event()

    def answer(request: pb.InferenceRequest) -> None:
        sender = request.get_response_sender()
        while not sender.is_cancelled():
            sender.send(response(1))
        assert request.is_cancelled()
        sender.send(response(2))
        told.set()

    asked = session(answer, decoupled=True)
    sets = ask(asked)
    next(sets)
    asked.stop(threading.get_ident())
    assert not list(sets)
    assert told.wait(LONG_S)


@contextmanager
def file(tmp_path: Path, text: str) -> Iterator[LoadRequest]:
    path = tmp_path / "m" / "1" / "model.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    settings: dict[str, Any] = {"config": "{}", "model": "m", "version": "1", "memory_mib": 1, "files": ""}
    settings |= {"begin_s": 600, "quiet_s": 600}
    yield LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=1 << 30)


COMPLETES = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "x", "data_type": "TYPE_BF16", "dims": [1]})
        return config
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "has no class TritonPythonModel"),
        ("class TritonPythonModel: pass", "the configuration of the program has no input"),
        ("raise OSError(2, 'gone')", "model.py failed: "),
        ("import sys\nsys.exit(3)", "model.py failed: SystemExit"),
        ("def", "model.py failed: SyntaxError"),
        (
            "class TritonPythonModel:\n    @staticmethod\n    def auto_complete_config(c):\n        return None",
            "must give the configuration back",
        ),
        (
            COMPLETES,
            "TYPE_BF16",
        ),
    ],
)
def test_a_program_that_cannot_be_loaded_says_why(tmp_path: Path, text: str, words: str) -> None:
    """Whatever is wrong with the file is a LoadError with its place; nothing of it runs while it is measured."""
    with file(tmp_path, text) as request:
        assert ProgramBackend().measure(request).workspace_bytes == 1 << 20
        with pytest.raises(LoadError) as caught:
            ProgramBackend().load(request, lambda _: None)
        assert words in str(caught.value)
