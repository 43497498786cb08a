"""The audit trail by the wire: what is told of calls, to whom, and that it outlives kernels and their deaths."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from connection import Connection
from guarded import Guarded, guarded, refused
from time_limits import LONG_S

from inferd.core.audit_check import Verdict, check
from inferd.errors import StoreUnavailableError, present
from inferd.signatures import holds
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import audit_service_pb2 as aus
from inferd_api.v1 import auth_service_pb2 as asp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import quota_pb2 as qp
from inferd_api.v1 import quota_service_pb2 as qs
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1.audit_service_pb2_grpc import AuditServiceStub
from inferd_api.v1.quota_service_pb2_grpc import QuotaServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAID = "the canary sings at dawn"


def stub(connection: Connection) -> Any:
    return AuditServiceStub(connection.channel)  # type: ignore[no-untyped-call]


async def lines(connection: Connection, **asked: Any) -> list[str]:
    """The lines of a trail."""
    request, found = aus.ListAuditLinesRequest(page_size=1000, **asked), []
    while True:
        page = await stub(connection).ListAuditLines(request)
        found += page.lines
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def entries(connection: Connection, **wanted: Any) -> list[dict[str, Any]]:
    """The entries that say something, each as an object."""
    every = [json.loads(line) for line in await lines(connection)]
    return [each for each in every if all(each.get(name) == value for name, value in wanted.items())]


async def verdict(connection: Connection) -> Verdict:
    """What is found in a trail, by whoever has the kernel's key and its last checkpoint."""
    trail = (await stub(connection).GetAuditTrail(aus.GetAuditTrailRequest())).trail
    public = trail.public_key.hex()
    return check(await lines(connection), lambda key, *rest: key == public and holds(key, *rest))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """A kernel with a store and a model."""
    folder = tmp_path_factory.mktemp("audit")
    async with guarded(folder, store={"url": f"sqlite:{folder}/store"}) as made:
        await made.owner.create(step_s=0.002)
        yield made


async def test_a_change_is_told_before_it_is_done_and_after(kernel: Guarded) -> None:
    """Who, how it was known, what by name, and what was made of it; what it asks for is there once it is answered."""
    login = await kernel.login("admin", tenants=["*"])
    quotas: Any = QuotaServiceStub(kernel.tcp.channel)  # type: ignore[no-untyped-call]
    metadata = (*login, ("inferd-correlation", "ticket-17"))
    quota = (await quotas.CreateQuota(qs.CreateQuotaRequest(quota=qp.Quota(tasks=7)), metadata=metadata)).quota
    begun, done = await entries(kernel.owner, correlation="ticket-17")
    assert (begun["phase"], done["phase"]) == ("begun", "done")
    for each in (begun, done):
        assert (each["type"], each["decision"], each["principal"]) == ("call", "allowed", "anna")
        assert (each["method"], each["verb"], each["kind"]) == (
            "/inferd.v1.QuotaService/CreateQuota",
            "create",
            "quota",
        )
        assert each["login"].startswith("key:")
        assert each["peer"] == "ipv4:127.0.0.1"
        assert each["fields"] == {"quota.tasks": 7}
    assert done["made"] == {"quota.quota_id": quota.quota_id}


async def test_a_task_is_told_with_who_made_it_and_its_end_and_nothing_that_it_says(kernel: Guarded) -> None:
    """A run has its model, its task and a keyed hash of its input, the same for the same; its end says how it ended."""
    for _ in range(2):
        async for _ in kernel.owner.chat(SAID):
            pass
    runs = (await entries(kernel.owner, method="/inferd.v1.TaskService/RunTask", decision="allowed"))[-2:]
    assert len({run["task_id"] for run in runs}) == 2
    assert len({run["input"] for run in runs}) == 1
    for run in runs:
        (end,) = await entries(kernel.owner, type="end", task_id=run["task_id"])
        assert (end["state"], end["principal"], end["correlation"]) == ("succeeded", "local", run["correlation"])
        assert end["model"] == "fake"
        assert end["tokens_in"] >= len(SAID)
    assert SAID not in "".join(await lines(kernel.owner))


