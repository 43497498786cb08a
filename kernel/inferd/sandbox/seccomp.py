"""A filter of system calls: a program of the classic Berkeley packet filter, which the system runs before each call."""

import ctypes
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from errno import EINVAL, ENOSYS, EPERM
from typing import Final

from inferd.sandbox.syscalls import LAST_KNOWN, allowed, numbers
from inferd.sandbox.system import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, call, prctl

_ARCHES: Final = {1: 0xC000003E, 2: 0xC00000B7}  # AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64 of linux/audit.h
_SECCOMP: Final = {1: 317, 2: 277}
_FORKS: Final = {1: (57, 58), 2: ()}  # fork and vfork, which aarch64 has not
_LOAD, _IF, _IF_LEAST, _IF_MORE, _AND, _RETURN = 0x20, 0x15, 0x35, 0x25, 0x54, 0x06  # linux/bpf_common.h
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # linux/seccomp.h
_SET_FILTER: Final = 1
_ALL_THREADS: Final = 1  # SECCOMP_FILTER_FLAG_TSYNC
_SPECULATE: Final = 4  # SECCOMP_FILTER_FLAG_SPEC_ALLOW: else systems before 5.16 slow all that such a process computes
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # where they are in `struct seccomp_data`

_ALL_BITS: Final = 0xFFFFFFFF
_THREAD: Final = 0x10000  # CLONE_THREAD of linux/sched.h
_NAMESPACES: Final = 0x7E020000  # CLONE_NEW…
_UNIX, _STREAM, _TYPE = 1, 1, 0xF  # AF_UNIX, SOCK_STREAM; the bits of a socket's type that are no flags
_INTERNET: Final = (2, 10, 16)  # AF_INET, AF_INET6; AF_NETLINK, by which a library sees what network there is
_PROTOCOLS: Final = (0, 6)  # as the family has it, which is routes of AF_NETLINK; TCP
_OWNERS: Final = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to others, by way of a descriptor
_CONTROLS: Final = (0x5412, 0x541C, 0x8901, 0x8902)  # TIOCSTI, TIOCLINUX: another's input; FIOSETOWN, SIOCSPGRP

_Step = tuple[int, int, int, int]
"""Of the program: what to do, how many steps to leave out where a test holds and where not, a number."""


@dataclass(frozen=True, slots=True)
class Test:
    """A test of an argument of a call.

    Attributes:
        argument: Its place, from 0.
        values: It is one of them, in 32 bits: that is what the system reads of those that are tested.
        mask: Which of its bits count.
        turned: It is none of them.
        upper: Its upper 32 bits are meant.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = _ALL_BITS
    turned: bool = False
    upper: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of a call: it is allowed where all tests hold, else refused.

    Attributes:
        number: Of the call.
        tests: See above.
        refused: With this error, whatever the tests say; 0: with EPERM where one does not hold.
    """

    number: int
    tests: tuple[Test, ...] = ()
    refused: int = 0


def outer(column: int, *, network: bool, programs: bool, loopback: bool = False, listens: bool = False) -> bytes:
    """The filter that a process has from its beginning: no sockets, no programs, nothing of other processes.

    Args:
        column: Of this machine in `syscalls`.
        network: Whether it may make sockets of the internet's families after all; none with a path, in any case.
        loopback: Whether it may make those of the internet's families, in a network that leads nowhere.
        programs: Whether it may start programs.
        listens: Whether it may await connections, where it may use the network.
    """
    known = numbers(column)
    rules = {
        "clone3": Rule(known["clone3"], refused=ENOSYS),  # its flags cannot be seen here; libraries then use `clone`
        "clone": Rule(known["clone"], (Test(0, (0,), _NAMESPACES),)),
        "prlimit64": Rule(known["prlimit64"], (Test(0, (0,)),)),
        "sched_setaffinity": Rule(known["sched_setaffinity"], (Test(0, (0,)),)),  # of the thread itself alone
        "fcntl": Rule(known["fcntl"], (Test(1, _OWNERS, turned=True),)),
        "ioctl": Rule(known["ioctl"], (Test(1, _CONTROLS, turned=True),)),
        "socketpair": Rule(known["socketpair"], (Test(0, (_UNIX,)), Test(1, (_STREAM,), _TYPE))),  # no addresses
        "sendto": Rule(known["sendto"], (Test(4, (0,)), Test(4, (0,), upper=True))),  # none here, either
    }
    free = set(allowed(column).values())
    free |= {known[name] for name in ("prctl", "kill", "tkill", "tgkill", "pidfd_open")}
    if network:
        del rules["sendto"]
        # No AF_UNIX: Landlock does not cover sockets with a path, and its kernel takes who comes by one for its owner.
        rules["socket"] = Rule(known["socket"], (Test(0, _INTERNET),))
        free |= {known[name] for name in ("sendto", "connect", "bind", "sendmmsg", "recvmmsg")}
        free |= {known[name] for name in ("listen", "accept", "accept4") if listens}
    elif loopback:
        del rules["sendto"]
        rules["socket"] = Rule(known["socket"], (Test(0, _INTERNET), Test(2, _PROTOCOLS)))
        free |= {known[name] for name in ("sendto", "connect", "bind", "listen", "accept", "accept4")}
    if programs:
        free |= {known[name] for name in ("execve", "execveat", "setsid")} | set(_FORKS[column])
    return _assemble(column, rules.values(), free)


