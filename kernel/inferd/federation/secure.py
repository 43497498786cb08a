"""Secure aggregation by pairwise masks: Bonawitz et al. 2017, "Practical Secure Aggregation", honest but curious.

Each client adds to its vector a mask of its own, and for each other client one that this one takes away: in the sum of
all only the own masks are left. Of a client that stays, so many others give shares of the seed of its own mask; of one
that went before it sent its vector, shares of the key of its pairwise masks. Nobody gives both of one client, which
would show its vector.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from inferd.federation import field as shares_of
from inferd.federation.masks import KEY_BYTES, NotOpenedError, agree, mask_of, public_of, seal, unseal
from inferd.federation.words import WORD, add, subtract, total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SHARE: Final = shares_of.SHARE_BYTES
LEAST_CLIENTS: Final = 3
"""Of two, each would know the other's vector from the sum."""


class RefusedError(ValueError):
    """What the coordinator asks of a client, or clients give a coordinator, would break the protocol."""


class UnopenedError(RefusedError):
    """What some clients have sealed cannot be opened."""

    def __init__(self, faults: Mapping[int, str]) -> None:
        self.clients = tuple(sorted(faults))
        super().__init__("; ".join(f"client {client}: {faults[client]}" for client in self.clients))


class TooFewClientsError(ValueError):
    """Fewer clients answered than are needed for a sum."""


def least_threshold(clients: int) -> int:
    """Fewest shares that may open a secret among so many: more than half, so that no two sets of clients open both."""
    return clients // 2 + 1


@dataclass(frozen=True, slots=True)
class Keys:
    """The public keys of a client for one round: for sealing, and for masks."""

    sealing: bytes
    masking: bytes


@dataclass(frozen=True, slots=True)
class Openings:
    """What a client gives at the end, by client: shares of own seeds of who stayed, and of keys of who went."""

    seeds: Mapping[int, bytes]
    keys: Mapping[int, bytes]


def points_of(roster: Iterable[int]) -> dict[int, int]:
    """The point of each client's shares: its place among the clients of the round, from 1."""
    return {client: place for place, client in enumerate(sorted(roster), 1)}


