"""The audit trail on its way into a store: one that takes nothing, that was damaged, put back, or that others have."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from structlog.testing import capture_logs
from time_limits import LONG_S

from inferd.audit_settings import Audit
from inferd.core.audit import HEAD as HEAD_MEMBERS
from inferd.core.audit import LINE_CHARACTERS, Decision, Said, read_line
from inferd.core.audit_check import FaultKind, Verdict, check
from inferd.errors import InvalidFieldError, StoreUnavailableError
from inferd.runtime.audit_key import keep_half, public_halves, read_audit_key
from inferd.runtime.kept_trail import HEAD, TrailBounds, TrailWriter, all_lines, read_parts
from inferd.runtime.trail import Trail
from inferd.signatures import RAW, holds, public_of
from inferd.store.sqlite import SqliteStore
from inferd.store.store import NO_TENANT, Drop, Kind

KEY = Ed25519PrivateKey.generate()
PUBLIC = public_of(KEY)


class Times:
    """Both clocks of a writer."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def writer(times: Times, anchor: Path | None = None, **bounds: Any) -> TrailWriter:
    usual: dict[str, Any] = {"every": 5, "checkpoint_s": 60.0, "retention_s": 1e9, "size_bytes": 1 << 30}
    return TrailWriter(
        TrailBounds(**{**usual, **bounds}), public=PUBLIC, sign=KEY.sign, wall=times, steady=times, anchor=anchor
    )


def entries(count: int) -> list[Said]:
    return [{"type": "call", "place": place} for place in range(1, count + 1)]


def verdict(store: Any, **more: Any) -> Verdict:
    _, segments, _ = read_parts(store)
    return check(all_lines(store, segments), holds, **more)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path / "store")) as made:
        yield made


def test_what_is_older_or_more_than_may_be_is_cut_and_the_rest_holds(store: SqliteStore) -> None:
    """Parts go from the beginning, by age and by bytes; a signed checkpoint stands first, whoever goes on with it."""
    times = Times()
    for _ in range(3):
        made = writer(times, retention_s=640.0, size_bytes=64_000)
        assert made.adopt(store) == []
        for _ in range(40):
            times.now += 11
            store.write(made.write(entries(4)))
    found = verdict(store, heads=[made.checkpoint])
    assert (found.fault, found.last) == (None, made.chain.count)
    assert found.first == made.first > 100
    assert sum(len(line) for line in all_lines(store, made.segments)) < 70_000
    times.now += 10_000
    store.write(made.write(entries(1), seal=True))
    assert verdict(store).first == made.first > found.first


def test_what_is_cut_is_told_and_signed(store: SqliteStore) -> None:
    """A checkpoint says which lines went and by which setting: who sets it low for a while cannot hide that."""
    times, made = Times(), writer(Times())
    store.write(made.write(entries(20), seal=True))
    last = made.chain.count
    for bounds in ({}, {"retention_s": 1.0}, {}):
        times.now += 100_000_000.0
        made = writer(times, **bounds)
        made.adopt(store)
        store.write(made.write(entries(1), seal=True))
    found = verdict(store)
    assert found.fault is None
    assert found.first > last
    assert (found.cut["first"], found.cut["by"]) == (1, {"audit.retention_s": "1"})
    with pytest.raises(ValueError, match="greater than or equal to 86400"):
        Audit(retention_s=1)


@pytest.mark.parametrize("anchor", ["", "{}"])
def test_a_trail_whose_checkpoint_apart_is_gone_says_so(store: SqliteStore, tmp_path: Path, anchor: str) -> None:
    """Who puts the store back and removes the file that would tell it is told of; a first start is not."""
    head = tmp_path / "head"
    made = writer(Times(), head)
    assert made.adopt(store) == []
    store.write(made.write(entries(3)))
    assert writer(Times(), head).adopt(store) == []  # killed before it had more than its first checkpoint
    store.write(made.write(entries(3), seal=True))
    made.keep_apart()
    assert writer(Times(), head).adopt(store) == []
    head.write_text(anchor, encoding="ascii")
    (told,) = writer(Times(), head).adopt(store)
    assert (told["event"], told["what"]) == ("no checkpoint apart", ["head"])