async def test_each_order_of_a_call_is_told_by_itself(kernel: Guarded) -> None:
    """Tasks that come as orders on one call are told one by one, those that are refused, too."""
    call = kernel.owner.tasks.RunTasks(metadata=(("inferd-correlation", "many"),))
    specs = [tp.TaskSpec(model="fake", prompt="la"), tp.TaskSpec(model="none", prompt="la")]
    runs = [ts.RunOrder(request=ts.RunTaskRequest(spec=spec)) for spec in specs]
    await call.write(ts.RunTasksRequest(orders=[ts.TaskOrder(tag=n, run=run) for n, run in enumerate(runs)]))
    await call.done_writing()
    while await call.read() is not grpc.aio.EOF:
        pass
    told = await entries(kernel.owner, correlation="many", type="call")
    assert [(each["decision"], each.get("reason"), bool(each.get("task_id"))) for each in told] == [
        ("allowed", None, True),
        ("refused", "MODEL_NOT_FOUND", False),
    ]
    assert told[0]["input"] != told[1]["input"]
    assert [each["model"] for each in told] == ["fake", "none"]


async def test_what_is_denied_is_told_with_the_rule_reads_too(kernel: Guarded) -> None:
    """A read that no rule allows, one that a rule denies, and a login that nobody has: each is told."""
    login = await kernel.login("viewer", tenants=["blue"])
    await refused(kernel.auth.ListKeys(asp.ListKeysRequest(), metadata=(*login, ("inferd-correlation", "d1"))))
    rule = await kernel.rule("principal:anna", verbs=[1], kinds=[4], tenants="blue")
    await refused(kernel.tcp.hosts.GetHost(hs.GetHostRequest(), metadata=(*login, ("inferd-correlation", "d2"))))
    wrong = (("authorization", "Bearer nobody"), ("inferd-correlation", "d3"))
    await refused(kernel.tcp.hosts.GetHost(hs.GetHostRequest(), metadata=wrong))
    await kernel.owner.hosts.GetHost(hs.GetHostRequest(), metadata=(("inferd-correlation", "d4"),))
    (none,), (by_rule,) = [await entries(kernel.owner, correlation=each) for each in ("d1", "d2")]
    assert (none["decision"], none["reason"], none["rule"]) == ("denied", "PERMISSION_DENIED", "none allows it")
    assert (by_rule["decision"], by_rule["rule"], by_rule["tenant"]) == ("denied", rule, "blue")
    (nobody,) = await entries(kernel.owner, correlation="d3")
    assert (nobody["decision"], nobody["reason"], nobody.get("principal")) == ("denied", "UNAUTHENTICATED", None)
    assert await entries(kernel.owner, correlation="d4") == []


async def test_a_change_that_is_refused_says_why(kernel: Guarded) -> None:
    """What was begun and could not be done has the reason that its client was given."""
    call = kernel.owner.models.DeleteModel(
        ms.DeleteModelRequest(name="none"), metadata=(("inferd-correlation", "gone"),)
    )
    assert (await refused(call))[0] == "MODEL_NOT_FOUND"
    begun, done = await entries(kernel.owner, correlation="gone")
    assert (begun["phase"], begun["name"], done["decision"], done["reason"]) == (
        "begun",
        "none",
        "refused",
        "MODEL_NOT_FOUND",
    )


async def test_a_source_is_told_without_what_lets_somebody_in_there(kernel: Guarded) -> None:
    """Of an address neither user nor password, and nothing behind a question mark, are in the trail."""
    metadata = (("inferd-correlation", "far"),)
    model = mp.Model(name="far", source="https://eve:hush@example.org/m.gguf?token=hush")
    await refused(kernel.owner.models.CreateModel(ms.CreateModelRequest(model=model), metadata=metadata))
    begun, _ = await entries(kernel.owner, correlation="far")
    assert begun["fields"]["model.source"] == "https://example.org/m.gguf"
    assert "hush" not in "".join(await lines(kernel.owner))


