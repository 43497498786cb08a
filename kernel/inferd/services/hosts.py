"""`inferd.v1.HostService`."""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from functools import partial

from inferd.core.host import LOCAL, LOCAL_HOST
from inferd.core.ids import InstanceId, Tenant
from inferd.errors import InvalidFieldError
from inferd.plugin.backend import Setting
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime.front import hosts as front
from inferd.runtime.front.agents import Agents
from inferd.runtime.front.models import Models
from inferd.runtime.front.standing import Standing
from inferd.runtime.placement import ENGINE_SETTINGS
from inferd.runtime.store_keys import KeysStanding
from inferd.services.calls import Call
from inferd.services.host_values import DEFAULT_TAIL_BYTES, MOST_TAIL_BYTES, write_device, write_standing
from inferd.services.insight import inside
from inferd.services.model_values import write_instance
from inferd.services.pages import name_of, page_of, size_of, token_of
from inferd.services.times import read_seconds, timestamp
from inferd_api.v1 import host_pb2 as hp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import priority_pb2 as pp
from inferd_api.v1 import store_key_pb2 as kp

FAILED = "it failed; whoever runs this kernel finds why with `inferd doctor`"

OF_ALL = "a host computes for all of them"
HOSTS_OF_MESSAGE = 500
MOST_INTERVAL_S, DEFAULT_INTERVAL_S = 60.0, 1.0


