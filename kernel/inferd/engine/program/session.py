"""A program as a session of tensors: each request is one call of its `execute`, told as it answers."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
import time
import traceback
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.engine.cause import last_line
from inferd.engine.program.correlation import Correlation
from inferd.engine.program.reply import Reply
from inferd.engine.program.types import NAMES
from inferd.engine.program.utils import InferenceRequest, InferenceResponse, TritonError
from inferd.engine.program.utils import Tensor as ProgramTensor
from inferd.errors import BackendFailedError, is_failure
from inferd.plugin import ElementType, Tensor
from inferd.plugin.tensor import NUMPY

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from inferd.engine.program.lane import Lane
    from inferd.engine.tensor.request import SequenceStep
    from inferd.plugin import Signature, TensorInfo

REQUESTS: Final = 1
TICK_S: Final = 0.5
"""While a decoupled program sends nothing, it is told so often that this is no hang."""

_log = logging.getLogger(__name__)


class ProgramSession:
    """One program. `execute` is called in its one thread; what it answers later, by its own threads.

    Args:
        model: An object of its class.
        lane: Its thread.
        name: Of its model, for errors.
        path: Of its file, for errors.
        signature: What it takes and gives.
        decoupled: Whether it gives several responses for a request.
        correlation: Tells it the ids of sequences.
        quiet_s: For how long a request of a decoupled one may be told nothing.
    """

    def __init__(
        self,
        model: Any,
        lane: Lane,
        *,
        name: str,
        path: str,
        signature: Signature,
        decoupled: bool,
        correlation: Correlation | None = None,
        quiet_s: float = math.inf,
    ) -> None:
        self.signature = signature
        self._model = model
        self._lane = lane
        self._name, self._path = name, path
        self._decoupled = decoupled
        self._quiet_s = quiet_s
        self._correlation = correlation or Correlation({}, name)
        self._running: dict[int, Reply] = {}  # by thread
        self._outputs = {info.name: info for info in signature.outputs}
        self._loop: asyncio.AbstractEventLoop | None = None

    def correlated(self, inputs: Mapping[str, Tensor], sequence: SequenceStep | None) -> Mapping[str, Tensor]:
        """The inputs of a request of a sequence; raises as `Correlation.tell`."""
        return self._correlation.tell(inputs, sequence)

    def predict(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str]
    ) -> Mapping[str, Tensor] | Iterator[Mapping[str, Tensor]]:
        """What the program gives.

        Raises:
            ValueError: The program refuses the request as its client's fault.
            BackendFailedError: The program failed.
        """
        reply = Reply(once=not self._decoupled, model=self._name)
        if self._decoupled:
            return self._sets(inputs, reply, outputs)
        self._running[threading.get_ident()] = reply
        try:
            response = self._answer(self._begin(inputs, reply, outputs).result(), reply)
        finally:
            reply.cancel()
            self._running.pop(threading.get_ident(), None)
        return self._read(response, outputs)

    def stop(self, thread: int) -> None:
        """Nobody waits for what this thread is told: the program may ask whether that is so."""
        if (reply := self._running.get(thread)) is not None:
            reply.cancel()

    def close(self) -> None:
        """Have the program finish."""
        finish = getattr(self._model, "finalize", None)
        try:
            if callable(finish):
                self._lane.call(finish).result()
        except BaseException as error:
            if not is_fault(error):
                raise
            _log.exception("finalize of the program failed")

    def _begin(self, inputs: Mapping[str, Tensor], reply: Reply, outputs: Sequence[str]) -> Future[Any]:
        """Have the program given a request, of which nothing is kept here."""
        tensors = [ProgramTensor(name, _given(tensor)) for name, tensor in inputs.items()]
        request = InferenceRequest(tensors, outputs, self._name, reply, correlation=self._correlation.name)
        return self._lane.call(self._execute, request)

    def _sets(
        self, inputs: Mapping[str, Tensor], reply: Reply, outputs: Sequence[str]
    ) -> Iterator[Mapping[str, Tensor]]:
        """What a decoupled program sends, as it comes."""
        thread = threading.get_ident()
        self._running[thread] = reply
        reply.hold()  # until it is known how the call has ended
        running = self._begin(inputs, reply, outputs)
        running.add_done_callback(partial(self._check_ended, reply))
        try:
            for response in self._responses(reply, running):
                if response is None:
                    yield {}  # it is no hang of the worker: others are told meanwhile
                elif response.output_tensors() or response.has_error():
                    yield self._read(response, outputs)
        finally:
            running.cancel()
            reply.cancel()
            self._running.pop(thread, None)

    def _responses(self, reply: Reply, running: Future[Any]) -> Iterator[InferenceResponse | None]:
        """What is sent; None now and then while only that is waited for, and `execute` has returned.

        Raises:
            BackendFailedError: Nothing was sent for too long.
        """
        heard = time.monotonic()
        while True:
            try:
                response = reply.read(TICK_S)
            except TimeoutError:
                if time.monotonic() - heard > self._quiet_s:
                    raise self._failed(
                        f"nothing was sent for {self._quiet_s:g} s, and no end; a request may be so quiet for as long"
                        " as the parameter inferd.quiet_s of config.pbtxt says"
                    ) from None
                if running.done():
                    yield None
                continue
            if response is None:
                return
            yield response
            heard = time.monotonic()

    def _check_ended(self, reply: Reply, running: Future[Any]) -> None:
        """`execute` of a decoupled program is over: it is to have given nothing."""
        error = None if running.cancelled() else running.exception()
        if error is None and not running.cancelled() and running.result() is not None:
            error = self._failed(
                "in the decoupled mode execute() must return None, and send responses by the response sender; it"
                f" returned a {type(running.result()).__name__}"
            )
        if error is not None:
            reply.fail(error)
        reply.let_go()

    def _answer(self, given: Any, reply: Reply) -> InferenceResponse:
        """The one response of a program that gives one, however it gives it."""
        if given is None and reply.sent:
            given = [None]
        if not isinstance(given, list | tuple):
            raise self._failed(
                "expected a list of InferenceResponse in the execute function return, found type"
                f" '{type(given).__name__}'"
            )
        if len(given) != REQUESTS:
            raise self._failed(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects."
                f" InferenceRequest(s) size is:{REQUESTS}, and InferenceResponse(s) size is:{len(given)}"
            )
        if given[0] is not None and reply.sent:
            raise self._failed(
                "a response was sent, and another one returned; give one, or return [None] beside a sent one"
            )
        response = given[0] if given[0] is not None else reply.read()  # which is sent, now or later
        if not isinstance(response, InferenceResponse):
            raise self._failed(
                "expected an InferenceResponse object in the execute function return list, found type"
                f" '{type(response).__name__}', and none was sent"
            )
        return response

    def _execute(self, request: InferenceRequest) -> Any:
        with self._failing():
            given = self._model.execute([request])
            if not inspect.iscoroutine(given):
                return given
            running = self._start(given)
            if not self._decoupled:
                return running.result()
        reply = request.reply  # others go on beside it
        reply.hold()
        running.add_done_callback(partial(self._check_ended, reply))
        return None

    def _start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Have a coroutine of the program run, in a thread for all of them."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="coroutines", daemon=True).start()

        async def run() -> Any:
            with self._failing():
                return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Say what went wrong in the program, and where in its file."""
        try:
            yield
        except BackendFailedError:
            raise
        except BaseException as error:
            if not is_fault(error):
                raise
            _log.error("execute of the program failed", exc_info=error)
            raise self._failed(place(error, self._path)) from None

    def _read(self, response: InferenceResponse, outputs: Sequence[str]) -> dict[str, Tensor]:
        if (error := response.error()) is not None:
            if error.code() == TritonError.INVALID_ARG:
                raise ValueError(error.message())
            raise BackendFailedError(error.message(), metadata={"cause": error.message()})
        given = {each.name(): each for each in response.output_tensors()}
        if lacking := [name for name in outputs if name not in given]:
            raise self._failed(f"the response has no output '{lacking[0]}'; it has {', '.join(given) or 'none'}")
        return {name: self._told(given[name], self._outputs[name]) for name in outputs}

    def _told(self, tensor: ProgramTensor, info: TensorInfo) -> Tensor:
        """An output as the engine has it."""
        said = NAMES[info.element_type]
        if tensor.triton_dtype() != said:
            raise self._failed(f"output '{info.name}' is {tensor.triton_dtype()}; the configuration says {said}")
        array = tensor.as_numpy()
        if info.element_type is ElementType.STRING:
            array = _texts(array, info.name)
        else:
            array = np.ascontiguousarray(array, dtype=NUMPY[info.element_type]).reshape(array.shape)
        return Tensor(element_type=info.element_type, shape=tuple(array.shape), array=array)

    def _failed(self, why: str) -> BackendFailedError:
        return failed(why, self._name)