def test_a_trail_that_goes_on_with_another_key_says_so(store: SqliteStore) -> None:
    """The key of the lines before is named; whoever has the public halves of both finds the trail to be right."""
    store.write(writer(Times()).write(entries(3), seal=True))
    key = Ed25519PrivateKey.generate()
    bounds = TrailBounds(every=5, checkpoint_s=60.0, retention_s=1e9, size_bytes=1 << 30)
    later = TrailWriter(bounds, public=public_of(key), sign=key.sign, wall=Times(), steady=Times())
    (told,) = later.adopt(store)
    assert told == {"event": "key changed", "before": PUBLIC, "key": public_of(key)}
    store.write(later.write([told], seal=True))
    assert (verdict(store).fault, verdict(store).keys) == (None, [PUBLIC, public_of(key)])


def other_kernel(kin: bytes, anchor: Path) -> TrailWriter:
    key = Ed25519PrivateKey.generate()
    bounds = TrailBounds(every=5, checkpoint_s=60.0, retention_s=1e9, size_bytes=1 << 30)
    return TrailWriter(
        bounds, public=public_of(key), sign=key.sign, wall=Times(), steady=Times(), anchor=anchor, kin=kin
    )


def test_a_kernel_that_takes_over_from_another_one_finds_nothing_wrong(store: SqliteStore, tmp_path: Path) -> None:
    """Kernels of one store sign with keys of their own, and know each other by a secret which the store has not."""
    one, other = other_kernel(b"shared", tmp_path / "one"), other_kernel(b"shared", tmp_path / "other")
    store.write(one.write(entries(8), seal=True))
    one.keep_apart()
    (told,) = other.adopt(store)
    assert (told["event"], told["before"]) == ("followed", read_line(one.checkpoint).said["key"])
    store.write(other.write([{"type": "kernel", **told}], seal=True))
    assert (verdict(store).fault, verdict(store).told) == (None, [])
    assert len(verdict(store).keys) == 2


@pytest.mark.parametrize("kin", [b"", b"another one"])
def test_a_key_of_nobody_who_shares_the_secret_is_told(store: SqliteStore, tmp_path: Path, kin: bytes) -> None:
    """Whoever can write to the store alone, and makes the trail anew with a key of their own, is found as before."""
    store.write(other_kernel(kin, tmp_path / "one").write(entries(8), seal=True))
    told = other_kernel(b"shared", tmp_path / "other").adopt(store)
    assert [each["event"] for each in told] == ["no checkpoint apart", "key changed"]


def test_the_key_of_a_kernel_that_was_followed_is_known_here(tmp_path: Path) -> None:
    """Its public half stands beside the own one, once, so that checks on this host need not be told."""
    path, other = tmp_path / "audit.key", public_of(Ed25519PrivateKey.generate())
    read_audit_key(path)
    for _ in range(2):
        keep_half(path, other)
    halves = [load_pem_public_key(each.read_bytes()) for each in public_halves(path)]
    assert [each.public_bytes(*RAW).hex() for each in halves][1:] == [other]


def test_a_line_that_nobody_has_signed_for_long_is_signed(store: SqliteStore) -> None:
    """After `checkpoint_s` a checkpoint is due, and not before; nothing is written where nothing is to be signed."""
    times, made = Times(), writer(Times())
    made = writer(times)
    store.write(made.write(entries(2)))
    assert (made.due_s(), verdict(store).unsealed) == (60.0, 2)
    assert made.write([]) == []
    times.now += 60
    store.write(made.write([]))
    assert (made.due_s(), verdict(store).unsealed) == (None, 0)
    assert made.write([], seal=True) == []


def test_a_store_that_was_put_back_is_told_in_the_trail(store: SqliteStore, tmp_path: Path) -> None:
    """The last checkpoint lies apart from the store: a kernel with an older store says so, and checks find it."""
    times, anchor = Times(), tmp_path / "head"
    made = writer(times, anchor)
    store.write(made.write(entries(3), seal=True))
    before = list(store.kept())
    store.write(made.write(entries(3), seal=True))
    made.keep_apart()
    assert anchor.stat().st_mode & 0o777 == 0o600
    head = anchor.read_text()
    store.write([Drop(NO_TENANT, Kind.AUDIT, record.key) for record in store.records(Kind.AUDIT)])
    store.write(before)
    later = writer(times, anchor)
    (told,) = later.adopt(store)
    assert (told["event"], told["lines"]) == ("put back", read_line(head).sequence)
    store.write(later.write([{"type": "kernel", **told}], seal=True))
    found = verdict(store)
    assert (found.fault, [said["lines"] for said in found.told]) == (None, [told["lines"]])
    fault = verdict(store, heads=[head]).fault
    assert fault is not None
    assert fault.kind is FaultKind.TRUNCATED


