"""Tasks of tensors. `Inferences` and `AsyncInferences` differ in `await` only."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import grpc

from inferd_api.v1.model_service_pb2 import GetModelSignatureRequest
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_api.v1.task_pb2 import TaskSpec
from inferd_api.v1.task_service_pb2 import RunOrder, RunTaskRequest
from inferd_api.v1.tensor_pb2 import InferInput, InferSequence
from inferd_client.channel import bounded_s
from inferd_client.claims import class_number, span
from inferd_client.creating import create_request
from inferd_client.errors import InvalidFieldError, KernelUnreachableError, LimitExceededError, UploadNotFoundError
from inferd_client.holding import lease_id_of
from inferd_client.options import InferOptions, strict
from inferd_client.orders import LINGER
from inferd_client.tasks import AsyncTasks, Tasks
from inferd_client.tensors import is_written, joined, to_arrays, to_tensor
from inferd_client.uploads import TRIES, is_for_chunks, is_large, uploaded, uploaded_async
from inferd_client.values import with_texts
from inferd_client.versions import NO_INPUT, too_old_for_tensors, version_of, version_of_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
    from typing import Unpack

    from inferd_api.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from inferd_api.v1.task_pb2 import Task, TaskEvent
    from inferd_client.tensors import AnyArray


@with_texts
def infer_order(
    model: str,
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    sequence: InferSequence | None,
    options: InferOptions,
) -> RunOrder:
    """The order that runs a task of tensors.

    Raises:
        TypeError: An input cannot be a tensor.
    """
    given = InferInput(
        inputs=[to_tensor(name, value) for name, value in inputs.items()], outputs=outputs, sequence=sequence
    )
    spec = TaskSpec(
        model=model,
        infer=given,
        labels=options.get("labels", {}),
        priority=class_number(options.get("priority")),
    )
    lease, detached = options.get("lease"), options.get("detach_on_disconnect", False)
    request_id = options.get("request_id") or token_hex(16)
    return RunOrder(
        request=RunTaskRequest(spec=spec, request_id=request_id, detach_on_disconnect=detached),
        timeout=span(bounded_s(options.get("timeout_s"))),
        lease_id="" if lease is None else lease_id_of(lease),
        linger=None if detached else LINGER,
    )


NONE = "the model gave no set of outputs"
SEVERAL = "the model gave more than one set of outputs; infer_stream gives one after the other"


@strict
class Inferences(Tasks):
    """Tasks of tensors of a synchronous client."""

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] = (),
        sequence: InferSequence | None = None,
        **options: Unpack[InferOptions],
    ) -> dict[str, AnyArray]:
        """Give a model of tensors its inputs and wait for its outputs.

        Args:
            model: Its name; `model_signature` tells what it takes.
            inputs: By name: arrays, what numpy makes arrays of, or messages `Tensor`. Types must be the model's own.
            outputs: Names of those that are wanted. Default: all, without those that a sequence carries on.
            sequence: What it belongs to, for a model with state: `InferSequence(id="…", start=True)` at first.
            options: Of the task.

        Returns:
            Arrays by name, see `inferd_client.tensors.to_array`.

        Raises:
            InferdError: The task was refused, or did not succeed.
            TypeError: An input cannot be a tensor.
            ValueError: The model gave no set of outputs, or a second one: then the task is cancelled. A text that a
                model writes in pieces, such as that of a sound, is no such set: its pieces are joined.
        """
        sets = self._sets(model, inputs, outputs, sequence, options)
        with closing(sets):
            only: dict[str, AnyArray] | None = None
            written = False
            for each in sets:
                if only is not None and not written:
                    written = self._writes(model, only)
                    if not written:
                        raise ValueError(SEVERAL)
                only = each if only is None else joined(only, each)
        if only is None:
            raise ValueError(NONE)
        return only

    def infer_stream(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] = (),
        sequence: InferSequence | None = None,
        **options: Unpack[InferOptions],
    ) -> Generator[dict[str, AnyArray]]:
        """As `infer`, for a model that gives several sets of outputs: each as it comes.

        The task starts with the first set asked for. Closing the generator before the last one cancels it.
        """
        return self._sets(model, inputs, outputs, sequence, options)

    def create_infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] = (),
        sequence: InferSequence | None = None,
        **options: Unpack[InferOptions],
    ) -> Task:
        """Create a task of tensors that outlives this client and the kernel: it is kept when this returns.

        Each `event.output.infer` of `watch` has a set of its outputs, of which `to_arrays` makes arrays. It expires
        after `timeout_s`; `detach_on_disconnect` means nothing. Raises as `infer`.
        """
        order = infer_order(model, inputs, outputs, sequence, options)
        if not is_large(order):
            return self._create(order, options)
        with uploaded(self._channel, self._metadata, self.address, order) as given:
            return self._create(given, options)

    def _create(self, order: RunOrder, options: InferOptions) -> Task:
        request = create_request(order.request, options)
        return self._wait(self._tasks.CreateTask, request, self._timeout_s, options.get("lease")).task

    def _sets(
        self,
        model: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        sequence: InferSequence | None,
        options: InferOptions,
    ) -> Generator[dict[str, AnyArray]]:
        """The sets of outputs of a task, whose options were looked at."""
        try:
            for event in self._infer(infer_order(model, inputs, outputs, sequence, options)):
                if event.output.HasField("infer"):
                    yield to_arrays(event.output.infer)
        except InvalidFieldError as error:
            if error.field != NO_INPUT:
                raise
            raise too_old_for_tensors(version_of(self._channel, self._metadata), self.address) from None

    def _writes(self, model: str, given: Mapping[str, AnyArray]) -> bool:
        """Whether outputs of a model are a text in pieces."""
        stub, request = ModelServiceStub(self._channel), GetModelSignatureRequest(model=model)
        try:
            return is_written(stub.GetModelSignature(request, metadata=tuple(self._metadata)).signature, given)
        except grpc.RpcError:  # what it gave is told then
            return False

    def _infer(self, order: RunOrder) -> Generator[TaskEvent]:
        """The events of a task, whose inputs are given beforehand where they are too large for a message."""
        if not is_large(order):
            try:
                yield from self._follow(order)
            except LimitExceededError as error:
                if not is_for_chunks(error, order):
                    raise
            else:
                return
        for tries in range(1, TRIES + 1):
            begun = False
            try:
                with ExitStack() as upload:
                    given = upload.enter_context(uploaded(self._channel, self._metadata, self.address, order))
                    for event in self._follow(given):
                        begun = True
                        upload.close()
                        yield event
                    return
            except (UploadNotFoundError, KernelUnreachableError):
                if begun or tries == TRIES:
                    raise


@strict
class AsyncInferences(AsyncTasks):
    """Tasks of tensors of an asynchronous client; each method is as its namesake in `Inferences`."""

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] = (),
        sequence: InferSequence | None = None,
        **options: Unpack[InferOptions],
    ) -> dict[str, AnyArray]:
        """Give a model of tensors its inputs and wait for its outputs. As `infer` of `Inferences`."""
        sets = self._sets(model, inputs, outputs, sequence, options)
        async with aclosing(sets):
            only: dict[str, AnyArray] | None = None
            written = False
            async for each in sets:
                if only is not None and not written:
                    written = await self._writes(model, only)
                    if not written:
                        raise ValueError(SEVERAL)
                only = each if only is None else joined(only, each)
        if only is None:
            raise ValueError(NONE)
        return only

    def infer_stream(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] = (),
        sequence: InferSequence | None = None,
        **options: Unpack[InferOptions],
    ) -> AsyncGenerator[dict[str, AnyArray]]:
        """As `infer`, for a model that gives several sets of outputs: each as it comes."""
        return self._sets(model, inputs, outputs, sequence, options)

    async def create_infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] = (),
        sequence: InferSequence | None = None,
        **options: Unpack[InferOptions],
    ) -> Task:
        """Create a task of tensors that outlives this client and the kernel. As `create_infer` of `Inferences`."""
        order = infer_order(model, inputs, outputs, sequence, options)
        if not is_large(order):
            return await self._create(order, options)
        async with uploaded_async(self._channel, self._metadata, self.address, order) as given:
            return await self._create(given, options)

    async def _create(self, order: RunOrder, options: InferOptions) -> Task:
        request = create_request(order.request, options)
        return (await self._wait(self._tasks.CreateTask, request, self._timeout_s, options.get("lease"))).task

    async def _sets(
        self,
        model: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        sequence: InferSequence | None,
        options: InferOptions,
    ) -> AsyncGenerator[dict[str, AnyArray]]:
        """As `_sets` of `Inferences`."""
        events = self._infer(infer_order(model, inputs, outputs, sequence, options))
        try:
            async for event in events:
                if event.output.HasField("infer"):
                    yield to_arrays(event.output.infer)
        except InvalidFieldError as error:
            if error.field != NO_INPUT:
                raise
            raise too_old_for_tensors(await version_of_async(self._channel, self._metadata), self.address) from None
        finally:
            await events.aclose()

    async def _writes(self, model: str, given: Mapping[str, AnyArray]) -> bool:
        """As `_writes` of `Inferences`."""
        stub: ModelServiceAsyncStub = ModelServiceStub(self._channel)
        request = GetModelSignatureRequest(model=model)
        try:
            answer = await stub.GetModelSignature(request, metadata=tuple(self._metadata))
        except grpc.RpcError:
            return False
        return is_written(answer.signature, given)

    async def _infer(self, order: RunOrder) -> AsyncGenerator[TaskEvent]:
        """As `_infer` of `Inferences`."""
        if not is_large(order):
            try:
                async with aclosing(self._follow(order)) as events:
                    async for event in events:
                        yield event
            except LimitExceededError as error:
                if not is_for_chunks(error, order):
                    raise
            else:
                return
        for tries in range(1, TRIES + 1):
            begun = False
            try:
                async with AsyncExitStack() as upload:
                    opened = uploaded_async(self._channel, self._metadata, self.address, order)
                    given = await upload.enter_async_context(opened)
                    async with aclosing(self._follow(given)) as events:
                        async for event in events:
                            begun = True
                            await upload.aclose()
                            yield event
                    return
            except (UploadNotFoundError, KernelUnreachableError):
                if begun or tries == TRIES:
                    raise
