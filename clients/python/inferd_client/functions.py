"""Functions and their calls. `Functions` and `AsyncFunctions` differ in `await` only."""

from __future__ import annotations

import json
from functools import cached_property
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from inferd_api.v1.function_pb2 import CallInput
from inferd_api.v1.function_service_pb2 import GetFunctionRequest, ListFunctionsRequest
from inferd_api.v1.function_service_pb2_grpc import FunctionServiceStub
from inferd_api.v1.task_pb2 import TaskSpec
from inferd_api.v1.task_service_pb2 import RunOrder, RunTaskRequest
from inferd_client.channel import bounded_s
from inferd_client.claims import class_number, span
from inferd_client.creating import create, create_async, create_request
from inferd_client.errors import FunctionFailedError
from inferd_client.holding import lease_id_of
from inferd_client.options import InferOptions, strict
from inferd_client.orders import LINGER
from inferd_client.tasks import AsyncTasks, Tasks
from inferd_client.values import with_texts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
    from typing import Unpack

    from inferd_api.v1.function_pb2 import Function
    from inferd_api.v1.function_service_pb2_grpc import FunctionServiceAsyncStub
    from inferd_api.v1.task_pb2 import Task, TaskEvent

FUNCTION = "functions@"
"""What the name of a function begins with where tasks name a model."""
NONE = "the function gave nothing"
SEVERAL = "the function gives several pieces; call_stream gives one after the other"


@with_texts
def call_order(
    function: str, given: Mapping[str, Any] | Sequence[Any] | None, version: int, options: InferOptions
) -> RunOrder:
    """The order that runs a call; for each of several inputs where a list is given.

    Raises:
        TypeError, ValueError: The input cannot be JSON.
    """
    each = isinstance(given, list)
    written = json.dumps(given if each else given or {}, ensure_ascii=False, allow_nan=False)
    call = CallInput(version=version, input=written, each=each)
    spec = TaskSpec(
        model=FUNCTION + function,
        call=call,
        labels=options.get("labels", {}),
        priority=class_number(options.get("priority")),
    )
    lease, detached = options.get("lease"), options.get("detach_on_disconnect", False)
    return RunOrder(
        request=RunTaskRequest(
            spec=spec, request_id=options.get("request_id") or token_hex(16), detach_on_disconnect=detached
        ),
        timeout=span(bounded_s(options.get("timeout_s"))),
        lease_id="" if lease is None else lease_id_of(lease),
        linger=None if detached else LINGER,
    )


def call_output(event: TaskEvent) -> Any:
    """What an event of a call gives: it has `output.call`.

    Raises:
        FunctionFailedError: It is no JSON, which no kernel gives.
    """
    try:
        return json.loads(event.output.call.json)
    except ValueError as error:
        raise FunctionFailedError(f"what the function gave is no JSON: {error}") from None


def _only(pieces: list[Any]) -> Any:
    if len(pieces) != 1:
        raise ValueError(SEVERAL if pieces else NONE)
    return pieces[0]


