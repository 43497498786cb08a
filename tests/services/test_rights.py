"""What a rule about one model or one tenant gives, and keeps back: no more and no less than it says."""

import asyncio
from pathlib import Path
from typing import Any

from connection import read_failing
from grpc_health.v1 import health_pb2 as hp
from grpc_health.v1 import health_pb2_grpc
from guarded import bytes_of, failing, guarded, refused
from time_limits import LONG_S

from inferd_api.v1 import auth_pb2 as ap
from inferd_api.v1 import auth_service_pb2 as asp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import quota_pb2 as qp
from inferd_api.v1 import quota_service_pb2 as qs
from inferd_api.v1.quota_service_pb2_grpc import QuotaServiceStub


async def test_who_may_not_run_a_model_leases_none_of_it(tmp_path: Path) -> None:
    """A rule that denies running a model denies claims of it, too; others claim it."""
    async with guarded(tmp_path) as kernel:
        await kernel.owner.create("llama-70b", max_sequences=2)
        await kernel.rule("*", verbs=["VERB_RUN"], models="llama-70b*", tenants="web*")
        claim = lp.Claim(model=lp.ModelClaim(model="llama-70b", sequences=2))
        web, research = [await kernel.login("user", tenants=[tenant]) for tenant in ("web", "research")]
        reason, facts = await refused(kernel.tcp.claim(claim, metadata=web))
        assert (reason, facts["verb"], facts["model"]) == ("PERMISSION_DENIED", "run", "llama-70b")
        assert (await kernel.tcp.claim(claim, metadata=research, wait=True)).lease_id


async def test_health_tells_nothing_of_models_that_one_may_not_read(tmp_path: Path) -> None:
    """Of a model that the caller may not read `Check` and `Watch` tell what they tell of none, loaded or not."""
    async with guarded(tmp_path) as kernel:
        health: Any = health_pb2_grpc.HealthStub(kernel.tcp.channel)
        await kernel.owner.create("secret-a")
        await kernel.rule("role:user", models="secret-*")

        async def check(name: str, metadata: Any) -> Any:
            request = hp.HealthCheckRequest(service=f"model:{name}")
            error = bytes_of(await failing(health.Check(request, metadata=metadata)))
            return str(error).replace(name, "NAME")

        user, nobody, operator = [await kernel.login(*roles) for roles in (("user",), (), ("operator",))]
        request = hp.HealthCheckRequest(service="model:secret-a")
        watches = [health.Watch(request, metadata=each) for each in (user, nobody, operator)]
        states = [(await call.read()).status for call in watches]
        told = hp.HealthCheckResponse
        assert states == [told.SERVICE_UNKNOWN, told.SERVICE_UNKNOWN, told.NOT_SERVING]
        for who in (user, nobody):
            assert await check("secret-a", who) == await check("secret-b", who)
        await kernel.owner.models.LoadModel(ms.LoadModelRequest(name="secret-a"))
        assert (await asyncio.wait_for(watches[2].read(), LONG_S)).status == told.SERVING
        for who in (user, nobody):
            assert await check("secret-a", who) == await check("secret-b", who)
        for call in watches:
            call.cancel()


async def test_the_inside_of_errors_is_for_who_may_change_that_model(tmp_path: Path) -> None:
    """Who may change some models is told the words of libraries about those, and a number about others."""
    async with guarded(tmp_path) as kernel:
        for name in ("mine-a", "theirs"):
            await kernel.owner.create(name, load_error="words of a library")
            await read_failing(kernel.owner.chat("la", model=name))
        kinds, verbs = ["RESOURCE_KIND_MODEL"], ["VERB_UPDATE"]
        await kernel.rule("principal:p", allow=True, kinds=kinds, verbs=verbs, models="mine-*")
        some, every = await kernel.login("user", principal="p"), await kernel.login("operator", principal="q")

        async def knows(model: str, metadata: Any) -> bool:
            """Whether the words are told of a model as it stands."""
            request = ms.GetModelRequest(name=model)
            stands = str(await kernel.tcp.models.GetModel(request, metadata=metadata))
            return "words of a library" in stands

        assert [await knows("mine-a", some), await knows("theirs", some)] == [True, False]
        assert [await knows("mine-a", every), await knows("theirs", every)] == [True, True]
        for metadata, told in ((some, False), (every, True)):
            _, error = await read_failing(kernel.tcp.chat("la", model="theirs", metadata=metadata))
            assert ("words of a library" in (error.details() or "")) is told


