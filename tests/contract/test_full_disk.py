"""The store in SQLite when its disk takes nothing: at each single write to its files, and for a while."""

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from inferd.errors import StoreUnavailableError
from inferd.store.sqlite import SqliteStore
from inferd.store.store import Append, Drop, Kind, Put, Write

pytestmark = pytest.mark.filterwarnings(  # the library shows them besides
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


class Disk(apsw.VFS):
    """The files of databases, on a disk that is full from one of its operations on, for a number of them."""

    def __init__(self) -> None:
        self.count = 0
        self.full = range(0)
        super().__init__("full", "unix", makedefault=True)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> "DiskFile":  # noqa: N802 - the library's
        return DiskFile(self, name, flags)

    def come(self, error: type[apsw.Error]) -> None:
        """An operation that takes room, or tells that what was written is on the disk."""
        self.count += 1
        if self.count - 1 in self.full:
            raise error("there is no room")


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.come(apsw.FullError)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.come(apsw.IOError)
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.come(apsw.IOError)
        super().xTruncate(size)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """The disk of all databases that are opened."""
    made = Disk()
    yield made
    made.unregister()


BATCHES: list[list[Write]] = [
    [Put("t", Kind.TASK, str(number), bytes(3000)), Append("t", Kind.TASK, str(number), 1, bytes(9000))]
    for number in range(6)
]
BATCHES += [[Drop("t", Kind.TASK, "2"), Put("t", Kind.TASK, "1", b"new")], [Put("", Kind.MODEL, "m", bytes(40_000))]]


def held(store: SqliteStore) -> dict[str, tuple[bytes, list[bytes]]]:
    return {
        record.key: (record.value, list(store.pieces(record.tenant, kind, record.key)))
        for kind in (Kind.TASK, Kind.MODEL)
        for record in store.records(kind)
    }


def model_of(batches: list[list[Write]]) -> dict[str, tuple[bytes, list[bytes]]]:
    """What a store has that did these."""
    found: dict[str, tuple[bytes, list[bytes]]] = {}
    for write in (write for batch in batches for write in batch):
        match write:
            case Put():
                found[write.key] = (write.value, found.get(write.key, (b"", []))[1])
            case Append():
                found[write.key][1].append(write.value)
            case Drop():
                found.pop(write.key, None)
    return found


@pytest.mark.parametrize("operations", [1, 40])
def test_a_disk_that_is_full_at_any_operation_loses_nothing(disk: Disk, tmp_path: Path, operations: int) -> None:
    """Full at each single operation, or from there on for some: what was done is there, what was refused is not.

    The same writes are done when there is room, by the same store, and the next opener finds the file whole.
    """
    store = SqliteStore(tmp_path / "all")
    opened = disk.count
    for batch in BATCHES:
        store.write(batch)
    last = disk.count
    store.close()
    assert last - opened > 2 * len(BATCHES)
    refused: list[StoreUnavailableError] = []
    for place in range(0, last - opened, 2 if operations == 1 else 7):
        path = tmp_path / f"{operations}-{place}"
        store = SqliteStore(path)
        disk.full = range(disk.count + place, disk.count + place + operations)
        done: list[list[Write]] = []
        for batch in BATCHES:
            while True:
                try:
                    store.write(batch)
                except StoreUnavailableError as error:
                    refused.append(error)
                    assert held(store) == model_of(done)
                else:
                    done.append(batch)
                    break
        assert held(store) == model_of(BATCHES)
        store.close()
        again = SqliteStore(path, mends=False)
        assert (held(again), again.check()) == (model_of(BATCHES), [])
        again.close()
    assert len(refused) >= 10
    assert all(error.retry_after_s is not None and "disk" in error.message for error in refused)


def test_a_disk_that_is_full_when_a_store_is_opened_refuses_it(disk: Disk, tmp_path: Path) -> None:
    """At each operation of the first opening it is refused or opened; with room it is opened, and is whole."""
    SqliteStore(tmp_path / "all").close()
    most = disk.count
    refused = 0
    for place in range(most):
        disk.full = range(disk.count + place, disk.count + place + 1)
        try:
            SqliteStore(tmp_path / str(place)).close()
        except StoreUnavailableError:
            refused += 1
        disk.full = range(0)
        store = SqliteStore(tmp_path / str(place))
        store.write(BATCHES[0])
        assert (held(store), store.check()) == (model_of(BATCHES[:1]), [])
        store.close()
        assert not [path for path in tmp_path.iterdir() if "damaged" in path.name]
    assert refused > 3


def test_a_disk_that_is_full_when_a_store_is_closed_loses_nothing(disk: Disk, tmp_path: Path) -> None:
    """What was written is there when the disk took nothing of the last checkpoint."""
    store = SqliteStore(tmp_path / "s")
    for batch in BATCHES:
        store.write(batch)
    disk.full = range(disk.count, 1 << 30)
    store.close()
    disk.full = range(0)
    again = SqliteStore(tmp_path / "s", mends=False)
    assert (held(again), again.check()) == (model_of(BATCHES), [])
    again.close()
