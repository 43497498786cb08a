"""Memory of the system that clients of this host share with the kernel: files in /dev/shm, each of its owner's making.

Nothing of it is mapped: its owner may shorten it at any time, which would end the kernel with SIGBUS.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.runtime.front.bounds import ByteBound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.inference_settings import Inference

FOLDER: Final = Path("/dev/shm")  # noqa: S108 - where the system has it  # nosec B108
KEY_FORM: Final = re.compile(r"/?([^/\0]{1,255})")
FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
FOR_ALL: Final = stat.S_IROTH | stat.S_IWOTH
MOST_NAME: Final = 256


class RegionNotFoundError(InvalidFieldError):
    """There is no such region."""

    code = "NOT_FOUND"


class RegionExistsError(InvalidFieldError):
    """There is a region of this name."""

    code = "ALREADY_EXISTS"


class RegionUnopenedError(InvalidFieldError):
    """Its memory is not there, or is none that may be opened: which of both is not told."""

    code = "INTERNAL"


class SystemMemory:
    """Owns the descriptor of a file in /dev/shm, which is closed with the last reference to this."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def told(self) -> os.stat_result:
        """What the system says of it now."""
        return os.fstat(self._fd)

    def __del__(self) -> None:
        os.close(self._fd)

    @property
    def size_bytes(self) -> int:
        """How large it is now."""
        return self.told().st_size

    def read(self, start: int, size_bytes: int) -> bytes:
        """So many bytes from there on; fewer where it ends before."""
        data = os.pread(self._fd, size_bytes, start)
        if len(data) in {0, size_bytes}:
            return data
        parts = [data]  # one call reads 2 GiB at most
        while (missing := size_bytes - sum(map(len, parts))) > 0 and parts[-1]:
            parts.append(os.pread(self._fd, missing, start + size_bytes - missing))
        return b"".join(parts)

    def write(self, start: int, data: bytes) -> None:
        """Write there.

        Raises:
            OSError: The system has no memory left.
        """
        view = memoryview(data)
        while view.nbytes:
            count = os.pwrite(self._fd, view, start)
            view, start = view[count:], start + count


@dataclass(frozen=True, slots=True)
class Region:
    """A part of such memory, under a name.

    Attributes:
        name: Of the tenant's choosing.
        key: The name of the memory, as it was given.
        start: Of its first byte in the memory.
        size_bytes: How many it has.
        memory: Where it is.
    """

    name: str
    key: str
    start: int
    size_bytes: int
    memory: SystemMemory

    def check(self, start: int, size_bytes: int, field: str) -> None:
        """Refuse bytes that are not inside.

        Raises:
            InvalidFieldError: They are not.
        """
        if start >= self.size_bytes:
            raise InvalidFieldError(
                f"Invalid offset for shared memory region: '{self.name}'; it is {start}, and the region has"
                f" {self.size_bytes} bytes",
                field=field,
            )
        if start + size_bytes > self.size_bytes:
            raise InvalidFieldError(
                f"Invalid offset + byte size for shared memory region: '{self.name}'; they are {start} and"
                f" {size_bytes}, and the region has {self.size_bytes} bytes",
                field=field,
            )

    def read(self, start: int, size_bytes: int, field: str) -> bytes:
        """So many bytes from there on, which were checked.

        Raises:
            InvalidFieldError: The memory has been shortened meanwhile.
        """
        data = self.memory.read(self.start + start, size_bytes)
        self._check_whole(start, size_bytes, len(data), field)
        return data

    def write(self, start: int, data: bytes, field: str) -> None:
        """Write there, which was checked.

        Raises:
            InvalidFieldError: The memory has been shortened meanwhile, or the system has none left.
        """
        have = self.memory.size_bytes - self.start - start
        self._check_whole(start, len(data), min(len(data), max(0, have)), field)
        try:
            self.memory.write(self.start + start, data)
        except OSError as error:
            raise InvalidFieldError(
                f"shared memory region '{self.name}' takes no {len(data)} bytes: {error.strerror}", field=field
            ) from None

    def _check_whole(self, start: int, size_bytes: int, have: int, field: str) -> None:
        if have < size_bytes:
            raise InvalidFieldError(
                f"shared memory region '{self.name}' has been shortened: of {size_bytes} bytes from {start} on there"
                f" are {have}; register it anew",
                field=field,
            )


@dataclass(slots=True)
class _Kept:
    """A file of which a tenant has regions: it is kept whole, and once, however many they are.

    Attributes:
        tenant: Whose regions they are; the file is no other tenant's meanwhile.
        memory: It.
        place: What is counted of it.
        size_bytes: How much that is: it may have become more.
        regions: How many there are.
    """

    tenant: str
    memory: SystemMemory
    place: ExitStack
    size_bytes: int
    regions: int = 0