def inner(column: int, pid: int, *, forks: bool = False, kills: bool = False, sockets: bool = True) -> bytes:
    """The filter that a process gets once it is sealed, besides the outer one: it allows all that it does not name.

    Args:
        column: Of this machine.
        pid: Of the process, which may send signals to itself.
        forks: Whether it may make processes, and have descriptors of them.
        kills: Whether it may send signals by such descriptors, which others give it.
        sockets: Whether it may make the sockets that the outer one allows.
    """
    known = numbers(column)
    itself = () if forks else (Test(0, (pid,)),)  # what it forks inherits this, and has another number
    rules = [
        Rule(known["prctl"], (Test(0, (PR_SET_DUMPABLE, PR_SET_PDEATHSIG), turned=True),) if not forks else ()),
        Rule(known["tgkill"], itself),
        Rule(known["kill"], itself, refused=EPERM if forks else 0),
        Rule(known["tkill"], refused=EPERM),
        Rule(known["pidfd_send_signal"], refused=0 if kills else EPERM),
        Rule(known["clone"], () if forks else (Test(0, (_THREAD,), _THREAD),)),
        Rule(known["pidfd_open"], refused=0 if forks else EPERM),
    ]
    if not sockets:
        rules.append(Rule(known["socket"], refused=EPERM))
    return _assemble(column, rules, None)


def without(column: int, gone: Iterable[int]) -> bytes:
    """A filter that says of these calls that there are none: stands for an older system."""
    return _assemble(column, [Rule(number, refused=ENOSYS) for number in gone], None)


def install(program: bytes, column: int) -> None:
    """Hold all threads of this process, and its children, to a filter, besides those that they have.

    Raises:
        OSError: The system takes none.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.c_char_p(struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(code)))
    try:
        left = call(_SECCOMP[column], _SET_FILTER, _ALL_THREADS | _SPECULATE, header)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        left = call(_SECCOMP[column], _SET_FILTER, _ALL_THREADS, header)  # before Linux 4.17
    if left:
        raise OSError(EPERM, f"thread {left} cannot be held to a filter")


def _assemble(column: int, rules: Iterable[Rule], free: set[int] | None) -> bytes:
    """The program: rules first, then the free numbers and nothing else; without those, all other calls are allowed."""
    steps: list[_Step] = [
        (_LOAD, 0, 0, _ARCH),
        (_IF, 1, 0, _ARCHES[column]),
        (_RETURN, 0, 0, _KILL),  # calls of another machine, which have other numbers
        (_LOAD, 0, 0, _NUMBER),
    ]
    ruled = set()
    for rule in rules:
        block = _block(rule)
        steps += [(_IF, 0, len(block), rule.number), *block]
        ruled.add(rule.number)
    if free is None:
        steps.append((_RETURN, 0, 0, _ALLOW))
    else:
        for first, last in _ranges(free - ruled):
            steps += [(_IF_LEAST, 0, 2, first), (_IF_MORE, 1, 0, last), (_RETURN, 0, 0, _ALLOW)]
        steps += [
            (_IF_MORE, 0, 1, LAST_KNOWN),
            (_RETURN, 0, 0, _ERRNO | ENOSYS),
            (_RETURN, 0, 0, _ERRNO | EPERM),
        ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def _block(rule: Rule) -> list[_Step]:
    """The steps for one call, which end with an answer each."""
    if rule.refused:
        return [(_RETURN, 0, 0, _ERRNO | rule.refused)]
    tests = [_steps(test) for test in rule.tests]
    block: list[_Step] = []
    for steps in tests:
        block += steps
    return [*_linked(block), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | EPERM)]


_PASS, _FAIL = -1, -2  # where a step leads, until it is known how far that is


def _steps(test: Test) -> list[_Step]:
    place = _ARGUMENTS + 8 * test.argument + (4 if test.upper else 0)
    steps: list[_Step] = [(_LOAD, 0, 0, place)]
    if test.mask != _ALL_BITS:
        steps.append((_AND, 0, 0, test.mask))
    for left, value in zip(reversed(range(len(test.values))), test.values, strict=True):  # `left` values behind it
        steps.append((_IF, _FAIL, 0, value) if test.turned else (_IF, left, _FAIL if left == 0 else 0, value))
    return steps


def _linked(block: list[_Step]) -> list[_Step]:
    """Have the steps that fail lead to the second one behind the block."""
    size = len(block)
    return [
        (code, *(size - at if way == _FAIL else way for way in (held, failed)), number)  # type: ignore[misc]
        for at, (code, held, failed, number) in enumerate(block)
    ]


def _ranges(found: set[int]) -> list[tuple[int, int]]:
    """Numbers that follow each other, from the first to the last."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(found):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = ranges[-1][0], number
        else:
            ranges.append((number, number))
    return ranges
