"""What passes between a kernel and one of its workers, as far as the next kernel depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd_api.agent.v1 import agent_pb2 as wire
from inferd_api.worker.v1 import load_pb2, moderation_pb2, sandbox_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as frames_pb

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ledger:
    """What one worker was told and has said. One writer: its `HostedWorker`.

    Questions get numbers of their own on their way to the worker: the answer to one of a kernel that is gone is
    dropped, whatever the next one asks. Handles of tasks go on rising from one kernel to the next, so that what is
    still said of old ones is of no task any more.
    """

    def __init__(self) -> None:
        self._version = ""
        self._device_ids: tuple[str, ...] = ()
        self._needs = load_pb2.Needs()
        self._sealed: frames_pb.WorkerFrame | None = None
        self._loaded: frames_pb.WorkerFrame | None = None
        self._progress: frames_pb.WorkerFrame | None = None
        self._proceeds = self._failed = False
        self._stops = False
        self._tasks: set[int] = set()  # handles
        self._last_handle = 0
        self._ran = 0  # tasks, when it was told to forget them
        self._holds: dict[str, int] = {}  # fencing tokens, by lease
        self._moderated = False
        self._questions: dict[int, int] = {}  # as its kernel numbers them, by their numbers here
        self._asked = 0

    @property
    def is_loaded(self) -> bool:
        """Whether it has loaded its model, and is not to end."""
        return self._loaded is not None and not self._stops

    @property
    def is_loading(self) -> bool:
        """Whether it was let load, as what it needs was reserved, and that goes on."""
        return self._proceeds and not (self._stops or self._failed or self._loaded is not None)

    @property
    def told_at_load(self) -> tuple[frames_pb.WorkerFrame, ...]:
        """What it said of its sandbox and of what it had loaded; while it loads that it does, and how far it is."""
        begun = frames_pb.WorkerFrame(begun=sandbox_pb2.Begun()) if self.is_loading else None
        last = self._progress if self.is_loading else self._loaded
        return tuple(frame for frame in (begun, self._sealed, last) if frame is not None)

    def note(self, frame: frames_pb.KernelFrame) -> None:
        """This goes to the worker; a question under another number."""
        match frame.WhichOneof("kind"):
            case "submit":
                self._tasks.add(frame.submit.handle)
                self._last_handle = max(self._last_handle, frame.submit.handle)
            case "cancel":
                self._tasks.discard(frame.cancel.handle)
            case "query":
                self._asked += 1
                self._questions[self._asked] = frame.query.query_id
                frame.query.query_id = self._asked
            case "hold":
                self._note_hold(frame.hold)
            case "moderate":
                self._moderated = bool(frame.moderate.rules)
            case "load":
                self._device_ids = tuple(dict.fromkeys(frame.load.ranks)) or (frame.load.device,)
            case "proceed":
                self._proceeds = True
            case "stop":
                self._stops = True

    def _note_hold(self, hold: task_pb2.Hold) -> None:
        if hold.sequences or hold.kv_tokens:
            self._holds[hold.lease_id] = hold.fencing_token
        else:
            self._holds.pop(hold.lease_id, None)

    def hear(self, frame: frames_pb.WorkerFrame) -> bool:
        """The worker says this; False where it answers to a kernel that is gone."""
        match frame.WhichOneof("kind"):
            case "step":
                self._tasks.difference_update([ended.handle for ended in frame.step.ended])
            case "answer":
                asked = self._questions.pop(frame.answer.query_id, None)
                frame.answer.query_id = asked or 0
                return asked is not None
            case "hello":
                self._version = frame.hello.version
            case "sealed":
                self._sealed = frame if self._sealed is None else self._sealed
            case "needs":
                self._needs = frame.needs
            case "load_progress":
                self._progress = frame
            case "loaded":
                self._loaded = frame
            case "load_failed":
                self._failed = True
        return True

    def forget(self) -> Iterator[frames_pb.KernelFrame]:
        """What has the worker forget all that its kernel had of it: tasks, parts of leases, rules, questions."""
        self._ran = len(self._tasks)
        for handle in sorted(self._tasks):
            yield frames_pb.KernelFrame(cancel=task_pb2.Cancel(handle=handle))
        for lease_id, fencing_token in tuple(self._holds.items()):
            yield frames_pb.KernelFrame(hold=task_pb2.Hold(lease_id=lease_id, fencing_token=fencing_token))
        if self._moderated:
            yield frames_pb.KernelFrame(moderate=moderation_pb2.Moderate())
        self._questions.clear()

    def describe(self, held_id: int, instance_id: str, identity: wire.WorkerIdentity | None) -> wire.HeldWorker:
        """What is told of it to the next kernel."""
        return wire.HeldWorker(
            held_id=held_id,
            instance_id=instance_id,
            identity=identity,
            device_ids=self._device_ids,
            needs=self._needs,
            version=self._version,
            tasks=self._ran,
            first_handle=self._last_handle + 1,
            loading=self.is_loading,
        )