class Regions:
    """The regions of all tenants, each of which sees its own. One writer: the loop.

    A file is of one tenant as long as that has regions of it, and counts with all its bytes, which it keeps.

    Args:
        chosen: Which memory may be opened, and how much.
        share: `scheduler.tenant_share`.
        folder: Where it is.
    """

    def __init__(self, chosen: Inference, *, share: float, folder: Path = FOLDER) -> None:
        self._allowed = chosen.shared_memory
        self._folder = folder
        self._regions: dict[tuple[str, str], Region] = {}  # by tenant and name
        self._places: dict[tuple[str, str], ExitStack] = {}
        self._kept: dict[tuple[int, int], _Kept] = {}  # by device and inode, which is no other file's while it is open
        self._count = ByteBound("inference.regions", chosen.regions, share, "region", "regions")
        self._bytes = ByteBound("inference.region_bytes", chosen.region_bytes, share, "region")

    @property
    def offered(self) -> bool:
        """Whether any memory may be opened."""
        return bool(self._allowed)

    def register(
        self, tenant: str, name: str, key: str, *, start: int, size_bytes: int, uid: int | None = None
    ) -> None:
        """Make a region known.

        Args:
            tenant: Whose it is to be.
            name: Of the tenant's choosing.
            key: The name of its memory.
            start: Of its first byte in the memory.
            size_bytes: How many it has.
            uid: The user of this host who asks, for whom nothing is opened that it could not open itself; None where
                that is not known.

        Raises:
            RegionExistsError: The tenant has one of this name.
            RegionUnopenedError: Its memory cannot be opened.
            InvalidFieldError: It has no name, or is not inside its memory.
            LimitExceededError: There are as many as may be.
        """
        if not 1 <= len(name) <= MOST_NAME:
            raise InvalidFieldError(f"name has {len(name)} characters; a region's has 1 to {MOST_NAME}", field="name")
        if (tenant, name) in self._regions:
            raise RegionExistsError(
                f"shared memory region '{name}' already in manager; unregister it first", field="name"
            )
        for each in list(self._kept):
            self._count_anew(each)
        memory = self._open(key)
        told = memory.told()
        inode, have = (told.st_dev, told.st_ino), told.st_size
        kept = self._kept.get(inode)
        own = uid in {None, 0, told.st_uid} or told.st_mode & FOR_ALL == FOR_ALL
        if not own or (kept is not None and kept.tenant != tenant):
            raise self._unopened(key)  # as if it were not there: whose it is is told to nobody
        if size_bytes < 1 or start + size_bytes > have:
            raise InvalidFieldError(
                f"failed to register shared memory region '{name}': invalid args; offset is {start}, byte_size"
                f" {size_bytes}, and its memory has {have} bytes",
                field="byte_size",
            )
        with ExitStack() as places:
            places.enter_context(self._count.place(tenant, 1))
            kept = self._keep(inode, tenant, memory, have)
            places.callback(self._let_go, inode)
            self._regions[tenant, name] = Region(name, key, start, size_bytes, kept.memory)
            self._places[tenant, name] = places.pop_all()

    def _keep(self, inode: tuple[int, int], tenant: str, memory: SystemMemory, size_bytes: int) -> _Kept:
        """A file of which there is one more region."""
        if (kept := self._kept.get(inode)) is None:
            place = ExitStack()
            place.enter_context(self._bytes.place(tenant, size_bytes))
            kept = self._kept[inode] = _Kept(tenant, memory, place, size_bytes)
        kept.regions += 1
        return kept

    def _let_go(self, inode: tuple[int, int]) -> None:
        kept = self._kept[inode]
        kept.regions -= 1
        if not kept.regions:
            del self._kept[inode]
            kept.place.close()

    def _count_anew(self, inode: tuple[int, int]) -> LimitExceededError | None:
        """A file that has grown counts with what it has now; where there is no room for that, it is given up."""
        kept = self._kept.get(inode)
        if kept is None or (more := kept.memory.size_bytes - kept.size_bytes) <= 0:
            return None
        try:
            kept.place.enter_context(self._bytes.place(kept.tenant, more))
        except LimitExceededError as error:
            for tenant, name in [key for key, region in self._regions.items() if region.memory is kept.memory]:
                self.unregister(tenant, name)
            error.message = f"its memory has grown by {more} bytes, and is registered no more: {error.message}"
            error.args = (error.message,)
            return error
        kept.size_bytes += more
        return None

    def _unopened(self, key: str) -> RegionUnopenedError:
        return RegionUnopenedError(
            f"Unable to open shared memory region: '{key[:256]}'; it must be the name of a file in {self._folder} that"
            " inference.shared_memory of the kernel's configuration allows, that is its user's or open to all, and of"
            " which no other tenant has a region",
            field="key",
        )

    def _open(self, key: str) -> SystemMemory:
        form = KEY_FORM.fullmatch(key)
        refusal = self._unopened(key)
        if form is None or form[1] in {".", ".."} or not any(fnmatchcase(form[1], each) for each in self._allowed):
            raise refusal
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                memory = SystemMemory(os.open(form[1], FLAGS, dir_fd=folder))
            finally:
                os.close(folder)
            told = memory.told()
        except (OSError, ValueError):
            raise refusal from None
        whose = told.st_uid == os.geteuid() or told.st_mode & FOR_ALL == FOR_ALL
        if not (stat.S_ISREG(told.st_mode) and whose):  # root opens what is others'
            raise refusal
        return memory

    def find(self, tenant: str, name: str, field: str) -> Region:
        """A tenant's region.

        Raises:
            RegionNotFoundError: There is none.
            LimitExceededError: Its memory has grown to more than may be registered.
        """
        if (region := self._regions.get((tenant, name))) is None:
            raise RegionNotFoundError(
                f"Unable to find shared memory region: '{name[:MOST_NAME]}'; register it first", field=field
            )
        told = region.memory.told()
        if (error := self._count_anew((told.st_dev, told.st_ino))) is not None:
            raise error
        return region

    def list(self, tenant: str) -> Mapping[str, Region]:
        """A tenant's regions, by name."""
        return {name: region for (whose, name), region in sorted(self._regions.items()) if whose == tenant}

    def unregister(self, tenant: str, name: str) -> None:
        """Forget a region, if there is one; "" for all of the tenant. What is under way of it comes to its end."""
        for each in [name] if name else self.list(tenant):
            if self._regions.pop((tenant, each), None) is not None:
                self._places.pop((tenant, each)).close()