@dataclass(slots=True)
class Member:
    """One client in one round. One writer: who takes part with it.

    Args:
        client: Its number in the federation.
        context: What tells this round and attempt from all others.
        draw: Gives so many random bytes, fit for keys.
    """

    client: int
    context: bytes
    draw: Callable[[int], bytes]
    _sealing: bytes = field(init=False, repr=False)
    _masking: bytes = field(init=False, repr=False)
    _seed: bytes = field(init=False, repr=False)
    _roster: dict[int, Keys] = field(init=False, default_factory=dict)
    _threshold: int = field(init=False, default=0)
    _sharers: frozenset[int] = field(init=False, default=frozenset())
    _held: dict[int, tuple[bytes, bytes]] = field(init=False, default_factory=dict, repr=False)
    _own: tuple[bytes, bytes] = field(init=False, default=(b"", b""), repr=False)
    _opened: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._sealing, self._masking, self._seed = (self.draw(KEY_BYTES) for _ in range(3))

    @property
    def keys(self) -> Keys:
        """Its public keys."""
        return Keys(public_of(self._sealing), public_of(self._masking))

    def share(self, roster: Mapping[int, Keys], threshold: int) -> dict[int, bytes]:
        """Shares of its secrets for each other client, sealed.

        Raises:
            RefusedError: The roster lacks it, has it with other keys, is too small, or the threshold too low or high;
                a key of another is none; or it has shared already.
        """
        if self._roster:
            raise RefusedError("shares of this round were given already")
        if roster.get(self.client) != self.keys:
            raise RefusedError("the roster does not have this client with its own keys")
        if len(roster) < LEAST_CLIENTS or not least_threshold(len(roster)) <= threshold <= len(roster):
            raise RefusedError(
                f"{len(roster)} clients with a threshold of {threshold} are in the round; at least {LEAST_CLIENTS} and"
                f" a threshold from {least_threshold(len(roster))} to all of them would keep updates secret"
            )
        if len({*(each.masking for each in roster.values())}) < len(roster):
            raise RefusedError("two clients of the roster have the same key")
        self._roster, self._threshold = dict(roster), threshold
        points = points_of(roster)
        seeds = shares_of.split(self._seed, points.values(), threshold=threshold, draw=self.draw)
        keys = shares_of.split(self._masking, points.values(), threshold=threshold, draw=self.draw)
        self._own = seeds[points[self.client]], keys[points[self.client]]
        return {
            other: seal(
                self._sealing_key(other, keys_of, self.client),
                seeds[points[other]] + keys[points[other]],
                self._bound(self.client, other),
            )
            for other, keys_of in roster.items()
            if other != self.client
        }

    def mask(self, vector: bytes, sealed: Mapping[int, bytes]) -> bytes:
        """Its vector, masked.

        Args:
            vector: Words as `inferd.federation.words`.
            sealed: The shares that the others who shared have sealed for this client.

        Raises:
            RefusedError: There are fewer than the threshold with itself, one is not of the roster, or it was asked
                before.
            UnopenedError: Some cannot be opened.
        """
        others = {*sealed}
        if self._sharers or not self._roster:
            raise RefusedError("a masked update of this round was given already, or no shares were")
        if not others <= self._roster.keys() - {self.client} or len(others) + 1 < self._threshold:
            raise RefusedError(
                f"{len(others) + 1} clients have shared their secrets, and the threshold is {self._threshold}; an"
                " update is not given to fewer, nor where others than those of the roster share"
            )
        faults: dict[int, str] = {}
        for other, content in sealed.items():
            key = self._sealing_key(other, self._roster[other], other)
            try:
                plain = unseal(key, content, self._bound(other, self.client))
            except NotOpenedError as error:
                faults[other] = str(error)
                continue
            if len(plain) != 2 * SHARE:
                faults[other] = f"the shares have {len(plain)} bytes, not {2 * SHARE}"
                continue
            self._held[other] = plain[:SHARE], plain[SHARE:]
        if faults:
            raise UnopenedError(faults)
        self._sharers = frozenset({*others, self.client})
        count = len(vector) // WORD
        masked = add(vector, mask_of(self._seed, count))
        for other in sorted(others):
            seed = _agreed(self._masking, self._roster[other].masking, self.context + b" mask", other)
            masked = (add if self.client < other else subtract)(masked, mask_of(seed, count))
        return masked

    def open(self, survivors: Iterable[int]) -> Openings:
        """Shares by which the sum of the survivors' vectors is unmasked: never both of one client, and only once.

        Raises:
            RefusedError: The survivors are not of those who shared, are fewer than the threshold, lack this client; or
                it was asked before.
        """
        stayed = frozenset(survivors)
        if self._opened:
            raise RefusedError("shares of this round were opened already; with others they would show single updates")
        if not stayed <= self._sharers or self.client not in stayed or len(stayed) < self._threshold:
            raise RefusedError(
                f"{len(stayed)} clients are said to have stayed, of {len(self._sharers)} that shared; shares are opened"
                f" for at least {self._threshold} of these, with this client among them"
            )
        self._opened = True
        held = {**self._held, self.client: self._own}
        return Openings(
            seeds={each: held[each][0] for each in sorted(stayed)},
            keys={each: held[each][1] for each in sorted(self._sharers - stayed)},
        )

    def _sealing_key(self, other: int, keys: Keys, sender: int) -> bytes:
        """The key for what the sender of the two seals for the other: one for each direction."""
        purpose = self.context + b" seal %d %d" % (sender, self.client ^ other ^ sender)
        return _agreed(self._sealing, keys.sealing, purpose, other)

    def _bound(self, sender: int, recipient: int) -> bytes:
        return self.context + b" shares %d %d" % (sender, recipient)


