"""Which agents are attached, what is told to the core of their hosts, and what they say that counts for nothing."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from time_limits import LONG_S

from inferd import __version__, skew
from inferd.core import events
from inferd.core.host import HostFacts
from inferd.core.host_events import AdoptWorkers, AwaitHosts, HeldWorker, HostHolds
from inferd.core.ids import DeviceId, HostId, InstanceId
from inferd.errors import InvalidFieldError, LimitExceededError, PermissionDeniedError, present
from inferd.host_settings import Hosts as Settings
from inferd.runtime.far.host import Facts, FarHost
from inferd.runtime.far.hosts import FarHosts, link_bounds
from inferd.runtime.far.identities import Identities
from inferd.runtime.far.parcels import Assembly, closing
from inferd.runtime.far.worker import FarWorker
from inferd.runtime.signal import Signal
from inferd_api.agent.v1 import agent_pb2 as wire
from inferd_api.worker.v1 import load_pb2, sandbox_pb2
from inferd_api.worker.v1 import worker_pb2 as frames_pb

GIB = 1 << 30
DEADLINE_S = LONG_S
B = HostId("b")


class Core:
    """Notes what it is told, as a driver."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.known: dict[HostId, Any] = {HostId(""): SimpleNamespace(why="")}
        self.launchers: dict[HostId, Any] = {}
        self.account = SimpleNamespace(lease_bytes=0, drawn_bytes=0, instance_bytes=0)

    def tell_host(self, event: events.HostEvent) -> None:
        self.told.append(event)
        if isinstance(event, events.HostFound):
            self.known[event.host_id] = SimpleNamespace(why="")

    def measure_foreign(self, device_id: DeviceId, foreign_bytes: int) -> None:
        self.told.append((device_id, foreign_bytes))

    def check_open(self) -> None:
        return

    def hosts(self, **settings: Any) -> FarHosts:
        chosen = Settings(**settings)
        bounds = link_bounds(chosen, message_bytes=4 << 20, frame_bytes=1 << 20, sandbox=sandbox_pb2.SandboxLimits())
        accounts: Any = {DeviceId("b/cpu:0"): self.account}
        return FarHosts(chosen, bounds, teller=self, launchers=self.launchers, known=self.known, accounts=accounts)


def attach(hosts: FarHosts, *, name: HostId = B, incarnation: int = 1, epoch: int = 0, **more: Any) -> FarHost:
    facts = Facts(name=name, told=HostFacts(version=more.pop("version", __version__), labels={"zone": "a"}))
    kernel = hosts.kernel if epoch else 0
    return hosts.attach(facts, incarnation=incarnation, kernel=kernel, epoch=epoch, principal=more.pop("who", "host:b"))


def ready(host: FarHost, *names: str) -> None:
    devices = [wire.DeviceFacts(device_id=name, memory_bytes=GIB, cores=2) for name in names]
    host._obey(wire.ControlReport(ready=wire.HostReady(devices=devices)))


def used(held_bytes: int, device_id: str = "cpu:0", **more: Any) -> tuple[bytes, tuple[()]]:
    told = wire.DeviceUsed(device_id=device_id, held_bytes=held_bytes, **more)
    return wire.ControlReport(used=told).SerializeToString(), ()


async def test_an_agent_goes_on_or_begins_anew() -> None:
    """The same process in the same epoch goes on; one that heard nothing of its epoch begins anew, and others wait."""
    core = Core()
    hosts = core.hosts()
    host = attach(hosts)
    assert attach(hosts, epoch=host.epoch) is host
    anew = attach(hosts)
    assert (anew.epoch, host.gone) == (host.epoch + 1, "its agent begins anew")
    with pytest.raises(InvalidFieldError, match=r"hosts\.detection_s") as caught:
        attach(hosts, incarnation=2)
    assert caught.value.retry_after_s == 3.0
    hosts.lose(anew, "so")
    assert attach(hosts, incarnation=2).epoch == 3
    assert [type(each).__name__ for each in core.told] == [
        "HostFound",
        "HostLost",
        "HostFound",
        "HostLost",
        "HostFound",
    ]


