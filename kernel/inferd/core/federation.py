"""Federations: clients that train weights together in rounds, and where a round stands."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from inferd.core.ids import Tenant
    from inferd.core.lifecycle import Table
    from inferd.errors import InferdError

LEAST_MASKED: Final = 3
"""Of two clients, each would know the other's update from the sum."""
SHOWN_ROUNDS: Final = 100
"""Of those that are done, so many are told."""


class FederationState(Enum):
    """Where a federation stands; the values are those of `inferd.v1.FederationState`."""

    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    CANCELLED = 4


class FederationChange(Enum):
    """What can happen to a federation."""

    SUCCEED = 1
    FAIL = 2
    CANCEL = 3


FEDERATION_TABLE: Final[Table[FederationState, FederationChange]] = {
    FederationState.RUNNING: {
        FederationChange.SUCCEED: FederationState.SUCCEEDED,
        FederationChange.FAIL: FederationState.FAILED,
        FederationChange.CANCEL: FederationState.CANCELLED,
    },
    FederationState.SUCCEEDED: {},
    FederationState.FAILED: {},
    FederationState.CANCELLED: {},
}


class RoundPhase(Enum):
    """What a round waits for; the values are those of `inferd.v1.RoundPhase`."""

    KEYS = 1
    SHARES = 2
    UPDATES = 3
    OPENINGS = 4
    SUMMING = 5


class FederationAggregation(Enum):
    """What becomes of updates; the values are those of `inferd.v1.FederationAggregation`."""

    FED_AVG = 1
    FED_ADAM = 2
    TRIMMED_MEAN = 3
    KRUM = 4


class FederationCompression(Enum):
    """In which form updates come; the values are those of `inferd.v1.FederationCompression`."""

    NONE = 1
    BYTES = 2
    LONGEST = 3


@dataclass(frozen=True, slots=True)
class Privacy:
    """Of clients: longest update, noise in the sum as a multiple of that, and for which delta an epsilon is told."""

    clip: float
    noise: float
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationPlan:
    """What a federation is to do; see `inferd.v1.FederationPlan`."""

    recipe: str
    size: int
    rounds: int
    clients: int
    least_clients: int
    title: str = ""
    counts: int = 0
    deadline_s: float = 600.0
    answer_s: float = 30.0
    aggregation: FederationAggregation = FederationAggregation.FED_AVG
    learning_rate: float = 1.0
    proximal: float = 0.0
    trim: float = 0.1
    false_clients: int = 0
    keep: int = 1
    secure: bool = False
    compression: FederationCompression = FederationCompression.NONE
    share: float = 0.1
    privacy: Privacy | None = None


