"""`inferd top` on a terminal: it obeys keys, fits the terminal, and leaves it as it was."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_client import Client

pytestmark = pytest.mark.e2e
WAIT_S = 60

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A kernel that knows three models."""
    folder = tmp_path_factory.mktemp("kernel")
    with kernel_process(folder, environment={"INFERD_BACKENDS": "cpu"}) as kernel, Client(kernel.address) as client:
        for name in ("fake", "huge", "half"):
            client.create_model(name, str(write_fake_model(folder, name)))
        yield kernel.address


@pytest.fixture
def start(address: str, tmp_path: Path) -> Start:
    """Starts `inferd` on a terminal against the kernel."""
    own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}

    def start(*arguments: str, **streams: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "inferd", *arguments],
            env={**own, "INFERD_ADDRESS": address, "INFERD_CONFIG": str(tmp_path / "none.toml")},
            text=True,
            start_new_session=True,  # no terminal: signals come from this test only
            **({"stderr": subprocess.PIPE} | streams),
        )

    return start


def until_drawn(controller: int, words: bytes) -> bytes:
    """What a terminal is drawn until these words have come."""
    drawn, deadline = b"", time.monotonic() + WAIT_S
    while words not in drawn:
        assert select.select([controller], [], [], deadline - time.monotonic())[0], drawn
        drawn += os.read(controller, 1 << 16)
    return drawn


def test_top_obeys_keys_and_fits_a_terminal_that_changes(start: Start) -> None:
    """On a tiny terminal it is drawn within that; a larger one gets more; a pane that a key asks for has all."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 5, 30, 0, 0))
    with start("top", "--interval", "60", stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        try:
            drawn = until_drawn(controller, b"devices has the keys").decode()
            lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", drawn))
            assert max(map(len, lines)) <= 30
            assert "models" not in drawn
            fcntl.ioctl(controller, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
            process.send_signal(signal.SIGWINCH)
            until_drawn(controller, b"3 models ")
            os.write(controller, b"6\r")
            assert b"1 devices" not in until_drawn(controller, b"tasks has the keys").split(b"6 tasks")[-1]
            os.write(controller, b"q")
            with suppress(OSError):  # the other side is closed
                while os.read(controller, 1 << 16):
                    pass
            process.wait(WAIT_S)
        finally:
            process.kill()
    os.close(controller)
    assert process.returncode == 0


def test_top_on_a_terminal_ends_with_q(start: Start) -> None:
    """On a terminal the tables are drawn anew until `q` is typed; the terminal is as it was before."""
    controller, terminal = pty.openpty()
    with start("top", "--interval", "0.1", stdin=terminal, stdout=terminal) as process:
        os.close(terminal)
        drawn = b""
        deadline = time.monotonic() + WAIT_S
        while drawn.count(b"DEVICE") < 2:
            assert select.select([controller], [], [], deadline - time.monotonic())[0], drawn
            drawn += os.read(controller, 1 << 16)
        os.write(controller, b"q")
        while True:  # reads what is still drawn, so that the command is never held up
            try:
                if not os.read(controller, 1 << 16):
                    break
            except OSError:  # the other side is closed
                break
        process.wait(WAIT_S)
    os.close(controller)
    assert process.returncode == 0