async def test_only_who_may_read_the_trail_for_all_tenants_reads_it(kernel: Guarded) -> None:
    """An auditor of all tenants and an administrator do; one of some tenants, an operator and a user do not."""
    for role, tenants, may in (
        ("auditor", ["*"], True),
        ("admin", ["*"], True),
        ("auditor", ["blue"], False),
        ("admin", ["blue"], False),
        ("operator", ["*"], False),
        ("user", ["*"], False),
    ):
        login = await kernel.login(role, tenants=tenants)
        calls = [
            stub(kernel.tcp).GetAuditTrail(aus.GetAuditTrailRequest(), metadata=login),
            stub(kernel.tcp).ListAuditLines(aus.ListAuditLinesRequest(), metadata=login),
        ]
        for call in calls:
            if may:
                await call
            else:
                assert (await refused(call))[0] == "PERMISSION_DENIED"
    login = await kernel.login("auditor", tenants=["*"])
    assert (await refused(kernel.tcp.models.DeleteModel(ms.DeleteModelRequest(name="fake"), metadata=login)))[0] == (
        "PERMISSION_DENIED"
    )


async def test_pages_are_the_whole_trail_and_a_wrong_token_is_refused(kernel: Guarded) -> None:
    """Whatever the size of a page, all lines come once, in their order; a token of another list is INVALID_FIELD."""
    whole = await lines(kernel.owner)
    found: list[str] = []
    request = aus.ListAuditLinesRequest(page_size=3)
    while len(found) < len(whole):
        page = await stub(kernel.owner).ListAuditLines(request)
        assert len(page.lines) == 3 or not page.next_page_token
        found += page.lines
        request.page_token = page.next_page_token
    assert found[: len(whole)] == whole
    assert (await lines(kernel.owner, after_line=4))[0] == whole[4]
    for token in ("x", "MDAwMA=="):
        error = await refused(stub(kernel.owner).ListAuditLines(aus.ListAuditLinesRequest(page_token=token)))
        assert error[0] == "INVALID_FIELD"
    assert (await verdict(kernel.owner)).fault is None


async def test_the_trail_goes_on_with_the_next_kernel(tmp_path: Path) -> None:
    """Each kernel goes on where the one before it ended: one chain, signed at each end in order, by one key."""
    settings: Any = {"store": {"url": f"sqlite:{tmp_path}/store"}, "audit": {"reads": True}}
    for _ in range(3):
        async with kernel_here(tmp_path, **settings) as here:
            connection = Connection(here, tmp_path)
            await connection.hosts.GetHost(hs.GetHostRequest())
            await connection.channel.close()
    async with kernel_here(tmp_path, **settings) as here:
        connection = Connection(here, tmp_path)
        events = [each["event"] for each in await entries(connection, type="kernel")]
        assert events == ["started", "ended"] * 3 + ["started"]
        assert len(await entries(connection, method="/inferd.v1.HostService/GetHost")) == 3
        found = await verdict(connection)
        assert (found.fault, found.first, found.checkpoints, len(found.keys)) == (None, 1, 4, 1)
        await connection.channel.close()


async def test_what_the_configuration_changes_is_told(tmp_path: Path) -> None:
    """A start tells settings that hold the kernel, and a keyed hash of each part; models that are declared are told."""
    path = write_fake_model(tmp_path, "known")
    store: Any = {"url": f"sqlite:{tmp_path}/store"}
    async with kernel_here(tmp_path, store=store):
        pass
    models = ({"name": "known", "source": str(path)},)
    async with kernel_here(tmp_path, store=store, workers={"sandbox": "off"}, models=models) as here:
        connection = Connection(here, tmp_path)
        before, started, declared = (
            each for each in await entries(connection, type="kernel") if each["event"] != "ended"
        )
        assert (declared["event"], declared["name"], declared["version"]) == ("model declared", "known", 1)
        assert started["settings"]["workers.sandbox"] == "off"
        changed = {name for name, part in started["configuration"].items() if before["configuration"].get(name) != part}
        assert {"workers", "models"} <= changed
        assert started["configuration"]["store"] == before["configuration"]["store"]
        assert str(path) not in str(started)
        await here.declaring.read_again(())
        assert (await entries(connection, type="kernel"))[-1]["event"] == "declarations read"
        await connection.channel.close()


