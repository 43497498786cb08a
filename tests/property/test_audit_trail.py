"""An audit trail that was tampered with: whatever was done to one line, it is found, and what it was is said."""

import json
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.core.audit import Chain, Checkpoint, hash_of, read_line
from inferd.core.audit_check import FaultKind, Verdict, check
from inferd.signatures import holds, public_of

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PUBLIC = public_of(KEY)
NAMES = st.text(max_size=8)


def trusted(public: str, message: bytes, signature: bytes) -> bool:
    return public == PUBLIC and holds(public, message, signature)


def point(first: int = 1, every: int = 4, key: Ed25519PrivateKey = KEY) -> Checkpoint:
    return Checkpoint(time="2026-01-01T00:00:00Z", first=first, every=every, key=public_of(key))


def trail_of(names: list[str], *, every: int = 4, key: Ed25519PrivateKey = KEY) -> list[str]:
    """A trail with a checkpoint first, after each `every - 1` entries, and last."""
    chain, lines = Chain(), []
    for place, name in enumerate(names):
        if place % (every - 1) == 0:
            lines.append(chain.add_checkpoint(point(every=every, key=key), key.sign))
        lines.append(chain.add({"type": "call", "principal": name, "place": place}))
    lines.append(chain.add_checkpoint(point(every=every, key=key), key.sign))
    return lines


FEW = settings(max_examples=30)
TRAILS = st.lists(NAMES, min_size=3, max_size=12).map(trail_of)


def found(lines: list[str], whole: list[str]) -> Verdict:
    """What is found, by whoever has the last checkpoint."""
    return check(lines, trusted, heads=[whole[-1]])


@FEW
@given(TRAILS)
def test_a_trail_as_it_was_written_holds(lines: list[str]) -> None:
    """Each line vouches for those before it, and nothing is wrong with them."""
    verdict = found(lines, lines)
    assert verdict.fault is None
    assert (verdict.first, verdict.last, verdict.unsealed, verdict.keys) == (1, len(lines), 0, [PUBLIC])


@FEW
@given(TRAILS, st.data())
def test_each_changed_character_is_found(lines: list[str], data: st.DataObject) -> None:
    """Any character of any line may be another one: that line is named, or what it has become."""
    place = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.integers(0, len(lines[place]) - 1))
    other = data.draw(st.sampled_from("09azAZ{\"' é\n").filter(lambda each: each != lines[place][at]))
    wrong = [*lines]
    wrong[place] = lines[place][:at] + other + lines[place][at + 1 :]
    if wrong[place].rstrip("\r\n") == lines[place].rstrip("\r\n"):
        return
    if _same(wrong[place], lines[place]):
        return
    fault = found(wrong, lines).fault
    assert fault is not None
    assert abs(fault.sequence - (place + 1)) <= 1 or fault.kind is not FaultKind.CHANGED


def _same(one: str, other: str) -> bool:
    """Whether two lines are the same but for the case of their hash's digits."""
    return one[:-75] == other[:-75] and one[-75:].lower() == other[-75:].lower() and one[-75:-66] == other[-75:-66]


@FEW
@given(TRAILS, st.data())
def test_each_line_that_is_changed_and_hashed_anew_is_found(lines: list[str], data: st.DataObject) -> None:
    """Whoever makes all hashes behind a change anew has no key for the next checkpoint, which names what it covers."""
    place = data.draw(st.integers(1, len(lines) - 2))
    wrong, before = lines[:place], read_line(lines[place - 1]).hash
    for each in lines[place:]:
        body = read_line(each).body
        if each == lines[place]:
            body = body.replace('"type":"', '"tampered":1,"type":"')
        before = hash_of(before, body)
        wrong.append(f'{body[:-1]},"hash":"{before.hex()}"}}')
    fault = found(wrong, lines).fault
    assert fault is not None
    assert fault.kind in (FaultKind.CHANGED, FaultKind.SIGNATURE)
    assert fault.sequence <= place + 1


@FEW
@given(TRAILS, st.data())
def test_each_removed_line_is_found(lines: list[str], data: st.DataObject) -> None:
    """One line gone, or several: the first of them is named; those at the end are TRUNCATED."""
    start = data.draw(st.integers(0, len(lines) - 1))
    end = data.draw(st.integers(start + 1, len(lines)))
    fault = found(lines[:start] + lines[end:], lines).fault
    assert fault is not None
    if end == len(lines):
        assert (fault.kind, fault.sequence) == (FaultKind.TRUNCATED, start + 1)
    elif start:
        assert (fault.kind, fault.sequence) == (FaultKind.REMOVED, start + 1)
    else:
        assert fault.kind is FaultKind.REMOVED


