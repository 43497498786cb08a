"""`inferd.v1.EvaluationService`."""

from contextlib import aclosing

from inferd.core.dataset import Source
from inferd.core.index import Page
from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.runtime.front import evaluations as front
from inferd.runtime.front.blobs import Blobs
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.dataset_rows import DatasetRows
from inferd.runtime.front.evaluation_run import fingerprint_of
from inferd.services.calls import Call, check_request_id
from inferd.services.dataset_values import READ_DATASET, read_version
from inferd.services.evaluation_values import read_spec, read_wanted, write_comparison, write_evaluation, write_line
from inferd.services.named import read_digest
from inferd.services.pages import name_of, number_of, size_of, token_of
from inferd_api.v1 import evaluation_service_pb2 as es

MARGIN_BYTES = 64 << 10  # of a message, which no line takes


class Evaluations:
    """Translates; see the proto for what each call means."""

    def __init__(
        self, evaluations: front.Evaluations, blobs: Blobs, rows: DatasetRows, *, message_limit_bytes: int
    ) -> None:
        self._evaluations = evaluations
        self._blobs = blobs
        self._rows = rows
        self._page_bytes = message_limit_bytes - MARGIN_BYTES

    async def EvaluateModel(self, request: es.EvaluateModelRequest, call: Call) -> es.EvaluateModelResponse:  # noqa: N802 - the wire's name
        """Have a model evaluated."""
        check_request_id(request.request_id)
        spec = read_spec(request.spec)
        if spec.judge:
            call.admission.check_models((spec.judge,))
        dataset: Source | None = None
        fingerprint = ""
        if request.WhichOneof("data") == "dataset":
            call.admission.check(READ_DATASET)
            name, version = read_version(request.dataset)
            fingerprint = fingerprint_of(spec, f"\0{name}@{version}".encode())  # the same where others have come since
            if known := self._evaluations.find_made(call.caller.tenant, request.request_id, fingerprint):
                return es.EvaluateModelResponse(evaluation=write_evaluation(known))
            data, dataset = await self._read_dataset(request, call.caller)
        else:
            data = await self._read(request, call.caller)
        made = await self._evaluations.create(
            spec, data, call.caller, request_id=request.request_id, dataset=dataset, fingerprint=fingerprint
        )
        return es.EvaluateModelResponse(evaluation=write_evaluation(made))

    async def _read_dataset(self, request: es.EvaluateModelRequest, caller: Caller) -> tuple[bytes, Source]:
        """The rows of the dataset of a request as lines, and which it is."""
        name, version = read_version(request.dataset)
        most, holder = self._evaluations.most_bytes, f"an evaluation of {request.spec.model} that is being made"
        read = await self._rows.all(
            caller.tenant, name, version, holder=holder, most_bytes=most, bound="evaluate.data_bytes"
        )
        dataset = read.dataset
        return read.data, Source(name=dataset.name, version=dataset.version, digest=dataset.digest)

    async def _read(self, request: es.EvaluateModelRequest, caller: Caller) -> bytes:
        """The data of a request."""
        match request.WhichOneof("data"):
            case "inline":
                return request.inline
            case "blob":
                blob = self._blobs.get(caller, read_digest(request.blob, "blob"))
                self._evaluations.check_size(blob.size_bytes)
                data = bytearray()
                async with aclosing(self._blobs.read(caller, blob.digest, start=0, size_bytes=None)) as pieces:
                    async for piece in pieces:
                        data += piece
                return bytes(data)
            case _:
                raise InvalidFieldError("the request has no data; set inline, blob or dataset", field="inline")

    async def GetEvaluation(self, request: es.GetEvaluationRequest, call: Call) -> es.GetEvaluationResponse:  # noqa: N802 - the wire's name
        """Read an evaluation."""
        return es.GetEvaluationResponse(
            evaluation=write_evaluation(self._evaluations.get(request.evaluation_id, call.caller))
        )

    async def ListEvaluations(self, request: es.ListEvaluationsRequest, call: Call) -> es.ListEvaluationsResponse:  # noqa: N802 - the wire's name
        """List evaluations, newest first."""
        after, size = name_of(request.page_token), size_of(request.page_size)
        known = [each for each in self._evaluations.all(call.caller) if after is None or each.evaluation_id < after]
        page = Page(known[:size], more=len(known) > size)
        return es.ListEvaluationsResponse(
            evaluations=map(write_evaluation, page.records),
            next_page_token=token_of(page, lambda each: each.evaluation_id),
        )

    async def WatchEvaluation(self, request: es.WatchEvaluationRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Watch an evaluation until it has ended."""
        async with aclosing(self._evaluations.watch(request.evaluation_id, call.caller)) as told:
            async for evaluation in told:
                await call.write(es.WatchEvaluationResponse(evaluation=write_evaluation(evaluation)))

    async def ListEvaluationLines(  # noqa: N802 - the wire's name
        self, request: es.ListEvaluationLinesRequest, call: Call
    ) -> es.ListEvaluationLinesResponse:
        """List lines of an evaluation, as many as a message holds."""
        lines, more = await self._evaluations.lines(
            request.evaluation_id,
            call.caller,
            after=number_of(request.page_token) or 0,
            size=size_of(request.page_size),
            most_bytes=self._page_bytes,
        )
        fitting, size_bytes = [], 0
        for line in lines:
            written = write_line(line)
            size_bytes += written.ByteSize()
            if size_bytes > self._page_bytes:
                break
            fitting.append(written)
        if lines and not fitting:
            raise LimitExceededError(
                f"line {lines[0].answer.number} has {size_bytes} bytes with its answer, and limits.message_bytes leaves"
                f" {self._page_bytes}",
                metadata={"bound": "limits.message_bytes", "value": str(size_bytes), "limit": str(self._page_bytes)},
            )
        page = Page(fitting, more=more or len(fitting) < len(lines))
        return es.ListEvaluationLinesResponse(lines=fitting, next_page_token=token_of(page, lambda each: each.number))

    async def CancelEvaluation(self, request: es.CancelEvaluationRequest, call: Call) -> es.CancelEvaluationResponse:  # noqa: N802 - the wire's name
        """End an evaluation."""
        ended = await self._evaluations.cancel(request.evaluation_id, call.caller)
        return es.CancelEvaluationResponse(evaluation=write_evaluation(ended))

    async def DeleteEvaluation(self, request: es.DeleteEvaluationRequest, call: Call) -> es.DeleteEvaluationResponse:  # noqa: N802 - the wire's name
        """Forget an evaluation."""
        await self._evaluations.delete(request.evaluation_id, call.caller)
        return es.DeleteEvaluationResponse()

    async def CompareEvaluations(  # noqa: N802 - the wire's name
        self, request: es.CompareEvaluationsRequest, call: Call
    ) -> es.CompareEvaluationsResponse:
        """Compare evaluations, and make a page of them."""
        wanted = read_wanted(request)
        return write_comparison(await self._evaluations.compare(list(request.evaluation_ids), call.caller, wanted))
