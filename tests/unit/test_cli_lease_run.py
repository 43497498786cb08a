"""However `inferd lease run` ends, no process goes on using what its lease does not hold any more."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from inferd.cli import program
from inferd.testing.kernel import kernel_process
from inferd_api.v1.lease_pb2 import LEASE_STATE_ACTIVE, LEASE_STATE_EXPIRED
from inferd_client import Client

pytestmark = pytest.mark.e2e
WAIT_S = 60
GIB = 1 << 30
PYTHON = (sys.executable, "-c")
STUBBORN = "import signal as s; [s.signal(n, s.SIG_IGN) for n in (s.SIGHUP, s.SIGINT, s.SIGQUIT, s.SIGTERM)];"
TELL = "import os; print(os.getpid(), flush=True);"
WAIT = "import time; time.sleep(600)"
FAMILY = f"{STUBBORN} import subprocess, sys; subprocess.Popen([sys.executable, '-c', {TELL + WAIT!r}]); {TELL} {WAIT}"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A kernel with 10 GiB."""
    environment = {"INFERD_BACKENDS": "cpu", "INFERD_DEVICES__MEMORY_BYTES": json.dumps({"cpu:0": 10 * GIB})}
    with kernel_process(tmp_path_factory.mktemp("kernel"), environment=environment) as kernel:
        yield kernel.address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def start(client: Client, tmp_path: Path) -> Iterator[Start]:
    """Starts `inferd lease run` in a session of its own; what a failed test leaves of it is killed."""
    begun: list[subprocess.Popen[str]] = []

    def start(
        *command: str, options: tuple[str, ...] = (), before: tuple[str, ...] = (), **more: Any
    ) -> "subprocess.Popen[str]":
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "inferd", "lease", "run", "--memory", "1GiB", *options, "--", *command],
            env={**os.environ, "INFERD_ADDRESS": client.address, "INFERD_CONFIG": str(tmp_path / "none.toml")},
            text=True,
            **(streams | {"start_new_session": True} | more),
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for member in family:
                member.kill()
        process.wait(WAIT_S)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def pids(process: "subprocess.Popen[str]", count: int) -> list[psutil.Process]:
    """The processes that told their ids."""
    assert process.stdout is not None
    return [psutil.Process(int(process.stdout.readline())) for _ in range(count)]


def active(client: Client) -> list[str]:
    return [lease.lease_id for lease in client.list_leases(states=[LEASE_STATE_ACTIVE])]


def assert_gone(processes: list[psutil.Process]) -> None:
    assert psutil.wait_procs(processes, timeout=WAIT_S)[1] == []


def tell_signal(number: signal.Signals) -> str:
    return f"import signal, sys; signal.signal({int(number)}, lambda n, _: sys.exit(n + 40)); {TELL} {WAIT}"


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_what_a_shell_or_a_service_sends_is_passed_on(start: Start, client: Client, name: str) -> None:
    """Each of these signals reaches the program, and what it makes of it is the exit code."""
    number = signal.Signals[name]
    process = start(*PYTHON, tell_signal(number))
    (program,) = pids(process, 1)
    process.send_signal(number)
    assert process.wait(WAIT_S) == number + 40
    assert_gone([program])
    assert active(client) == []


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT"])
def test_an_unhandled_signal_ends_the_program_and_the_lease(start: Start, client: Client, name: str) -> None:
    """A program that does not know the signal dies of it, which is told as shells do."""
    number = signal.Signals[name]
    process = start(*PYTHON, TELL + WAIT)
    members = pids(process, 1)
    process.send_signal(number)
    assert process.wait(WAIT_S) == 128 + number
    assert_gone(members)
    assert active(client) == []


def test_nohup_holds(start: Start) -> None:
    """A SIGHUP that is ignored at the start stays ignored, by the command and by the program."""
    process = start(*PYTHON, TELL + "input()", stdin=subprocess.PIPE, before=("nohup",))
    (program,) = pids(process, 1)
    process.send_signal(signal.SIGHUP)
    program.send_signal(signal.SIGHUP)
    process.communicate("\n", timeout=WAIT_S)
    assert process.returncode == 0


def test_after_sigkill_nothing_of_the_program_is_left(start: Start, client: Client) -> None:
    """When the command is killed its program, which ignores signals, and that one's child end before the lease."""
    process = start(*PYTHON, FAMILY, options=("--ttl", "60", "--grace", "0.2"))
    members = pids(process, 2)
    process.kill()
    assert_gone(members)
    assert active(client) != []
    client.release_lease(active(client)[0])


def test_a_killed_guard_takes_the_program_along(start: Start, client: Client) -> None:
    """The process between the command and the program may be killed too: program and child end, and it is told."""
    process = start(*PYTHON, FAMILY)
    members = pids(process, 2)
    (guard,) = psutil.Process(process.pid).children()
    guard.kill()
    assert_gone(members)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 137
    assert "guard of the program was killed" in errors
    assert active(client) == []


