"""Secure aggregation: what clients send sums to what they hid, whoever goes at whatever point."""

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.federation.field import TooFewSharesError, combine, split
from inferd.federation.masks import is_public
from inferd.federation.secure import (
    Keys,
    Member,
    Openings,
    RefusedError,
    TooFewClientsError,
    least_threshold,
    read_keys,
    unmask,
)
from inferd.federation.words import add, subtract, total

CONTEXT = b"federation 1 round 3 attempt 1"
vectors = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=9)


def packed(words: list[int]) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words)


@given(
    st.integers(1, 9).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n), min_size=1)
    )
)
def test_sums_of_words_are_those_of_numbers(rows: list[list[int]]) -> None:
    """Each word is the sum modulo 2^64, and a difference takes it away again, whatever is carried."""
    found = total(map(packed, rows), len(rows[0]))
    assert found == packed([sum(column) % 2**64 for column in zip(*rows, strict=True)])
    for each in rows:
        found = subtract(found, packed(each))
    assert found == bytes(8 * len(rows[0]))
    with pytest.raises(ValueError, match="both must have the same"):
        add(packed([1, 2]), packed([1]))


@given(st.binary(min_size=1, max_size=64), st.integers(1, 9), st.integers(0, 4), st.randoms(use_true_random=False))
def test_so_many_shares_give_a_secret_and_fewer_none(secret: bytes, threshold: int, more: int, random: Random) -> None:
    """Any set of as many shares as the threshold gives the secret; one fewer is refused."""
    shares = split(secret, range(1, threshold + more + 1), threshold=threshold, draw=random.randbytes)
    chosen = dict(random.sample(sorted(shares.items()), threshold))
    assert combine(chosen, threshold=threshold, size=len(secret)) == secret
    chosen.popitem()
    with pytest.raises(TooFewSharesError):
        combine(chosen, threshold=threshold, size=len(secret))


def run_round(
    vectors: dict[int, bytes],
    *,
    threshold: int,
    random: Random,
    before_sharing: set[int],
    before_update: set[int],
    before_opening: set[int],
) -> tuple[bytes, set[int], dict[int, Openings]]:
    """A whole round, in which clients go at three points; the sum, who is in it, and what was opened."""
    members = {client: Member(client, CONTEXT, random.randbytes) for client in vectors}
    roster = {client: member.keys for client, member in members.items()}
    sealed = {
        client: member.share(roster, threshold) for client, member in members.items() if client not in before_sharing
    }
    masked = {
        client: members[client].mask(
            vectors[client], {other: given[client] for other, given in sealed.items() if other != client}
        )
        for client in sealed
        if client not in before_update
    }
    openings = {client: members[client].open(masked) for client in masked if client not in before_opening}
    found = unmask(
        context=CONTEXT, roster=roster, threshold=threshold, sharers=sealed, masked=masked, openings=openings
    )
    return found, {*masked}, openings


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 7), vectors, st.randoms(use_true_random=False), st.data())
def test_the_sum_of_masked_updates_is_that_of_the_unmasked_ones(
    clients: int, shape: list[int], random: Random, data: st.DataObject
) -> None:
    """Exactly, whichever clients go before they share, send or open, as far as the threshold lets.

    Beyond it there is a typed refusal and no sum. No client ever opens both secrets of another.
    """
    numbers = random.sample(range(1000), clients)
    rows = {client: packed([random.getrandbits(64) for _ in shape]) for client in numbers}
    threshold = data.draw(st.integers(least_threshold(clients), clients))
    went: list[set[int]] = [set(), set(), set()]
    for client in numbers:
        if (point := data.draw(st.integers(0, 5))) < 3:
            went[point].add(client)
    first, second, third = went
    stay = {"threshold": threshold, "random": random}
    points = {"before_sharing": first, "before_update": second, "before_opening": third}
    sharers = clients - len(first)
    survivors = sharers - len(second)
    if survivors - len(third) < threshold:
        with pytest.raises((TooFewClientsError, RefusedError)):
            run_round(rows, **stay, **points)
        return
    found, stayed, openings = run_round(rows, **stay, **points)
    assert stayed == {*numbers} - first - second
    assert found == total((rows[client] for client in stayed), len(shape))
    for opened in openings.values():
        assert not opened.seeds.keys() & opened.keys.keys()
        assert {*opened.seeds} == stayed
        assert {*opened.keys} == second


