"""Filters of system calls, on the machine that runs them: a few lines stand for that of the system."""

import struct
from errno import ENOSYS, EPERM

import pytest

from inferd.sandbox.seccomp import inner, outer, without
from inferd.sandbox.syscalls import LAST_KNOWN, allowed, numbers

ARCHES = {1: 0xC000003E, 2: 0xC00000B7}
ALLOWED, KILLED, FAILED = 0x7FFF0000, 0x80000000, 0x00050000
ME = 4711


def answer(program: bytes, column: int, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the system does with a call: 0 where it is carried out, else the error; -1 where the process ends."""
    given = [*arguments, *(6 - len(arguments)) * [0]]
    data = struct.pack("<IIQ6Q", number, ARCHES[column] if arch is None else arch, 0, *given)
    steps = list(struct.iter_unpack("<HBBI", program))
    register, at = 0, 0
    while True:
        code, held, failed, value = steps[at]
        at += 1
        match code:
            case 0x20:
                (register,) = struct.unpack_from("<I", data, value)
            case 0x54:
                register &= value
            case 0x15:
                at += held if register == value else failed
            case 0x25:
                at += held if register > value else failed
            case 0x35:
                at += held if register >= value else failed
            case 0x06:
                return {ALLOWED: 0, KILLED: -1}.get(value, value & 0xFFFF)
            case _:
                raise AssertionError(f"no such step: {code:#x}")


@pytest.mark.parametrize("column", [1, 2])
def test_each_call_that_is_allowed_is_carried_out_and_no_other(column: int) -> None:
    """What is named is, what is known besides fails with EPERM, and what is newer as on systems that have it not."""
    program = outer(column, network=False, programs=False)
    free, known = set(allowed(column).values()), numbers(column)
    judged = {
        known[name]
        for name in (
            *("prctl", "kill", "tkill", "tgkill", "pidfd_open", "clone", "prlimit64", "sendto", "sched_setaffinity"),
        )
    }
    for number in range(LAST_KNOWN + 100):
        if number in free | judged:
            assert answer(program, column, number) == 0, number
        elif number == known["clone3"] or number > LAST_KNOWN:
            assert answer(program, column, number) == ENOSYS, number
        else:
            assert answer(program, column, number) == EPERM, number
    assert answer(program, column, known["read"], arch=0x40000003) == -1  # of 32 bits, with other numbers
    assert len(program) // 8 < 4096  # the longest that the system takes


@pytest.mark.parametrize("column", [1, 2])
def test_calls_that_reach_others_by_their_arguments_are_refused(column: int) -> None:
    """Limits and cores of other processes, signals by descriptors, input of a terminal, addresses and name spaces."""
    program, known = outer(column, network=False, programs=False), numbers(column)

    def of(name: str, *arguments: int) -> int:
        return answer(program, column, known[name], *arguments)

    assert (of("prlimit64", 0), of("prlimit64", ME)) == (0, EPERM)
    assert (of("sched_setaffinity", 0), of("sched_setaffinity", ME)) == (0, EPERM)
    assert (of("fcntl", 1, 1), of("fcntl", 1, 8), of("fcntl", 1, 10), of("fcntl", 1, 15)) == (0, EPERM, EPERM, EPERM)
    assert (of("ioctl", 1, 0x5401), of("ioctl", 1, 0x5412), of("ioctl", 1, 1 << 32 | 0x5412)) == (0, EPERM, EPERM)
    assert (of("socketpair", 1, 1), of("socketpair", 1, 0x80001), of("socketpair", 1, 2)) == (0, 0, EPERM)
    assert (of("sendto", 1, 2, 3, 4, 0), of("sendto", 1, 2, 3, 4, 8), of("sendto", 1, 2, 3, 4, 1 << 40)) == (
        0,
        EPERM,
        EPERM,
    )
    assert (of("clone", 0x3D0F00), of("clone", 17), of("clone", 0x10000000), of("clone", 0x40000000)) == (
        0,
        0,
        EPERM,
        EPERM,
    )
    assert [of(name) for name in ("socket", "connect", "execve", "ptrace", "setsid", "inotify_init1", "unshare")] == [
        EPERM
    ] * 7


@pytest.mark.parametrize("column", [1, 2])
def test_ranks_have_sockets_of_an_empty_network_and_no_others(column: int) -> None:
    """With a loopback there are sockets of the internet's families and for routes, and none with a path.

    What works beside a worker has none of these, either.
    """
    program, known = outer(column, network=False, programs=False, loopback=True), numbers(column)
    socket = known["socket"]
    assert [answer(program, column, socket, family, 1, 0) for family in (2, 10, 16, 1, 17, 40)] == [0] * 3 + [EPERM] * 3
    assert [answer(program, column, socket, 16, 3, protocol) for protocol in (0, 6, 4, 12)] == [0, 0, EPERM, EPERM]
    for name in ("connect", "bind", "listen", "accept4", "sendto"):
        assert answer(program, column, known[name], 3, 0, 0, 0, 1) == 0, name
    assert answer(program, column, known["socketpair"], 1, 2) == EPERM
    assert answer(program, column, known["execve"]) == EPERM
    assert answer(inner(column, ME, forks=True, sockets=False), column, socket, 2, 1, 0) == EPERM


@pytest.mark.parametrize("column", [1, 2])
def test_who_may_use_the_network_has_no_sockets_with_a_path(column: int) -> None:
    """Landlock does not cover them, and who comes to a kernel by its own socket is its owner there."""
    program, known = outer(column, network=True, programs=False), numbers(column)
    assert [answer(program, column, known["socket"], family, 1, 0) for family in (2, 10, 16, 1, 40)] == [
        *[0] * 3,
        *[EPERM] * 2,
    ]
    assert answer(program, column, known["socket"], 2, 2, 17) == 0  # UDP, by which names are asked for
    assert [answer(program, column, known["socketpair"], 1, kind) for kind in (1, 2)] == [0, EPERM]
    assert answer(program, column, known["connect"], 3, 0, 0) == 0


@pytest.mark.parametrize("column", [1, 2])
def test_only_who_is_to_be_reached_awaits_connections(column: int) -> None:
    """Who may use the network connects to others; that others connect to it is another permission."""
    known = numbers(column)
    for listens, said in ((False, EPERM), (True, 0)):
        program = outer(column, network=True, programs=False, listens=listens)
        assert [answer(program, column, known[name], 3, 0, 0) for name in ("listen", "accept4")] == [said] * 2


@pytest.mark.parametrize("column", [1, 2])
def test_a_sealed_process_makes_threads_alone(column: int) -> None:
    """It forks no more, and signals nobody but itself, or what it has a descriptor of; what it forks from may fork."""
    known = numbers(column)
    sealed, stem = inner(column, ME, kills=True), inner(column, ME, forks=True)
    assert (answer(sealed, column, known["clone"], 0x3D0F00), answer(sealed, column, known["clone"], 17)) == (0, EPERM)
    assert (answer(stem, column, known["clone"], 17), answer(stem, column, known["pidfd_send_signal"])) == (0, EPERM)
    assert (answer(sealed, column, known["kill"], ME), answer(sealed, column, known["kill"], 1)) == (0, EPERM)
    assert (answer(sealed, column, known["tgkill"], ME), answer(sealed, column, known["tgkill"], 1)) == (0, EPERM)
    assert (answer(sealed, column, known["prctl"], 15), answer(sealed, column, known["prctl"], 4)) == (0, EPERM)
    assert answer(sealed, column, known["read"]) == 0  # the outer one decides of the rest


def test_a_call_that_is_not_there() -> None:
    """A filter that stands for an older system refuses what that had not, and nothing else."""
    program = without(1, (444,))
    assert (answer(program, 1, 444), answer(program, 1, 445)) == (ENOSYS, 0)
