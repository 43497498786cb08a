"""The walls that are neither Landlock nor a filter: an empty network, no capabilities, bounds of a process."""

import ctypes
import fcntl
import os
import resource
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from inferd.sandbox.system import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, call, prctl, unshare

_NEW_USER: Final = 0x10000000  # CLONE_NEWUSER, linux/sched.h
_NEW_NETWORK: Final = 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP; see netdevice(7)
_FLAGS: Final = struct.Struct("16sh22x")  # `struct ifreq`
_CAPSET: Final = {1: 126, 2: 91}
_CAPABILITIES: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_READ_ALL: Final = 1 << 2  # CAP_DAC_READ_SEARCH
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR: Final = 4
_MOST_CAPABILITIES: Final = 64
_STACK_BYTES: Final = 16 << 20  # of two threads
_OWN_GROUP: Final = "inferd-{}-"  # how the names of control groups begin that a kernel makes: with its process id
_FIRST_VICTIM: Final = "500"  # of 1000: where memory runs out, a worker ends before its kernel


def empty_network() -> bool:
    """Have this process, and its children, in a network that has nothing; whether that could be.

    Root needs nothing else for it. Others need a name space of users, in which a process has one thread: it has all
    capabilities there, until they are dropped, and its own user and group alone.
    """
    with suppress(OSError):
        unshare(_NEW_NETWORK)
        return True
    user, group = os.getuid(), os.getgid()
    with suppress(OSError):
        unshare(_NEW_USER | _NEW_NETWORK)
        with suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
        with suppress(OSError):
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        return True
    return False


def raise_loopback() -> bool:
    """Have an empty network lead to itself, so that processes in it reach each other; whether it does."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = fcntl.ioctl(sock, _GET_FLAGS, _FLAGS.pack(b"lo", 0))
        fcntl.ioctl(sock, _SET_FLAGS, _FLAGS.pack(b"lo", _FLAGS.unpack(asked)[1] | _UP))
        return True
    return False


def drop_capabilities(column: int | None, *, reads_all: bool) -> None:
    """Have none, for this thread and its children, nor get any back by starting a program.

    Args:
        column: Of this machine; None drops what can be dropped without its numbers.
        reads_all: Whether root may read files of others after all, where Landlock says which.

    Raises:
        OSError: The system does not drop them.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(_MOST_CAPABILITIES):
        with suppress(OSError):  # without the right to, or there is none of this number
            prctl(_PR_CAPBSET_DROP, capability)
    with suppress(OSError):
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR)
    if column is None:
        return
    kept = _READ_ALL & _effective() if reads_all else 0
    header = ctypes.c_char_p(struct.pack("<Ii", _CAPABILITIES, 0))
    call(_CAPSET[column], header, ctypes.c_char_p(struct.pack("<IIIIII", kept, kept, 0, 0, 0, 0)))


def _effective() -> int:
    """The capabilities of this thread; see proc(5)."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def hide() -> None:
    """Let no other process of the same user look into this one, nor a core of it be written."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)


def go_first() -> None:
    """Have the system end this process before others when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_VICTIM)


def bound_files(most_bytes: int) -> None:
    """Bound the size of each file that this process writes."""
    with suppress(OSError, ValueError):  # there is a lower bound
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))


def bound_memory(most_bytes: int) -> None:
    """Bound what this process writes to memory of its own, beyond what it has now; it cannot take that back.

    It is `RLIMIT_DATA`: neither files that are mapped nor addresses that are only reserved count, but stacks of threads
    do, whose size hardly any uses: there is room for those of two threads for each core.

    Raises:
        OSError: The system does not.
    """
    most = _data_bytes() + most_bytes + len(os.sched_getaffinity(0)) * _STACK_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _data_bytes() -> int:
    """What counts for `RLIMIT_DATA` now; see proc(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0


def bound_threads(most: int) -> bool:
    """Bound the threads and processes of this one and its children; whether the system holds it to that.

    A control group does, in which the kernel has put it. Else `RLIMIT_NPROC` does for users in a name space of their
    own, where it counts what is there, and not for root.
    """
    if _group_limit("pids", "pids.max") <= most:
        return True
    if os.getuid() == 0 or not _alone():
        return False
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        return True
    return False


def _alone() -> bool:
    """Whether this process has a name space of users of its own: one where a single user is known."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/uid_map").read_text().split()[2]) == 1
    return False


def memory_is_bounded() -> bool:
    """Whether a control group of its own leaves the machine some memory, whatever this process holds of it and how."""
    with suppress(OSError, ValueError, IndexError):
        machine_bytes = int(Path("/proc/meminfo").read_text().split()[1]) << 10  # its first line, see proc(5)
        return _group_limit("memory", "memory.max", "memory.limit_in_bytes") < machine_bytes
    return False


def _group_limit(controller: str, *names: str, root: Path = Path("/")) -> float:
    """The limit of the control group that its kernel has put this process into; infinite where there is none.

    What it inherits from its kernel is none: it could leave that one nothing.
    """
    own = _OWN_GROUP.format(os.getppid())
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            folder = Path(root, "sys/fs/cgroup", controller if controllers else "", group.lstrip("/"))
            for name in names if folder.name.startswith(own) else ():
                with suppress(OSError, ValueError):
                    return int((folder / name).read_text())
    return float("inf")