def test_a_masked_update_tells_nothing_that_is_equal_to_it() -> None:
    """What a client sends differs in each word from its vector, and from what it sends of the same in another round."""
    random = Random(1)
    vector = packed([7] * 64)
    sent = []
    for context in (b"one", b"two"):
        members = {client: Member(client, context, random.randbytes) for client in range(3)}
        roster = {client: member.keys for client, member in members.items()}
        sealed = {client: member.share(roster, 2) for client, member in members.items()}
        sent.append(members[0].mask(vector, {1: sealed[1][0], 2: sealed[2][0]}))
    words = [struct.unpack("<64Q", each) for each in (vector, *sent)]
    assert all(len({*column}) == 3 for column in zip(*words, strict=True))


def test_a_member_refuses_what_would_show_its_update() -> None:
    """A low threshold, another's roster, too few sharers, changed shares, a second opening with other survivors."""
    random = Random(2)
    members = {client: Member(client, CONTEXT, random.randbytes) for client in range(4)}
    roster = {client: member.keys for client, member in members.items()}
    one = members[0]
    for wrong, threshold in (
        (roster, 2),
        ({**roster, 0: roster[1]}, 3),
        ({0: roster[0], 1: roster[1]}, 2),
        ({0: roster[0], 1: roster[1], 2: Keys(random.randbytes(32), roster[1].masking)}, 2),
    ):
        with pytest.raises(RefusedError):
            one.share(wrong, threshold)
    sealed = {client: member.share(roster, 3) for client, member in members.items()}
    with pytest.raises(RefusedError, match="given already"):
        one.share(roster, 3)
    mine = {other: given[0] for other, given in sealed.items() if other}
    with pytest.raises(RefusedError, match="2 clients have shared"):
        one.mask(bytes(8), {1: mine[1]})
    for changed in (mine[2], b""):
        with pytest.raises(RefusedError, match="client 1: sealed shares cannot be opened"):
            one.mask(bytes(8), {**mine, 1: changed})
    one.mask(bytes(8), mine)
    for survivors in ([1, 2, 3], [0, 1], [0, 1, 2, 9]):
        with pytest.raises(RefusedError, match="said to have stayed"):
            one.open(survivors)
    one.open([0, 1, 2])
    with pytest.raises(RefusedError, match="opened already"):
        one.open([0, 1, 2, 3])
    with pytest.raises(RefusedError, match="two of 32"):
        read_keys(b"short")


def test_a_key_that_gives_the_same_to_everybody_is_refused() -> None:
    """As a key for sealing and as one for masks, with the client whose it is."""
    random = Random(4)
    zero, low = bytes(32), b"\x01" + bytes(31)
    assert not is_public(zero)
    assert not is_public(low)
    for key in (zero, low):
        members = {client: Member(client, CONTEXT, random.randbytes) for client in range(4)}
        roster = {client: member.keys for client, member in members.items()}
        assert all(is_public(each.sealing) for each in roster.values())
        with pytest.raises(RefusedError, match="key of client 2"):
            members.pop(3).share({**roster, 2: Keys(key, roster[2].masking)}, 3)
        sealed = {client: member.share(roster, 3) for client, member in members.items() if client}
        members[0].share({**roster, 2: Keys(roster[2].sealing, key)}, 3)
        with pytest.raises(RefusedError, match="key of client 2"):
            members[0].mask(bytes(8), {client: given[0] for client, given in sealed.items()})


def test_a_false_share_is_found() -> None:
    """A client that opens a wrong share of a key, or shares of others, is named; no wrong sum comes of it."""
    random = Random(3)
    rows = {client: packed([client]) for client in range(4)}
    members = {client: Member(client, CONTEXT, random.randbytes) for client in rows}
    roster = {client: member.keys for client, member in members.items()}
    sealed = {client: member.share(roster, 3) for client, member in members.items()}
    masked = {
        client: members[client].mask(rows[client], {o: given[client] for o, given in sealed.items() if o != client})
        for client in (0, 1, 2)
    }
    openings = {client: members[client].open(masked) for client in masked}
    told = {"context": CONTEXT, "roster": roster, "threshold": 3, "sharers": sealed, "masked": masked}
    assert unmask(**told, openings=openings) == packed([3])
    false = Openings(openings[0].seeds, {3: bytes(66)})
    with pytest.raises(RefusedError, match="client 3"):
        unmask(**told, openings={**openings, 0: false})
    with pytest.raises(RefusedError, match="of others"):
        unmask(**told, openings={**openings, 0: Openings(openings[0].seeds, {})})
    with pytest.raises(TooFewClientsError, match="3 clients have sent updates and 2 have opened"):
        unmask(**told, openings={0: openings[0], 1: openings[1]})