@FEW
@given(TRAILS, st.data())
def test_each_inserted_line_is_found(lines: list[str], data: st.DataObject) -> None:
    """A line of the trail once more, or a forged one that even fits the one before it, is INSERTED."""
    place = data.draw(st.integers(1, len(lines)))
    copied = data.draw(st.integers(0, len(lines) - 1))
    fault = found([*lines[:place], lines[copied], *lines[place:]], lines).fault
    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.INSERTED, copied + 1)
    forged = Chain(place, read_line(lines[place - 1]).hash).add({"type": "call", "principal": "eve"})
    fault = found([*lines[:place], forged, *lines[place:]], lines).fault
    if place < len(lines):
        assert fault is not None
        assert (fault.kind, fault.sequence) == (FaultKind.INSERTED, place + 1)
    else:  # behind the last checkpoint anybody can write, which is said
        assert found([*lines, forged], lines).unsealed == 1


@FEW
@given(TRAILS, st.data())
def test_each_swap_is_found(lines: list[str], data: st.DataObject) -> None:
    """Two lines in each other's place are REORDERED, from the first of them on."""
    one = data.draw(st.integers(0, len(lines) - 2))
    other = data.draw(st.integers(one + 1, len(lines) - 1))
    wrong = [*lines]
    wrong[one], wrong[other] = lines[other], lines[one]
    fault = found(wrong, lines).fault
    assert fault is not None
    assert fault.kind is FaultKind.REORDERED
    assert fault.sequence == one + 1 or one == 0


@FEW
@given(st.lists(NAMES, min_size=3, max_size=12))
def test_a_trail_that_another_key_has_signed_is_none(names: list[str]) -> None:
    """Whoever makes the whole trail anew has not the key: SIGNATURE at the first checkpoint."""
    fault = check(trail_of(names, key=OTHER), trusted).fault
    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.SIGNATURE, 1)


def test_a_trail_of_which_nothing_is_left_is_truncated() -> None:
    """A kernel writes the first lines when it starts: none at all were removed."""
    fault = check([], trusted).fault
    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.TRUNCATED, 1)


def test_a_trail_without_its_checkpoints_is_none() -> None:
    """Lines that were chained anew, without any checkpoint but the first, are too many without one."""
    chain = Chain()
    lines = [chain.add_checkpoint(point(), KEY.sign), *(chain.add({"type": "call"}) for _ in range(5))]
    fault = check(lines, trusted).fault
    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.SIGNATURE, 6)


def test_what_was_cut_is_vouched_for_by_the_checkpoint_that_stands_first() -> None:
    """A trail may begin with a checkpoint, if its last one says that this is the first line which is kept."""
    chain = Chain()
    begin = [chain.add_checkpoint(point(every=9), KEY.sign), chain.add({"type": "call"})]
    kept = [chain.add_checkpoint(point(3, every=9), KEY.sign), chain.add({"type": "call"})]
    assert check(kept, trusted).fault is None
    end = [chain.add_checkpoint(point(3, every=9), KEY.sign), chain.add({"type": "call"})]
    assert check([*kept, *end], trusted).fault is None
    fault = check(end, trusted, heads=[kept[0]]).fault
    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.REMOVED, 3)
    assert check([*begin, *kept], trusted).fault is None


def test_a_trail_that_was_put_back_and_went_on_is_found() -> None:
    """A checkpoint that is kept elsewhere is not in a trail that was cut before it and has gone on: TRUNCATED."""
    chain, other = Chain(), Chain()
    lines = [chain.add_checkpoint(point(), KEY.sign), chain.add({"type": "call", "place": 1})]
    head = chain.add_checkpoint(point(), KEY.sign)
    went_on = [other.add_checkpoint(point(), KEY.sign), other.add({"type": "call", "place": 2})]
    went_on.append(other.add_checkpoint(point(), KEY.sign))
    fault = check(went_on, trusted, heads=[head]).fault
    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.TRUNCATED, 3)
    assert check([*lines, head], trusted, heads=[head]).fault is None


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"hash":"' + "0" * 64 + '"}', "[" * 100_000, "\x00" * 80])
def test_what_is_no_line_is_told_as_one_that_was_changed(line: str) -> None:
    """Whatever stands in a file, it is a fault and no failure."""
    fault = check([line], trusted).fault
    assert fault is not None
    assert fault.kind in (FaultKind.CHANGED, FaultKind.REMOVED)


def test_a_few_lines_of_another_program_check_a_trail() -> None:
    """What the documentation shows is enough: the line without its end, hashed behind the hash before it."""
    before = bytes(32)
    for line in trail_of(["anna", "bob", "eve"]):
        body, digest = line[:-75] + "}", json.loads(line)["hash"]
        before = sha256(b"inferd audit 1 entry\n" + before + body.encode()).digest()
        assert before.hex() == digest