@dataclass(frozen=True, slots=True)
class FederationClient:
    """A client that has joined.

    Attributes:
        number: From 1.
        name: What people call it.
        token_digest: The SHA-256 of its token, hexadecimal.
        principal: The login with which it has joined, and by which alone it asks; "" for whoever needs none.
    """

    number: int
    name: str
    token_digest: str
    principal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What came of a round; see `inferd.v1.FederationRound`. Times are Unix time in seconds."""

    number: int
    attempt: int
    began: int
    clients: tuple[int, ...]
    examples: int
    length: float
    loss: float
    digest: str
    started: float
    finished: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """A federation as it stands. Times are Unix time in seconds.

    Attributes:
        federation_id: Its id.
        tenant: Whose it is.
        plan: What it is to do.
        created, finished: When it was made, and ended.
        state: Where it stands.
        clients: That have joined, by number.
        round: That goes on; 0 for the counts before the first one.
        attempt: At it, from 1.
        phase: What it waits for.
        phase_ends: When that is over, if enough clients have answered.
        round_began: When the round began, with its first attempt.
        roster: Who takes part, once the keys have come.
        sharers: Who has shared secrets; where nothing is masked, the roster.
        survivors: Whose updates came.
        excluded: Clients that take no part any more: most of the others could not open what they had sealed.
        salt: Random, of this attempt, hexadecimal: what is masked and sealed in it is of no other.
        rounds: That are done, the last of them.
        done: How many rounds have given weights.
        opened: How many sums of rounds have been opened, also of attempts of which nothing came.
        epsilon: What these cost of privacy; None without it.
        error: Why it failed.
        request_id, fingerprint: As `Evaluation`'s.
    """

    federation_id: str
    tenant: Tenant
    plan: FederationPlan
    created: float
    round: int
    phase_ends: float
    round_began: float
    salt: str
    finished: float | None = None
    state: FederationState = FederationState.RUNNING
    clients: tuple[FederationClient, ...] = ()
    attempt: int = 1
    phase: RoundPhase = RoundPhase.KEYS
    roster: tuple[int, ...] = ()
    sharers: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()
    excluded: tuple[int, ...] = ()
    rounds: tuple[RoundReport, ...] = ()
    done: int = 0
    opened: int = 0
    epsilon: float | None = None
    error: InferdError | None = None
    request_id: str = ""
    fingerprint: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return not FEDERATION_TABLE[self.state]

    @property
    def place(self) -> tuple[int, int, RoundPhase]:
        """The round, the attempt at it, and what it waits for."""
        return self.round, self.attempt, self.phase

    @property
    def context(self) -> bytes:
        """What tells this attempt from all others."""
        return f"inferd federation {self.federation_id} {self.round} {self.attempt} {self.salt}".encode()

    @property
    def numbers(self) -> int:
        """How many a client sends in this round."""
        return self.plan.size if self.round else self.plan.counts - 1

    @property
    def threshold(self) -> int:
        """Shares that open a secret: of more than half of the roster."""
        return len(self.roster) // 2 + 1

    @property
    def least(self) -> int:
        """Clients without which the round does not count."""
        return max(self.plan.least_clients, self.threshold if self.plan.secure and self.roster else 1)

    @property
    def expected(self) -> tuple[int, ...] | None:
        """Who may answer in this phase; None for all that have joined."""
        answers = {
            RoundPhase.SHARES: self.roster,
            RoundPhase.UPDATES: self.sharers,
            RoundPhase.OPENINGS: self.survivors,
            RoundPhase.SUMMING: (),
        }
        return answers.get(self.phase)


def first_round(plan: FederationPlan) -> int:
    """The round with which a federation begins: 0 where counts are summed first."""
    return 0 if plan.counts else 1


def span_of(plan: FederationPlan, phase: RoundPhase) -> float:
    """How long a phase waits, in seconds."""
    return plan.deadline_s if phase is RoundPhase.UPDATES else plan.answer_s


def resumed(federation: Federation, now: float) -> Federation:
    """One of a kernel that was: the time in which nobody could answer does not count."""
    if federation.ended:
        return federation
    return replace(federation, phase_ends=now + span_of(federation.plan, federation.phase))


def next_phase(federation: Federation, answered: Collection[int], now: float) -> Federation | None:
    """The federation once its phase is over with what has been answered; None while it goes on.

    A phase is over when all who may answer have, or at its end when as many have as a round needs; the openings as
    soon as there are enough. Clients that have begun no round yet are waited for as long as it takes.
    """
    phase, plan, late = federation.phase, federation.plan, now >= federation.phase_ends
    came = tuple(sorted(answered))
    if federation.ended or phase is RoundPhase.SUMMING:
        return None
    if phase is RoundPhase.OPENINGS:
        return _summing(federation, now) if len(came) >= federation.threshold else None
    whole = plan.clients if phase is RoundPhase.KEYS else len(federation.expected or ())
    if len(came) < whole and not (late and len(came) >= federation.least):
        return None
    if phase is RoundPhase.KEYS:
        following = RoundPhase.SHARES if plan.secure else RoundPhase.UPDATES
        return _begin(replace(federation, roster=came, sharers=() if plan.secure else came), following, now)
    if phase is RoundPhase.SHARES:
        return _begin(replace(federation, sharers=came), RoundPhase.UPDATES, now)
    stayed = replace(federation, survivors=came)
    return _begin(stayed, RoundPhase.OPENINGS, now) if plan.secure else _summing(stayed, now)


def _summing(federation: Federation, now: float) -> Federation:
    opened = federation.opened + bool(federation.round)
    return _begin(replace(federation, opened=opened), RoundPhase.SUMMING, now)


def is_lost(federation: Federation, answered: Collection[int], now: float) -> bool:
    """Whether a round has begun and too few clients have answered in time, so that it has to begin anew."""
    if federation.ended or federation.phase in {RoundPhase.KEYS, RoundPhase.SUMMING}:
        return False
    least = federation.threshold if federation.phase is RoundPhase.OPENINGS else federation.least
    return now >= federation.phase_ends and len(answered) < least


def blamed(federation: Federation, complaints: Mapping[int, Collection[int]]) -> tuple[int, ...]:
    """The clients whose sealed shares more than half of the others that began could not open.

    Fewer may lie: so no client goes as long as most are honest, however few of these have shared in time.

    Args:
        federation: In the attempt that has failed.
        complaints: Who complained, and of whom.
    """
    counts = Counter(each for of in complaints.values() for each in of)
    return tuple(sorted(each for each, count in counts.items() if 2 * count > len(federation.roster) - 1))


def begin_again(federation: Federation, salt: str, now: float, *, without: Collection[int] = ()) -> Federation:
    """The next attempt at the round; some clients take no part any more."""
    fresh = replace(
        federation,
        attempt=federation.attempt + 1,
        roster=(),
        sharers=(),
        survivors=(),
        excluded=tuple(sorted({*federation.excluded, *without})),
        salt=salt,
    )
    return _begin(fresh, RoundPhase.KEYS, now)


def complete_round(federation: Federation, report: RoundReport, salt: str, now: float) -> Federation:
    """The federation behind a round: in the next one, or at its end."""
    after = replace(
        federation,
        rounds=(*federation.rounds, report)[-SHOWN_ROUNDS:],
        done=federation.done + bool(federation.round),
        roster=(),
        sharers=(),
        survivors=(),
        attempt=1,
        salt=salt,
    )
    if federation.round >= federation.plan.rounds:
        return replace(after, state=FederationState.SUCCEEDED, finished=now)
    return _begin(replace(after, round=federation.round + 1, round_began=now), RoundPhase.KEYS, now)


def _begin(federation: Federation, phase: RoundPhase, now: float) -> Federation:
    return replace(federation, phase=phase, phase_ends=now + span_of(federation.plan, phase))
