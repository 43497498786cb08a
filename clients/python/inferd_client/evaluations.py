"""Evaluations: how good models are at a task. `Evaluations` and `AsyncEvaluations` differ in `await` only."""

from __future__ import annotations

import json
from functools import cached_property
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeAlias

from inferd_api.v1.evaluation_pb2 import EvaluationKind, EvaluationSpec
from inferd_api.v1.evaluation_service_pb2 import (
    CancelEvaluationRequest,
    CompareEvaluationsRequest,
    CompareEvaluationsResponse,
    DeleteEvaluationRequest,
    EvaluateModelRequest,
    GetEvaluationRequest,
    ListEvaluationLinesRequest,
    ListEvaluationsRequest,
    WatchEvaluationRequest,
)
from inferd_api.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import class_number
from inferd_client.datasets import dataset_version
from inferd_client.options import strict
from inferd_client.values import with_texts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping, Sequence

    from inferd_api.v1.evaluation_pb2 import Evaluation, EvaluationLine
    from inferd_api.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub
    from inferd_client.claims import Class

    Data: TypeAlias = "bytes | str | Sequence[Mapping[str, Any]]"


@with_texts
def evaluate_request(  # noqa: PLR0917 - as the methods, of each its keyword
    model: str,
    data: Data | None,
    kind: str,
    blob: str,
    dataset: str,
    class_labels: Sequence[str],
    judge: str,
    rubric: str,
    chat: bool,  # noqa: FBT001 - likewise
    most_tokens: int,
    stop: Sequence[str],
    separator: str | None,
    priority: Class | None,
    title: str,
    seed: int,
    request_id: str,
) -> EvaluateModelRequest:
    """The request for an evaluation.

    Raises:
        ValueError: There is no such kind, or not one of data, blob and dataset.
    """
    known = list(EvaluationKind.keys())[1:]
    if f"EVALUATION_KIND_{kind.upper()}" not in known:
        names = ", ".join(each.removeprefix("EVALUATION_KIND_").lower() for each in known)
        raise ValueError(f"kind is {kind!r}; it must be one of {names}")
    if (data is not None) + bool(blob) + bool(dataset) != 1:
        raise ValueError("give one of data, blob and dataset")
    spec = EvaluationSpec(
        model=model,
        kind=EvaluationKind.Value(f"EVALUATION_KIND_{kind.upper()}"),
        labels=class_labels,
        judge=judge,
        rubric=rubric,
        chat=chat,
        most_tokens=most_tokens,
        stop=stop,
        separator=separator,
        priority=class_number(priority),
        title=title,
        seed=seed,
    )
    request = EvaluateModelRequest(spec=spec, request_id=request_id or token_hex(16))
    if data is not None:
        request.inline = json_lines(data)
    elif blob:
        request.blob = blob
    else:
        request.dataset.CopyFrom(dataset_version(dataset))
    return request


