"""Kernels that are older than this client: which calls they lack, and what is said of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from inferd_api.v1.host_service_pb2 import GetHostRequest
from inferd_api.v1.host_service_pb2_grpc import HostServiceStub
from inferd_client.errors import DETAILS_KEY, KernelTooOldError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd_api.v1.host_service_pb2_grpc import HostServiceAsyncStub

SINCE: Final[Mapping[str, str]] = {
    "DeleteModel": "0.2.0",
    "RunTasks": "0.2.0",
    "GetModelSignature": "0.3.0",
    "WatchTasks": "0.3.0",
    "CreateTask": "0.3.0",
    **dict.fromkeys(("PutBlob", "ReadBlob", "GetBlob", "ListBlobs", "DeleteBlob", "UploadModel"), "0.4.0"),
    **dict.fromkeys(("BackupStore", "UpdateModel", "ListModelVersions", "OptimizeModel", "ExportModel"), "0.4.0"),
    **dict.fromkeys(("GetStoreKeys", "RotateStoreKeys", "ShredTenant"), "0.4.0"),
    **dict.fromkeys(("CreateQuota", "ListQuotas", "ListQuotaUses", "DeleteQuota"), "0.4.0"),
    **dict.fromkeys(("GetAuditTrail", "ListAuditLines"), "0.4.0"),
    **dict.fromkeys(("CreateModerationRule", "ListModerationRules", "DeleteModerationRule"), "0.4.0"),
    **dict.fromkeys(("CreateInvite", "LoadAdapter", "UnloadAdapter", "ListAdapters"), "0.4.0"),
    **dict.fromkeys(("ListHosts", "CordonHost", "DrainHost", "ResumeHost", "RemoveHost", "ReadInstanceLog"), "0.4.0"),
    **dict.fromkeys(("ListFlags", "GetFlag", "ResolveFlag"), "0.4.0"),
    **dict.fromkeys(("ListFunctions", "GetFunction"), "0.4.0"),
    **dict.fromkeys(("CreateDataset", "AppendDataset", "FinishDataset", "GetDataset", "ListDatasets"), "0.4.0"),
    **dict.fromkeys(("ListDatasetParts", "ReadDataset", "DeleteDataset"), "0.4.0"),
    **dict.fromkeys(("CreatePipelineRun", "GetPipelineRun", "ListPipelineRuns"), "0.4.0"),
    **dict.fromkeys(("WatchPipelineRun", "ReadPipelineOutput", "CancelPipelineRun", "DeletePipelineRun"), "0.4.0"),
    **dict.fromkeys(("EvaluateModel", "GetEvaluation", "ListEvaluations", "WatchEvaluation"), "0.4.0"),
    **dict.fromkeys(("CancelEvaluation", "DeleteEvaluation", "ListEvaluationLines", "CompareEvaluations"), "0.4.0"),
    **dict.fromkeys(("PlanExplanation", "Explain"), "0.4.0"),
    **dict.fromkeys(("TrainModel", "GetTraining", "ListTrainings", "WatchTraining"), "0.4.0"),
    **dict.fromkeys(("ListTrainingSteps", "CancelTraining", "DeleteTraining"), "0.4.0"),
    **dict.fromkeys(("CreateIndex", "GetIndex", "ListIndexes", "DeleteIndex", "AddDocuments"), "0.4.0"),
    **dict.fromkeys(("DeleteDocuments", "GetDocument", "ListDocuments", "SearchIndex", "AnswerQuestion"), "0.4.0"),
    **dict.fromkeys(("CreateFederation", "GetFederation", "ListFederations", "WatchFederation"), "0.4.0"),
    **dict.fromkeys(("GetFederationWeights", "CancelFederation", "DeleteFederation"), "0.4.0"),
    **dict.fromkeys(("JoinFederation", "PollRound", "SubmitRoundPart"), "0.4.0"),
}
"""The version of the kernel that first had a call, of those that 0.1.0 lacked."""
TENSORS: Final = "a task of tensors"
TENSORS_SINCE: Final = "0.3.0"
SELECTORS: Final = "a lease by labels of hosts"
SELECTORS_SINCE: Final = "0.4.0"
NO_INPUT: Final = "spec.input"
"""The field of the error of a kernel that finds no input in a task: it does not know the one that is there."""
ASK_S: Final = 5.0  # how long a kernel is asked for its version


def is_lacking(error: grpc.RpcError) -> bool:
    """Whether a call ended as there is no such call: what the kernel itself refuses has details."""
    pairs: Any = error.trailing_metadata() or ()
    return error.code() is grpc.StatusCode.UNIMPLEMENTED and all(key != DETAILS_KEY for key, _ in pairs)


def version_of(channel: grpc.Channel, metadata: Sequence[tuple[str, str]]) -> str:
    """The version of a kernel; "" where it does not tell."""
    try:
        return HostServiceStub(channel).GetHost(GetHostRequest(), metadata=tuple(metadata), timeout=ASK_S).host.version
    except grpc.RpcError:
        return ""


async def version_of_async(channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]]) -> str:
    """As `version_of`."""
    stub: HostServiceAsyncStub = HostServiceStub(channel)
    try:
        return (await stub.GetHost(GetHostRequest(), metadata=tuple(metadata), timeout=ASK_S)).host.version
    except grpc.RpcError:
        return ""


def too_old(request: Any, version: str, address: str) -> KernelTooOldError:
    """What is said of a kernel that lacks the call of a request."""
    call = _call_of(request)
    return _too_old(call, SINCE[call], version, address)


def too_old_for_tensors(version: str, address: str) -> KernelTooOldError:
    """What is said of a kernel that does not know tensors."""
    return _too_old(TENSORS, TENSORS_SINCE, version, address)


def too_old_for_selectors(version: str, address: str) -> KernelTooOldError:
    """What is said of a kernel that does not know claims with a selector, and would hold a device of its own."""
    return _too_old(SELECTORS, SELECTORS_SINCE, version, address)


def _too_old(call: str, needed: str, version: str, address: str) -> KernelTooOldError:
    return KernelTooOldError(
        f"this kernel is {version or 'of an unknown version'}; {call} needs {needed} or newer; "
        f"update the kernel at {address}",
        metadata={"call": call, "version": version, "needed": needed},
    )


def is_newer(request: object) -> bool:
    """Whether there are kernels that lack the call of a request."""
    return _call_of(request) in SINCE


def _call_of(request: Any) -> str:
    """Each call has a request of its own name."""
    name: str = request.DESCRIPTOR.name
    return name.removesuffix("Request")
