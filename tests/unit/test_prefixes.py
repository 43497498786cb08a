"""Whose prefix cache is kept, in how much memory, and whose goes first."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from time_limits import LONG_S

from inferd.core.changes import ModelForgotten, VersionChanged
from inferd.core.ids import InstanceId, ModelName
from inferd.core.model import InstanceState
from inferd.core.version import VersionChange, VersionState
from inferd.runtime.prefixes import Prefixes, PrefixLimits
from inferd.shared import Memory, MemoryRefusedError
from inferd_api.worker.v1 import prefix_pb2

PAGE = 4096
DEADLINE_S = LONG_S
A, B, C = (ModelName(name) for name in "abc")


class Kernel:
    """As much of a kernel as there is to it: models with an instance each, and what is free of the host."""

    def __init__(self, *, most_bytes: int, spare_bytes: int = 100 * PAGE) -> None:
        self.account = SimpleNamespace(spare_bytes=spare_bytes)
        self.devices = {"cpu:0": self.account}
        self.models: dict[str, Any] = {}
        self.sent: list[tuple[str, int]] = []  # instances that were given something, of so many bytes
        self.workers = {f"{name}-1": SimpleNamespace(send=self._sender(f"{name}-1")) for name in (A, B, C)}
        for name in (A, B, C):
            spec = SimpleNamespace(prefix_keep_bytes=None)
            instance = SimpleNamespace(
                instance_id=f"{name}-1", model=name, device_id="cpu:0", lease_id="", living=True, version=1,
                state=InstanceState.STOPPING, running={}, holds={},
            )  # fmt: skip
            self.models[name] = SimpleNamespace(
                spec=spec, going=False, instances={f"{name}-1": instance}, serving=SimpleNamespace(number=1),
                is_rolling=lambda _: False,
            )  # fmt: skip
        self.prefixes = Prefixes(cast("Any", self), cast("Any", self), PrefixLimits(most_bytes, 3.0))

    def model(self, name: str) -> Any:
        return self.models[name]

    def find_model(self, name: str) -> Any:
        return self.models[name]

    def find_instance(self, instance_id: str) -> Any:
        return self.models[instance_id[0]].instances[instance_id]

    def keep(self, name: str, pages: int = 1, *, tokens: int = 16) -> None:
        memory = Memory.of(bytes(pages * PAGE))
        self.prefixes.keep(InstanceId(f"{name}-1"), prefix_pb2.Kept(tokens=tokens), (memory,))

    def kept(self) -> list[str]:
        return [name for name in (A, B, C) if self.prefixes.of(name) is not None]

    def keeps(self, name: str = A) -> int:
        """What a worker of a model is told that it may keep."""
        return self.prefixes.stop(InstanceId(f"{name}-1")).keep_bytes

    def _sender(self, instance_id: str) -> Any:
        def send(frame: Any, memories: Sequence[Memory] = ()) -> None:
            kind = frame.WhichOneof("kind")
            assert kind in ("adopt", "keep")
            self.sent.append((instance_id, memories[0].size_bytes if kind == "adopt" else frame.keep.keep_bytes))

        return send


def test_the_one_kept_first_goes_first() -> None:
    """Of three models that have two pages each the first goes where five pages may be kept; the others stay."""
    kernel = Kernel(most_bytes=5 * PAGE)
    for name in (A, B, C):
        kernel.keep(name, 2)
    assert kernel.kept() == [B, C]
    assert kernel.prefixes.held_on(cast("Any", "cpu:0")) == 4 * PAGE
    assert kernel.prefixes.held_on(cast("Any", "cuda:0")) == 0


def test_what_is_given_to_others_is_not_kept() -> None:
    """As soon as somebody is given the memory that it is in, it goes; and a worker is allowed no more than is free."""
    kernel = Kernel(most_bytes=50 * PAGE)
    kernel.keep(A, 2)
    kernel.keep(B, 2)
    kernel.account.spare_bytes = 3 * PAGE
    kernel.prefixes.settle(())
    assert kernel.kept() == [B]
    assert kernel.keeps() == 3 * PAGE


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({}, 50 * PAGE),
        ({"own": 7}, 7),
        ({"own": 51 * PAGE}, 50 * PAGE),
        ({"going": True}, 0),
        ({"lease_id": "l"}, 0),
        ({"device_id": "other/cpu:0"}, 0),
        ({"most": 0}, 0),
        ({"closed": True}, 0),
    ],
    ids=str,
)
def test_how_much_a_worker_may_keep(change: dict[str, Any], allowed: int) -> None:
    """The bound of the kernel or its model; nothing of a model that goes, a lease, another host, a kernel that ends."""
    kernel = Kernel(most_bytes=change.get("most", 50 * PAGE))
    model = kernel.models[A]
    model.spec.prefix_keep_bytes = change.get("own")
    model.going = change.get("going", False)
    for name in ("lease_id", "device_id"):
        setattr(model.instances["a-1"], name, change.get(name, getattr(model.instances["a-1"], name)))
    if change.get("closed"):
        kernel.prefixes.close()
    order = kernel.prefixes.stop(InstanceId("a-1"))
    assert order.keep_bytes == allowed
    assert order.keep_seconds == (1.5 if allowed else 0)


def test_it_is_given_once() -> None:
    """The next instance of the model is given what is kept, which is kept no longer; one of another model nothing."""
    kernel = Kernel(most_bytes=50 * PAGE)
    kernel.keep(A)
    kernel.prefixes.give(InstanceId("b-1"))
    kernel.prefixes.give(InstanceId("a-1"))
    kernel.prefixes.give(InstanceId("a-1"))
    assert kernel.sent == [("a-1", PAGE)]
    assert kernel.kept() == []


def test_an_instance_that_is_ready_has_it_at_once() -> None:
    """Where another instance of the model serves when one goes, that is given what the one kept."""
    kernel = Kernel(most_bytes=50 * PAGE)
    kernel.models[A].instances["a-1"].state = InstanceState.READY
    kernel.keep(A)
    assert kernel.sent == [("a-1", PAGE)]


def test_the_larger_one_of_a_model_stays() -> None:
    """Of two instances of a model that go the cache of more tokens is kept; one that kept nothing changes nothing."""
    kernel = Kernel(most_bytes=50 * PAGE)
    kernel.keep(A, 2, tokens=32)
    kernel.keep(A, 1, tokens=16)
    kernel.prefixes.keep(InstanceId("a-1"), prefix_pb2.Kept(why_not="nothing was found"), ())
    kernel.prefixes.keep(InstanceId("a-1"), prefix_pb2.Kept(tokens=64), (MemoryRefusedError("it is not sealed"),))
    kept = kernel.prefixes.of(A)
    assert kept is not None
    assert kept.tokens == 32
    kernel.prefixes.settle([ModelForgotten(A)])
    assert kernel.kept() == []


@pytest.mark.parametrize(
    ("serving", "busy", "change", "sent"),
    [
        (2, "", VersionChange.SERVE, [("a-1", 50 * PAGE)]),
        (2, "running", VersionChange.SERVE, []),
        (2, "holds", VersionChange.SERVE, []),
        (1, "", VersionChange.SERVE, []),
        (2, "", None, []),
    ],
)
def test_a_version_hands_over_what_it_has(
    *, serving: int, busy: str, change: VersionChange | None, sent: list[tuple[str, int]]
) -> None:
    """When another version serves, one before it that is idle is told to keep what it can; one with tasks goes on."""
    kernel = Kernel(most_bytes=50 * PAGE)
    model, instance = kernel.models[A], kernel.models[A].instances["a-1"]
    model.serving.number, instance.state = serving, InstanceState.READY
    if busy:
        setattr(instance, busy, {"t": None})
    kernel.prefixes.settle([VersionChanged(A, serving, change, VersionState.SERVING)])
    assert kernel.sent == sent


def test_workers_that_a_shredded_tenant_has_used_keep_nothing() -> None:
    """What is kept goes, and what such a worker has at its end is not kept; the next one of the model keeps again."""
    kernel = Kernel(most_bytes=50 * PAGE)
    kernel.keep(A)
    assert kernel.keeps(A) > 0
    kernel.prefixes.forget_all()
    assert (kernel.kept(), kernel.keeps(A)) == ([], 0)
    kernel.keep(A)  # it was on its way
    assert kernel.kept() == []
    del kernel.workers["a-1"]
    kernel.models[A].instances["a-2"] = SimpleNamespace(**{**vars(kernel.find_instance("a-1")), "instance_id": "a-2"})
    assert kernel.prefixes.stop(InstanceId("a-2")).keep_bytes > 0


async def test_what_was_being_read_when_a_tenant_was_shredded_is_not_kept() -> None:
    """A prefix cache that was read of a file before all of them were forgotten, and comes after that, goes as well."""
    gate = threading.Event()

    def read(_: str, __: int) -> tuple[Memory, int]:
        assert gate.wait(DEADLINE_S)
        return Memory.of(bytes(PAGE)), 16

    kernel = Kernel(most_bytes=50 * PAGE)
    files = SimpleNamespace(sweep=lambda: None, read=read, forget_all=lambda: None)
    limits = PrefixLimits(50 * PAGE, 3.0, cast("Any", files))
    kernel.prefixes = Prefixes(cast("Any", kernel), cast("Any", kernel), limits)
    kernel.prefixes._fetch(A)
    kernel.prefixes.forget_all()
    gate.set()
    await kernel.prefixes.written()  # behind what was read
    assert kernel.kept() == []
