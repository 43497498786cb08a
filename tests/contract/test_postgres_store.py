"""A store in PostgreSQL while connections are cut, the server ends, and others come."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cutting_proxy import CuttingProxy
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres_server import PostgresServer
from stores import WRITES, Postgres, held, model_of
from structlog.testing import capture_logs
from time_limits import LONG_S

from inferd.config import Settings
from inferd.errors import StoreUnavailableError
from inferd.store import postgres_session
from inferd.store.postgres import AFTER_COMMIT, BEFORE_COMMIT, PostgresStore
from inferd.store.store import Append, Kind, Put, Write

ONE, TWO = (Put("", Kind.TASK, "t", value) for value in (b"1", b"2"))


@pytest.fixture
def stores(postgres: PostgresServer, database: str) -> Postgres:
    """What opens the store of a database."""
    return Postgres(postgres, database)


@pytest.fixture(scope="module")
def shared(postgres: PostgresServer) -> Iterator[str]:
    """A database for several schemas."""
    name = postgres.make_database()
    yield name
    postgres.start()
    postgres.drop_database(name)


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[CuttingProxy]:
    """A way to the server that can be cut."""
    with tempfile.TemporaryDirectory(prefix="inferd-pg-") as folder:  # short, as paths of sockets are
        made = CuttingProxy(postgres.folder, Path(folder))
        yield made
        made.close()


def written(stores: Postgres) -> int:
    """How many writes the store says that it has had."""
    with stores.server.connect(stores.database) as connection:
        query = f"SELECT written FROM {stores.place.postgres.schema_name}.inferd_store"  # noqa: S608 - ours
        ((count,),) = connection.execute(query).fetchall()  # type: ignore[arg-type] # ours
    assert isinstance(count, int)
    return count


@settings(max_examples=15, deadline=None)
@given(
    made=st.lists(st.lists(WRITES, min_size=1, max_size=6), min_size=1, max_size=6),
    at=st.tuples(st.integers(0, 5), st.sampled_from([BEFORE_COMMIT, AFTER_COMMIT])),
)
def test_a_session_that_ends_at_any_point_loses_nothing(
    made: list[list[Write]], at: tuple[int, str], postgres: PostgresServer, shared: str
) -> None:
    """Wherever the server ends the session, each write is done once, all of it, in its order."""
    count = 0

    def cut(where: str) -> None:
        if (count, where) == at and not seen:
            seen.append(where)
            postgres.cut(shared)

    seen: list[str] = []
    stores = Postgres(postgres, shared, f"s{uuid.uuid4().hex}")
    with closing(stores.open(at_point=cut)) as store:
        for batch in made:
            store.write(batch)
            count += 1
        assert held(store) == model_of(write for batch in made for write in batch)
        assert written(stores) == len(made)
        assert store.check() == []


@pytest.mark.parametrize("cut", ["before", "half", "after"])
def test_a_commit_whose_answer_is_lost_is_looked_up_and_done_once(
    cut: str, stores: Postgres, proxy: CuttingProxy
) -> None:
    """Whether the server got it, got half of it or has done it: the write returns, is there, and was done once."""
    place = stores.place.model_copy(update={"url": f"postgresql://postgres@/{stores.database}?host={proxy.folder}"})
    with closing(PostgresStore(place)) as store, capture_logs() as logs:
        store.write([ONE])
        proxy.cuts += [cut]
        store.write([TWO, Append("", Kind.TASK, "t", 1, b"piece")])
        assert not proxy.cuts
        assert held(store) == {("", Kind.TASK, "t"): (b"2", [b"piece"])}
    assert written(stores) == 2
    assert [line["done"] for line in logs if "looked up" in line["event"]] == [cut == "after"]


def test_an_outcome_that_cannot_be_learned_is_told_so_and_learned_later(stores: Postgres, proxy: CuttingProxy) -> None:
    """While there is no server the write is refused as unknown; the next one goes on from what was done."""
    url = f"postgresql://postgres@/{stores.database}?host={proxy.folder}"
    chosen = {"lock_wait_s": 5.0, "outcome_wait_s": 0.0}
    with closing(PostgresStore(Settings(store={"url": url, "postgres": chosen}).store_place)) as store:
        proxy.cuts += ["after"]
        connect = store._server.connect

        def refuse() -> Any:
            raise StoreUnavailableError("no server", metadata={"cause": "a test"})

        store._server.connect = refuse  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError, match="is not known until") as caught:
            store.write([ONE])
        assert caught.value.metadata["outcome"] == "unknown"
        with pytest.raises(StoreUnavailableError, match="no server"):
            store.write([ONE])
        store._server.connect = connect  # type: ignore[method-assign]
        store.write([Put("", Kind.TASK, "u", b"3")])
        assert held(store) == {("", Kind.TASK, "t"): (b"1", []), ("", Kind.TASK, "u"): (b"3", [])}
        assert written(stores) == 2


def test_a_server_that_crashes_under_load_loses_no_write_and_does_none_twice(stores: Postgres) -> None:
    """Its processes are killed in the middle of writes, again and again: what returned is there, each number once.

    How many there were is what the store itself counts.
    """
    total, crashes, refused, done = 150, 3, 0, threading.Event()
    progress = threading.Condition()
    returned: list[int] = []

    def work(store: PostgresStore) -> None:
        nonlocal refused
        for number in range(total):
            for _ in range(1000):
                try:
                    store.write([Append("", Kind.TASK, "t", number, bytes(100)), Put("", Kind.TASK, "t", b"")])
                except StoreUnavailableError:
                    refused += 1
                    done.wait(0.02)
                else:
                    break
            with progress:
                returned.append(number)
                progress.notify_all()
        done.set()

    with closing(stores.open()) as store:
        store._where = stores.place.model_copy(
            update={"postgres": stores.place.postgres.model_copy(update={"lock_wait_s": 5.0})}
        )
        worker = threading.Thread(target=work, args=(store,), daemon=True)
        worker.start()
        for crash in range(crashes):
            with progress:
                assert progress.wait_for(lambda least=crash * 40 + 20: len(returned) >= least, 60)  # type: ignore[misc] # bound now
            stores.server.stop(signal.SIGINT if crash == 1 else signal.SIGQUIT)
            stores.server.start()
        assert done.wait(60)
        worker.join(LONG_S)
        assert len(list(store.pieces("", Kind.TASK, "t"))) == total
    assert (returned, written(stores)) == (list(range(total)), total)


def open_between(stores: Postgres, doing: Callable[[PostgresStore], None]) -> tuple[PostgresStore, PostgresStore]:
    """A store that has written and lost its session, and another one that has come meanwhile."""
    first = stores.open()
    first.write([ONE])
    stores.server.cut(stores.database)
    second = stores.open()
    doing(second)
    return first, second


def test_a_kernel_that_lost_its_session_writes_no_more_when_another_has_written(stores: Postgres) -> None:
    """While the other one has the store it is refused as in use, and afterwards for good: nothing of it is written."""
    first, second = open_between(stores, lambda store: store.write([TWO]))
    with pytest.raises(StoreUnavailableError, match="in use by process"):
        first.write([ONE])
    second.close()
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="another kernel has written it") as caught:
            first.write([ONE])
        assert caught.value.metadata["cause"] == "taken over"
    with pytest.raises(StoreUnavailableError, match="another kernel has written it"):
        held(first)
    first.close()
    with closing(stores.open()) as third:
        assert held(third) == {("", Kind.TASK, "t"): (b"2", [])}


def test_a_kernel_that_lost_its_session_goes_on_when_nobody_has_written(stores: Postgres) -> None:
    """One that only looked changes nothing: the first one is refused meanwhile, and then goes on."""
    first, second = open_between(stores, lambda store: store.check())
    with pytest.raises(StoreUnavailableError, match="in use by process"):
        first.write([TWO])
    second.close()
    first.write([TWO])
    assert held(first) == {("", Kind.TASK, "t"): (b"2", [])}
    first.close()


def test_a_session_that_shares_its_lock_is_found_out_by_its_writes(stores: Postgres) -> None:
    """Where the lock does not hold, as behind a pooler, one that another has written past is refused at its write."""
    first = stores.open()
    first.write([ONE])
    stores.run(first, "UPDATE inferd_store SET writer = 'another', written = written + 1")
    with pytest.raises(StoreUnavailableError, match="another kernel has written it"):
        first.write([TWO])
    assert written(stores) == 2
    first.close()


def test_a_server_that_lost_what_it_acknowledged_is_told(stores: Postgres) -> None:
    """After a failover to a standby that lacks writes the kernel says so, with both numbers, and adds nothing."""
    with closing(stores.open()) as store:
        for _ in range(3):
            store.write([ONE])
        stores.run(store, "UPDATE inferd_store SET written = written - 1")
        stores.server.cut(stores.database)
        with pytest.raises(StoreUnavailableError, match="has 2 writes and had acknowledged 3") as caught:
            store.write([TWO])
        assert caught.value.metadata["cause"] == "writes lost"


def test_what_is_not_answered_in_time_is_refused_and_done_when_it_can_be(
    stores: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that another session has locked, and a server that does not run on, hold a write no longer than said."""
    monkeypatch.setattr(postgres_session, "MARGIN_S", 0.3)
    url = stores.server.url(stores.database)
    chosen = {"answer_timeout_s": 0.3, "outcome_wait_s": 0.0, "lock_wait_s": 20.0}
    with closing(PostgresStore(Settings(store={"url": url, "postgres": chosen}).store_place)) as store:
        with stores.server.connect(stores.database) as connection, connection.transaction():
            connection.execute("LOCK TABLE inferd.records IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailableError, match=r"answer_timeout_s"):
                store.write([ONE])
        store.write([ONE])
        ((process,),) = store._fetch("SELECT pg_backend_pid()")
        os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailableError, match="no answer within"):
                store.write([TWO])
        finally:
            os.kill(process, signal.SIGCONT)
        store.write([TWO])
        assert held(store) == model_of([TWO])


