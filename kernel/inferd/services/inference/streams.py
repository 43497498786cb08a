"""`ModelStreamInfer`: requests on one call, each a task by itself, told in their order."""

import asyncio
from contextlib import suppress
from typing import Final, NamedTuple

import grpc
import structlog

from inferd.core import task_events as te
from inferd.errors import InferdError, InternalError
from inferd.runtime.front.tasks import Tasks
from inferd.services.calls import Call
from inferd.services.inference.responses import check_size
from inferd.services.inference.runs import FINAL, Run, Runs, version_told, written
from inferd.services.inference.stream_ensembles import Ensembles, Whole
from inferd.services.inference.telling import Telling
from inferd.services.status import status_of
from inferd_api.inference import grpc_service_pb2 as gp

log = structlog.get_logger()

MOST_AHEAD: Final = 64
"""Requests of a stream that are under way; one more is read when the first of them has been answered."""


GRPC_ERROR: Final = "triton_grpc_error"
"""Metadata by which a client asks that a stream ends with the first error, as that of the call."""


class Refused(NamedTuple):
    """A request of which no task was made."""

    request: gp.ModelInferRequest
    error: InferdError


class InferStream:
    """One call of `ModelStreamInfer`.

    Args:
        runs: Makes tasks.
        tasks: Whose end ends it.
        call: It.
        ensembles: Run what no task is.
        message_limit_bytes: Largest message.
    """

    def __init__(self, runs: Runs, tasks: Tasks, call: Call, ensembles: Ensembles, *, message_limit_bytes: int) -> None:
        self._runs = runs
        self._ensembles = ensembles
        self._tasks = tasks
        self._call = call
        self._message_limit_bytes = message_limit_bytes
        self._ends_on_error = any(key == GRPC_ERROR and value == "true" for key, value in call.metadata() or ())
        self._begun: asyncio.Queue[Run | Whole | Refused | None] = asyncio.Queue(MOST_AHEAD)

    async def serve(self) -> None:
        """Take requests and tell what comes of each, until the client has no more.

        Raises:
            ShuttingDownError: The kernel ends.
            InferdError: A request fails, and the client wants the stream to end with that.
        """
        reading = asyncio.create_task(self._read(), name="requests")  # ends with this block
        try:
            while (each := await self._begun.get()) is not None:
                if isinstance(each, Refused):
                    await self._refuse(each.request, each.error)
                elif isinstance(each, Whole):
                    await self._answer_whole(each)
                else:
                    await self._answer(each)
                del each
            await reading
        finally:
            reading.cancel()
            try:
                with suppress(asyncio.CancelledError, InferdError, grpc.aio.BaseError):
                    await reading
            finally:  # also where reading ended with a defect, which is raised
                await self._close_begun()

    async def _close_begun(self) -> None:
        """End the tasks that nobody follows any more."""
        while not self._begun.empty():
            left = self._begun.get_nowait()
            if isinstance(left, Run):
                with suppress(InferdError):
                    await left.held.aclose()
            elif isinstance(left, Whole):
                await left.close()

    async def _read(self) -> None:
        try:
            async with self._tasks.cut_short():
                while (request := await self._call.read()) is not grpc.aio.EOF:
                    await self._begin(request)
                    del request  # before the wait for the next one
        except Exception:
            await self._begun.put(None)  # what was begun before is told first
            raise
        await self._begun.put(None)

    async def _begin(self, request: gp.ModelInferRequest) -> None:
        try:
            self._call.take(request)
            await self._tasks.check_leads()
            if self._ensembles.known(request.model_name):
                await self._put(await self._ensembles.begin(request))
                return
            run = await self._runs.begin(request, self._call)
        except InferdError as error:
            await self._note_refused(request, error)
            return
        except Exception as error:
            log.exception("defect in a request of a stream")
            defect = InternalError(f"a defect of inferd: {type(error).__name__}; see its log")
            await self._note_refused(request, defect)
            return
        await self._put(run)

    async def _put(self, begun: Run | Whole) -> None:
        """What was begun waits until it is its turn to be told."""
        try:
            await self._begun.put(begun)
        except BaseException:
            await (begun.close() if isinstance(begun, Whole) else begun.held.aclose())
            raise

    async def _note_refused(self, request: gp.ModelInferRequest, error: InferdError) -> None:
        told = error.with_traceback(None).about(request.model_name)
        self._call.refused(told)
        await self._begun.put(Refused(gp.ModelInferRequest(id=request.id), told))

    async def _answer_whole(self, whole: Whole) -> None:
        try:
            await self._tell(await whole.result(), final=True)
        except InferdError as error:
            await self._refuse(whole.request, error.with_traceback(None).about(whole.request.model_name))
        finally:
            await whole.close()

    async def _answer(self, run: Run) -> None:
        try:
            async with run.held:
                await self._follow(run)
        except InferdError as error:
            told = await self._runs.explained(error.with_traceback(None), run.request, self._call.caller)
            await self._refuse(run.request, told.about(run.request.model_name))

    async def _follow_text(self, run: Run, telling: Telling) -> None:
        """Tell what a language model writes as it comes, or all of it at once."""
        version = 0
        async for batch in run.stream.follow(0, gathers=True):
            for each in batch:
                version = version_told(each.event, version)
                if not (isinstance(each.event, te.Finished) and each.event.outcome.error is not None):
                    telling.take(each.event)  # an error is raised by the block of the task
            last = batch[-1].event
            ended = isinstance(last, te.Finished) and last.outcome.error is None
            if ended or telling.has_new:
                response = run.response(version)
                telling.write(response)
                await self._tell(response, final=ended)

    async def _follow(self, run: Run) -> None:
        """Tell each set as it comes. The last one says that it is, where the end came with it; else none does."""
        if run.telling is not None:
            await self._follow_text(run, run.telling)
            return
        version, final = 0, False
        async for batch in run.stream.follow(0, gathers=True):
            sets = [each.event for each in batch if isinstance(each.event, te.TensorOutput)]
            last = batch[-1].event
            ended = isinstance(last, te.Finished) and last.outcome.error is None
            for each in batch:
                version = version_told(each.event, version)
            for place, each_set in enumerate(sets, 1):
                final = ended and place == len(sets)
                response = written(run, each_set, version, limit_bytes=self._message_limit_bytes)
                await self._tell(response, final=final)
            if ended and not final and run.empty_final:
                await self._tell(run.response(version), final=True)

    async def _tell(self, response: gp.ModelInferResponse, *, final: bool) -> None:
        response.parameters[FINAL].bool_param = final
        message = gp.ModelStreamInferResponse(infer_response=response)
        check_size(message.ByteSize(), self._message_limit_bytes)
        await self._call.write(message)

    async def _refuse(self, request: gp.ModelInferRequest, error: InferdError) -> None:
        if self._ends_on_error:
            raise error from None
        response = gp.ModelInferResponse(id=request.id)
        response.parameters[FINAL].bool_param = True
        await self._call.write(
            gp.ModelStreamInferResponse(error_message=status_of(error).message, infer_response=response)
        )
