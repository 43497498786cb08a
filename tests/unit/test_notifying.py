"""What a service manager is told, by a socket as that of systemd."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferd.notifying import Notices

DEADLINE_S = 30.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(DEADLINE_S)
        yield listening


def environment(manager: socket.socket, **besides: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), "PATH": "/bin", **besides}


def test_each_state_is_one_message_and_children_have_no_variable(manager: socket.socket) -> None:
    """Ready, status, reload and stop are told in the words of sd_notify; a line break in a status is none."""
    given = environment(manager, WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()))
    notices = Notices(given)
    assert given == {"PATH": "/bin"}
    assert notices.beat_s == pytest.approx(1.0)
    notices.ready("listens on a\nREADY=0")
    notices.reloading()
    notices.status("x" * 10_000)
    notices.stopping(5.0)
    told = [manager.recv(1 << 16).decode().split("\n") for _ in range(4)]
    assert told[0] == ["READY=1", "STATUS=listens on a READY=0"]
    assert told[1][0] == "RELOADING=1"
    assert told[1][1].removeprefix("MONOTONIC_USEC=").isdigit()
    assert len(told[2][0]) < 1000
    assert told[3][:2] == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=35000000"]


async def test_signs_of_life_come_from_the_loop(manager: socket.socket) -> None:
    """They come for as long as the block goes on, and none comes while the loop hangs."""
    manager.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_S), Notices(environment(manager, WATCHDOG_USEC="30000")).beating():
        for _ in range(3):
            assert await loop.sock_recv(manager, 100) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "given",
    [{}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"WATCHDOG_USEC": "30000"}],
    ids=["none", "other", "gone", "no socket"],
)
async def test_without_a_manager_nothing_is_told_and_nothing_fails(given: dict[str, str]) -> None:
    """A program in a terminal, or whose manager is gone, goes on as ever."""
    notices = Notices(given)
    async with notices.beating():
        notices.ready("")
        notices.stopping()


def test_signs_of_life_that_another_process_is_to_give_are_its_own(manager: socket.socket) -> None:
    """What its manager wants of another process this one does not give; an abstract socket is told as one."""
    assert Notices(environment(manager, WATCHDOG_USEC="3000000", WATCHDOG_PID="1")).beat_s == 0.0
    name = f"inferd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind(f"\0{name}")
        abstract.settimeout(DEADLINE_S)
        Notices({"NOTIFY_SOCKET": f"@{name}"}).status("here")
        assert abstract.recv(100) == b"STATUS=here"