async def test_a_kernel_without_a_store_says_that_its_trail_ends_with_it(tmp_path: Path) -> None:
    """Its trail is in memory, as long as may be, and begins with a checkpoint however much was cut."""
    async with kernel_here(tmp_path, audit={"reads": True, "memory_bytes": 1 << 16, "checkpoint_entries": 10}) as here:
        connection = Connection(here, tmp_path)
        for _ in range(300):
            await connection.hosts.GetHost(hs.GetHostRequest())
        trail = (await stub(connection).GetAuditTrail(aus.GetAuditTrailRequest())).trail
        assert not trail.durable
        whole = await lines(connection)
        assert sum(map(len, whole)) < 3 << 15
        found = await verdict(connection)
        assert found.fault is None
        assert found.first > 1
        await connection.channel.close()


async def test_calls_are_counted_where_more_are_refused_than_are_told(tmp_path: Path) -> None:
    """A client that is denied again and again does not fill the trail: what is beyond a rate is told as a number."""
    async with guarded(tmp_path, audit={"refusals_per_s": 1}, auth={"failed_logins": 1000}) as made:
        for _ in range(20):
            error = await refused(
                made.tcp.hosts.GetHost(hs.GetHostRequest(), metadata=(("authorization", "Bearer no"),))
            )
            assert error[0] == "UNAUTHENTICATED"
        told = len(await entries(made.owner, decision="denied"))
        counted = sum(each["count"] for each in await entries(made.owner, type="omitted"))
        assert told < 20
        assert told + counted == 20


@pytest.mark.parametrize("on_failure", ["serve", "refuse"])
async def test_while_the_trail_cannot_be_written_changes_are_refused_and_calls_as_is_said(
    tmp_path: Path, on_failure: str
) -> None:
    """A full disk: no change is made; calls are served and told later, or refused; once there is room all goes on."""
    settings: Any = {"store": {"url": f"sqlite:{tmp_path}/store", "retry_s": 0.01}, "audit": {"on_failure": on_failure}}
    async with kernel_here(tmp_path, **settings) as here:
        connection, keeper = Connection(here, tmp_path), present(here.driver.keeper)
        write, quotas = keeper._store.write, QuotaServiceStub(connection.channel)  # type: ignore[no-untyped-call]

        def refuse(_: Any) -> None:
            raise StoreUnavailableError("the disk is full")

        keeper._store.write = refuse  # type: ignore[method-assign]
        request = qs.CreateQuotaRequest(quota=qp.Quota(tasks=7))
        for _ in range(2):
            assert (await refused(quotas.CreateQuota(request)))[0] == "STORE_UNAVAILABLE"
        metadata = (("inferd-correlation", "meanwhile"),)
        call = connection.tasks.CancelTask(ts.CancelTaskRequest(task_id="none"), metadata=metadata)
        wanted = "TASK_NOT_FOUND" if on_failure == "serve" else "STORE_UNAVAILABLE"
        assert (await refused(call))[0] == wanted
        assert (await stub(connection).GetAuditTrail(aus.GetAuditTrailRequest())).trail.failing
        keeper._store.write = write  # type: ignore[method-assign]
        async with asyncio.timeout(LONG_S):
            while here.driver.trail is None or here.driver.trail.failing:
                await connection.hosts.GetHost(hs.GetHostRequest())
        assert not (await quotas.ListQuotas(qs.ListQuotasRequest())).quotas
        await quotas.CreateQuota(request)
        (told,) = await entries(connection, correlation="meanwhile")
        assert told["reason"] == wanted
        assert (await verdict(connection)).fault is None
        await connection.channel.close()