async def test_who_may_not_attach_is_told_why() -> None:
    """Another version, another's name and one host too many are refused, with what helps."""
    hosts = Core().hosts(most=1)
    with pytest.raises(InvalidFieldError, match=r"version '0\.0\.1', the kernel of"):
        attach(hosts, version="0.0.1")
    hosts.lose(attach(hosts), "so")
    with pytest.raises(PermissionDeniedError, match="was attached by 'host:b'"):
        attach(hosts, who="cert:x", incarnation=2)
    with pytest.raises(LimitExceededError, match=r"hosts\.most is 1"):
        attach(hosts, name=HostId("c"))
    with pytest.raises(LimitExceededError):
        attach(Core().hosts(most=0))


async def test_what_a_lost_host_says_counts_for_nothing() -> None:
    """Devices are told once, names that are none are left out, and a host that is lost tells nothing more."""
    core = Core()
    hosts = core.hosts()
    host = attach(hosts)
    ready(host, "cpu:0", "a/b", "", "x" * 65)
    ready(host, "cpu:1")
    (joined,) = (each for each in core.told if isinstance(each, events.HostJoined))
    assert [device.device_id for device in joined.devices] == ["cpu:0"]
    assert joined.facts.labels == {"zone": "a"}
    assert core.launchers == {B: host}
    hosts.lose(host, "so")
    told = len(core.told)
    host._hear([(wire.ControlReport(leaves=wire.AgentLeaves()).SerializeToString(), ())])
    assert len(core.told) == told
    assert not core.launchers
    with pytest.raises(OSError, match="host 'b' is lost: so"):
        await host.launch("m-1", on_frame=print, on_closed=print)  # type: ignore[arg-type] # never called


async def test_what_needs_a_removed_host_waits_for_its_agent() -> None:
    """As long as one that runs takes to join again: the core is told when that begins and when it is over."""
    core = Core()
    hosts = core.hosts(return_s=1000.0)
    hosts.remove(B)
    assert not core.told, "no agent of it runs"
    attach(hosts)
    for _ in range(2):
        hosts.remove(B)
        assert core.told[-1] == AwaitHosts(waits=True)
    present(hosts._returns)._run()  # its time is over
    present(hosts._returns).cancel()
    assert core.told[-1] == AwaitHosts(waits=False)


