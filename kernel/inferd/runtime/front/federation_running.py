"""The running of federations: each round is brought on as its clients answer, and begun anew where too few are left."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import structlog

from inferd.core.federation import (
    FEDERATION_TABLE,
    Federation,
    FederationChange,
    RoundPhase,
    RoundReport,
    begin_again,
    blamed,
    complete_round,
    is_lost,
    next_phase,
)
from inferd.core.lifecycle import advance
from inferd.errors import (
    InferdError,
    InternalError,
    LimitExceededError,
    NotLeaderError,
    ShuttingDownError,
    StoreUnavailableError,
)
from inferd.federation.accountant import epsilon_of
from inferd.federation_errors import FederationTooFewClientsError
from inferd.runtime.federation_sums import computed
from inferd.runtime.front.federation_round import Part, Update, summing_order
from inferd.runtime.kept_federations import LASTING, part_name, update_name
from inferd.runtime.signal import Signal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferd.federation.parts import Parts
    from inferd.federation_settings import Federate
    from inferd.runtime.kept_federations import FederationParts

SALT_BYTES: Final = 16
SUM_ATTEMPTS: Final = 3
SUM_PAUSE_S: Final = 1.0  # until the process that sums is begun again
RETRY_S: Final = 5.0  # until what could not be kept is written again
GOES_ON = (ShuttingDownError, NotLeaderError)
"""What ends a round here, which goes on with the kernel that follows."""

log = structlog.get_logger()


@dataclass(slots=True)
class Known:
    """A federation that is known. One writer: `Federations`."""

    federation: Federation
    answers: dict[RoundPhase, dict[int, Part]] = field(default_factory=dict)
    complaints: dict[int, frozenset[int]] = field(default_factory=dict)  # of this attempt: who, of whom
    changed: Signal = field(default_factory=Signal)
    running: asyncio.Task[None] | None = None
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)

    def answered(self) -> dict[int, Part]:
        """What has come in this phase, by client."""
        return self.answers.get(self.federation.phase, {})

    def clear(self) -> None:
        """The attempt is over."""
        self.answers.clear()
        self.complaints.clear()

    def names(self) -> list[str]:
        """The parts that clients gave to this attempt."""
        names = [part_name(self.federation, phase, client) for phase, of in self.answers.items() for client in of]
        return [*names, *(update_name(self.federation, each) for each in self.answers.get(RoundPhase.UPDATES, ()))]


class Rounds:
    """Brings federations on. One writer of what becomes of each: the kernel's loop, while `moving` of it is held.

    Args:
        parts: Where they are kept.
        settings: Bounds.
    """

    def __init__(self, parts: FederationParts, settings: Federate) -> None:
        self.parts = parts
        self.known: dict[str, Known] = {}  # by id, which rise
        self.queue = Signal()
        self._sums = asyncio.Semaphore(settings.sums)
        self._settings = settings

    async def run(self) -> None:
        """Bring rounds on, until this is cancelled; they go on with the kernel that follows."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                version = self.queue.version
                for known in self.known.values():
                    if known.running is None and not known.federation.ended:
                        known.running = asyncio.create_task(self._see_to(known), name="federation")
                        running.add(known.running)
                        known.running.add_done_callback(running.discard)
                await self.queue.wait(version)
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _see_to(self, known: Known) -> None:
        """Bring a federation to its end, whatever that is."""
        while not known.federation.ended:
            version = known.changed.version
            try:
                if known.federation.phase is RoundPhase.SUMMING:
                    moved = await self._sum(known)
                else:
                    async with known.moving:
                        moved = await self._step(known)
            except GOES_ON:
                return
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_S)
                continue
            except InferdError as error:
                await self._fail(known, error)
                return
            except Exception as defect:
                log.exception("a federation could not go on", federation=known.federation.federation_id)
                await self._fail(known, InternalError(f"the federation could not go on: {type(defect).__name__}"))
                return
            if not moved:
                await self._wait(known, version)

    @staticmethod
    async def _wait(known: Known, version: int) -> None:
        """Until something has come, or the phase is at its end; behind that until something comes."""
        left = known.federation.phase_ends - time.time()
        await known.changed.wait(version, left if left > 0 else None)

    async def _step(self, known: Known) -> bool:
        """Bring it on, if it can be; whether it was."""
        federation, now = known.federation, time.time()
        if federation.ended:
            return False
        said = len(known.answered()) + len(known.complaints)
        if known.complaints and said >= len(federation.sharers):
            now = max(now, federation.phase_ends)  # nobody else is to give an update
        if (moved := next_phase(federation, known.answered(), now)) is not None:
            if known.complaints and federation.phase is RoundPhase.UPDATES:
                log.warning(
                    "a round goes on without clients that could not open what others had sealed",
                    federation=federation.federation_id,
                    round=federation.round,
                    complaints={client: sorted(of) for client, of in known.complaints.items()},
                )
            await self.put(known, _accounted(moved))
            return True
        if is_lost(federation, known.answered(), now):
            await self._again(known, f"{len(known.answered())} clients answered in phase {federation.phase.name}")
            return True
        return False

    async def _sum(self, known: Known) -> bool:
        """Compute what comes of a round, and bring it to its end; whether it was.

        What is asked meanwhile is answered: `moving` is held at the begin and the end alone.
        """
        place = known.federation.place
        async with self._sums:
            async with known.moving:
                if (federation := known.federation).ended:
                    return False
                names = (*LASTING, *(update_name(federation, client) for client in federation.survivors))
                order = summing_order(federation, known.answers, await self.parts.get(federation, names))
            made = await self._computed(known, order)
        async with known.moving:
            if known.federation.ended or known.federation.place != place or made is None:
                return False
            if wrong := made.told.get("wrong") or made.told.get("too_few"):
                await self._again(known, str(wrong))
            else:
                await self._complete(known, made)
        return True

    async def _computed(self, known: Known, order: Parts) -> Parts | None:
        """What the process makes of a round, which is begun again where it fails; None where the federation ends.

        Raises:
            LimitExceededError, InternalError: It has failed as often as it may.
        """
        for left in reversed(range(SUM_ATTEMPTS)):
            running = asyncio.create_task(computed(order, limit_s=self._settings.sum_s), name="sum of a round")
            try:
                while not running.done() and not known.federation.ended:
                    ended = asyncio.create_task(known.changed.wait(known.changed.version))
                    try:
                        await asyncio.wait((running, ended), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        await _cancelled(ended)
                if known.federation.ended:
                    return None
                return running.result()
            except (LimitExceededError, InternalError) as error:
                log.warning("a round is summed again", federation=known.federation.federation_id, why=str(error))
                if not left:
                    raise
            finally:
                await _cancelled(running)
            await known.changed.wait(known.changed.version, SUM_PAUSE_S)
        return None

    async def _complete(self, known: Known, made: Parts) -> None:
        federation, now = known.federation, time.time()
        after = complete_round(federation, _report(known, made, now), token_hex(SALT_BYTES), now)
        await self.put(known, after, made.named, drop=known.names())
        known.clear()
        known.changed.notify()

    async def _again(self, known: Known, why: str) -> None:
        """Begin the round anew, or fail where that was done often enough."""
        federation, most = known.federation, self._settings.attempts
        culprits = blamed(federation, known.complaints)
        if known.complaints:
            told = ", ".join(map(str, sorted(frozenset[int]().union(*known.complaints.values()))))
            why += f", {len(known.complaints)} could not open what clients {told} had sealed"
            why += f"; without {', '.join(map(str, culprits))} from here on" if culprits else ""
        log.warning("a round begins anew", federation=federation.federation_id, round=federation.round, why=why)
        if federation.attempt >= most:
            raise FederationTooFewClientsError(
                f"round {federation.round} was begun {federation.attempt} times, which is federate.attempts; the last"
                f" time: {why}",
                metadata={"round": str(federation.round), "attempts": str(federation.attempt), "limit": str(most)},
            )
        names = known.names()
        await self.put(known, begin_again(federation, token_hex(SALT_BYTES), time.time(), without=culprits), drop=names)
        known.clear()
        known.changed.notify()

    async def _fail(self, known: Known, error: InferdError) -> None:
        while not known.federation.ended:
            try:
                async with known.moving:
                    await self.end(known, FederationChange.FAIL, error)
            except GOES_ON:
                return
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_S)

    async def end(self, known: Known, change: FederationChange, error: InferdError | None = None) -> None:
        """Move it to an end; `moving` is held."""
        federation = known.federation
        if federation.ended:
            return
        state = advance(FEDERATION_TABLE, federation.state, change)
        await self.put(known, replace(federation, state=state, finished=time.time(), error=error), drop=known.names())
        known.clear()

    async def put(
        self, known: Known, after: Federation, parts: dict[str, bytes] | None = None, *, drop: Iterable[str] = ()
    ) -> None:
        """Keep it as it is now, then show it so."""
        await self.parts.put(after, parts or {}, of=after, drop=drop)
        known.federation = after
        known.changed.notify()


def _accounted(federation: Federation) -> Federation:
    """With what the sums that were opened cost of privacy: kept before one is, so that each is counted."""
    privacy = federation.plan.privacy
    if privacy is None or federation.phase is not RoundPhase.SUMMING:
        return federation
    cost = epsilon_of(multiplier=privacy.noise, rounds=federation.opened, delta=privacy.delta)
    return replace(federation, epsilon=cost)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """End a task, whatever comes of it."""
    task.cancel()
    await asyncio.wait((task,))


def _report(known: Known, made: Parts, now: float) -> RoundReport:
    federation = known.federation
    updates = known.answers[RoundPhase.UPDATES]
    losses = [each.loss for client in federation.survivors if isinstance(each := updates[client], Update)]
    return RoundReport(
        number=federation.round,
        attempt=federation.attempt,
        began=len(federation.roster),
        clients=federation.survivors,
        examples=int(made.told.get("examples", 0)),
        length=float(made.told.get("length", 0.0)),
        loss=sum(losses) / len(losses),
        digest=str(made.told["digest"]),
        started=federation.round_began,
        finished=now,
    )
