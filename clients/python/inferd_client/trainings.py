"""Trainings: models made of data. `Trainings` and `AsyncTrainings` differ in `await` only."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cached_property
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from inferd_api.v1.training_pb2 import TrainingMethod, TrainingRecipe, TrainingSpec
from inferd_api.v1.training_service_pb2 import (
    CancelTrainingRequest,
    DeleteTrainingRequest,
    GetTrainingRequest,
    ListTrainingsRequest,
    ListTrainingStepsRequest,
    TrainModelRequest,
    WatchTrainingRequest,
)
from inferd_api.v1.training_service_pb2_grpc import TrainingServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import class_number
from inferd_client.evaluations import json_lines
from inferd_client.options import strict
from inferd_client.values import with_texts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from inferd_api.v1.training_pb2 import Training, TrainingStep
    from inferd_api.v1.training_service_pb2_grpc import TrainingServiceAsyncStub
    from inferd_client.claims import Class
    from inferd_client.evaluations import Data
    from inferd_client.holding import LeaseRef


@with_texts
def train_request(  # noqa: PLR0917 - as the methods, of each its keyword
    name: str,
    data: Data | None,
    recipe: Mapping[str, Any],
    model: str,
    blob: str,
    held: Data | None,
    held_blob: str,
    replace: bool,  # noqa: FBT001 - likewise
    priority: Class | None,
    backend: str,
    device: str,
    title: str,
    request_id: str,
) -> TrainModelRequest:
    """The request for a training.

    Raises:
        ValueError: There is no such method, or not one of data and blob, or both of held and held_blob.
        TypeError: A field of the recipe is of another type.
    """
    if (data is None) == (not blob):
        raise ValueError("give one of data and blob")
    if held is not None and held_blob:
        raise ValueError("give at most one of held and held_blob")
    request = TrainModelRequest(
        spec=TrainingSpec(
            model=model,
            recipe=recipe_message(recipe),
            name=name,
            replace=replace,
            priority=class_number(priority),
            backend=backend,
            device=device,
            title=title,
        ),
        request_id=request_id or token_hex(16),
    )
    if data is None:
        request.blob = blob
    else:
        request.inline = json_lines(data)
    if held is not None:
        request.held_inline = json_lines(held)
    elif held_blob:
        request.held_blob = held_blob
    return request


def recipe_message(recipe: Mapping[str, Any]) -> TrainingRecipe:
    """A recipe for the wire, of a mapping as a file of TOML has it.

    Raises:
        ValueError: It has no method, or one or a name that there is not.
        TypeError: A value is of another type.
    """
    given = dict(recipe)
    method = str(given.pop("method", ""))
    known = [each.removeprefix("TRAINING_METHOD_").lower() for each in list(TrainingMethod.keys())[1:]]
    if method.lower() not in known:
        near = get_close_matches(method.lower(), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"recipe's method is {method!r}; it must be one of {', '.join(known)}{hint}")
    names = [each.name for each in TrainingRecipe.DESCRIPTOR.fields]
    if unknown := [name for name in given if name not in names]:
        near = get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
        raise ValueError(f"recipe has no {unknown[0]!r}; {hint}")
    message = TrainingRecipe(method=TrainingMethod.Value(f"TRAINING_METHOD_{method.upper()}"))
    for name, value in given.items():
        try:
            if name == "targets":
                message.targets.extend(value)
            else:
                setattr(message, name, value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"recipe's {name} is {value!r}: {error}") from None
    return message


@strict
class Trainings(Connection):
    """The trainings of a synchronous client."""

    @cached_property
    def _trainings(self) -> TrainingServiceStub:
        return TrainingServiceStub(self._channel)

    def train(
        self,
        name: str,
        data: Data | None = None,
        *,
        recipe: Mapping[str, Any],
        model: str = "",
        blob: str = "",
        held: Data | None = None,
        held_blob: str = "",
        replace: bool = False,
        priority: Class | None = None,
        backend: str = "",
        device: str = "",
        title: str = "",
        request_id: str = "",
        lease: LeaseRef | None = None,
    ) -> Training:
        """Have a model trained; the training is kept, and goes on without this client: see `watch_training`.

        Args:
            name: What the result is called: a model or, of "lora", an adapter of `model`.
            data: Rows, each a mapping with the fields that the recipe names; or JSON Lines as text or bytes.
            recipe: How, by the names of `TrainingRecipe`: {"method": "classify", "epochs": 3}.
            model: The model that it begins with.
            blob: Digest of a blob that has the data, in place of `data`.
            held: Rows that are held back for evaluation; default: a share of the data.
            held_blob: Digest of a blob that has them.
            replace: A model of this name may be there already, and gets a new version.
            priority: Class of its work; default: "low".
            backend: That trains; default: that of `model`.
            device: On which it computes.
            title: What people call it.
            request_id: Makes the call idempotent; default: a new one for each call.
            lease: Under which it computes.

        Raises:
            InferdError: ModelNotFoundError; InvalidFieldError, which names the field or row; LimitExceededError.
            TypeError, ValueError: The data cannot be JSON, or a value is wrong.
        """
        request = train_request(
            name, data, recipe, model, blob, held, held_blob, replace, priority, backend, device, title, request_id
        )
        return self._wait(self._trainings.TrainModel, request, self._timeout_s, lease).training

    def get_training(self, training_id: str) -> Training:
        """A training as it stands. Raises TrainingNotFoundError."""
        request = GetTrainingRequest(training_id=training_id)
        return self._call(self._trainings.GetTraining, request).training

    def list_trainings(self) -> Generator[Training]:
        """All trainings of the tenant, newest first, without their cards and judgements."""
        for page in self._pages(self._trainings.ListTrainings, ListTrainingsRequest()):
            yield from page.trainings

    def watch_training(self, training_id: str) -> Generator[Training]:
        """A training as it stands, then as it changes, until it has ended; leaving it changes nothing."""
        request = WatchTrainingRequest(training_id=training_id)
        for told in self._stream(self._trainings.WatchTraining, request):
            yield told.training

    def training_steps(self, training_id: str) -> Generator[TrainingStep]:
        """The curve of a training, by step."""
        request = ListTrainingStepsRequest(training_id=training_id, page_size=1000)
        for page in self._pages(self._trainings.ListTrainingSteps, request):
            yield from page.steps

    def cancel_training(self, training_id: str) -> Training:
        """End a training; one that has ended stays as it is."""
        request = CancelTrainingRequest(training_id=training_id)
        return self._call(self._trainings.CancelTraining, request).training

    def delete_training(self, training_id: str) -> None:
        """Delete a training that has ended; the files of a model that came of it stay as long as that is known."""
        self._call(self._trainings.DeleteTraining, DeleteTrainingRequest(training_id=training_id))


@strict
class AsyncTrainings(AsyncConnection):
    """The trainings of an asynchronous client."""

    @cached_property
    def _trainings(self) -> TrainingServiceAsyncStub:
        return TrainingServiceStub(self._channel)

    async def train(
        self,
        name: str,
        data: Data | None = None,
        *,
        recipe: Mapping[str, Any],
        model: str = "",
        blob: str = "",
        held: Data | None = None,
        held_blob: str = "",
        replace: bool = False,
        priority: Class | None = None,
        backend: str = "",
        device: str = "",
        title: str = "",
        request_id: str = "",
        lease: LeaseRef | None = None,
    ) -> Training:
        """As `Trainings.train`."""
        request = train_request(
            name, data, recipe, model, blob, held, held_blob, replace, priority, backend, device, title, request_id
        )
        return (await self._wait(self._trainings.TrainModel, request, self._timeout_s, lease)).training

    async def get_training(self, training_id: str) -> Training:
        """As `Trainings.get_training`."""
        request = GetTrainingRequest(training_id=training_id)
        return (await self._call(self._trainings.GetTraining, request)).training

    async def list_trainings(self) -> AsyncGenerator[Training]:
        """As `Trainings.list_trainings`."""
        async for page in self._pages(self._trainings.ListTrainings, ListTrainingsRequest()):
            for each in page.trainings:
                yield each

    async def watch_training(self, training_id: str) -> AsyncGenerator[Training]:
        """As `Trainings.watch_training`."""
        request = WatchTrainingRequest(training_id=training_id)
        responses = self._stream(self._trainings.WatchTraining, request)
        try:
            async for told in responses:
                yield told.training
        finally:
            await responses.aclose()

    async def training_steps(self, training_id: str) -> AsyncGenerator[TrainingStep]:
        """As `Trainings.training_steps`."""
        request = ListTrainingStepsRequest(training_id=training_id, page_size=1000)
        async for page in self._pages(self._trainings.ListTrainingSteps, request):
            for each in page.steps:
                yield each

    async def cancel_training(self, training_id: str) -> Training:
        """As `Trainings.cancel_training`."""
        request = CancelTrainingRequest(training_id=training_id)
        return (await self._call(self._trainings.CancelTraining, request)).training

    async def delete_training(self, training_id: str) -> None:
        """As `Trainings.delete_training`."""
        await self._call(self._trainings.DeleteTraining, DeleteTrainingRequest(training_id=training_id))