async def test_words_of_an_agent_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an agent says for people is at most 1,000 characters that are shown, why ever it says it."""
    core, said = Core(), "\x1b[2J\n" + "x" * (1 << 20)
    hosts = core.hosts()
    host = attach(hosts)
    monkeypatch.setattr(host, "_order", lambda _: None)
    host.workers = {n: FarWorker(host, n, InstanceId(f"m-{n}"), on_frame=print, on_closed=print) for n in (1, 2)}  # type: ignore[arg-type] # never called
    first, second = host.workers.values()
    host._obey(wire.ControlReport(not_started=wire.WorkerNotStarted(launch_id=1, why=said)))
    host._obey(wire.ControlReport(ended=wire.WorkerEnded(launch_id=2, how=said, tail=said)))
    with pytest.raises(OSError, match="could not start it") as caught:
        await first.started()
    assembly = Assembly(frame_limit_bytes=1, memory_limit_bytes=1)
    assembly.take(closing(said).write())
    host._obey(wire.ControlReport(leaves=wire.AgentLeaves(why=said)))
    for words in (str(caught.value), await second.ended(), await second.tail(), assembly.closed, core.told[-1].why):
        assert 900 < len(words) < 1100
        assert words.isprintable()


async def test_who_is_silent_is_lost_but_not_by_a_kernel_that_was_stopped() -> None:
    """A host that is silent while the kernel looks is lost; one that looks late gives all hosts the time anew."""
    core = Core()
    hosts = core.hosts()
    host = attach(hosts)
    began = hosts._looked_at = host.control.heard_at
    hosts.look(began + 100)
    for step in range(1, 4):
        hosts.look(began + 100 + step)
        assert hosts.attached == {B: host}
    hosts.look(began + 104)
    assert not hosts.attached
    assert "4.0 s, longer than the 3 s that it may be silent (hosts.detection_s)" in core.told[-1].why


async def test_what_others_hold_of_a_far_device() -> None:
    """Of what is held beyond workers, leases of programs are known, and workers where the device does not tell them."""
    core = Core()
    hosts = core.hosts()
    host = attach(hosts)
    ready(host, "cpu:0")

    def say(held_bytes: int, **more: Any) -> list[Any]:
        core.told.clear()
        host._hear([used(held_bytes, **more)])
        return core.told

    assert say(3 * GIB) == [("b/cpu:0", 3 * GIB)]
    assert say(3 * GIB + 1000) == []
    core.account.lease_bytes, core.account.drawn_bytes, core.account.instance_bytes = 2 * GIB, GIB, GIB // 2
    assert say(3 * GIB) == [("b/cpu:0", 2 * GIB)]
    assert say(3 * GIB, with_workers=True) == [("b/cpu:0", GIB // 2)]
    assert say(0) == [("b/cpu:0", 0)]
    host._hear([used(GIB, device_id="cuda:9")])
    assert len(core.told) == 1
    assert list(host.used) == ["cpu:0"]


async def test_a_start_that_an_agent_never_answers_fails_and_is_ended_there() -> None:
    """A launch of which a host does not say that it runs fails by name and setting, and the order to end it follows."""
    host = attach(Core().hosts(answer_s=0.01))
    with pytest.raises(OSError, match=r"host 'b' did not say within 0\.01 s \(hosts\.answer_s\)"):
        async with asyncio.timeout(DEADLINE_S):
            await host.launch(InstanceId("m-1"), on_frame=lambda *_: None, on_closed=lambda _: None)
    parcels = host.control._next()
    assert parcels is not None
    orders = [wire.ControlOrder.FromString(parcel.data) for parcel in parcels.parcels]
    assert [order.WhichOneof("kind") for order in orders] == ["launch", "end"]
    assert [orders[0].launch.launch_id, orders[1].end.launch_id] == [1, 1]
    async with asyncio.timeout(DEADLINE_S):
        while host.workers:  # for as long again it is waited for that it has ended
            await Signal().wait(0, limit_s=0.001)
    assert not host.gone
    host._obey(wire.ControlReport(started=wire.WorkerStarted(launch_id=1, pid=7)))
    (parcel,) = present(host.control._next()).parcels
    assert wire.ControlOrder.FromString(parcel.data).end.launch_id == 1


async def test_what_a_host_holds_is_told_when_it_has_changed() -> None:
    """With its devices first, then at a look; what is no name of files is left out, and so is what is too much."""
    core = Core()
    hosts = core.hosts()
    host = attach(hosts)
    devices = [wire.DeviceFacts(device_id=f"cpu:{n}", memory_bytes=GIB) for n in range(256)]
    held = wire.HostHolds(versions=["a" * 64, "../x", "", "b" * 65])
    host._obey(wire.ControlReport(ready=wire.HostReady(devices=devices, holds=held)))
    (joined,) = (each for each in core.told if isinstance(each, events.HostJoined))
    assert joined.facts.holds == {"a" * 64}
    core.known[B] = SimpleNamespace(facts=joined.facts)
    many = wire.HostHolds(versions=[f"{n:x}" for n in range(5000)])
    for holds in (wire.HostHolds(), many):
        host._hear([(wire.ControlReport(holds=holds).SerializeToString(), ())])
    core.told.clear()
    for _ in range(2):
        hosts.look(hosts._looked_at)
        core.known[B] = SimpleNamespace(facts=HostFacts(holds=host.holds))
    assert core.told == [HostHolds(B, frozenset(f"{n:x}" for n in range(64)))]


async def test_what_comes_together_is_looked_into_once_for_each_device() -> None:
    """Of many reports of one device in one message the last one counts, and no other is looked into."""
    core = Core()
    host = attach(core.hosts())
    ready(host, "cpu:0")
    core.told.clear()
    host._hear([used(held * GIB) for held in range(1, 100)])
    assert core.told == [("b/cpu:0", 99 * GIB)]


class Same(Identities):
    """Everything is just what would be loaded."""

    def __init__(self) -> None:
        """It reads nothing."""

    def changed(self, names: Any) -> set[str]:
        return {name for name in names if name == "changed"}

    def differs(self, *_: Any) -> str:
        return ""


async def told_to_core(*workers: wire.HeldWorker) -> tuple[Core, FarHost, dict[int, HeldWorker]]:
    """What the core is told when a host says that it has kept these."""
    core = Core()
    hosts = core.hosts()
    hosts._identities = Same()
    host = attach(hosts)
    devices = [wire.DeviceFacts(device_id="cpu:0", memory_bytes=1 << 30)]
    host._obey(wire.ControlReport(held=wire.WorkersHeld(devices=devices, workers=workers)))
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*hosts._deciding)
    (event,) = (each for each in core.told if isinstance(each, AdoptWorkers))
    return core, host, {each.held_id: each for each in event.workers}


def said(held_id: int = 1, **more: Any) -> wire.HeldWorker:
    chosen = {"version": skew.OWN, "first_handle": 5, "device_ids": ["cpu:0"], "instance_id": "m-1"} | more
    return wire.HeldWorker(held_id=held_id, identity=wire.WorkerIdentity(model=chosen.pop("model", "m")), **chosen)


@pytest.mark.parametrize(
    ("worker", "why"),
    [
        (said(), ""),
        (said(version="99.0.0"), "it is of version '99.0.0' of inferd"),
        (said(version="\x1b" * 10_000), "it is of version"),
        (said(first_handle=0), "more tasks"),
        (said(first_handle=1 << 31), "more tasks"),
        (said(device_ids=[]), "on 0 devices"),
        (said(device_ids=["cpu:0"] * 10_000), "on 10000 devices"),
        (said(device_ids=["cpu:0", "\x1b" * 10_000]), "on a device that its host does not tell of"),
        (said(needs=load_pb2.Needs(weights_bytes=1 << 61)), "more than any device has"),
        (said(model="changed"), "files have changed"),
    ],
)
async def test_what_no_agent_says_of_a_worker_is_held_against_it(worker: wire.HeldWorker, why: str) -> None:
    """Whatever it is, the core is told a bounded word of it, and why it is not to be adopted."""
    _, _, told = await told_to_core(worker)
    (found,) = told.values()
    assert why in found.differs
    assert bool(found.differs) is bool(why)
    assert len(found.differs) < 200
    assert found.differs.isprintable()


async def test_what_a_host_tells_of_kept_workers_is_bounded_and_told_once() -> None:
    """Names are cut, more than a host may have are left out, and neither a second word nor other devices count."""
    name = "x" * 5000 + "\n"
    core, host, told = await told_to_core(*(said(n, instance_id=name, model=name) for n in range(300)))
    assert len(told) == 256
    assert all(len(each.model) == len(each.instance_id) == 200 for each in told.values())
    host._obey(wire.ControlReport(held=wire.WorkersHeld(workers=[said()])))
    other = wire.DeviceFacts(device_id="cpu:7", memory_bytes=1)
    host._obey(wire.ControlReport(ready=wire.HostReady(devices=[other])))
    assert [device.device_id for device in core.told[-1].devices] == ["cpu:0"]
    assert sum(isinstance(each, AdoptWorkers) for each in core.told) == 1
    assert host.adopter(9_999).first_handle == 1
    with pytest.raises(OSError, match="nobody starts workers"):
        await host.adopter(9_999).launch(InstanceId("m-1"), on_frame=lambda *_: None, on_closed=lambda _: None)


async def test_an_acknowledged_ping_is_no_word_of_the_worker() -> None:
    """Acknowledgements tell that a link gets on up to the ping, and no further: a stopped worker's agent sends them."""
    host = attach(Core().hosts())
    told: list[Any] = []
    worker = FarWorker(host, 1, InstanceId("m-1"), on_frame=lambda *frame: told.append(frame), on_closed=print)
    worker.given.set()
    worker.send(frames_pb.KernelFrame(stop=frames_pb.Stop()))
    for nonce in (1, 2):
        worker.send(frames_pb.KernelFrame(ping=frames_pb.Ping(nonce=nonce)))
    assert present(worker.exchange._next()).first == 1
    worker.exchange.take(wire.Parcels(received=1))
    assert len(told) == 1
    worker._told_at = 0.0
    for number in (2, 3):
        worker.exchange.take(wire.Parcels(received=number))
    assert len(told) == 1
