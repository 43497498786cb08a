"""The tasks of a training on their way in, one at a time, and what is told of them."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferd.core.vigil import Doing
from inferd.engine.activity import Activity
from inferd.engine.function.call import CallResult
from inferd.engine.token.holds import Holds
from inferd.engine.token.output import Ended
from inferd.errors import InferdError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A task on its way in: bring the training to its end.

    Attributes:
        handle: Names it; rises with each task.
        checkpoint_s: Between checkpoints, where the recipe does not say steps.
        report_s: Least time between two reports of steps.
        curve_steps: Most steps of the curve.
        disk_bytes: Most bytes of the folder.
        lease_id, fencing_token: Of the lease that it runs under; "" for none.
        rank, ranks: Which of the workers that do the steps together this one is, and how many there are; 0 leads.
        address: Of the one that leads: of its machine, at which the others reach it.
        meeting: Of the others: where the one that leads awaits them.
        join_s: In which they find each other.
    """

    handle: int
    checkpoint_s: float
    report_s: float
    curve_steps: int
    disk_bytes: int
    lease_id: str = ""
    fencing_token: int = 0
    rank: int = 0
    ranks: int = 1
    address: str = ""
    meeting: str = ""
    join_s: float = 0.0


class LeftError(Exception):
    """The task was cancelled, or the worker is to end: the training stands where its last step has left it."""


class Drives:
    """Has one task at a time.

    What says which one is under way is written under one lock; `submit`, `cancel`, `hold` and `stop` come from any
    thread, all else from that of the loop.

    Args:
        deliver: Called with what is told of it. May block.
        activity: Told what is being done.
        now: A monotonic clock, in seconds.

    Attributes:
        places: Tasks that it can have at once.
    """

    def __init__(
        self,
        deliver: Callable[[CallResult], None],
        *,
        activity: Activity | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = 1
        self._deliver = deliver
        self._activity = activity or Activity()
        self._now = now
        self._holds = Holds(rows=1, blocks=0)
        self._waiting: list[Drive] = []
        self._under_way: Drive | None = None
        self._cancelled = self._stopping = False
        self._changed = threading.Condition()

    def submit(self, drive: Drive) -> None:
        """Bring the training to its end. Its handle is in `CallResult.ended` once, unless it is cancelled."""
        try:
            with self._changed:
                self._holds.find(drive.lease_id, drive.fencing_token)
                self._waiting.append(drive)
                self._changed.notify()
        except InferdError as error:
            self._deliver(CallResult(ended=[Ended(handle=drive.handle, error=error)]))

    def cancel(self, handle: int, *, again: bool = False) -> None:  # noqa: ARG002 - what was done is kept either way
        """Do no more steps for a task: the session stays, and is saved when the worker ends."""
        with self._changed:
            self._waiting = [each for each in self._waiting if each.handle != handle]
            if self._under_way is not None and self._under_way.handle == handle:
                self._cancelled = True

    def hold(self, lease_id: str, fencing_token: int, *, sequences: int, kv_tokens: int) -> None:
        """Note the grant of a lease, which its tasks must name.

        Raises:
            ValueError: It is more than there is: a defect of the caller, who was told the bounds.
        """
        if sequences > self.places or kv_tokens:
            raise ValueError(
                f"lease {lease_id} is to hold {sequences} sequences and {kv_tokens} KV tokens; 1 and 0 are"
            )
        with self._changed:
            self._holds.change(lease_id, fencing_token, rows=sequences, blocks=0)

    def stop(self) -> None:
        """Let `run` return once the step is done that is under way and what was done is saved."""
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify_all()

    def _next(self) -> Drive | None:
        self._activity.begin(Doing.IDLE)
        with self._changed:
            while not self._stopping and not self._waiting:
                self._changed.wait()
            if self._stopping:
                return None
            self._under_way, self._cancelled = self._waiting.pop(0), False
            return self._under_way

    def _end(self) -> None:
        """The task under way has ended, however."""
        with self._changed:
            self._under_way = None

    @property
    def _wanted(self) -> bool:
        """Whether the task under way is to go on."""
        with self._changed:
            return not (self._cancelled or self._stopping)

    def _tell(self, drive: Drive, **what: dict[str, Any]) -> None:
        self._deliver(CallResult(pieces=[(drive.handle, json.dumps(what, ensure_ascii=False).encode())]))
