"""One kernel leads a store in PostgreSQL: its epoch, which each commit is checked for, and what others see of it."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace

import pytest
from fenced import commits, record_commits
from fencing import losers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_server import PostgresServer
from stores import Postgres, held, model_of
from time_limits import LONG_S

from inferd.errors import StoreUnavailableError, present
from inferd.store.kernels import KernelEntry
from inferd.store.postgres import PostgresStore
from inferd.store.postgres_kernels import PostgresRoll
from inferd.store.store import Drop, Kind, Put, Write

DEADLINE_S = LONG_S


@pytest.fixture
def stores(postgres: PostgresServer, database: str) -> Postgres:
    """What opens the store of a database."""
    return Postgres(postgres, database)


def entry(name: str = "k", **more: object) -> KernelEntry:
    return KernelEntry(kernel=name, host="h", pid=1, version="1", addresses=("tls:h:1",), **more)  # type: ignore[arg-type]


def roll_of(stores: Postgres) -> PostgresRoll:
    return PostgresRoll(stores.place, answer_s=DEADLINE_S)


def let_go(store: PostgresStore) -> None:
    """Have the server end the session of a store, as a kernel that stands by does."""
    assert store._session is not None
    with store._server.connect_aside() as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", (store._session.info.backend_pid,))


def test_epochs_rise_with_each_leader_and_from_store_to_store(stores: Postgres) -> None:
    """Each is above the one before, and none below the time at which it began, whatever became of a store before."""
    with closing(stores.open()) as store:
        began = int(store.unix_time() * 1e6)
        first = store.lead()
        assert first >= began
        stores.run(store, "UPDATE inferd_store SET epoch = epoch + 1000000000")
        store._marker = store._marker._replace(epoch=first + 1_000_000_000)
        assert store.lead() == first + 1_000_000_001
    with closing(stores.open()) as store:
        assert store.lead() == first + 1_000_000_002


def test_a_commit_of_an_older_epoch_is_refused_inside_its_transaction(stores: Postgres) -> None:
    """Though all else of the marker is as it knows it, and though it has a session: nothing of it is written."""
    with closing(stores.open()) as store:
        store.lead()
        store.write([Put("", Kind.TASK, "t", b"1")])
        stores.run(store, "UPDATE inferd_store SET epoch = epoch + 1")
        with pytest.raises(StoreUnavailableError, match="another kernel"):
            store.write([Put("", Kind.TASK, "t", b"2")])
    with closing(stores.open()) as store:
        assert held(store) == model_of([Put("", Kind.TASK, "t", b"1")])


def test_a_leader_that_was_followed_is_told_both_epochs(stores: Postgres) -> None:
    """One that lost its session and finds another one's epoch writes and reads no more, and says why."""
    old = stores.open()
    first = old.lead()
    let_go(old)
    with closing(stores.open()) as new:
        second = new.lead()
        with pytest.raises(StoreUnavailableError, match="in use by process"):
            old.grip()
    with pytest.raises(StoreUnavailableError, match=f"epoch {second} came after {first}"):
        old.write([Put("", Kind.TASK, "t", b"old")])
    with pytest.raises(StoreUnavailableError, match="another kernel leads"):
        held(old)
    old.close()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(["write", "write", "let go", "follow", "grip"]), st.integers(0, 2)), max_size=12)
)
def test_only_the_newest_leader_writes(stores: Postgres, steps: list[tuple[str, int]]) -> None:
    """However sessions end and leaders follow each other, what is kept is what the one of the newest epoch wrote.

    A leader may lose its session and write on when nobody came after it; one that was followed never writes again.
    """
    kernels: list[PostgresStore] = []
    epochs: list[int] = []
    done: list[Write] = []
    try:
        for number, (step, which) in enumerate(steps):
            kernel = kernels[which % len(kernels)] if kernels else None
            if step == "follow" or kernel is None:
                with suppress(StoreUnavailableError):
                    kernels.append(stores.open())
                    epochs.append(kernels[-1].lead())
            elif step == "let go":
                if kernel._session is not None:
                    let_go(kernel)
            elif step == "grip":
                with suppress(StoreUnavailableError):
                    kernel.grip()
            else:
                write = Put("", Kind.TASK, str(number), str(number).encode())
                try:
                    kernel.write([write])
                except StoreUnavailableError:
                    continue
                assert kernel is kernels[-1], "an older one wrote"
                done.append(write)
        assert epochs == sorted(set(epochs))
    finally:
        for each in kernels:
            each.close()
    if kernels:
        with closing(stores.open()) as store:
            assert held(store) == model_of(done)
            store.write([Drop(each.tenant, each.kind, each.key) for each in done])