@strict
class Functions(Tasks):
    """The functions of a synchronous client."""

    @cached_property
    def _functions(self) -> FunctionServiceStub:
        return FunctionServiceStub(self._channel)

    def list_functions(self) -> Generator[Function]:
        """All functions, by name, the highest version of each first."""
        for page in self._pages(self._functions.ListFunctions, ListFunctionsRequest()):
            yield from page.functions

    def get_function(self, name: str, *, version: int = 0) -> Function:
        """A function with its schemas; version 0 is the highest. Raises FunctionNotFoundError."""
        return self._call(self._functions.GetFunction, GetFunctionRequest(name=name, version=version)).function

    def call(
        self,
        function: str,
        given: Mapping[str, Any] | None = None,
        *,
        version: int = 0,
        **options: Unpack[InferOptions],
    ) -> Any:
        """Call a function and wait for what it gives.

        Args:
            function: Its name; `get_function` tells what it takes.
            given: Values of its parameters by name, as JSON can have them.
            version: Its version; 0 for the highest.
            options: Of the task.

        Raises:
            InferdError: The task was refused, or did not succeed: FunctionFailedError, InvalidFieldError and others.
            TypeError, ValueError: The input cannot be JSON; the function gave no or several pieces.
        """
        return _only(list(self._call_pieces(call_order(function, given, version, options))))

    def call_stream(
        self,
        function: str,
        given: Mapping[str, Any] | None = None,
        *,
        version: int = 0,
        **options: Unpack[InferOptions],
    ) -> Generator[Any]:
        """As `call`, for a function that gives several pieces: each as it comes.

        The task starts with the first piece asked for. Closing the generator before the last one cancels it.
        """
        return self._call_pieces(call_order(function, given, version, options))

    def call_each(
        self, function: str, rows: Sequence[Mapping[str, Any]], *, version: int = 0, **options: Unpack[InferOptions]
    ) -> Generator[Any]:
        """As `call`, for each of several inputs by one task: what the function gives for each, in their order.

        Of a function that gives several pieces it is a list of them. All inputs together are bounded as one, in size,
        time and memory. Where the function fails for one, the task does; the error's `field` names which.
        """
        for some in self._call_pieces(call_order(function, list(rows), version, options)):
            yield from some

    def create_call(
        self,
        function: str,
        given: Mapping[str, Any] | None = None,
        *,
        version: int = 0,
        **options: Unpack[InferOptions],
    ) -> Task:
        """Create a call that outlives this client and the kernel: it is kept when this returns.

        `call_output` makes a value of each event of `watch` that has `output.call`. It expires after `timeout_s`;
        `detach_on_disconnect` means nothing. Raises as `call`.
        """
        request = create_request(call_order(function, given, version, options).request, options)
        return create(lambda r: self._wait(self._tasks.CreateTask, r, self._timeout_s, options.get("lease")), request)

    def _call_pieces(self, order: RunOrder) -> Generator[Any]:
        for event in self._follow(order):
            if event.output.HasField("call"):
                yield call_output(event)


@strict
class AsyncFunctions(AsyncTasks):
    """The functions of an asynchronous client."""

    @cached_property
    def _functions(self) -> FunctionServiceAsyncStub:
        return FunctionServiceStub(self._channel)

    async def list_functions(self) -> AsyncGenerator[Function]:
        """As `Functions.list_functions`."""
        async for page in self._pages(self._functions.ListFunctions, ListFunctionsRequest()):
            for function in page.functions:
                yield function

    async def get_function(self, name: str, *, version: int = 0) -> Function:
        """As `Functions.get_function`."""
        request = GetFunctionRequest(name=name, version=version)
        return (await self._call(self._functions.GetFunction, request)).function

    async def call(
        self,
        function: str,
        given: Mapping[str, Any] | None = None,
        *,
        version: int = 0,
        **options: Unpack[InferOptions],
    ) -> Any:
        """As `Functions.call`."""
        order = call_order(function, given, version, options)
        return _only([piece async for piece in self._call_pieces(order)])

    def call_stream(
        self,
        function: str,
        given: Mapping[str, Any] | None = None,
        *,
        version: int = 0,
        **options: Unpack[InferOptions],
    ) -> AsyncGenerator[Any]:
        """As `Functions.call_stream`."""
        return self._call_pieces(call_order(function, given, version, options))

    async def call_each(
        self, function: str, rows: Sequence[Mapping[str, Any]], *, version: int = 0, **options: Unpack[InferOptions]
    ) -> AsyncGenerator[Any]:
        """As `Functions.call_each`."""
        async for some in self._call_pieces(call_order(function, list(rows), version, options)):
            for value in some:
                yield value

    async def create_call(
        self,
        function: str,
        given: Mapping[str, Any] | None = None,
        *,
        version: int = 0,
        **options: Unpack[InferOptions],
    ) -> Task:
        """As `Functions.create_call`."""
        request = create_request(call_order(function, given, version, options).request, options)
        lease = options.get("lease")
        return await create_async(lambda r: self._wait(self._tasks.CreateTask, r, self._timeout_s, lease), request)

    async def _call_pieces(self, order: RunOrder) -> AsyncGenerator[Any]:
        events = self._follow(order)
        try:
            async for event in events:
                if event.output.HasField("call"):
                    yield call_output(event)
        finally:
            await events.aclose()