def test_no_line_is_longer_than_who_reads_it_takes(store: SqliteStore) -> None:
    """Of an entry that is too long the longest members are left out, and named; what is short in it stays."""
    made = writer(Times())
    long = {"fields": {"name": "n" * (8 << 20)}, "model": "m" * (1 << 16), "method": "CreateModel"}
    store.write(made.write([{"type": "call", **long}, {HEAD_MEMBERS: f'"peer":"{"p" * (1 << 20)}"'}], seal=True))
    lines = list(all_lines(store, made.segments))
    assert max(map(len, lines)) <= LINE_CHARACTERS
    one, other = read_line(lines[1]).said, read_line(lines[2]).said
    assert (one["method"], one["clipped"], other["clipped"]) == ("CreateModel", ["fields", "model"], ["head"])
    assert verdict(store).fault is None


@pytest.mark.parametrize("lost", [HEAD, "segment"])
def test_a_trail_that_was_damaged_goes_on_and_says_so(store: SqliteStore, lost: str) -> None:
    """Where the record of its end or a part of it is gone, the next kernel goes on, and a check finds what is gone."""
    times = Times()
    made = writer(times, size_bytes=64 * 1000)
    for _ in range(12):
        store.write(made.write(entries(4)))
    keys = [segment.key for segment in made.segments]
    assert len(keys) > 2
    store.write([Drop(NO_TENANT, Kind.AUDIT, HEAD if lost == HEAD else keys[1])])
    later = writer(times, size_bytes=64 * 1000)
    told = later.adopt(store)
    assert later.chain.count == made.chain.count
    store.write(later.write([*told, *entries(3)], seal=True))
    fault = verdict(store).fault
    if lost == HEAD:
        assert [each["event"] for each in told] == ["damaged"]
        assert fault is None
    else:
        assert fault is not None
        assert (fault.kind, fault.sequence) == (FaultKind.REMOVED, made.segments[1].first)


def test_two_that_write_one_trail_do_not_fork_it_unseen(store: SqliteStore) -> None:
    """Two that go on from the same end, as no two kernels can with one store, are found by what each of them adds."""
    times = Times()
    one, other = writer(times), writer(times)
    store.write(one.write(entries(2), seal=True))
    other.adopt(store)
    store.write(one.write(entries(2)))
    store.write(other.write([{"type": "call", "place": 9}]))
    store.write(one.write(entries(1)))
    fault = verdict(store).fault
    assert fault is not None
    assert fault.sequence == one.chain.count - 1


class Keeping:
    """A keeper whose store takes what is written, or nothing."""

    def __init__(self) -> None:
        self.closing = False
        self.error: StoreUnavailableError | None = None
        self.trail: Trail | None = None
        self.written: list[Any] = []
        self.after: Callable[[], None] = lambda: None

    def write_soon(self) -> None:
        assert self.trail is not None
        writes = self.trail.take()()
        if self.error is None:
            self.written += writes
        self.trail.settle(self.error)
        self.after()

    def beside(self, do: Any) -> None:
        do()


def trail_of(keeper: Any, **settings: Any) -> Trail:
    made = Trail(
        Audit(**settings),
        writer(Times(), every=1000),
        keeper,
        public=PUBLIC,
        wall=Times(),
        steady=Times(),
        goes_on=lambda _: False,
    )
    if keeper is not None:
        keeper.trail = made
    return made


def told(written: Sequence[Any]) -> list[Said]:
    """The entries in what was written."""
    blocks = [each.value for each in written if hasattr(each, "number")]
    lines = [read_line(line) for block in blocks for line in block.decode().split("\n")]
    return [line.said for line in lines if not line.is_checkpoint]


async def test_a_change_waits_for_its_entry_and_is_refused_while_it_cannot_be_kept() -> None:
    """While the store takes nothing, changes are refused and calls served; what they told is kept once it can be."""
    keeper = Keeping()
    trail = trail_of(keeper)
    trail.add({"type": "call", "place": 1})
    await trail.written("nothing was changed")
    assert [each["place"] for each in told(keeper.written)] == [1]
    keeper.error = StoreUnavailableError("no room")
    trail.add({"type": "call", "place": 2})
    with pytest.raises(StoreUnavailableError, match="nothing was changed; no room"):
        await trail.written("nothing was changed")
    with pytest.raises(StoreUnavailableError, match="nothing was changed; no room"):
        trail.check_change()
    trail.check_call()
    trail.add({"type": "call", "place": 3})
    keeper.error = None
    keeper.write_soon()  # first what may be there, as it was
    await trail.written("")
    assert [each["place"] for each in told(keeper.written)] == [1, 2, 3]
    trail.check_change()