async def test_lists_tell_of_the_tenants_for_which_they_may_be_read(tmp_path: Path) -> None:
    """Loads, quotas and rules of a tenant are told to who may read them for that one, not for another of its own."""
    quotas = [{"tenants": tenant, "tasks": 50} for tenant in ("web", "research", "*")]
    async with guarded(tmp_path, quotas=quotas) as kernel:
        await kernel.owner.create(step_s=0.05)
        calls = [kernel.tcp.endless(metadata=await kernel.login("user", tenants=[t])) for t in ("web", "research")]
        for call in calls:
            await call.read()
        await kernel.rule("principal:two", kinds=["RESOURCE_KIND_HOST", "RESOURCE_KIND_QUOTA"], tenants="research")
        await kernel.rule("principal:two", allow=True, kinds=["RESOURCE_KIND_RULE"], tenants="web")
        for tenant in ("web", "research", "*"):
            await kernel.rule("principal:other", tenants=tenant)
        two = await kernel.login("user", principal="two", tenants=["web", "research"])
        service: Any = QuotaServiceStub(kernel.tcp.channel)
        host = (await kernel.tcp.hosts.GetHost(hs.GetHostRequest(), metadata=two)).host
        assert [load.tenant for load in host.loads] == ["web"]
        uses = (await service.ListQuotaUses(qs.ListQuotaUsesRequest(), metadata=two)).uses
        assert {use.tenant for use in uses} == {"web"}
        listed = (await service.ListQuotas(qs.ListQuotasRequest(), metadata=two)).quotas
        assert [quota.tenants for quota in listed] == ["web", "*"]
        rules = (await kernel.auth.ListRules(asp.ListRulesRequest(), metadata=two)).rules
        made = sorted((rule.who, rule.tenants) for rule in rules if rule.rule_id)
        assert made == [("principal:other", "web"), ("principal:two", "research"), ("principal:two", "web")]
        await kernel.rule("role:secret", allow=True)
        for stub, metadata, knows in ((kernel.auth, two, False), (kernel.made, None, True)):
            roles = (await stub.ListRoles(asp.ListRolesRequest(), metadata=metadata)).roles
            assert ("secret" in {role.name for role in roles}) is knows
        every = (await kernel.made.ListRules(asp.ListRulesRequest())).rules
        assert {rule.tenants for rule in every if rule.who == "principal:other"} == {"web", "research", "*"}
        for call in calls:
            call.cancel()


async def test_a_right_for_one_tenant_makes_nothing_for_all(tmp_path: Path) -> None:
    """Rules, quotas and backups are about all tenants: who has all, but this right for one alone, makes none."""
    async with guarded(tmp_path, store={"url": f"sqlite:{tmp_path}/store"}) as kernel:
        quotas: Any = QuotaServiceStub(kernel.tcp.channel)  # type: ignore[no-untyped-call]
        kinds = ["RESOURCE_KIND_RULE", "RESOURCE_KIND_QUOTA", "RESOURCE_KIND_STORE"]
        verbs = ["VERB_CREATE", "VERB_DELETE"]
        await kernel.rule("principal:lead", allow=True, kinds=kinds, verbs=verbs, tenants="web")
        web = (*await kernel.login(principal="lead", tenants=["*"]), ("inferd-tenant", "web"))
        rule = ap.Rule(who="principal:lead")
        for call in (
            kernel.auth.CreateRule(asp.CreateRuleRequest(rule=rule), metadata=web),
            kernel.auth.DeleteRule(asp.DeleteRuleRequest(rule_id="x"), metadata=web),
            quotas.CreateQuota(qs.CreateQuotaRequest(quota=qp.Quota(tasks=1)), metadata=web),
            quotas.DeleteQuota(qs.DeleteQuotaRequest(quota_id="x"), metadata=web),
            kernel.tcp.hosts.BackupStore(hs.BackupStoreRequest(path=f"{tmp_path}/copy"), metadata=web),
        ):
            assert (await refused(call))[0] == "PERMISSION_DENIED"