class Hosts:
    """Translates; see the proto for what each call means."""

    def __init__(self, hosts: front.Hosts, agents: Agents, models: Models) -> None:
        self._hosts = hosts
        self._agents = agents
        self._models = models

    async def GetHost(self, request: hs.GetHostRequest, call: Call) -> hs.GetHostResponse:  # noqa: N802 - the wire's name
        """Read a host."""
        return hs.GetHostResponse(host=self._host(self._hosts.standings.read(request.host_id), call))

    async def ListHosts(self, request: hs.ListHostsRequest, call: Call) -> hs.ListHostsResponse:  # noqa: N802 - the wire's name
        """List hosts by id."""
        page = self._hosts.standings.page(after=name_of(request.page_token), size=size_of(request.page_size))
        labels = request.labels.items()
        found = [each for each in page.records if labels <= each.host.facts.labels.items()]
        token = token_of(page, lambda each: each.host.host_id)
        return hs.ListHostsResponse(hosts=[self._host(each, call) for each in found], next_page_token=token)

    async def CordonHost(self, request: hs.CordonHostRequest, call: Call) -> hs.CordonHostResponse:  # noqa: N802 - the wire's name
        """Let a host get no new instances."""
        call.admission.check_all_tenants(OF_ALL)
        return hs.CordonHostResponse(
            host=self._host(await self._hosts.standings.cordon(_named(request), request.reason), call)
        )

    async def DrainHost(self, request: hs.DrainHostRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Empty a host, and tell how far that is."""
        call.admission.check_all_tenants(OF_ALL)
        standings, name = self._hosts.standings, _named(request)
        await standings.drain(name, request.reason)
        watch = standings.watch(call.caller, DEFAULT_INTERVAL_S, name=name, until_drained=True)
        async with aclosing(watch) as found:
            async for (standing,) in found:
                await call.write(hs.DrainHostResponse(host=self._host(standing, call)))

    async def ResumeHost(self, request: hs.ResumeHostRequest, call: Call) -> hs.ResumeHostResponse:  # noqa: N802 - the wire's name
        """Let a host take instances again."""
        call.admission.check_all_tenants(OF_ALL)
        return hs.ResumeHostResponse(host=self._host(await self._hosts.standings.resume(_named(request)), call))

    async def RemoveHost(self, request: hs.RemoveHostRequest, call: Call) -> hs.RemoveHostResponse:  # noqa: N802 - the wire's name
        """Know a host no longer."""
        call.admission.check_all_tenants(OF_ALL)
        name = _named(request)
        revoke = partial(self._agents.end_keys, name) if request.revoke else None
        told = self._agents.hosts.remove
        await self._hosts.standings.remove(name, force=request.force, revoke=revoke, told=told)
        return hs.RemoveHostResponse()

    async def ReadInstanceLog(self, request: hs.ReadInstanceLogRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Read the log of an instance's worker."""
        call.admission.check_all_tenants("a log may say what is of any of them")
        tail_bytes = request.tail_bytes or DEFAULT_TAIL_BYTES
        if tail_bytes > MOST_TAIL_BYTES:
            message = f"tail_bytes is {tail_bytes}; it must be from 1 to {MOST_TAIL_BYTES}"
            raise InvalidFieldError(message, field="tail_bytes")
        if not request.instance_id:
            raise InvalidFieldError("instance_id is empty; name an instance (`inferd ps`)", field="instance_id")
        reading = self._hosts.standings.read_log(
            request.instance_id, call.caller, tail_bytes=tail_bytes, follow=request.follow
        )
        async with aclosing(reading) as parts:
            async for part in parts:
                await call.write(hs.ReadInstanceLogResponse(data=part))

    async def _watch_others(self, request: hs.WatchHostRequest, call: Call, interval_s: float) -> None:
        """Watch another host, or all."""
        known = set[str]()
        watch = self._hosts.standings.watch(call.caller, interval_s, name="" if request.all_hosts else request.host_id)
        async with aclosing(watch) as found:
            async for standings in found:
                hosts = [self._host(each, call) for each in standings]
                if not request.all_hosts:
                    instances = self._instances(standings[0].host.instances, call)
                    await call.write(hs.WatchHostResponse(host=hosts[0], instances=instances))
                    continue
                for at in range(0, len(hosts), HOSTS_OF_MESSAGE):
                    await call.write(hs.WatchHostResponse(hosts=hosts[at : at + HOSTS_OF_MESSAGE]))
                known |= {host.host_id for host in hosts}
                if gone := [each for each in known if not self._hosts.standings.knows(each)]:
                    known.difference_update(gone)
                    await call.write(hs.WatchHostResponse(gone_host_ids=sorted(gone)))

    def _instances(self, instance_ids: Iterable[InstanceId], call: Call) -> list[mp.Instance]:
        found = (self._hosts.standings.instance(each) for each in instance_ids)
        return [write_instance(i, m, self._models) for m, i in filter(None, found) if call.admission.reads(m.spec.name)]

    async def WatchHost(self, request: hs.WatchHostRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Watch the host."""
        interval_s = read_seconds(request.interval, "interval") if request.HasField("interval") else DEFAULT_INTERVAL_S
        if not front.LEAST_GAP_S <= interval_s <= MOST_INTERVAL_S:
            raise InvalidFieldError(
                f"interval is {interval_s:g} s; it must be from {front.LEAST_GAP_S:g} s to {MOST_INTERVAL_S:g} s",
                field="interval",
            )
        if request.all_hosts or request.host_id not in ("", LOCAL):
            await self._watch_others(request, call, interval_s)
            return
        async with aclosing(self._hosts.watch(call.caller, interval_s, has=call.admission.has)) as reports:
            async for report, instances in reports:
                told = [(i, model) for model, i in instances if call.admission.reads(model.spec.name)]
                written = [write_instance(instance, model, self._models) for instance, model in told]
                await call.write(hs.WatchHostResponse(host=self._own(report, call), instances=written))

    async def ListBackends(self, request: hs.ListBackendsRequest, call: Call) -> hs.ListBackendsResponse:  # noqa: ARG002, N802 - the wire's name
        """List the plugins that were found."""
        reports = await self._hosts.backends()
        found = [(f"{r.name} {n}", r) for n, r in enumerate(reports)]  # a name can stand twice
        page, token = page_of(sorted(found, key=lambda item: item[0]), request.page_size, request.page_token)
        return hs.ListBackendsResponse(backends=[write_backend(r) for r in page], next_page_token=token)

    async def BackupStore(self, request: hs.BackupStoreRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Copy what is kept into a file."""
        call.admission.check_all_tenants("a backup has what is kept of all of them")
        async with aclosing(self._hosts.back_up(request.path, replaces=request.replace)) as steps:
            async for progress in steps:
                written = hs.BackupStoreResponse(done_bytes=progress.done_bytes, total_bytes=progress.total_bytes)
                if (made := progress.made) is not None:
                    backup = hp.StoreBackup(path=made.path, size_bytes=made.size_bytes, store=made.store)
                    backup.blobs, backup.blob_bytes = made.blobs.count, made.blobs.size_bytes
                    backup.missing_blobs, backup.blob_folder = made.blobs.missing, made.blobs.folder
                    backup.make_time.FromNanoseconds(int(made.made * 1e9))
                    written.backup.CopyFrom(backup)
                await call.write(written)

    async def GetStoreKeys(self, request: kp.GetStoreKeysRequest, call: Call) -> kp.GetStoreKeysResponse:  # noqa: ARG002, N802 - the wire's name
        """Tell how the keys of the store stand."""
        call.admission.check_all_tenants("the keys are those of all of them")
        return kp.GetStoreKeysResponse(keys=_write_keys(await self._hosts.keys.standing()))

    async def RotateStoreKeys(self, request: kp.RotateStoreKeysRequest, call: Call) -> kp.RotateStoreKeysResponse:  # noqa: N802 - the wire's name
        """Have new keys seal from now on."""
        call.admission.check_all_tenants("the keys are those of all of them")
        if request.forget and not request.wrapping:
            raise InvalidFieldError("forget is set, and wrapping is not: it is about keys that wrap", field="forget")
        if request.HasField("tenant") and request.wrapping:
            raise InvalidFieldError("tenant is set, and wrapping too; one key wraps those of all", field="tenant")
        tenant = request.tenant if request.HasField("tenant") else None
        count = await self._hosts.keys.rotate(tenant, wrapping=request.wrapping, forgets=request.forget)
        return kp.RotateStoreKeysResponse(count=count, keys=_write_keys(await self._hosts.keys.standing()))

    async def ShredTenant(self, request: kp.ShredTenantRequest, call: Call) -> kp.ShredTenantResponse:  # noqa: N802 - the wire's name
        """Drop the keys of a tenant, and what they sealed."""
        call.admission.check_all_tenants("whoever drops keys of a tenant may do so of all of them")
        gone = await asyncio.shield(self._hosts.shredding.shred(Tenant(request.tenant)))  # whole, though its call ends
        return kp.ShredTenantResponse(keys=gone.keys, tasks=gone.tasks, blobs=gone.blobs)

    def _host(self, standing: Standing, call: Call) -> hp.Host:
        """A host, the kernel's own with all that is told of that alone."""
        own = standing.host.host_id == LOCAL_HOST
        written = self._write(self._hosts.read(has=call.admission.has)) if own else hp.Host()
        return write_standing(standing, self._hosts.clock, written, reads=call.admission.reads)

    def _own(self, report: front.HostReport, call: Call) -> hp.Host:
        standing = self._hosts.standings.read("")
        return write_standing(standing, self._hosts.clock, self._write(report), reads=call.admission.reads)

    def _write(self, report: front.HostReport) -> hp.Host:
        return hp.Host(
            name=report.name,
            version=report.version,
            os=report.system,
            devices=[write_device(*row) for row in report.devices],
            pid=report.pid,
            memory_bytes=report.memory_bytes,
            start_time=timestamp(self._hosts.clock, report.started),
            queued_tasks=report.queued,
            running_tasks=report.running,
            loads=[
                hp.TenantLoad(
                    tenant=tenant,
                    priority=pp.Priority.ValueType(priority.value),
                    queued_tasks=queued,
                    running_tasks=running,
                )
                for tenant, priority, queued, running in report.loads
            ],
            tokens_per_second=report.tokens_per_s,
            leases=report.leases,
            warnings=report.warnings,
            epoch=report.epoch,
            standbys=[
                hp.StandbyKernel(
                    kernel_id=each.kernel,
                    host=each.host,
                    pid=each.pid,
                    version=each.version,
                    addresses=each.addresses,
                    silent_s=each.age_s,
                )
                for each in report.standbys
            ],
        )


def _named(request: hs.CordonHostRequest | hs.DrainHostRequest | hs.ResumeHostRequest | hs.RemoveHostRequest) -> str:
    """The host that is meant.

    Raises:
        InvalidFieldError: None is named.
    """
    if not request.host_id:
        raise InvalidFieldError("host_id is empty; name a host, the kernel's own is 'local'", field="host_id")
    return request.host_id


def write_backend(report: BackendReport) -> hp.Backend:
    """A backend as discovery found it, for the wire."""
    spec = report.spec
    return hp.Backend(
        name=report.name,
        state=hp.BackendState.ValueType(report.state.value),
        why=report.why if report.state is not BackendState.FAILED else inside(report.why) or FAILED,
        fix=report.fix,
        log_path=inside(report.log_path),
        package=report.package,
        description=spec.description if spec is not None else "",
        formats=spec.formats if spec is not None else (),
        devices=[write_device(device) for device in report.devices],
        settings=[_write_setting(s) for s in (*spec.settings, *ENGINE_SETTINGS)] if spec is not None else (),
    )


def _write_setting(setting: Setting) -> hp.BackendSetting:
    return hp.BackendSetting(
        name=setting.name,
        kind=setting.kind,
        default_value="" if setting.default is None else str(setting.default),
        description=setting.description,
    )


def _write_keys(standing: KeysStanding) -> kp.StoreKeys:
    written = kp.StoreKeys(
        sealing=standing.sealing,
        whole=standing.whole,
        resealing=standing.resealing,
        source=standing.source,
        wrapping=standing.wrapping,
        progress=kp.Resealing(**standing.progress) if standing.progress else None,
        unsealed_files=standing.unsealed,
    )
    for each in standing.tenants:
        tenant = written.tenants.add(tenant=each.tenant, number=each.number, keys=each.keys, shredded=each.shredded)
        if each.number:
            tenant.create_time.FromSeconds(each.made)
    return written