def failed(why: str, model: str) -> BackendFailedError:
    """What a request to a model is told, in the words that Triton has for it."""
    return BackendFailedError(
        f"Failed to process the request(s) for model instance '{model}_0', message: {why}", metadata={"cause": why}
    )


def is_fault(error: BaseException) -> bool:
    """Whether this is the end of a call of the program, and not of its process: `sys.exit` as well."""
    return is_failure(error) or isinstance(error, SystemExit)


def place(error: BaseException, path: str) -> str:
    """What went wrong in a program, and where in its file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{last_line(error)} ({path}:{lines[-1]})" if lines else last_line(error)


def _given(tensor: Tensor) -> Any:
    """The array of an input, as programs know it: texts are bytes."""
    if tensor.element_type is not ElementType.STRING:
        return tensor.array
    made = np.empty(tensor.array.size, np.object_)
    made[:] = [str(text).encode() for text in tensor.array.flat]
    return made.reshape(tensor.array.shape)


def _texts(array: Any, name: str) -> Any:
    made = np.empty(array.size, np.object_)
    for at, text in enumerate(array.flat):
        if isinstance(text, bytes):
            try:
                made[at] = text.decode()
            except UnicodeDecodeError as error:
                raise BackendFailedError(
                    f"output '{name}' has a text that is no UTF-8 at byte {error.start}; give such bytes as TYPE_UINT8",
                    metadata={"cause": "no UTF-8"},
                ) from None
        else:
            made[at] = str(text)
    return made.reshape(array.shape)