def check_apart(before: Iterable[frozenset[int]], survivors: Iterable[int]) -> None:
    """Refuse to open a sum that shows, less one of the same vectors that was opened before, those of few clients.

    In each attempt at a round a client sends the same: two sums tell those apart who are in one of them alone.

    Args:
        before: Whose sums were opened, in other attempts at the round.
        survivors: Whose is to be.

    Raises:
        RefusedError: It would.
    """
    stayed = frozenset(survivors)
    for each in before:
        if 0 < len(apart := stayed ^ each) < LEAST_CLIENTS:
            raise RefusedError(
                f"a sum of this round was opened already, of clients that are others in {sorted(apart)} alone: the"
                f" difference of both would show what these have sent; {LEAST_CLIENTS} must be others, or none"
            )


def unmask(
    *,
    context: bytes,
    roster: Mapping[int, Keys],
    threshold: int,
    sharers: Iterable[int],
    masked: Mapping[int, bytes],
    openings: Mapping[int, Openings],
) -> bytes:
    """The sum of the vectors of the clients that sent them, from what these opened.

    Args:
        context: As the members have it.
        roster: Who has taken part from the beginning.
        threshold: Shares that open a secret.
        sharers: Who has shared secrets.
        masked: The masked vectors, by client.
        openings: What clients opened, by client.

    Raises:
        TooFewClientsError: Fewer than the threshold have opened.
        RefusedError: What they opened does not fit together: one of them lies.
    """
    survivors, shared = sorted(masked), sorted(sharers)
    if len(openings) < threshold or len(survivors) < threshold:
        raise TooFewClientsError(
            f"{len(survivors)} clients have sent updates and {len(openings)} have opened shares; {threshold} of each"
            " are needed to unmask their sum"
        )
    gone = [client for client in shared if client not in masked]
    for client, opened in openings.items():
        if sorted(opened.seeds) != survivors or sorted(opened.keys) != gone:
            raise RefusedError(f"client {client} has opened shares of others than it was asked for")
    points = points_of(roster)
    count = len(masked[survivors[0]]) // WORD
    found = total((masked[client] for client in survivors), count)
    for client in survivors:
        seed = _combine(points, {who: opened.seeds[client] for who, opened in openings.items()}, threshold, client)
        found = subtract(found, mask_of(seed, count))
    for client in gone:
        secret = _combine(points, {who: opened.keys[client] for who, opened in openings.items()}, threshold, client)
        if public_of(secret) != roster[client].masking:
            raise RefusedError(f"the shares of the key of client {client} give another key: one of them is false")
        for other in survivors:
            seed = _agreed(secret, roster[other].masking, context + b" mask", other)
            found = (subtract if other < client else add)(found, mask_of(seed, count))
    return found


def _agreed(secret: bytes, public: bytes, purpose: bytes, client: int) -> bytes:
    try:
        return agree(secret, public, purpose)
    except ValueError:
        raise RefusedError(f"the public key of client {client} is none") from None


def _combine(points: Mapping[int, int], given: Mapping[int, bytes], threshold: int, client: int) -> bytes:
    by_point = {points[who]: share for who, share in given.items()}
    try:
        return shares_of.combine(by_point, threshold=threshold, size=KEY_BYTES)
    except shares_of.TooFewSharesError as error:
        raise TooFewClientsError(str(error)) from None
    except ValueError as error:
        raise RefusedError(f"client {client}: {error}") from None


def read_keys(written: bytes) -> Keys:
    """What was written.

    Raises:
        RefusedError: It has another length.
    """
    if len(written) != 2 * KEY_BYTES:
        raise RefusedError(f"keys have {len(written)} bytes; two of {KEY_BYTES} each are needed")
    return Keys(written[:KEY_BYTES], written[KEY_BYTES:])
