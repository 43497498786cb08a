"""How failpoints are set, and what happens where one is."""

import subprocess
import sys
import time

import pytest

from inferd.core.changes import Change, LeaseChanged, ModelChanged, TaskAccepted, TaskChanged
from inferd.core.ids import DEFAULT_TENANT, InstanceId, LeaseId, ModelName, TaskId
from inferd.core.lease import LeaseState
from inferd.core.model import ModelState
from inferd.core.task import TaskChange, TaskSpec, TaskState
from inferd.errors import InvalidFieldError, StoreUnavailableError
from inferd.runtime.failing import FailingLauncher, failing_store
from inferd.runtime.failpoints import POINTS, CutError, Failpoints, transition
from inferd.runtime.link import OnClosed, OnFrame
from inferd_api.worker.v1 import worker_pb2 as wire


def outcomes(points: Failpoints, name: str, times: int) -> str:
    """What happens at a point each time: "e" for an error, "." for nothing."""
    told = ""
    for _ in range(times):
        try:
            points.hit(name)
            told += "."
        except StoreUnavailableError:
            told += "e"
    return told


@pytest.mark.parametrize(
    ("term", "told"),
    [
        ("2*error", "ee...."),
        ("error", "eeeeee"),
        ("2*off->1*error", "..e..."),
        ("1*error->2*off->error(no room)", "e..eee"),
        ("off", "......"),
    ],
)
def test_a_point_fails_as_often_as_it_is_set_to(term: str, told: str) -> None:
    """Terms come one after the other, each its count of times, and then nothing happens there or at other points."""
    points = Failpoints([f"store.begin = {term}"])
    assert outcomes(points, "store.begin", 6) == told
    assert outcomes(points, "store.read", 2) == ".."


def test_an_error_says_where_and_what() -> None:
    """The error of a store has the text that was asked for as its cause, and names the failpoint."""
    with pytest.raises(StoreUnavailableError, match=r"failpoint store\.read: disk full") as caught:
        Failpoints(["store.read=error(disk full)"]).hit("store.read")
    assert caught.value.metadata == {"cause": "disk full"}


def test_a_delay_holds_up_whoever_comes_there() -> None:
    """`delay(s)` takes so many seconds."""
    begun = time.monotonic()
    Failpoints(["task.dispatch=1*delay(0.05)"]).hit("task.dispatch")
    assert time.monotonic() - begun >= 0.05


def test_a_kill_ends_the_process_at_once() -> None:
    """Nothing behind a `kill` is done: no handler, no end of a block."""
    code = """
from inferd.runtime.failpoints import Failpoints
try:
    Failpoints(["task.succeed=1*off->kill"]).at_store("x")
    points = Failpoints(["task.succeed=1*off->kill"])
    points.hit("task.succeed")
    print("once", flush=True)
    points.hit("task.succeed")
finally:
    print("never", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (-9, "once"), ended.stderr


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("store.aftercommit=kill", "there is no failpoint 'store.aftercommit'; did you mean 'store.after_commit'?"),
        ("task.dispatched=kill", "did you mean 'task.dispatch'?"),
        ("zzz=kill", "known are store.begin"),
        ("store.begin", "is no failpoint; write name=count"),
        ("store.begin=", "is no action"),
        ("store.begin=2*", "is no action"),
        ("store.begin=kil", "there is no action 'kil' at store.begin; did you mean 'kill'?"),
        ("task.succeed=error", "there is no action 'error' at task.succeed"),
        ("store.begin=cut", "there is no action 'cut' at store.begin"),
        ("store.begin=0*kill", "the count of '0[*]kill' at store.begin is 0"),
        ("store.begin=delay", r"delay[(][)] at store.begin must have seconds"),
        ("store.begin=delay(1e9)", "must have seconds"),
        ("store.begin=kill(9)", "takes nothing in brackets"),
        ("store.begin=off->", "is no action"),
    ],
)
def test_what_is_not_to_be_set_is_refused(given: str, why: str) -> None:
    """An unknown name or action is refused with the nearest one, and every other mistake with what to write."""
    with pytest.raises(InvalidFieldError, match=why) as caught:
        Failpoints([given])
    assert caught.value.field == "failpoints"


def test_every_change_of_the_core_and_every_frame_has_a_point() -> None:
    """Each kind of change, each transition of a lifecycle and each frame of the link is a name that can be set."""
    task = TaskSpec(task_id=TaskId("t"), tenant=DEFAULT_TENANT, model=ModelName("m"))
    changes: list[Change] = [
        TaskAccepted(task, 1, 0.0),
        LeaseChanged(LeaseId("l"), DEFAULT_TENANT, None, LeaseState.ACTIVE, 1, 0.0),
        ModelChanged(ModelName("m"), ModelState.READY),
    ]
    changes += [
        TaskChanged(task.task_id, task.tenant, task.model, change, TaskState.RUNNING, 1, InstanceId("i"))
        for change in TaskChange
    ]
    names = [transition(change) for change in changes]
    assert names[:4] == ["task.accepted", "lease.changed", "model.changed", "task.dispatch"]
    assert {*names, "frame.got.step", "frame.sent.load", "store.before_commit", "lease.grant"} <= set(POINTS)
    assert len(POINTS) == len(set(POINTS))


def test_nothing_stands_around_a_kernel_without_failpoints() -> None:
    """Its store is used as it is."""
    store = object()
    assert failing_store(store, Failpoints([])) is store  # type: ignore[arg-type, comparison-overlap]


class Launched:
    """A launcher, the link that it gives, and what came through."""

    def __init__(self) -> None:
        self.sent: list[str | None] = []

    def log_of(self, _: InstanceId) -> str:
        return ""

    def silent_s(self) -> float | None:
        return None

    def adopter(self, _: int) -> None:
        return

    async def read_log(self, instance_id: InstanceId, offset_bytes: int, most_bytes: int) -> tuple[bytes, int]:
        raise NotImplementedError

    async def launch(self, _: InstanceId, *, on_frame: OnFrame, on_closed: OnClosed) -> "Launched":
        self.receive, self.end_link = on_frame, on_closed
        return self

    def send(self, frame: wire.KernelFrame, _: object = ()) -> None:
        self.sent.append(frame.WhichOneof("kind"))


async def test_a_link_is_cut_at_a_frame() -> None:
    """From that frame on none passes either way, and the end of the link is told once, with its reason."""
    told: list[object] = []
    launcher = Launched()
    points = Failpoints(["frame.got.pong=1*off->1*cut"])
    failing = FailingLauncher(launcher, points)  # type: ignore[arg-type]
    link = await failing.launch(
        InstanceId("i"), on_frame=lambda frame, *_: told.append(frame.WhichOneof("kind")), on_closed=told.append
    )
    ping, pong = wire.KernelFrame(ping=wire.Ping()), wire.WorkerFrame(pong=wire.Pong())
    link.send(ping)
    launcher.receive(pong)
    launcher.receive(pong)
    launcher.receive(pong)
    link.send(ping)
    launcher.end_link("EOF")
    assert told == ["pong", "failpoint frame.got.pong"]
    assert launcher.sent == ["ping"]
    with pytest.raises(CutError):
        Failpoints(["frame.sent.ping=cut"]).hit("frame.sent.ping")