def test_a_stopped_command_does_not_keep_memory_for_its_program(start: Start, client: Client) -> None:
    """A command that is stopped keeps no lease alive; the program ends before its time is over, and 75 tells it."""
    process = start(*PYTHON, FAMILY, options=("--ttl", "3"), start_new_session=False, process_group=0)
    members = pids(process, 2)
    (lease_id,) = active(client)
    process.send_signal(signal.SIGSTOP)
    *_, last = client.watch_lease(lease_id)
    assert last.state == LEASE_STATE_EXPIRED
    assert [member for member in members if member.is_running() and member.status() != psutil.STATUS_ZOMBIE] == []
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 75, errors
    assert "is lost" in errors


async def test_what_a_guard_said_is_read_though_it_ended_before_it_read_an_order() -> None:
    """The connection is reset then, and not just closed: what the guard said counts all the same."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        ours.send(b"until 1\n")
        theirs.send(b"overdue\n")
        theirs.close()
        assert [words async for words in program._words(ours)] == [["overdue"]]


def test_a_program_that_ignores_the_loss_is_killed(start: Start, client: Client) -> None:
    """When the lease is taken away SIGKILL follows SIGTERM after the grace, for all that the program started."""
    process = start(*PYTHON, FAMILY, options=("--ttl", "1.8", "--grace", "0.2"))
    members = pids(process, 2)
    client.release_lease(active(client)[0])
    assert_gone(members)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 75


@pytest.mark.parametrize(("begin", "end"), [("", "&"), ("setsid", "&"), ("(", "&)")])
def test_what_a_program_leaves_behind_is_ended_with_it(start: Start, client: Client, begin: str, end: str) -> None:
    """A process in the background, even of a session of its own, does not outlive the lease."""
    process = start(
        "bash", "-c", f"{begin} {PYTHON[0]} -c '{TELL} {WAIT}' {end}\n read line; exit 5", stdin=subprocess.PIPE
    )
    members = pids(process, 1)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(WAIT_S) == 5
    assert_gone(members)
    assert process.stderr is not None
    assert "left behind" in process.stderr.read()
    assert active(client) == []


def test_a_program_that_cannot_be_run_is_told(start: Start, client: Client, tmp_path: Path) -> None:
    """A file that the system does not take as a program is exit code 126 with the system's words."""
    file = tmp_path / "no-program"
    file.write_bytes(b"\x00\x01")
    file.chmod(0o755)
    process = start(str(file))
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 126
    assert "Exec format error" in errors
    assert active(client) == []


def test_the_program_keeps_its_streams_and_signals(start: Start) -> None:
    """Stdin is the program's, and signals that Python ignores are as a shell would leave them."""
    code = "import signal, sys; print(sys.stdin.read()); sys.stdout.flush()"
    look = "grep SigIgn /proc/self/status"
    process = start("sh", "-c", f"{look}; {PYTHON[0]} -c '{code}'", stdin=subprocess.PIPE)
    out, _ = process.communicate("typed", timeout=WAIT_S)
    ignored, said, *_ = out.splitlines()
    assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0
    assert said == "typed"
    assert process.returncode == 0


def read_until(controller: int, what: bytes) -> None:
    """Read a terminal until what matches is on it."""
    drawn, deadline = b"", time.monotonic() + WAIT_S
    while not re.search(what, drawn, re.DOTALL):
        assert select.select([controller], [], [], deadline - time.monotonic())[0], drawn
        drawn += os.read(controller, 1 << 12)


def test_ctrl_z_and_ctrl_c_on_a_terminal(client: Client, tmp_path: Path) -> None:
    """Ctrl-Z stops the command and the program, `fg` lets both go on, and Ctrl-C is one SIGINT for the program."""
    code = (
        "import os, select, signal, sys; got = [];"
        "say = lambda text: os.write(1, f'{text}\\n'.encode());"  # whole, also where a signal comes in between
        "signal.signal(signal.SIGINT, lambda *_: (got.append(1), say('told')));"
        "signal.signal(signal.SIGCONT, lambda *_: say('goes on'));"
        "say('here')\n"
        "while not select.select([0], [], [], 0.05)[0]: pass\n"  # a signal just before a read would be told behind it
        "line = input(); say(f'read {line} {len(got)}'); sys.exit(4)"
    )
    environment = {
        **os.environ,
        "INFERD_ADDRESS": client.address,
        "INFERD_CONFIG": str(tmp_path / "none.toml"),
        "PS1": "READY ",
    }
    controller, terminal = pty.openpty()
    bash = ("setsid", "--ctty", "bash", "--norc", "--noprofile", "-i")
    file = tmp_path / "program.py"
    file.write_text(code)
    command = f"{sys.executable} -m inferd lease run --memory 1GiB -- {sys.executable} {file}"
    with subprocess.Popen(bash, env=environment, stdin=terminal, stdout=terminal, stderr=terminal):
        os.close(terminal)
        try:
            for typed, shown in (
                ("", b"READY "),
                (f"{command}\n", b"here\r"),
                ("\x1a", b"Stopped.*READY "),
                ("fg\n", b"goes on"),
                ("\x03", b"told"),
                ("typed\n", b"read typed 1\r.*READY "),
                ("echo $((1000+$?))\n", b"1004\r.*READY "),
            ):
                os.write(controller, typed.encode())
                read_until(controller, shown)
        finally:
            os.close(controller)  # the shell and its jobs get SIGHUP
    assert active(client) == []
