"""Calls about work of many tasks, as `every_call` has them: trainings, federations, indexes."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from inferd_api.v1 import federation_pb2 as fep
from inferd_api.v1 import federation_service_pb2 as fes
from inferd_api.v1 import index_pb2 as ip
from inferd_api.v1 import index_service_pb2 as xs
from inferd_api.v1 import training_pb2 as trp
from inferd_api.v1 import training_service_pb2 as trs

_STRANGER = fes.FederationClient(federation_id="none", client=1)


async def missing(call: Any) -> None:
    """The answer that there is no such thing."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


WORK_CALLS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "inferd.v1.IndexService/CreateIndex": lambda c: c.indexes.CreateIndex(
        xs.CreateIndexRequest(spec=ip.IndexSpec(name="i"))
    ),
    "inferd.v1.IndexService/GetIndex": lambda c: c.indexes.GetIndex(xs.GetIndexRequest(name="i")),
    "inferd.v1.IndexService/ListIndexes": lambda c: c.indexes.ListIndexes(xs.ListIndexesRequest()),
    "inferd.v1.IndexService/SearchIndex": lambda c: c.indexes.SearchIndex(
        xs.SearchIndexRequest(query=ip.IndexQuery(index="i", text="a"))
    ),
    "inferd.v1.IndexService/AddDocuments": lambda c: missing(
        c.indexes.AddDocuments(
            xs.AddDocumentsRequest(index="none", documents=[ip.IndexDocument(id="a", text="a")])
        ).read()
    ),
    "inferd.v1.IndexService/DeleteDocuments": lambda c: c.indexes.DeleteDocuments(
        xs.DeleteDocumentsRequest(index="i", document_ids=["a"])
    ),
    "inferd.v1.IndexService/ListDocuments": lambda c: missing(
        c.indexes.ListDocuments(xs.ListDocumentsRequest(index="none"))
    ),
    "inferd.v1.IndexService/GetDocument": lambda c: missing(
        c.indexes.GetDocument(xs.GetDocumentRequest(index="i", document_id="a"))
    ),
    "inferd.v1.IndexService/AnswerQuestion": lambda c: c.indexes.AnswerQuestion(
        xs.AnswerQuestionRequest(query=ip.IndexQuery(index="i", text="a"), model="fake")
    ).read(),
    "inferd.v1.IndexService/DeleteIndex": lambda c: c.indexes.DeleteIndex(xs.DeleteIndexRequest(name="i")),
    "inferd.v1.TrainingService/TrainModel": lambda c: missing(
        c.trainings.TrainModel(
            trs.TrainModelRequest(
                spec=trp.TrainingSpec(
                    model="none", name="a", recipe=trp.TrainingRecipe(method=trp.TRAINING_METHOD_CLASSIFY)
                ),
                inline=b"{}",
            )
        )
    ),
    "inferd.v1.TrainingService/ListTrainings": lambda c: c.trainings.ListTrainings(trs.ListTrainingsRequest()),
    "inferd.v1.TrainingService/WatchTraining": lambda c: missing(
        c.trainings.WatchTraining(trs.WatchTrainingRequest(training_id="none")).read()
    ),
    **{
        f"inferd.v1.TrainingService/{name}": lambda c, name=name: missing(
            getattr(c.trainings, name)(getattr(trs, f"{name}Request")(training_id="none"))
        )
        for name in ("GetTraining", "ListTrainingSteps", "CancelTraining", "DeleteTraining")
    },
    "inferd.v1.FederationService/CreateFederation": lambda c: c.federations.CreateFederation(
        fes.CreateFederationRequest(plan=fep.FederationPlan(recipe_json="{}", size=1, rounds=1, clients=1))
    ),
    "inferd.v1.FederationService/ListFederations": lambda c: c.federations.ListFederations(
        fes.ListFederationsRequest()
    ),
    "inferd.v1.FederationService/WatchFederation": lambda c: missing(
        c.federations.WatchFederation(fes.WatchFederationRequest(federation_id="none")).read()
    ),
    "inferd.v1.FederationService/PollRound": lambda c: missing(
        c.federations.PollRound(fes.PollRoundRequest(client=_STRANGER))
    ),
    "inferd.v1.FederationService/SubmitRoundPart": lambda c: missing(
        c.federations.SubmitRoundPart(
            fes.SubmitRoundPartRequest(client=_STRANGER, place=fes.RoundPlace(round=1), keys=fes.ClientKeys())
        )
    ),
    **{
        f"inferd.v1.FederationService/{name}": lambda c, name=name: missing(
            getattr(c.federations, name)(getattr(fes, f"{name}Request")(federation_id="none"))
        )
        for name in (
            *("GetFederation", "GetFederationWeights", "CancelFederation", "DeleteFederation"),
            "JoinFederation",
        )
    },
}
