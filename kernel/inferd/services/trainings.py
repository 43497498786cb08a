"""`inferd.v1.TrainingService`."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from hashlib import sha256

from inferd.core.index import Page
from inferd.errors import InvalidFieldError
from inferd.runtime.front import trainings as front
from inferd.runtime.front.blobs import Blobs
from inferd.runtime.front.caller import Caller
from inferd.services.calls import Call, check_request_id
from inferd.services.named import read_digest
from inferd.services.pages import name_of, number_of, size_of, token_of
from inferd.services.training_values import read_spec, write_point, write_training
from inferd_api.v1 import training_service_pb2 as ts


class Trainings:
    """Translates; see the proto for what each call means."""

    def __init__(self, trainings: front.Trainings, blobs: Blobs) -> None:
        self._trainings = trainings
        self._blobs = blobs

    async def TrainModel(self, request: ts.TrainModelRequest, call: Call) -> ts.TrainModelResponse:  # noqa: N802 - the wire's name
        """Have a model trained."""
        check_request_id(request.request_id)
        spec = read_spec(request.spec)
        call.admission.check_models((spec.name,))
        data, held = request.WhichOneof("data"), request.WhichOneof("held")
        if data is None:
            raise InvalidFieldError("the request has no data; set inline or blob", field="inline")
        named = [data, *([held] if held else [])]
        marks = [
            sha256(request.inline).hexdigest() if data == "inline" else read_digest(request.blob, "blob"),
            *([sha256(request.held_inline).hexdigest()] if held == "held_inline" else []),
            *([read_digest(request.held_blob, "held_blob")] if held == "held_blob" else []),
        ]
        rows = self._pieces(request, data, call.caller)
        held_rows = None if held is None else self._pieces(request, held, call.caller)
        made = await self._trainings.create(
            spec,
            rows,
            held_rows,
            call.caller,
            request_id=request.request_id,
            data_id=" ".join(marks),
            fields=(named[0], named[-1]),
        )
        return ts.TrainModelResponse(training=write_training(made))

    async def _pieces(self, request: ts.TrainModelRequest, name: str, caller: Caller) -> AsyncGenerator[bytes, None]:
        """What a field of the request holds, or names."""
        if name in {"inline", "held_inline"}:
            yield getattr(request, name)
            return
        blob = self._blobs.get(caller, read_digest(getattr(request, name), name))
        async with aclosing(self._blobs.read(caller, blob.digest, start=0, size_bytes=None)) as pieces:
            async for piece in pieces:
                yield piece

    async def GetTraining(self, request: ts.GetTrainingRequest, call: Call) -> ts.GetTrainingResponse:  # noqa: N802 - the wire's name
        """Read a training."""
        return ts.GetTrainingResponse(training=write_training(self._trainings.get(request.training_id, call.caller)))

    async def ListTrainings(self, request: ts.ListTrainingsRequest, call: Call) -> ts.ListTrainingsResponse:  # noqa: N802 - the wire's name
        """List trainings, newest first."""
        after, size = name_of(request.page_token), size_of(request.page_size)
        known = [each for each in self._trainings.all(call.caller) if after is None or each.training_id < after]
        page = Page(known[:size], more=len(known) > size)
        return ts.ListTrainingsResponse(
            trainings=[write_training(each, whole=False) for each in page.records],
            next_page_token=token_of(page, lambda each: each.training_id),
        )

    async def WatchTraining(self, request: ts.WatchTrainingRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Watch a training until it has ended."""
        async with aclosing(self._trainings.watch(request.training_id, call.caller)) as told:
            async for training in told:
                await call.write(ts.WatchTrainingResponse(training=write_training(training)))

    async def ListTrainingSteps(self, request: ts.ListTrainingStepsRequest, call: Call) -> ts.ListTrainingStepsResponse:  # noqa: N802 - the wire's name
        """List the steps of a training's curve."""
        after, size = number_of(request.page_token) or 0, size_of(request.page_size)
        points = await self._trainings.points(request.training_id, call.caller)
        left = [each for each in points if each.step > after]
        page = Page(left[:size], more=len(left) > size)
        return ts.ListTrainingStepsResponse(
            steps=map(write_point, page.records), next_page_token=token_of(page, lambda each: each.step)
        )

    async def CancelTraining(self, request: ts.CancelTrainingRequest, call: Call) -> ts.CancelTrainingResponse:  # noqa: N802 - the wire's name
        """End a training."""
        ended = await self._trainings.cancel(request.training_id, call.caller)
        return ts.CancelTrainingResponse(training=write_training(ended))

    async def DeleteTraining(self, request: ts.DeleteTrainingRequest, call: Call) -> ts.DeleteTrainingResponse:  # noqa: N802 - the wire's name
        """Forget a training."""
        await self._trainings.delete(request.training_id, call.caller)
        return ts.DeleteTrainingResponse()
