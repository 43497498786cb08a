"""The audit trail of a kernel: who did what, with which decision, on its way to where it is kept.

Entries go with whatever else is written; who changes something lasting waits for that, before and after the change.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import structlog

from inferd import __version__
from inferd.core.audit import Decision, EntryType, Said, time_of
from inferd.core.changes import TaskAccepted, TaskChanged
from inferd.errors import InferdError, ShuttingDownError, StoreUnavailableError
from inferd.runtime.kept import RETRY_AFTER_S, refuse, typed
from inferd.runtime.kept_trail import FOLLOWED, MemoryShelf, Place, TrailWriter, place_behind, some_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.audit_settings import Audit
    from inferd.core.changes import Change
    from inferd.core.ids import TaskId
    from inferd.runtime.keeper import Keeper
    from inferd.runtime.kept_trail import Shelf
    from inferd.store.store import Write

PAGE_BYTES = 2 << 20
UNCHANGED = "nothing was changed"
MOST_ORIGINS = 50_000  # tasks of which is known which call made them

log = structlog.get_logger()


class Maker(Protocol):
    """The call that this task of the loop answers."""

    @property
    def origin(self) -> Said:
        """What the entry of the end of its tasks says of who has made them."""

    def made_task(self, change: TaskAccepted) -> Said:
        """It has made a task: what the entry of that says."""


MAKER: ContextVar[Maker | None] = ContextVar("MAKER", default=None)


class Trail:
    """Takes entries, and has them kept. One writer: the loop of the kernel.

    Args:
        settings: What is in it, and how long.
        writer: Makes its lines.
        keeper: Writes them; None in a kernel without a store, where they are held in memory.
        wall: Unix time.
        steady: Seconds that only rise.
        goes_on: Whether a task goes on with the next kernel when this one ends.

    Attributes:
        settings: As given.
        public: The public half of the key that signs it.
        lost: Entries that were not kept since the kernel was started.
    """

    def __init__(
        self,
        settings: Audit,
        writer: TrailWriter,
        keeper: Keeper | None,
        *,
        public: str,
        wall: Callable[[], float],
        steady: Callable[[], float],
        goes_on: Callable[[TaskId], bool],
    ) -> None:
        self.settings = settings
        self.public = public
        self.lost = 0
        self._writer = writer
        self._keeper = keeper
        self._memory = None if keeper is not None else MemoryShelf()
        self._wall = wall
        self._goes_on = goes_on
        self._pending: list[Said] = []
        self._gap: tuple[int, str] = (0, "")  # entries that are lost and of which it is not said yet, and since when
        self._omitted = 0
        self._omitted_since = ""
        self._refusals = 2 * settings.refusals_per_s  # that may be told now
        self._steady = steady
        self._refusals_at = steady()
        self._added = self._taken = 0  # entries, as they are counted to those who wait
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._sent: list[Write] = []  # are not known to be there: they are written again, as they are
        self._sending = self._failing = self._urgent = self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._why: InferdError | None = None
        self._origins: OrderedDict[TaskId, Said] = OrderedDict()

    # What is told.

    def add(self, said: Said) -> None:
        """One entry more, of now, which is written with whatever else is; it is the trail's own from here on."""
        if len(self._pending) >= self.settings.pending_entries:
            count, since = self._gap
            self._gap = (count + 1, since or time_of(self._wall()))
            self.lost += 1
            return
        said["time"] = time_of(self._wall())
        self._pending.append(said)
        self._added += 1
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(self.settings.interval_s, self._hurry)

    def refuse(self, said: Said) -> None:
        """As `add`, of a call that was denied or refused: beyond so many a second they are counted."""
        now, rate = self._steady(), self.settings.refusals_per_s
        self._refusals = min(2 * rate, self._refusals + rate * (now - self._refusals_at))
        self._refusals_at = now
        if self._refusals < 1:
            self._omitted_since = self._omitted_since or time_of(self._wall())
            self._omitted += 1
            return
        self._refusals -= 1
        self.add(said)

    def decide(self, what: str, decision: Decision, **said: object) -> None:
        """One entry more, of a decision that is no call's, as of a rule about an output.

        Args:
            what: Which sort, in one word or two, like "moderation".
            decision: Which.
            said: What else is known of it, by name and never by content: tenant, model, task_id, rule, action.
        """
        self.add({"type": EntryType.DECISION, "event": what, "decision": decision, **said})

    def see(self, change: Change) -> None:
        """What has changed in the core: tasks that are made and that end are told."""
        if isinstance(change, TaskAccepted):
            if (maker := MAKER.get()) is not None:
                said = maker.made_task(change)
                self._origins[change.spec.task_id] = maker.origin
                if len(self._origins) > MOST_ORIGINS:
                    self._origins.popitem(last=False)
                self.add(said)
        elif isinstance(change, TaskChanged) and change.end is not None:
            origin = self._origins.pop(change.task_id, {})
            if not (self._closed_keeper and self._goes_on(change.task_id)):
                self.add(origin | _end_of(change))

    @property
    def _closed_keeper(self) -> bool:
        return self._keeper is not None and self._keeper.closing

    # What callers wait for.

    def check_call(self) -> None:
        """Refuse what is not to be done while it cannot be told, if the configuration has it so.

        Raises:
            StoreUnavailableError: The last write failed, or too many entries wait.
        """
        if self.settings.on_failure == "refuse":
            self._check("nothing is done that cannot be told (audit.on_failure is refuse)")

    def check_change(self) -> None:
        """Refuse to change something lasting while it cannot be told.

        Raises:
            StoreUnavailableError: As `check_call`.
        """
        self._check(UNCHANGED)

    def _check(self, why: str) -> None:
        if self._failing or len(self._pending) >= self.settings.pending_entries:
            raise _unavailable(why if self._why is None else f"{why}; {self._why.message}")

    async def written(self, why: str) -> None:
        """Wait until all entries so far are kept.

        Args:
            why: What it means for the caller if they are not.

        Raises:
            StoreUnavailableError: They cannot be kept now.
            ShuttingDownError: The kernel ends before that.
        """
        if self._keeper is None:
            self._flush()
            return
        if self._closed:
            raise ShuttingDownError("the kernel is shutting down", retry_after_s=RETRY_AFTER_S)
        if self._gap[0]:
            raise _unavailable(why)
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((self._added, future))
        self._hurry()
        try:
            await future
        except StoreUnavailableError as error:
            raise _unavailable(f"{why}; {error.message}") from None

    # Writing.

    @property
    def due(self) -> bool:
        """Whether something is to be written though nothing else is."""
        return self._urgent or bool(self._sent)

    def _hurry(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._urgent = True
        if self._keeper is None:
            self._flush()
        else:
            self._keeper.write_soon()

    def hurry(self) -> None:
        """Whatever waits is to be written now."""
        self._urgent = self._urgent or bool(self._pending)

    def take(self) -> Callable[[], Sequence[Write]]:
        """Makes what is to be written now; called where it is written."""
        self._urgent, self._sending = False, True
        if self._sent:
            return lambda: self._sent  # the rest goes with the next write
        entries, self._pending = self._entries(), []
        self._taken = self._added

        def make() -> Sequence[Write]:
            if not self._sent:
                self._sent = self._writer.write(entries)
            return self._sent

        return make

    def _entries(self) -> list[Said]:
        """What waits, and what is to be said of what does not."""
        entries = self._pending
        now = time_of(self._wall())
        if self._gap[0]:
            count, since = self._gap
            entries.append({"type": EntryType.GAP, "lost": count, "since": since, "time": now})
            self._gap = (0, "")
        if self._omitted:
            entries.append(
                {"type": EntryType.OMITTED, "count": self._omitted, "since": self._omitted_since, "time": now}
            )
            self._omitted, self._omitted_since = 0, ""
        return entries

    def settle(self, error: InferdError | None) -> None:
        """What was taken is kept, or it is not known to be: then it is written again."""
        if not self._sending:
            return
        self._sending, self._failing, self._why = False, error is not None, error
        waiting, self._waiting = self._waiting, []
        for wanted, future in waiting:
            if error is not None:
                refuse(future, error)
            elif wanted > self._taken:
                self._waiting.append((wanted, future))
            elif not future.done():
                future.set_result(None)
        if error is None:
            self._sent = []
            self._urgent = self._urgent or bool(self._waiting)
            self._arm()
            if self._keeper is not None and not self._writer.is_apart:
                self._keeper.beside(self._writer.keep_apart)
        elif self._timer is None and self._pending:
            self._arm()

    def _arm(self) -> None:
        """Have what waits written in time, and what no checkpoint has signed."""
        if self._timer is not None or self._closed:
            return
        wait_s = self.settings.interval_s if self._pending else self._writer.due_s()
        if wait_s is not None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._hurry)

    def _flush(self) -> None:
        """As the keeper does, into memory."""
        if self._memory is not None:
            self._memory.write(self.take()())
            self.settle(None)

    def tell(self, event: str, **said: object) -> None:
        """One entry more, of what the kernel does by itself or is told by its configuration."""
        self.add({"type": EntryType.KERNEL, "event": event, **said})

    def begin(self, found: Sequence[Said], started: Said) -> None:
        """The kernel begins: that is told, with more of it, and what was found of the trail before it."""
        self.tell("started", version=__version__, **started)
        for said in found:
            if said["event"] == FOLLOWED:
                log.info("the audit trail goes on behind another kernel of this store, by another key", found=said)
            else:
                log.error("the audit trail is not as it was left", found=said)
            self.add({"type": EntryType.KERNEL, **said})

    def end(self, store: Shelf) -> None:
        """The kernel ends in order: the last entry, and a checkpoint. Called where it is written; never raises."""
        try:
            store.write(self._sent)
            last: Said = {"type": EntryType.KERNEL, "event": "ended", "time": time_of(self._wall())}
            store.write(self._writer.write([*self._entries(), last], seal=True))
            self._writer.keep_apart()
        except (InferdError, OSError, ValueError) as error:
            log.warning("the last entries of the audit trail are lost", why=typed(error).message)

    def stop(self, error: InferdError) -> None:
        """Nobody waits any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for _, future in self._waiting:
            refuse(future, error)
        self._waiting = []

    # Reading.

    @property
    def durable(self) -> bool:
        """Whether it outlives the kernel."""
        return self._memory is None

    @property
    def failing(self) -> bool:
        """Whether the last write of it failed."""
        return self._failing

    @property
    def count(self) -> int:
        """How many lines it has had."""
        return self._writer.chain.count

    @property
    def first(self) -> int:
        """The number of the oldest line that is kept; 0 for none."""
        return self._writer.first

    @property
    def checkpoint(self) -> str:
        """The last one, as a line."""
        return self._writer.checkpoint

    def place_behind(self, after: int) -> Place:
        """Where the lines behind one of a number begin."""
        return place_behind(self._writer.segments, after)

    async def settled(self) -> None:
        """Wait until what was told so far can be read, or cannot be written now."""
        with suppress(InferdError):
            await self.written("")

    async def lines(self, place: Place, most: int) -> tuple[list[str], Place | None]:
        """Lines from a place on, and where the next ones begin.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        segments = tuple(self._writer.segments)

        def read(shelf: Shelf) -> tuple[list[str], Place | None]:
            return some_lines(shelf, segments, place, most=most, most_bytes=PAGE_BYTES)

        if self._memory is not None:
            return read(self._memory)
        found: tuple[list[str], Place | None] = await self._keeper_of().read(read)
        return found

    def _keeper_of(self) -> Keeper:
        if self._keeper is None:
            raise TypeError("a trail without memory has a keeper")
        return self._keeper


def _end_of(change: TaskChanged) -> Said:
    end = change.end
    if end is None:
        return {}
    outcome = end.outcome
    return {
        "type": EntryType.END,
        "task_id": change.task_id,
        "tenant": change.tenant,
        "kind": "task",
        "model": change.model,
        "state": outcome.state.name.lower(),
        "reason": "" if outcome.error is None else outcome.error.reason,
        "attempts": change.attempt,
        "tokens_in": outcome.usage.prompt_tokens,
        "tokens_out": outcome.usage.output_tokens,
    }


def _unavailable(why: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the audit trail cannot be written: {why}", metadata={"cause": "audit"}, retry_after_s=RETRY_AFTER_S
    )
