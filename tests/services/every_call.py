"""A client that uses every method that a kernel offers, with a model that it pulls, loads, runs and deletes."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from connection import Connection, read_until
from every_work_call import WORK_CALLS, missing
from grpc_health.v1 import health_pb2 as hp
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as rp

from inferd.runtime.library import Library, Manifest
from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import audit_service_pb2 as aus
from inferd_api.v1 import auth_pb2 as ap
from inferd_api.v1 import auth_service_pb2 as asp
from inferd_api.v1 import blob_service_pb2 as bs
from inferd_api.v1 import bundle_pb2 as bp
from inferd_api.v1 import dataset_pb2 as dp
from inferd_api.v1 import dataset_service_pb2 as ds
from inferd_api.v1 import evaluation_pb2 as ep
from inferd_api.v1 import evaluation_service_pb2 as es
from inferd_api.v1 import function_service_pb2 as fs
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import moderation_pb2 as mop
from inferd_api.v1 import moderation_service_pb2 as mos
from inferd_api.v1 import quota_pb2 as qp
from inferd_api.v1 import quota_service_pb2 as qs
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import store_key_pb2 as kp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import upload_service_pb2 as us
from inferd_api.v1.audit_service_pb2_grpc import AuditServiceStub
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub
from inferd_api.v1.blob_service_pb2_grpc import BlobServiceStub
from inferd_api.v1.dataset_service_pb2_grpc import DatasetServiceStub
from inferd_api.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from inferd_api.v1.federation_service_pb2_grpc import FederationServiceStub
from inferd_api.v1.function_service_pb2_grpc import FunctionServiceStub
from inferd_api.v1.index_service_pb2_grpc import IndexServiceStub
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_api.v1.moderation_service_pb2_grpc import ModerationServiceStub
from inferd_api.v1.optimize_pb2 import OptimizeModelRequest
from inferd_api.v1.quota_service_pb2_grpc import QuotaServiceStub
from inferd_api.v1.training_service_pb2_grpc import TrainingServiceStub
from inferd_api.v1.upload_service_pb2_grpc import UploadServiceStub

DIGEST = f"sha256:{hashlib.sha256(b'12').hexdigest()}"
MODEL, PULLED, TENSORS = "fake", "pulled", "tensors"
SPEC = tp.TaskSpec(model=MODEL, prompt="la", sampling=sp.SamplingParams(max_tokens=5))


class Client:
    """What the calls of a client leave for the later ones.

    Attributes:
        folder: Its files.
        data: The kernel's.
        task_id: A task that goes on for long.
        lease_id: A lease.
        key_id: A key.
        rule_id: A rule.
        quota_id: A quota.
    """

    def __init__(self, connection: Connection, data: Path) -> None:
        self.connection = connection
        self.folder = connection.folder
        self.data = data
        self.task_id = ""
        self.lease_id = ""
        self.blobs: Any = BlobServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.uploads: Any = ModelServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.key_id = ""
        self.rule_id = ""
        self.auth: Any = AuthServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.quota_id = ""
        self.quotas: Any = QuotaServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.audit: Any = AuditServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.datasets: Any = DatasetServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.trainings: Any = TrainingServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.indexes: Any = IndexServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.evaluations: Any = EvaluationServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.federations: Any = FederationServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.functions: Any = FunctionServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.moderation: Any = ModerationServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.health: Any = health_pb2_grpc.HealthStub(connection.channel)

    def pull(self) -> None:
        """Put a model into the kernel's library, as `inferd pull` does."""
        file = write_fake_model(self.folder, PULLED)
        digest, size_bytes = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size
        manifest = Manifest(name=PULLED, source=f"file:{file}", file="w.fake", sha256=digest, size_bytes=size_bytes)
        Library(self.data).add(manifest, file)

    async def create(self) -> None:
        path = write_fake_model(self.folder, MODEL, step_s=0.02)
        await self.connection.models.CreateModel(ms.CreateModelRequest(model=mp.Model(name=MODEL, source=str(path))))
        await self.connection.create(TENSORS, tensor="identity")

    async def run(self) -> None:
        call = self.connection.endless(tokens=900, detach_on_disconnect=True)
        self.task_id = (await read_until(call, "output"))[0].task_id
        call.cancel()

    async def run_many(self) -> None:
        run = ts.RunOrder(request=ts.RunTaskRequest(spec=SPEC))
        watch = ts.WatchOrder(request=ts.WatchTaskRequest(task_id=self.task_id))
        call = self.connection.tasks.RunTasks()
        orders = [ts.TaskOrder(tag=1, run=run), ts.TaskOrder(tag=2, watch=watch)]
        await call.write(ts.RunTasksRequest(orders=orders))
        await call.read()
        await call.write(ts.RunTasksRequest(orders=[ts.TaskOrder(tag=2, leave=ts.LeaveOrder())]))
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass

    async def upload(self) -> None:
        call = UploadServiceStub(self.connection.channel).Upload()  # type: ignore[no-untyped-call]
        await call.write(us.UploadRequest(start=us.UploadStart(size_bytes=2)))
        await call.read()
        await call.write(us.UploadRequest(chunk=b"12"))
        await call.read()
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass

    async def put(self) -> None:
        call = self.blobs.PutBlob()
        await call.write(bs.PutBlobRequest(start=bs.PutBlobStart(digest=DIGEST, size_bytes=2)))
        await call.read()
        await call.write(bs.PutBlobRequest(chunk=b"12"))
        while await call.read() is not grpc.aio.EOF:
            pass

    async def begin_dataset(self) -> None:
        column, lineage = dp.DatasetColumn(name="n", type="int64"), dp.DatasetLineage(operation="add")
        await self.datasets.CreateDataset(ds.CreateDatasetRequest(name="a", columns=[column], lineage=lineage))

    async def append(self) -> None:
        await self.put()
        parts = [dp.DatasetPart(digest=DIGEST, rows=1)]
        await self.datasets.AppendDataset(ds.AppendDatasetRequest(name="a", version=1, parts=parts))

    async def give(self) -> None:
        data = b"{}"
        file = ms.ModelFile(name="a.fake", digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))
        call = self.uploads.UploadModel()
        start = ms.UploadModelStart(model=mp.Model(name="given"), files=[file])
        await call.write(ms.UploadModelRequest(start=start))
        await call.read()
        await call.write(ms.UploadModelRequest(chunk=data))
        while await call.read() is not grpc.aio.EOF:
            pass

    async def claim(self) -> None:
        claims = [lp.Claim(model=lp.ModelClaim(model=MODEL, sequences=1))]
        request = ls.CreateLeaseRequest(spec=lp.LeaseSpec(claims=claims))
        self.lease_id = (await self.connection.leases.CreateLease(request)).lease.lease_id

    async def back_up(self) -> None:
        path = self.folder / f"backup-{uuid4()}"
        async for _ in self.connection.hosts.BackupStore(hs.BackupStoreRequest(path=str(path))):
            pass

    async def keep(self) -> None:
        request = ls.KeepAliveLeasesRequest(lease_ids=[self.lease_id, "none"])
        async for _ in self.connection.leases.KeepAliveLeases(iter([request])):
            pass

    async def make_key(self) -> None:
        request = asp.CreateKeyRequest(key=ap.Key(principal="anna", roles=["user"]))
        self.key_id = (await self.auth.CreateKey(request)).key.key_id

    async def make_rule(self) -> None:
        request = asp.CreateRuleRequest(rule=ap.Rule(who="role:guest", deny=True))
        self.rule_id = (await self.auth.CreateRule(request)).rule.rule_id

    async def make_moderation_rule(self) -> None:
        rule = mop.ModerationRule(name="odd", words=["odd"], patterns=["o{1,3}d"], action=mop.MODERATION_ACTION_FLAG)
        await self.moderation.CreateModerationRule(mos.CreateModerationRuleRequest(rule=rule))

    async def make_quota(self) -> None:
        request = qs.CreateQuotaRequest(quota=qp.Quota(tasks=1000))
        self.quota_id = (await self.quotas.CreateQuota(request)).quota.quota_id

    async def reflect(self, package: str) -> None:
        ask = self.connection.channel.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo",
            request_serializer=rp.ServerReflectionRequest.SerializeToString,
            response_deserializer=rp.ServerReflectionResponse.FromString,
        )
        symbols = ["inferd.v1.TaskService", f"{package}.ServerReflection", "no.such.Symbol"]
        asked = [rp.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
        async for _ in ask(iter([*asked, rp.ServerReflectionRequest(list_services="")])):
            pass


async def read_whole(call: Any) -> None:
    """All messages of a stream that ends."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def first(call: Any) -> None:
    """The first message of a stream that would go on."""
    await call.read()
    call.cancel()


async def drained(connection: Connection) -> None:
    """The kernel's own host begins to drain, and takes instances again."""
    await first(connection.hosts.DrainHost(hs.DrainHostRequest(host_id="local")))
    await connection.hosts.ResumeHost(hs.ResumeHostRequest(host_id="local"))


async def unknown_host(call: Any) -> None:
    """There is no such host."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(hs.RemoveHostRequest(host_id="nobody"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def unknown_log(call: Any) -> None:
    """There is no such log."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(hs.ReadInstanceLogRequest(instance_id="nobody-1")).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "inferd.v1.AuditService/GetAuditTrail": lambda c: c.audit.GetAuditTrail(aus.GetAuditTrailRequest()),
    "inferd.v1.AuditService/ListAuditLines": lambda c: c.audit.ListAuditLines(aus.ListAuditLinesRequest()),
    "inferd.v1.HostService/GetHost": lambda c: c.connection.hosts.GetHost(hs.GetHostRequest()),
    "inferd.v1.HostService/WatchHost": lambda c: first(c.connection.hosts.WatchHost(hs.WatchHostRequest())),
    "inferd.v1.HostService/ListHosts": lambda c: c.connection.hosts.ListHosts(hs.ListHostsRequest()),
    "inferd.v1.HostService/CordonHost": lambda c: c.connection.hosts.CordonHost(hs.CordonHostRequest(host_id="local")),
    "inferd.v1.HostService/ResumeHost": lambda c: c.connection.hosts.ResumeHost(hs.ResumeHostRequest(host_id="local")),
    "inferd.v1.HostService/DrainHost": lambda c: drained(c.connection),
    "inferd.v1.HostService/RemoveHost": lambda c: unknown_host(c.connection.hosts.RemoveHost),
    "inferd.v1.HostService/ReadInstanceLog": lambda c: unknown_log(c.connection.hosts.ReadInstanceLog),
    "inferd.v1.HostService/BackupStore": lambda c: c.back_up(),
    "inferd.v1.HostService/GetStoreKeys": lambda c: c.connection.hosts.GetStoreKeys(kp.GetStoreKeysRequest()),
    "inferd.v1.HostService/RotateStoreKeys": lambda c: c.connection.hosts.RotateStoreKeys(kp.RotateStoreKeysRequest()),
    "inferd.v1.HostService/ShredTenant": lambda c: c.connection.hosts.ShredTenant(kp.ShredTenantRequest(tenant="gone")),
    "inferd.v1.HostService/ListBackends": lambda c: c.connection.hosts.ListBackends(hs.ListBackendsRequest()),
    "inferd.v1.ModelService/CreateModel": lambda c: c.create(),
    "inferd.v1.ModelService/UploadModel": lambda c: c.give(),
    "inferd.v1.ModelService/GetModel": lambda c: c.connection.models.GetModel(ms.GetModelRequest(name=PULLED)),
    "inferd.v1.ModelService/ListModels": lambda c: c.connection.models.ListModels(ms.ListModelsRequest()),
    "inferd.v1.ModelService/PlanLoad": lambda c: c.connection.models.PlanLoad(
        ms.PlanLoadRequest(name=MODEL, settings={"draft_tokens": "1"})
    ),
    "inferd.v1.ModelService/LoadModel": lambda c: c.connection.models.LoadModel(ms.LoadModelRequest(name=MODEL)),
    "inferd.v1.ModelService/WatchModel": lambda c: first(
        c.connection.models.WatchModel(ms.WatchModelRequest(name=MODEL))
    ),
    "inferd.v1.ModelService/Tokenize": lambda c: c.connection.models.Tokenize(
        ms.TokenizeRequest(model=MODEL, prompt="la")
    ),
    "inferd.v1.ModelService/CountTokens": lambda c: c.connection.models.CountTokens(
        ms.CountTokensRequest(model=MODEL, prompt="la")
    ),
    "inferd.v1.ModelService/Detokenize": lambda c: c.connection.models.Detokenize(
        ms.DetokenizeRequest(model=MODEL, token_ids=[97])
    ),
    "inferd.v1.ModelService/GetModelSignature": lambda c: c.connection.models.GetModelSignature(
        ms.GetModelSignatureRequest(model=TENSORS)
    ),
    "inferd.v1.TaskService/RunTask": lambda c: c.run(),
    "inferd.v1.TaskService/CreateTask": lambda c: c.connection.tasks.CreateTask(ts.CreateTaskRequest(spec=SPEC)),
    "inferd.v1.TaskService/WatchTask": lambda c: first(
        c.connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=c.task_id))
    ),
    "inferd.v1.TaskService/RunTasks": lambda c: c.run_many(),
    "inferd.v1.TaskService/GetTask": lambda c: c.connection.tasks.GetTask(ts.GetTaskRequest(task_id=c.task_id)),
    "inferd.v1.TaskService/ListTasks": lambda c: c.connection.tasks.ListTasks(ts.ListTasksRequest()),
    "inferd.v1.TaskService/WatchTasks": lambda c: first(c.connection.tasks.WatchTasks(ts.WatchTasksRequest())),
    "inferd.v1.TaskService/SuspendTask": lambda c: c.connection.tasks.SuspendTask(
        ts.SuspendTaskRequest(task_id=c.task_id)
    ),
    "inferd.v1.TaskService/ResumeTask": lambda c: c.connection.tasks.ResumeTask(
        ts.ResumeTaskRequest(task_id=c.task_id)
    ),
    "inferd.v1.TaskService/CancelTask": lambda c: c.connection.tasks.CancelTask(
        ts.CancelTaskRequest(task_id=c.task_id)
    ),
    "inferd.v1.UploadService/Upload": lambda c: c.upload(),
    "inferd.v1.BlobService/PutBlob": lambda c: c.put(),
    "inferd.v1.BlobService/ReadBlob": lambda c: c.blobs.ReadBlob(bs.ReadBlobRequest(digest=DIGEST)).read(),
    "inferd.v1.BlobService/GetBlob": lambda c: c.blobs.GetBlob(bs.GetBlobRequest(digest=DIGEST)),
    "inferd.v1.BlobService/ListBlobs": lambda c: c.blobs.ListBlobs(bs.ListBlobsRequest()),
    "inferd.v1.BlobService/DeleteBlob": lambda c: c.blobs.DeleteBlob(bs.DeleteBlobRequest(digest=DIGEST)),
    "inferd.v1.LeaseService/CreateLease": lambda c: c.claim(),
    "inferd.v1.LeaseService/KeepAliveLeases": lambda c: c.keep(),
    "inferd.v1.LeaseService/GetLease": lambda c: c.connection.leases.GetLease(ls.GetLeaseRequest(lease_id=c.lease_id)),
    "inferd.v1.LeaseService/ListLeases": lambda c: c.connection.leases.ListLeases(ls.ListLeasesRequest()),
    "inferd.v1.LeaseService/WatchLease": lambda c: first(
        c.connection.leases.WatchLease(ls.WatchLeaseRequest(lease_id=c.lease_id))
    ),
    "inferd.v1.LeaseService/ReleaseLease": lambda c: c.connection.leases.ReleaseLease(
        ls.ReleaseLeaseRequest(lease_id=c.lease_id)
    ),
    "inferd.v1.AuthService/WhoAmI": lambda c: c.auth.WhoAmI(asp.WhoAmIRequest()),
    "inferd.v1.AuthService/CreateKey": lambda c: c.make_key(),
    "inferd.v1.AuthService/ListKeys": lambda c: c.auth.ListKeys(asp.ListKeysRequest()),
    "inferd.v1.AuthService/RotateKey": lambda c: c.auth.RotateKey(asp.RotateKeyRequest(key_id=c.key_id)),
    "inferd.v1.AuthService/RevokeKey": lambda c: c.auth.RevokeKey(asp.RevokeKeyRequest(key_id=c.key_id)),
    "inferd.v1.AuthService/ListRoles": lambda c: c.auth.ListRoles(asp.ListRolesRequest()),
    "inferd.v1.AuthService/CreateRule": lambda c: c.make_rule(),
    "inferd.v1.AuthService/ListRules": lambda c: c.auth.ListRules(asp.ListRulesRequest()),
    "inferd.v1.AuthService/DeleteRule": lambda c: c.auth.DeleteRule(asp.DeleteRuleRequest(rule_id=c.rule_id)),
    "inferd.v1.QuotaService/CreateQuota": lambda c: c.make_quota(),
    "inferd.v1.QuotaService/ListQuotas": lambda c: c.quotas.ListQuotas(qs.ListQuotasRequest()),
    "inferd.v1.QuotaService/ListQuotaUses": lambda c: c.quotas.ListQuotaUses(qs.ListQuotaUsesRequest()),
    "inferd.v1.QuotaService/DeleteQuota": lambda c: c.quotas.DeleteQuota(qs.DeleteQuotaRequest(quota_id=c.quota_id)),
    "inferd.v1.DatasetService/CreateDataset": lambda c: c.begin_dataset(),
    "inferd.v1.DatasetService/AppendDataset": lambda c: c.append(),
    "inferd.v1.DatasetService/FinishDataset": lambda c: c.datasets.FinishDataset(
        ds.FinishDatasetRequest(name="a", version=1, parts=1)
    ),
    "inferd.v1.DatasetService/GetDataset": lambda c: c.datasets.GetDataset(ds.GetDatasetRequest(name="a")),
    "inferd.v1.DatasetService/ListDatasets": lambda c: c.datasets.ListDatasets(ds.ListDatasetsRequest()),
    "inferd.v1.DatasetService/ListDatasetParts": lambda c: c.datasets.ListDatasetParts(
        ds.ListDatasetPartsRequest(name="a")
    ),
    "inferd.v1.DatasetService/ReadDataset": lambda c: c.datasets.ReadDataset(ds.ReadDatasetRequest(name="a")).read(),
    "inferd.v1.DatasetService/DeleteDataset": lambda c: c.datasets.DeleteDataset(ds.DeleteDatasetRequest(name="a")),
    **WORK_CALLS,
    "inferd.v1.FunctionService/ListFunctions": lambda c: c.functions.ListFunctions(fs.ListFunctionsRequest()),
    "inferd.v1.FunctionService/GetFunction": lambda c: missing(
        c.functions.GetFunction(fs.GetFunctionRequest(name="no"))
    ),
    "inferd.v1.EvaluationService/EvaluateModel": lambda c: missing(
        c.evaluations.EvaluateModel(
            es.EvaluateModelRequest(spec=ep.EvaluationSpec(model="none", kind=ep.EVALUATION_KIND_CHOICE), inline=b"{}")
        )
    ),
    "inferd.v1.EvaluationService/ListEvaluations": lambda c: c.evaluations.ListEvaluations(es.ListEvaluationsRequest()),
    "inferd.v1.EvaluationService/WatchEvaluation": lambda c: missing(
        c.evaluations.WatchEvaluation(es.WatchEvaluationRequest(evaluation_id="none")).read()
    ),
    "inferd.v1.EvaluationService/CompareEvaluations": lambda c: missing(
        c.evaluations.CompareEvaluations(es.CompareEvaluationsRequest(evaluation_ids=["none"]))
    ),
    **{
        f"inferd.v1.EvaluationService/{name}": lambda c, name=name: missing(
            getattr(c.evaluations, name)(getattr(es, f"{name}Request")(evaluation_id="none"))
        )
        for name in ("GetEvaluation", "ListEvaluationLines", "CancelEvaluation", "DeleteEvaluation")
    },
    "inferd.v1.ModerationService/CreateModerationRule": lambda c: c.make_moderation_rule(),
    "inferd.v1.ModerationService/ListModerationRules": lambda c: c.moderation.ListModerationRules(
        mos.ListModerationRulesRequest()
    ),
    "inferd.v1.ModerationService/DeleteModerationRule": lambda c: c.moderation.DeleteModerationRule(
        mos.DeleteModerationRuleRequest(name="odd")
    ),
    "inferd.v1.ModerationService/ListFlags": lambda c: c.moderation.ListFlags(mos.ListFlagsRequest()),
    "inferd.v1.ModerationService/GetFlag": lambda c: missing(c.moderation.GetFlag(mos.GetFlagRequest(flag_id="none"))),
    "inferd.v1.ModerationService/ResolveFlag": lambda c: missing(
        c.moderation.ResolveFlag(mos.ResolveFlagRequest(flag_id="none", state=mop.FLAG_STATE_UPHELD))
    ),
    "grpc.health.v1.Health/Check": lambda c: c.health.Check(hp.HealthCheckRequest(service=f"model:{MODEL}")),
    "grpc.health.v1.Health/Watch": lambda c: first(c.health.Watch(hp.HealthCheckRequest(service=f"model:{MODEL}"))),
    **{
        f"{package}.ServerReflection/ServerReflectionInfo": lambda c, package=package: c.reflect(package)
        for package in ("grpc.reflection.v1", "grpc.reflection.v1alpha")
    },
    "inferd.v1.ModelService/UpdateModel": lambda c: c.connection.models.UpdateModel(
        ms.UpdateModelRequest(name=MODEL, settings={"draft_tokens": "1"})
    ),
    "inferd.v1.ModelService/OptimizeModel": lambda c: first(
        c.connection.models.OptimizeModel(OptimizeModelRequest(model=MODEL, text="la" * 40))
    ),
    "inferd.v1.ModelService/ExportModel": lambda c: read_whole(
        c.connection.models.ExportModel(bp.ExportModelRequest(name=MODEL))
    ),
    "inferd.v1.ModelService/ListModelVersions": lambda c: c.connection.models.ListModelVersions(
        ms.ListModelVersionsRequest(name=MODEL)
    ),
    "inferd.v1.ModelService/UnloadModel": lambda c: c.connection.models.UnloadModel(
        ms.UnloadModelRequest(name=MODEL, force=True)
    ),
    "inferd.v1.ModelService/DeleteModel": lambda c: c.connection.models.DeleteModel(ms.DeleteModelRequest(name=MODEL)),
}
"""Each method in a way that succeeds, in an order in which all of them do."""
