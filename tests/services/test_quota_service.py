"""Quotas by the wire: made, listed, used up, taken away, and kept."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from connection import Connection, read_failing, reason_of
from guarded import Guarded, guarded, refused

from inferd.testing.kernel import kernel_here
from inferd_api.v1 import quota_pb2 as qp
from inferd_api.v1 import quota_service_pb2 as qs
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1.quota_service_pb2_grpc import QuotaServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """A kernel with a quota of its configuration and a model that goes on for long."""
    quotas = [{"tenants": "web*", "tokens_per_minute": 100_000}]
    async with guarded(tmp_path_factory.mktemp("quotas"), quotas=quotas) as made:
        await made.owner.create(step_s=0.02)
        yield made


def stub(connection: Connection) -> Any:
    return QuotaServiceStub(connection.channel)  # type: ignore[no-untyped-call]


async def make(connection: Connection, metadata: Any = None, **wanted: Any) -> qp.Quota:
    request = qs.CreateQuotaRequest(quota=qp.Quota(**wanted))
    quota: qp.Quota = (await stub(connection).CreateQuota(request, metadata=metadata)).quota
    return quota


async def test_a_quota_holds_at_once_and_until_it_is_deleted(kernel: Guarded) -> None:
    """One that an administrator makes counts what runs already; deleted, it refuses no more."""
    login = await kernel.login("user", tenants=["blue"])
    running = kernel.tcp.endless(metadata=login)
    await running.read()
    quota = await make(kernel.owner, tenants="blue", tasks=1)
    _, error = await read_failing(kernel.tcp.chat("la", metadata=login))
    reason, facts = reason_of(error)
    assert (reason, facts["value"], facts["limit"], facts["quota_id"]) == ("QUOTA_EXCEEDED", "1", "1", quota.quota_id)
    (use,) = (await stub(kernel.tcp).ListQuotaUses(qs.ListQuotaUsesRequest(), metadata=login)).uses
    assert (use.tenant, use.tasks, use.quota) == ("blue", 1, quota)
    await stub(kernel.owner).DeleteQuota(qs.DeleteQuotaRequest(quota_id=quota.quota_id))
    other = kernel.tcp.endless(metadata=login)
    await other.read()
    running.cancel()
    other.cancel()
    for missing in (quota.quota_id, ""):
        gone = stub(kernel.owner).DeleteQuota(qs.DeleteQuotaRequest(quota_id=missing))
        assert (await refused(gone))[0] in ("QUOTA_NOT_FOUND", "INVALID_FIELD")


async def test_a_task_that_its_client_leaves_costs_what_it_told(kernel: Guarded) -> None:
    """The stream of a task says what was told when its worker does not; that is what the quota counts."""
    quota = await make(kernel.owner, tenants="brown", tokens_per_minute=1000)
    login = await kernel.login("user", tenants=["brown"])
    call = kernel.tcp.endless(metadata=login)
    event, told = (await call.read()).event, 0
    while told < 8:
        told += len(event.output.token_ids)
        event = (await call.read()).event
    await kernel.tcp.tasks.CancelTask(ts.CancelTaskRequest(task_id=event.task_id), metadata=login)
    (use,) = (await stub(kernel.tcp).ListQuotaUses(qs.ListQuotaUsesRequest(), metadata=login)).uses
    assert not use.tasks
    assert told <= use.tokens_per_minute <= told + 20
    await stub(kernel.owner).DeleteQuota(qs.DeleteQuotaRequest(quota_id=quota.quota_id))


async def test_a_tenant_is_told_of_its_own_quotas_and_only_who_has_all_makes_some(kernel: Guarded) -> None:
    """Lists hold what is about the caller's tenants; an administrator of some tenants makes none."""
    quota = await make(kernel.owner, tenants="green", requests_per_minute=5)
    for tenant, seen in (("green", [quota.quota_id]), ("web-1", [""]), ("red", [])):
        login = await kernel.login("viewer", tenants=[tenant])
        found = (await stub(kernel.tcp).ListQuotas(qs.ListQuotasRequest(), metadata=login)).quotas
        assert [each.quota_id for each in found] == seen
    login = await kernel.login("admin", tenants=["green"])
    request = qs.CreateQuotaRequest(quota=qp.Quota(tasks=1))
    assert (await refused(stub(kernel.tcp).CreateQuota(request, metadata=login)))[0] == "PERMISSION_DENIED"
    delete = qs.DeleteQuotaRequest(quota_id=quota.quota_id)
    assert (await refused(stub(kernel.tcp).DeleteQuota(delete, metadata=login)))[0] == "PERMISSION_DENIED"
    await stub(kernel.owner).DeleteQuota(delete)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({}, "quota"),
        ({"tenants": "a b", "tasks": 1}, "quota.tenants"),
        ({"models": "m", "lease_bytes": 1}, "quota.lease_bytes"),
        ({"tasks": 1 << 63}, "quota.tasks"),
        ({"device_seconds_per_day": -1.0}, "quota.device_seconds_per_day"),
        ({"device_seconds_per_day": float("nan")}, "quota.device_seconds_per_day"),
    ],
)
async def test_a_quota_that_is_none_is_refused_by_its_field(kernel: Guarded, wanted: Any, field: str) -> None:
    """What limits nothing, or with what cannot be, is INVALID_FIELD and names the field."""
    error = await refused(stub(kernel.owner).CreateQuota(qs.CreateQuotaRequest(quota=qp.Quota(**wanted))))
    assert error[0] == "INVALID_FIELD", field
    with pytest.raises(Exception, match=field):
        await make(kernel.owner, **wanted)


async def test_quotas_and_device_seconds_outlive_the_kernel(tmp_path: Path) -> None:
    """A quota that was made is there with the next kernel, and so is what was used of a day's device seconds."""
    settings: Any = {"store": {"url": f"sqlite:{tmp_path}/store"}, "quotas": [{"device_seconds_per_day": 0.05}]}
    async with kernel_here(tmp_path, **settings) as first:
        connection = Connection(first, tmp_path)
        await connection.create(step_s=0.02)
        quota = await make(connection, tenants="*", tasks=7)
        *_, last = [answer.event async for answer in connection.chat("one two three four five")]
        receipt = last.finished.receipt
        assert receipt.device_duration.ToTimedelta().total_seconds() >= 0.05
        assert [(use.tenant, use.quota.quota_id) for use in receipt.quotas] == [
            ("default", ""),
            ("default", quota.quota_id),
        ]
        assert receipt.quotas[0].device_seconds_per_day >= 0.05
        (before, *_) = (await stub(connection).ListQuotaUses(qs.ListQuotaUsesRequest())).uses
        assert before.device_seconds_per_day >= 0.05
        await connection.channel.close()
    async with kernel_here(tmp_path, **settings) as second:
        connection = Connection(second, tmp_path)
        assert [each.quota_id for each in (await stub(connection).ListQuotas(qs.ListQuotasRequest())).quotas] == [
            "",
            quota.quota_id,
        ]
        _, error = await read_failing(connection.chat("one"))
        reason, facts = reason_of(error)
        assert (reason, facts["quota"]) == ("QUOTA_EXCEEDED", "device_seconds_per_day")
        assert float(facts["value"]) == pytest.approx(before.device_seconds_per_day, abs=0.01)
        await connection.channel.close()