async def test_calls_are_refused_while_they_cannot_be_told_where_that_is_configured() -> None:
    """With `audit.on_failure = "refuse"` a call of a client is refused as well, and says by which setting."""
    keeper = Keeping()
    trail = trail_of(keeper, on_failure="refuse")
    keeper.error = StoreUnavailableError("no room")
    trail.add({"type": "call"})
    keeper.write_soon()
    with pytest.raises(StoreUnavailableError, match=r"audit\.on_failure is refuse"):
        trail.check_call()


async def test_what_is_lost_is_marked_as_a_gap() -> None:
    """Beyond `audit.pending_entries` entries are lost, which is told with their number when it can be written."""
    keeper = Keeping()
    trail = trail_of(keeper, pending_entries=100)
    keeper.error = StoreUnavailableError("no room")
    keeper.write_soon()
    for place in range(130):
        trail.add({"type": "call", "place": place + 1})
    assert trail.lost == 30
    with pytest.raises(StoreUnavailableError):
        trail.check_change()
    keeper.error = None
    keeper.write_soon()
    found = told(keeper.written)
    assert [each["place"] for each in found[:-1]] == list(range(1, 101))
    assert (found[-1]["type"], found[-1]["lost"]) == ("gap", 30)
    await trail.written("")


async def test_what_a_kernel_finds_of_the_trail_before_it_is_logged_and_told() -> None:
    """That it was put back, as by a backup, is in the log and in the trail behind the start of the kernel."""
    trail = trail_of(None)
    with capture_logs() as logged:
        trail.begin([{"event": "put back", "lines": 7}], {})
    assert [each["log_level"] for each in logged] == ["error"]
    events = [said["event"] for said in _said(await _lines(trail)) if said["type"] == "kernel"]
    assert events == ["started", "put back"]


async def test_a_decision_that_no_call_made_is_told() -> None:
    """What rules about outputs decide is an entry by one function, with names and nothing of the content."""
    trail = trail_of(None)
    trail.decide("moderation", Decision.REFUSED, tenant="blue", model="m", task_id="t", rule="r1", action="stop")
    (entry,) = [said for said in _said(await _lines(trail)) if said["type"] == "decision"]
    assert {name: entry[name] for name in ("event", "decision", "rule", "action", "tenant")} == {
        "event": "moderation",
        "decision": "refused",
        "rule": "r1",
        "action": "stop",
        "tenant": "blue",
    }


async def _lines(trail: Trail) -> list[str]:
    await trail.settled()
    lines, _ = await trail.lines(trail.place_behind(0), 100)
    return lines


def _said(lines: Sequence[str]) -> list[Said]:
    return [read_line(line).said for line in lines]


def test_the_key_is_made_once_and_others_may_not_read_it(tmp_path: Path) -> None:
    """The first start makes it and its public half; one that others may read, or that is none, is refused."""
    path = tmp_path / "state" / "audit.key"
    key = read_audit_key(path)
    assert public_of(read_audit_key(path)) == public_of(key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state" / "audit.pub").exists()
    path.unlink()
    other = read_audit_key(path)
    halves = [load_pem_public_key(each.read_bytes()) for each in public_halves(path)]
    assert halves == [other.public_key(), key.public_key()]  # what the lost one has signed is still told to be right
    path.chmod(0o640)
    with pytest.raises(InvalidFieldError, match="chmod 600"):
        read_audit_key(path)
    path.chmod(0o600)
    path.write_bytes(b"no key")
    with pytest.raises(InvalidFieldError, match="no Ed25519 key"):
        read_audit_key(path)


async def test_entries_are_written_by_themselves_after_a_while() -> None:
    """Nobody waits for the entry of a call: it is written with whatever else is, or after `audit.interval_s`."""
    keeper, written = Keeping(), asyncio.Event()
    keeper.after = written.set
    trail = trail_of(keeper, interval_s=0.0)
    trail.add({"type": "call", "place": 1})
    assert keeper.written == []
    async with asyncio.timeout(LONG_S):
        await written.wait()
    assert [each["place"] for each in told(keeper.written)] == [1]