STOPPED = """
import sys
from inferd.config import Settings
from inferd.store.postgres import PostgresStore
from inferd.store.store import Kind, Put
store = PostgresStore(Settings().store_place)
store.lead()
store.write([Put("", Kind.TASK, "t", b"before")])
print("leads", flush=True)
sys.stdin.readline()
for _ in range(3):
    try:
        store.write([Put("", Kind.TASK, "t", b"stale")])
    except Exception as error:
        print(error, flush=True)
    else:
        print("written", flush=True)
"""


def test_a_leader_that_was_stopped_and_wakes_up_writes_nothing(stores: Postgres) -> None:
    """Its connection, and so its lock, outlives SIGSTOP; once that was ended and another one leads, it is refused."""
    environment = {
        **os.environ,
        "INFERD_STORE__URL": stores.place.url,
        "INFERD_STORE__POSTGRES__LOCK_WAIT_S": "0",
    }
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert "leads\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGSTOP)
        roll = roll_of(stores)
        holder = roll.sign(entry("watcher")).holder
        assert holder
        with pytest.raises(StoreUnavailableError, match="in use by process"):
            stores.open()
        _tell_of(stores, roll, holder, silent_s=5.0)
        assert roll.end_silent(entry("b"), 2.0)
        with closing(_opened(stores)) as new:
            new.lead()
            new.write([Put("", Kind.TASK, "t", b"after")])
            process.send_signal(signal.SIGCONT)
            process.stdin.write("\n")
            process.stdin.flush()
            said = [process.stdout.readline() for _ in range(3)]
            assert all("in use by process" in line or "another kernel" in line for line in said), said
            assert held(new) == model_of([Put("", Kind.TASK, "t", b"after")])
        roll.leave("watcher")


def _tell_of(stores: Postgres, roll: PostgresRoll, holder: int, *, silent_s: float) -> None:
    """A leader that told of itself so long ago, whose session is the one that has the lock."""
    epoch = roll.sign(entry("watcher")).epoch
    roll.sign(entry("leader", epoch=epoch), backend=holder)
    with stores.server.connect(stores.database) as connection:
        connection.execute(
            "UPDATE inferd.kernels SET seen = seen - make_interval(secs => %s) WHERE kernel = 'leader'", (silent_s,)
        )


def _opened(stores: Postgres) -> PostgresStore:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return stores.open()
        except StoreUnavailableError:
            assert time.monotonic() < deadline


def test_only_a_leader_that_is_silent_has_its_epoch_ended(stores: Postgres) -> None:
    """One that tells of itself is left alone, and so is whoever has the lock and never told of itself, as a command."""
    with closing(stores.open()) as store:
        epoch, backend = store.lead(entry("leader")), store.grip()
        roll = roll_of(stores)
        seen = roll.sign(entry("b"))
        assert (seen.epoch, seen.holder) == (epoch, backend)
        assert seen.leader is not None
        assert (seen.leader.kernel, seen.leader.addresses) == ("leader", ("tls:h:1",))
        assert not roll.end_silent(entry("b"), 2.0)
        with stores.server.connect(stores.database) as connection:
            connection.execute("UPDATE inferd.kernels SET seen = seen - interval '5 s', backend = backend + 1")
        assert roll.sign(entry("b")).holder_s is None
        assert not roll.end_silent(entry("b"), 2.0)
        assert store.grip() == backend
        store.write([Put("", Kind.TASK, "t", b"1")])
        roll.leave("b")


