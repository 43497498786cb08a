"""The tasks that one call of `RunTasks` carries: what is ordered, what came of it, and how it is taken up again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from google.protobuf.duration_pb2 import Duration

from inferd_api.v1.task_service_pb2 import (
    FlowOrder,
    LeaveOrder,
    RunOrder,
    TaskOrder,
    TaskUpdate,
    WatchOrder,
    WatchTaskRequest,
)
from inferd_client.errors import InferdError, NotLeaderError, ShuttingDownError, from_status
from inferd_client.kernels import was_moved
from inferd_client.parts import Parts
from inferd_client.patience import read_patience_s, waited
from inferd_client.rpc_errors import was_cut

if TYPE_CHECKING:
    import grpc

    from inferd_api.v1.task_pb2 import TaskEvent

LINGER: Final = Duration(seconds=10)
"""How long a task outlives a broken call, for its client to come back."""

FULL: Final = 256
"""Events that wait for their reader; then the kernel is asked to hold the others back."""
EMPTY: Final = 64
"""Events that still wait when it is asked to go on."""


@dataclass(slots=True, eq=False)
class Followed:
    """A task under its tag.

    Attributes:
        tag: Names it on the call.
        run: The order that it was created with; None where it is only watched.
        watch: The order to watch it; None where it was created.
        task_id: Its id, once it is known.
        sequence: Number of the last event that came.
        stopped: Whether the kernel was asked to hold the others back.
        over: Whether the last update came.
        parts: Of a set of tensors that comes in several updates.
    """

    tag: int
    run: RunOrder | None = None
    watch: WatchTaskRequest | None = None
    task_id: str = ""
    sequence: int = 0
    stopped: bool = False
    over: bool = False
    parts: Parts = field(default_factory=Parts)

    @property
    def kept(self) -> bool:
        """Whether it may outlive its call, and its kernel."""
        return self.run is None or self.run.request.detach_on_disconnect

    def order(self) -> TaskOrder:
        """What begins it; on a new call, what takes it up where it was."""
        self.stopped = False
        self.parts.forget()
        if self.watch is not None:
            request = WatchTaskRequest()
            request.CopyFrom(self.watch)
            request.after_sequence = max(request.after_sequence, self.sequence)
            return TaskOrder(tag=self.tag, watch=WatchOrder(request=request))
        if not self.task_id or self.run is None:
            return TaskOrder(tag=self.tag, run=self.run)
        request = WatchTaskRequest(
            task_id=self.task_id,
            after_sequence=self.sequence,
            output_interval=self.run.request.output_interval if self.run.request.HasField("output_interval") else None,
        )
        adopt = not self.run.request.detach_on_disconnect
        return TaskOrder(tag=self.tag, watch=WatchOrder(request=request, adopt=adopt, linger=LINGER))

    def take(self, update: TaskUpdate) -> TaskEvent | InferdError | None:
        """What an update of it says to its reader; None where more is to come, maybe from the next kernel."""
        if update.HasField("error"):
            error = from_status(update.error)
            if self.kept and isinstance(error, NotLeaderError | ShuttingDownError):
                return None
            self.over = True
            return error
        event = update.event
        self.task_id = self.task_id or event.task_id
        event.task_id = self.task_id
        if event.HasField("output") and self.parts.take(event) is None:
            return None
        self.sequence = event.sequence
        self.over = event.HasField("finished")
        return event

    def lost(self, failed: InferdError, patience_s: float) -> InferdError:
        """What its reader is told when no kernel came back in time; of one that is kept, how it is followed on."""
        task_id = self.task_id or (self.watch.task_id if self.watch is not None else "")
        if not self.kept:
            return failed
        after = max(self.sequence, 0 if self.watch is None else self.watch.after_sequence)
        how = f". Task {task_id} goes on with the next kernel, if it is kept: watch it from behind event {after}"
        return waited(failed, patience_s, how if task_id else "")

    def flow(self, waiting: int) -> TaskOrder | None:
        """What the kernel is to be told as so many events wait for their reader; None for nothing."""
        if not self.over and not self.stopped and waiting >= FULL:
            self.stopped = True
        elif self.stopped and waiting <= EMPTY:
            self.stopped = False
        else:
            return None
        return TaskOrder(tag=self.tag, flow=FlowOrder(stopped=self.stopped))


@dataclass(slots=True)
class Orders:
    """All that is followed on a call. One writer: the call.

    Attributes:
        followed: By tag; those that are not over.
    """

    followed: dict[int, Followed] = field(default_factory=dict)
    _patience_s: float = field(default_factory=read_patience_s)
    _last: int = 0
    _cut: bool = False  # the call before was cut off, and had said nothing

    def begin(self, run: RunOrder | None = None, watch: WatchTaskRequest | None = None) -> Followed:
        """One more."""
        self._last += 1
        followed = self.followed[self._last] = Followed(self._last, run, watch)
        return followed

    def again(self) -> list[TaskOrder]:
        """What takes up, on a new call, all that has not ended."""
        return [followed.order() for followed in self.followed.values() if not followed.over]

    def hears(self, error: grpc.RpcError, *, spoke: bool) -> bool:
        """Whether a kernel is there, as a call shows that failed so; one that cuts off call after call is none."""
        cut = was_cut(error)
        again, self._cut = self._cut, cut and not spoke
        return spoke or was_moved(error) or (cut and not again)

    def lost(self, failed: InferdError, silent_s: float) -> list[tuple[int, InferdError]]:
        """Those that are followed no longer when a call failed and no kernel has answered for so long, with why."""
        linger_s = 0.0 if isinstance(failed, ShuttingDownError) else LINGER.seconds
        return [
            (tag, each.lost(failed, self._patience_s))
            for tag, each in self.followed.items()
            if silent_s >= (self._patience_s if each.kept else linger_s)
        ]

    def leave(self, followed: Followed) -> TaskOrder | None:
        """End following; what the kernel is to be told, if anything."""
        known = self.followed.pop(followed.tag, None)
        return None if known is None or followed.over else TaskOrder(tag=followed.tag, leave=LeaveOrder())

    def leave_all(self) -> list[TaskOrder]:
        """End following all; what the kernel is to be told."""
        orders = [self.leave(followed) for followed in tuple(self.followed.values())]
        return [order for order in orders if order is not None]