def test_a_killed_process_leaves_its_store_to_the_next_one(stores: Postgres) -> None:
    """The lock of a process goes with its connection: the next one waits for that, no longer than it is told to."""
    code = (
        "import sys; from inferd.config import Settings; from inferd.store.postgres import PostgresStore;"
        "store = PostgresStore(Settings().store_place); print('opened', flush=True); sys.stdin.read()"
    )
    place = stores.place
    environment = {**os.environ, "INFERD_STORE__URL": place.url}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "opened\n" in iter(process.stdout.readline, "")  # behind what is logged
        with pytest.raises(StoreUnavailableError, match=f"in use by process {process.pid} on "):
            stores.open()
        process.kill()
        waits = place.postgres.model_copy(update={"lock_wait_s": 20.0})
        PostgresStore(place.model_copy(update={"postgres": waits})).close()


@pytest.mark.parametrize("lacks", [False, True])
def test_a_failover_is_gone_through_or_told(stores: Postgres, *, lacks: bool) -> None:
    """A store that is given both hosts goes on with the standby that was promoted, if that has all of it.

    Until then it is refused; and for good where the standby lacks what was acknowledged.
    """
    primary, standby = stores.server, PostgresServer(stores.server)
    try:
        url = f"{primary.url(stores.database)},{standby.folder}"
        with closing(PostgresStore(stores.place.model_copy(update={"url": url}))) as store:
            store.write([ONE])
            primary.wait_for_standby()
            if lacks:
                standby.stop()
                store.write([ONE])
            primary.stop()
            standby.start()
            with pytest.raises(StoreUnavailableError, match="read-only"):
                store.write([TWO])
            standby.promote()
            if lacks:
                with pytest.raises(StoreUnavailableError, match="has 1 writes and had acknowledged 2"):
                    store.write([TWO])
            else:
                store.write([TWO])
                assert held(store) == model_of([TWO])
    finally:
        standby.remove()
