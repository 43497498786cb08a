"""What may be done with federations: by who makes them, and by their clients; and the running of their rounds."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from hmac import compare_digest
from secrets import token_bytes, token_hex
from typing import TYPE_CHECKING, Final

from inferd.core.federation import (
    Federation,
    FederationChange,
    FederationClient,
    FederationPlan,
    FederationState,
    RoundPhase,
    first_round,
    resumed,
    span_of,
)
from inferd.errors import InvalidFieldError, LimitExceededError, RequestConflictError
from inferd.federation_errors import (
    FederationClientUnknownError,
    FederationNotFoundError,
    FederationRoundOverError,
)
from inferd.runtime.front.federation_contents import check_finite
from inferd.runtime.front.federation_round import PHASES, Complaint, Part, Update, check_part, read_part, write_part
from inferd.runtime.front.federation_running import SALT_BYTES, Known, Rounds
from inferd.runtime.kept_federations import COUNTS, WEIGHTS, HeldParts, StoredParts, part_name, update_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from inferd.core.ids import Tenant
    from inferd.federation_settings import Federate
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.bounds import Bound
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.kept_federations import FederationParts

TIME_BYTES, RANDOM_BYTES, TOKEN_BYTES = 6, 8, 32
FLOAT_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Ordered:
    """What a client is to do: the federation as it stands, and what of it the client needs; None for nothing."""

    federation: Federation
    is_wanted: bool
    answers: dict[RoundPhase, dict[int, Part]]
    weights: bytes = b""
    counts: bytes = b""


class Federations:
    """Has clients train together. One writer: the kernel's loop.

    Args:
        driver: Of the kernel.
        settings: Bounds.
        streams: Bounds how many watch.
        message_bytes: Largest message that is accepted.
        share: A tenant may have so many times what is free of `federate.kept` (`scheduler.tenant_share`).
    """

    def __init__(self, driver: Driver, settings: Federate, *, streams: Bound, message_bytes: int, share: float) -> None:
        self._driver = driver
        self._settings = settings
        self._streams = streams
        self._message_bytes = message_bytes
        self._share = share
        keeper = driver.keeper
        self._parts: FederationParts = HeldParts(settings.held_bytes, share) if keeper is None else StoredParts(keeper)
        self._rounds = Rounds(self._parts, settings)
        self._making = asyncio.Lock()
        if keeper is not None:
            keeper.forgets.append(self._forget)

    async def adopt(self) -> None:
        """Those that were kept are here again, in the round where they were.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        found = await self._parts.federations()
        for each in sorted(found, key=lambda federation: federation.federation_id):
            known = Known(resumed(each, time.time()))
            if not each.ended:
                names = {
                    part_name(each, phase, client.number): (phase, client.number)
                    for phase in PHASES.values()
                    for client in each.clients
                }
                for name, value in (await self._parts.get(each, [*names])).items():
                    phase, client = names[name]
                    known.answers.setdefault(phase, {})[client] = read_part(phase, value)
            self._rounds.known[each.federation_id] = known

    # What is asked by who makes them.

    async def create(self, plan: FederationPlan, weights: bytes, caller: Caller, *, request_id: str = "") -> Federation:
        """A new federation, which is kept when this returns; or the one that the same `request_id` made.

        Raises:
            InvalidFieldError: The weights are not as many as the plan says.
            RequestConflictError: The same `request_id` came with other contents.
            LimitExceededError: There are too many, or it is too large.
            InferdError: It cannot be kept now.
        """
        self._check_size(plan, weights)
        now = time.time()
        made = Federation(
            federation_id=_new_id(),
            tenant=caller.tenant,
            plan=plan,
            created=now,
            round=first_round(plan),
            phase_ends=now + span_of(plan, RoundPhase.KEYS),
            round_began=now,
            salt=token_hex(SALT_BYTES),
            epsilon=None if plan.privacy is None else 0.0,
            request_id=request_id,
            fingerprint=sha256(repr(plan).encode() + sha256(weights).digest()).hexdigest(),
        )
        return await asyncio.shield(self._make(made, weights or bytes(FLOAT_BYTES * plan.size)))

    async def _make(self, made: Federation, weights: bytes) -> Federation:
        async with self._making:
            for known in reversed(self._rounds.known.values()) if made.request_id else ():
                before = known.federation
                if (before.tenant, before.request_id) == (made.tenant, made.request_id):
                    if before.fingerprint != made.fingerprint:
                        raise RequestConflictError(
                            f"request_id {made.request_id!r} has made federation {before.federation_id} with other"
                            " contents; take a new one",
                            field="request_id",
                        )
                    return before
            self._check_room(made.tenant)
            await self._parts.put(made, {WEIGHTS: weights}, of=made)
            self._rounds.known[made.federation_id] = Known(made)
            self._rounds.queue.notify()
        return made

    def _check_size(self, plan: FederationPlan, weights: bytes) -> None:
        if weights and len(weights) != FLOAT_BYTES * plan.size:
            raise InvalidFieldError(
                f"weights have {len(weights)} bytes; {plan.size} numbers have {FLOAT_BYTES * plan.size}",
                field="weights",
            )
        check_finite(weights)
        settings = self._settings
        largest = 8 * (max(plan.size, plan.counts) + 1) + 1024 * plan.clients
        largest = max(largest, FLOAT_BYTES * plan.size + 8 * plan.counts + 1024 * plan.clients)
        for bound, value, limit in (
            ("federate.weights", max(plan.size, plan.counts), settings.weights),
            ("federate.round_clients", plan.clients, settings.round_clients),
            ("limits.message_bytes", largest, self._message_bytes),
        ):
            if value > limit:
                raise LimitExceededError(
                    f"the federation needs {value} of {bound}, which is {limit}",
                    metadata={"bound": bound, "value": str(value), "limit": str(limit)},
                    field="plan",
                )

    def _check_room(self, tenant: Tenant) -> None:
        have = sum(known.federation.tenant == tenant for known in self._rounds.known.values())
        free = self._settings.kept - len(self._rounds.known)
        if free < 1 or have + 1 > self._share * free:
            raise LimitExceededError(
                f"{len(self._rounds.known)} federations are known, {have} of tenant {tenant!r}, and federate.kept is"
                f" {self._settings.kept}, of which a tenant may have {self._share:g} times what is free for it; delete"
                " some",
                metadata={"bound": "federate.kept", "value": str(have), "limit": str(self._settings.kept)},
            )

    def get(self, federation_id: str, caller: Caller) -> Federation:
        """The federation of this id.

        Raises:
            FederationNotFoundError: The tenant has none; so for all that follow.
        """
        return self._get(federation_id, caller).federation

    def answered(self, federation_id: str) -> int:
        """How many clients have answered in the phase that goes on."""
        known = self._rounds.known.get(federation_id)
        return 0 if known is None else len(known.answered())

    def _get(self, federation_id: str, caller: Caller) -> Known:
        known = self._rounds.known.get(federation_id)
        if known is None or known.federation.tenant != caller.tenant:
            raise FederationNotFoundError(
                f"no federation {federation_id[:80]!r}; `inferd federate list` lists the known ones",
                metadata={"federation_id": federation_id[:80]},
                field="federation_id",
            )
        return known

    def all(self, caller: Caller) -> list[Federation]:
        """Those of the tenant, newest first."""
        known = (known.federation for known in reversed(self._rounds.known.values()))
        return [federation for federation in known if federation.tenant == caller.tenant]

    async def watch(self, federation_id: str, caller: Caller) -> AsyncGenerator[Federation, None]:
        """A federation as it stands, then as it changes, until it has ended; what nobody reads is merged.

        Raises:
            LimitExceededError: The tenant has as many streams as it may have.
            ShuttingDownError: The kernel is shutting down.
        """
        known = self._get(federation_id, caller)
        with self._streams.place(caller.tenant):
            async with self._driver.closing.cut_short():
                while True:
                    version = known.changed.version
                    yield known.federation
                    if known.federation.ended:
                        return
                    await known.changed.wait(version)

    async def weights(self, federation_id: str, caller: Caller) -> tuple[int, bytes, bytes]:
        """The last round that is done, its weights, and the counts.

        Raises:
            StoreUnavailableError: They cannot be read now.
        """
        known = self._get(federation_id, caller)
        async with known.moving:
            found = await self._parts.get(known.federation, (WEIGHTS, COUNTS))
            return known.federation.done, found.get(WEIGHTS, b""), found.get(COUNTS, b"")

    async def cancel(self, federation_id: str, caller: Caller) -> Federation:
        """End a federation; one that has ended stays as it is.

        Raises:
            StoreUnavailableError: It cannot be kept now: the federation goes on.
        """
        known = self._get(federation_id, caller)
        async with known.moving:
            if not known.federation.ended:
                await self._rounds.end(known, FederationChange.CANCEL)
        return known.federation

    async def delete(self, federation_id: str, caller: Caller) -> None:
        """Forget a federation that has ended.

        Raises:
            InvalidFieldError: It goes on.
            StoreUnavailableError: It cannot be forgotten now.
        """
        known = self._get(federation_id, caller)
        async with known.moving:
            if not known.federation.ended:
                message = f"federation {federation_id} is {known.federation.state.name}; cancel it first"
                raise InvalidFieldError(message, field="federation_id")
            await self._parts.drop(known.federation, known.names())
            self._rounds.known.pop(federation_id, None)

    # What its clients ask.

    async def join(self, federation_id: str, name: str, caller: Caller) -> tuple[Federation, FederationClient, bytes]:
        """Become a client: the federation, who it is in it, and the token by which it is known.

        A login that has as many as it may is the last of these again, whose token before holds no longer.

        Raises:
            LimitExceededError: As many have joined as may.
            InvalidFieldError: It has ended.
            InferdError: It cannot be kept now.
        """
        known = self._get(federation_id, caller)
        async with known.moving:
            federation, most = known.federation, self._settings.clients
            if federation.ended:
                raise InvalidFieldError(f"federation {federation_id} is {federation.state.name}", field="federation_id")
            token, principal = token_bytes(TOKEN_BYTES), _principal(caller)
            digest = sha256(token).hexdigest()
            own = [each for each in federation.clients if principal and each.principal == principal]
            if len(own) >= self._settings.login_clients:
                again = replace(own[-1], name=name, token_digest=digest)
                clients = [again if each.number == again.number else each for each in federation.clients]
                await self._rounds.put(known, replace(federation, clients=tuple(clients)))
                return known.federation, again, token
            if len(federation.clients) >= most:
                raise LimitExceededError(
                    f"{len(federation.clients)} clients have joined, and federate.clients is {most}",
                    metadata={"bound": "federate.clients", "value": str(len(federation.clients)), "limit": str(most)},
                )
            made = FederationClient(len(federation.clients) + 1, name, digest, principal)
            await self._rounds.put(known, replace(federation, clients=(*federation.clients, made)))
            return known.federation, made, token

    def _client(self, federation_id: str, number: int, token: bytes, caller: Caller) -> Known:
        known = self._get(federation_id, caller)
        clients, digest = known.federation.clients, sha256(token).hexdigest()
        its = clients[number - 1] if 1 <= number <= len(clients) else None
        is_its = its is not None and compare_digest(its.token_digest, digest) and its.principal == _principal(caller)
        if not is_its:
            raise FederationClientUnknownError(
                f"federation {federation_id} has no client {number} with this token and login; join it again",
                metadata={"federation_id": federation_id},
                field="client",
            )
        return known

    async def poll(
        self,
        federation_id: str,
        number: int,
        token: bytes,
        caller: Caller,
        *,
        seen: tuple[int, int, int] | None,
        wait_s: float,
    ) -> Ordered:
        """What a client is to do, once there is something that it has not seen, or the time is over.

        Raises:
            FederationClientUnknownError: There is no such client.
            ShuttingDownError, StoreUnavailableError: It cannot be told now.
        """
        known = self._client(federation_id, number, token, caller)
        try:
            async with asyncio.timeout(wait_s), self._driver.closing.cut_short():
                while not self._is_wanted(known, number, seen):
                    await known.changed.wait(known.changed.version)
        except TimeoutError:
            return Ordered(known.federation, is_wanted=False, answers={})
        async with known.moving:
            federation = known.federation
            if not self._is_wanted(known, number, seen) or federation.ended:
                return Ordered(federation, is_wanted=False, answers={})
            parts = {}
            if federation.phase is RoundPhase.UPDATES:
                parts = await self._parts.get(federation, (WEIGHTS, COUNTS) if federation.round else ())
            answers = {phase: dict(of) for phase, of in known.answers.items()}
            weights, counts = parts.get(WEIGHTS, b""), parts.get(COUNTS, b"")
            return Ordered(federation, is_wanted=True, answers=answers, weights=weights, counts=counts)

    @staticmethod
    def _is_wanted(known: Known, number: int, seen: tuple[int, int, int] | None) -> bool:
        federation, answered = known.federation, known.answered()
        if federation.ended:
            return True
        place = federation.round, federation.attempt, federation.phase.value
        if number in answered or seen == place or number in known.complaints or number in federation.excluded:
            return False
        expected = federation.expected
        return len(answered) < federation.plan.clients if expected is None else number in expected

    async def submit(
        self, federation_id: str, number: int, token: bytes, caller: Caller, *, place: tuple[int, int, int], part: Part
    ) -> None:
        """Take what a client gives; it is kept when this returns.

        Raises:
            FederationClientUnknownError: There is no such client.
            FederationRoundOverError: The round does not wait for it.
            InvalidFieldError: It is not what the round needs.
            InferdError: It cannot be kept now.
        """
        known = self._client(federation_id, number, token, caller)
        async with known.moving:
            federation, phase = known.federation, PHASES[type(part)]
            now = federation.round, federation.attempt, federation.phase.value
            if place[:2] == now[:2] and place[2] == phase.value and number in known.answers.get(phase, {}):
                return
            late = federation.ended or place != now or phase is not federation.phase
            if late or not self._is_wanted(known, number, None):
                raise FederationRoundOverError(
                    f"the federation is {federation.state.name} in round {now[0]}, attempt {now[1]}, phase"
                    f" {federation.phase.name}, which waits for no {phase.name} of client {number} for round"
                    f" {place[0]}, attempt {place[1]}; ask again what to do",
                    metadata={"round": str(now[0]), "attempt": str(now[1])},
                )
            await asyncio.to_thread(check_part, federation, number, part, known.answered())  # of long updates
            if isinstance(part, Complaint):  # a kernel that follows is told in the next attempt
                known.complaints[number] = part.clients
                known.changed.notify()
                return
            parts = {part_name(federation, phase, number): write_part(part)}
            if isinstance(part, Update):
                parts[update_name(federation, number)] = part.content
                part = Update(b"", part.examples, part.loss)
            await self._parts.put(None, parts, of=federation)
            known.answers.setdefault(phase, {})[number] = part
            known.changed.notify()

    async def run(self) -> None:
        """Bring rounds on, until this is cancelled; they go on with the kernel that follows."""
        await self._rounds.run()

    def _forget(self, tenant: Tenant) -> None:
        for known in [each for each in self._rounds.known.values() if each.federation.tenant == tenant]:
            self._rounds.known.pop(known.federation.federation_id)
            self._parts.forget(known.federation)
            known.federation = replace(known.federation, state=FederationState.CANCELLED, finished=time.time())
            known.changed.notify()  # who watches it, or asks what to do, is told
            if known.running is not None:
                known.running.cancel()


def _principal(caller: Caller) -> str:
    """With which login one asks; "" where none is needed, so that nobody is told from others."""
    return "" if caller.principal.local else caller.principal.name


def _new_id() -> str:
    return (time.time_ns() // 1_000_000).to_bytes(TIME_BYTES).hex() + token_hex(RANDOM_BYTES)
