"""Streams of the Open Inference Protocol that break in several places at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, nullcontext
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc
import pytest
from time_limits import LONG_S

from inferd.core import task_events as te
from inferd.core.task import Outcome, TaskState
from inferd.errors import InvalidFieldError
from inferd.services.inference.language import Wish
from inferd.services.inference.runs import Run
from inferd.services.inference.streams import InferStream
from inferd.services.inference.telling import Telling
from inferd_api.inference import grpc_service_pb2 as gp

DEADLINE_S = LONG_S
RECEIPT = te.Receipt(queue_s=0, first_token_s=None, run_s=0, backend="", device="", worker_memory_bytes=0)


class Broken:
    """Takes a request that it refuses and two that it begins, then has a defect; its client is gone by then."""

    caller: Any = None

    def __init__(self) -> None:
        self.given = ["refused", "first", "second"]
        self.closed: list[str] = []
        self.ended = asyncio.Event()

    def metadata(self) -> Any:
        return ()

    async def read(self) -> gp.ModelInferRequest:
        if not self.given:
            self.ended.set()
            raise ZeroDivisionError
        return gp.ModelInferRequest(id=self.given.pop(0))

    async def write(self, _: Any) -> NoReturn:
        await self.ended.wait()
        raise grpc.aio.UsageError("the client is gone")

    def take(self, request: Any) -> None:
        """Nothing is to be looked at."""

    def refused(self, error: Any) -> None:
        """Nobody is to be told."""

    async def check_leads(self) -> None:
        """It does."""

    def known(self, _: str) -> bool:
        """Whether a model is an ensemble: none is."""
        return False

    def cut_short(self) -> Any:
        return nullcontext()

    async def begin(self, request: gp.ModelInferRequest, _: Any) -> Run:
        if request.id == "refused":
            raise InvalidFieldError("no", field="id")
        held = AsyncExitStack()
        held.callback(self.closed.append, request.id)
        return Run(request, SimpleNamespace(), held, empty_final=False, number=str)  # type: ignore[arg-type] # never followed


async def test_what_was_begun_is_closed_when_reading_has_a_defect_and_a_write_fails() -> None:
    """Tasks that wait for their turn end with the stream, however it ends; the defect is raised."""
    broken: Any = Broken()
    served = InferStream(broken, broken, broken, broken, message_limit_bytes=4 << 20)
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(DEADLINE_S):
            await served.serve()
    assert broken.closed == ["first", "second"]


class Served:
    """Takes three requests, the second of which meets a defect; the last writes some text and fails."""

    caller: Any = None

    def __init__(self) -> None:
        self.given = ["first", "broken", "fails"]
        self.told: list[gp.ModelStreamInferResponse] = []

    metadata, take, refused = Broken.metadata, Broken.take, Broken.refused
    check_leads, cut_short, known = Broken.check_leads, Broken.cut_short, Broken.known

    async def read(self) -> Any:
        return gp.ModelInferRequest(id=self.given.pop(0)) if self.given else grpc.aio.EOF

    async def write(self, message: gp.ModelStreamInferResponse) -> None:
        self.told.append(message)

    async def begin(self, request: gp.ModelInferRequest, _: Any) -> Run:
        if request.id == "broken":
            "\ud800".encode()
        error = InvalidFieldError("it failed", field="x") if request.id == "fails" else None
        held, telling = (
            AsyncExitStack(),
            Telling(Wish(samples=1, streams=True, told=("text_output",), before="", places={})),
        )
        if error is not None:
            held.push(lambda *_: _raise(error))
        stream: Any = SimpleNamespace(follow=lambda *_, **__: _batch(error))
        return Run(request, stream, held, empty_final=False, number=str, telling=telling)

    async def explained(self, error: Any, *_: Any) -> Any:
        return error


def _raise(error: Exception) -> NoReturn:
    raise error


async def _batch(error: InvalidFieldError | None) -> AsyncIterator[Any]:
    state = TaskState.SUCCEEDED if error is None else TaskState.FAILED
    ended = te.Finished(Outcome(state=state, error=error), RECEIPT)
    yield [SimpleNamespace(event=each) for each in (te.Output("la", (1,)), ended)]


async def test_a_defect_ends_its_request_alone_and_text_before_an_error_is_told() -> None:
    """Requests before and behind one with a defect are answered; what comes before an error goes before it."""
    served: Any = Served()
    await InferStream(served, served, served, served, message_limit_bytes=4 << 20).serve()
    first, broken, text, failed = served.told
    assert (first.infer_response.raw_output_contents[0][4:], first.infer_response.id) == (b"la", "first")
    assert "a defect of inferd" in broken.error_message
    assert broken.infer_response.id == "broken"
    assert (text.infer_response.raw_output_contents[0][4:], text.infer_response.id) == (b"la", "fails")
    assert not text.infer_response.parameters["triton_final_response"].bool_param
    assert "it failed" in failed.error_message