def json_lines(data: Data) -> bytes:
    """Data as JSON Lines: bytes and text are that already.

    Raises:
        TypeError, ValueError: It cannot be JSON.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    return "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in data).encode()


@strict
class Evaluations(Connection):
    """The evaluations of a synchronous client."""

    @cached_property
    def _evaluations(self) -> EvaluationServiceStub:
        return EvaluationServiceStub(self._channel)

    def evaluate_model(
        self,
        model: str,
        data: Data | None = None,
        *,
        kind: str,
        blob: str = "",
        dataset: str = "",
        class_labels: Sequence[str] = (),
        judge: str = "",
        rubric: str = "",
        chat: bool = False,
        most_tokens: int = 0,
        stop: Sequence[str] = (),
        separator: str | None = None,
        priority: Class | None = None,
        title: str = "",
        seed: int = 0,
        request_id: str = "",
    ) -> Evaluation:
        """Have a model evaluated; the evaluation is kept, and goes on without this client: see `watch_evaluation`.

        Args:
            model: Its name.
            data: Lines, each a mapping as `EvaluationKind` says; or JSON Lines as text or bytes.
            kind: "choice", "generation", "classification", "code" or "judge".
            blob: Digest of a blob that has the data, in place of `data`.
            dataset: The dataset whose rows are the lines, in place of both, as "reviews" or "reviews@3".
            class_labels: Of a classification.
            judge: The model that rates, of a judge.
            rubric: By what it rates.
            chat: Put each prompt into a conversation, as what the user says.
            most_tokens: That the model writes for a line; default: 256.
            stop: Strings that end what it writes.
            separator: What stands between a prompt and each choice; default: a space.
            priority: Class of its tasks; default: "low".
            title: What people call it.
            seed: Which lines are drawn for intervals.
            request_id: Makes the call idempotent; default: a new one for each call.

        Raises:
            InferdError: ModelNotFoundError; InvalidFieldError, which names the line; LimitExceededError.
            TypeError, ValueError: The data cannot be JSON, or a value is wrong.
        """
        request = evaluate_request(
            model,
            data,
            kind,
            blob,
            dataset,
            class_labels,
            judge,
            rubric,
            chat,
            most_tokens,
            stop,
            separator,
            priority,
            title,
            seed,
            request_id,
        )
        return self._call(self._evaluations.EvaluateModel, request).evaluation

    def get_evaluation(self, evaluation_id: str) -> Evaluation:
        """An evaluation as it stands. Raises EvaluationNotFoundError."""
        request = GetEvaluationRequest(evaluation_id=evaluation_id)
        return self._call(self._evaluations.GetEvaluation, request).evaluation

    def list_evaluations(self) -> Generator[Evaluation]:
        """All evaluations of the tenant, newest first."""
        for page in self._pages(self._evaluations.ListEvaluations, ListEvaluationsRequest()):
            yield from page.evaluations

    def watch_evaluation(self, evaluation_id: str) -> Generator[Evaluation]:
        """An evaluation as it stands, then as it changes, until it has ended; leaving it changes nothing."""
        request = WatchEvaluationRequest(evaluation_id=evaluation_id)
        for told in self._stream(self._evaluations.WatchEvaluation, request):
            yield told.evaluation

    def evaluation_lines(self, evaluation_id: str) -> Generator[EvaluationLine]:
        """The lines of an evaluation that were answered, by number, with what came of each."""
        request = ListEvaluationLinesRequest(evaluation_id=evaluation_id)
        for page in self._pages(self._evaluations.ListEvaluationLines, request):
            yield from page.lines

    def cancel_evaluation(self, evaluation_id: str) -> Evaluation:
        """End an evaluation; one that has ended stays as it is."""
        request = CancelEvaluationRequest(evaluation_id=evaluation_id)
        return self._call(self._evaluations.CancelEvaluation, request).evaluation

    def delete_evaluation(self, evaluation_id: str) -> None:
        """Delete an evaluation that has ended, with its data and its lines."""
        self._call(self._evaluations.DeleteEvaluation, DeleteEvaluationRequest(evaluation_id=evaluation_id))

    def compare_evaluations(
        self,
        evaluation_ids: Sequence[str],
        *,
        resamples: int = 0,
        confidence: float = 0.0,
        seed: int | None = None,
        page: bool = False,
        page_lines: int | None = None,
    ) -> CompareEvaluationsResponse:
        """Compare evaluations of the same data with the first one, line by line; of one alone its figures anew.

        Args:
            evaluation_ids: Of 1 to 8 that have succeeded.
            resamples: How often lines are drawn; default: 1000.
            confidence: Which part of these an interval has; default: 0.95.
            seed: Which lines are drawn; default: that of the first evaluation.
            page: Make a page in HTML, too.
            page_lines: Lines of each that it shows; default: 10.
        """
        request = CompareEvaluationsRequest(
            evaluation_ids=evaluation_ids,
            resamples=resamples,
            confidence=confidence,
            seed=seed,
            page=page,
            page_lines=page_lines,
        )
        return self._call(self._evaluations.CompareEvaluations, request)


@strict
class AsyncEvaluations(AsyncConnection):
    """The evaluations of an asynchronous client."""

    @cached_property
    def _evaluations(self) -> EvaluationServiceAsyncStub:
        return EvaluationServiceStub(self._channel)

    async def evaluate_model(
        self,
        model: str,
        data: Data | None = None,
        *,
        kind: str,
        blob: str = "",
        dataset: str = "",
        class_labels: Sequence[str] = (),
        judge: str = "",
        rubric: str = "",
        chat: bool = False,
        most_tokens: int = 0,
        stop: Sequence[str] = (),
        separator: str | None = None,
        priority: Class | None = None,
        title: str = "",
        seed: int = 0,
        request_id: str = "",
    ) -> Evaluation:
        """As `Evaluations.evaluate_model`."""
        request = evaluate_request(
            model,
            data,
            kind,
            blob,
            dataset,
            class_labels,
            judge,
            rubric,
            chat,
            most_tokens,
            stop,
            separator,
            priority,
            title,
            seed,
            request_id,
        )
        return (await self._call(self._evaluations.EvaluateModel, request)).evaluation

    async def get_evaluation(self, evaluation_id: str) -> Evaluation:
        """As `Evaluations.get_evaluation`."""
        request = GetEvaluationRequest(evaluation_id=evaluation_id)
        return (await self._call(self._evaluations.GetEvaluation, request)).evaluation

    async def list_evaluations(self) -> AsyncGenerator[Evaluation]:
        """As `Evaluations.list_evaluations`."""
        async for page in self._pages(self._evaluations.ListEvaluations, ListEvaluationsRequest()):
            for each in page.evaluations:
                yield each

    async def watch_evaluation(self, evaluation_id: str) -> AsyncGenerator[Evaluation]:
        """As `Evaluations.watch_evaluation`."""
        request = WatchEvaluationRequest(evaluation_id=evaluation_id)
        responses = self._stream(self._evaluations.WatchEvaluation, request)
        try:
            async for told in responses:
                yield told.evaluation
        finally:
            await responses.aclose()

    async def evaluation_lines(self, evaluation_id: str) -> AsyncGenerator[EvaluationLine]:
        """As `Evaluations.evaluation_lines`."""
        request = ListEvaluationLinesRequest(evaluation_id=evaluation_id)
        async for page in self._pages(self._evaluations.ListEvaluationLines, request):
            for each in page.lines:
                yield each

    async def cancel_evaluation(self, evaluation_id: str) -> Evaluation:
        """As `Evaluations.cancel_evaluation`."""
        request = CancelEvaluationRequest(evaluation_id=evaluation_id)
        return (await self._call(self._evaluations.CancelEvaluation, request)).evaluation

    async def delete_evaluation(self, evaluation_id: str) -> None:
        """As `Evaluations.delete_evaluation`."""
        await self._call(self._evaluations.DeleteEvaluation, DeleteEvaluationRequest(evaluation_id=evaluation_id))

    async def compare_evaluations(
        self,
        evaluation_ids: Sequence[str],
        *,
        resamples: int = 0,
        confidence: float = 0.0,
        seed: int | None = None,
        page: bool = False,
        page_lines: int | None = None,
    ) -> CompareEvaluationsResponse:
        """As `Evaluations.compare_evaluations`."""
        request = CompareEvaluationsRequest(
            evaluation_ids=evaluation_ids,
            resamples=resamples,
            confidence=confidence,
            seed=seed,
            page=page,
            page_lines=page_lines,
        )
        return await self._call(self._evaluations.CompareEvaluations, request)