def test_a_kernel_that_was_stopped_before_it_led_is_ended(stores: Postgres) -> None:
    """It has the lock and no epoch yet; it is known by its connection, whose process told of itself before."""
    with closing(stores.open()) as store:
        stopped = replace(entry("stopped"), host=socket.gethostname(), pid=os.getpid())
        roll = roll_of(stores)
        roll.sign(stopped)
        assert roll.sign(entry("b")).holder_s is not None
        assert not roll.end_silent(entry("b"), 2.0)
        with stores.server.connect(stores.database) as connection:
            connection.execute("UPDATE inferd.kernels SET seen = seen - interval '5 s' WHERE kernel = 'stopped'")
        assert roll.end_silent(entry("b"), 2.0)
        assert roll.sign(entry("b")).holder == 0
        with pytest.raises(StoreUnavailableError, match="another kernel"):
            store.lead()
        roll.leave("b")


def test_a_leader_that_was_stopped_in_a_transaction_is_ended_with_it(stores: Postgres) -> None:
    """Its epoch can only end behind what it had begun, which is undone; nothing of it is written."""
    with closing(stores.open()) as store:
        store.lead(entry("leader"))
        session = present(store._session)
        session.execute("BEGIN")
        session.execute("UPDATE inferd.inferd_store SET written = written + 1")
        roll = roll_of(stores)
        with stores.server.connect(stores.database) as connection:
            connection.execute("UPDATE inferd.kernels SET seen = seen - interval '5 s'")
        assert roll.end_silent(entry("b"), 2.0)
        assert roll.sign(entry("b")).holder == 0
        with pytest.raises(StoreUnavailableError, match="another kernel leads"):
            store.write([Put("", Kind.TASK, "t", b"1")])
        roll.leave("b")


def test_kernels_see_each_other_until_they_leave(stores: Postgres) -> None:
    """Each sees the others with their addresses; one that left, and one that is long silent, is seen by nobody."""
    with closing(stores.open()) as store:
        store.lead(entry("a"))
        a, b = roll_of(stores), roll_of(stores)
        assert [each.kernel for each in b.sign(entry("b")).others] == ["a"]
        assert [each.kernel for each in a.sign(entry("a", epoch=1)).others] == ["b"]
        b.leave("b")
        assert a.sign(entry("a")).others == ()
        b.sign(entry("b"))
        with stores.server.connect(stores.database) as connection:
            connection.execute("UPDATE inferd.kernels SET seen = seen - interval '10 min' WHERE kernel = 'b'")
        assert a.sign(entry("a", epoch=1)).others == ()
        with stores.server.connect(stores.database) as connection:
            assert connection.execute("SELECT kernel FROM inferd.kernels").fetchall() == [("a",)]
        a.leave("a")
        b.leave("b")


def test_a_store_of_an_older_kernel_can_be_waited_for(stores: Postgres) -> None:
    """Where there is no table of kernels yet, or no store at all, only the lock is seen, and nothing is made."""
    roll = roll_of(stores)
    assert (roll.sign(entry()).epoch, roll.sign(entry()).holder) == (0, 0)
    with closing(stores.open()) as store:
        holder = store.grip()
        stores.run(store, "DROP TABLE kernels")
        stores.run(store, "ALTER TABLE inferd_store DROP COLUMN epoch")
        assert roll.sign(entry()).holder == holder
        assert roll.sign(entry()).now > 0
    roll.leave("k")


def test_what_a_server_records_of_commits_shows_who_had_lost(stores: Postgres) -> None:
    """Leaders that follow each other are a right history; a commit of who has lost its epoch is found."""
    with closing(stores.open()) as store:
        store.lead()
        record_commits(stores.server, stores.database)
        store.write([Put("", Kind.TASK, "t", b"1")])
        stores.run(store, "UPDATE inferd_store SET epoch = epoch + 1")  # as who ends a silent one
    with closing(stores.open()) as store:
        store.lead()
        store.write([Put("", Kind.TASK, "t", b"2")])
        assert losers(commits(stores.server, stores.database)) == []
        stores.run(store, "UPDATE inferd_store SET writer = 'old', written = written + 1")
        stores.run(store, "UPDATE inferd_store SET writer = 'old', written = written + 1, epoch = epoch - 5")
    said = losers(commits(stores.server, stores.database))
    assert "was accepted from old" in said[0]
    assert "begins behind" in said[1]
