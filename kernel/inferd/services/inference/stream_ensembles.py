"""Requests to ensembles on a stream: each is run whole beside the others, and told in its turn."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import structlog

from inferd.errors import InferdError, InternalError
from inferd_api.inference import grpc_service_pb2 as gp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from inferd.runtime.front.tasks import Tasks
    from inferd.services.calls import Call

    Infer = Callable[[gp.ModelInferRequest, Call], Awaitable[gp.ModelInferResponse]]

AT_ONCE: Final = 8
"""Ensembles of a stream that are run, or whose answers were not read yet; no more of its requests are read then."""
SEQUENCE: Final = "sequence_id"

log = structlog.get_logger()


class Whole:
    """A request to an ensemble that is run.

    Args:
        request: What was asked for, without its elements.
        running: It gives the response.
        held: What it takes until it has been told.

    Attributes:
        request: See there.
    """

    def __init__(
        self, request: gp.ModelInferRequest, running: asyncio.Task[gp.ModelInferResponse], held: ExitStack
    ) -> None:
        self.request = request
        self._running = running
        self._held = held

    async def result(self) -> gp.ModelInferResponse:
        """What it gives.

        Raises:
            InferdError: It is refused, or fails.
        """
        return await self._running

    async def close(self) -> None:
        """End it, if it has not ended, and give back what it took; once. What it gives by then is of no interest."""
        with self._held:
            self._running.cancel()
            await asyncio.wait((self._running,))
            with suppress(asyncio.CancelledError):
                self._running.exception()


class Ensembles:
    """The ensembles of one stream. Those of a sequence come one after the other, as do all that name one.

    Args:
        infer: Runs one.
        known: Whether a model is one.
        tasks: Count what is held of requests.
        call: The stream.
    """

    def __init__(self, infer: Infer, known: Callable[[str], bool], tasks: Tasks, call: Call) -> None:
        self.known = known
        self._infer = infer
        self._tasks = tasks
        self._call = call
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._last: asyncio.Task[gp.ModelInferResponse] | None = None

    async def begin(self, request: gp.ModelInferRequest) -> Whole:
        """Run a request beside the others, once there is room: so the one that is told next always has it."""
        await self._slots.acquire()
        held = ExitStack()
        held.callback(self._slots.release)
        behind = self._last if SEQUENCE in request.parameters else None
        running = asyncio.create_task(self._run(request, behind, held), name="an ensemble of a stream")
        if SEQUENCE in request.parameters:
            self._last = running
        return Whole(gp.ModelInferRequest(model_name=request.model_name, id=request.id), running, held)

    async def _run(
        self, request: gp.ModelInferRequest, behind: asyncio.Task[gp.ModelInferResponse] | None, held: ExitStack
    ) -> gp.ModelInferResponse:
        tenant = self._call.caller.tenant
        with self._tasks.holding(tenant, request.ByteSize()):
            if behind is not None and not behind.done():
                await asyncio.wait((behind,))
            try:
                response = await self._infer(request, self._call)
            except InferdError:
                raise
            except Exception as error:
                log.exception("defect in an ensemble of a stream")
                raise InternalError(f"a defect of inferd: {type(error).__name__}; see its log") from None
        held.enter_context(self._tasks.holding(tenant, response.ByteSize()))  # until it was told
        return response
