"""The units of deploy/systemd: their commands run, and tell a service manager what it waits for."""

import grp
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from inferd.config import Settings
from inferd.testing.kernel import FAKE_PLUGIN, KernelProcess, kernel_process

pytestmark = pytest.mark.e2e

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
PROGRAM = "/opt/inferd/bin/inferd"
DEADLINE_S = 90.0
ANALYZE = shutil.which("systemd-analyze") or ""


def lines_of(unit: str, name: str) -> list[str]:
    """What a unit says of a name, a line each."""
    text = (UNITS / f"{unit}.service").read_text()
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def command_of(unit: str, variables: dict[str, str]) -> list[str]:
    """The command of a unit as systemd makes it: `${NAME}` is one word, `$NAME` none or several."""
    (line,) = lines_of(unit, "ExecStart")
    words: list[str] = []
    for word in shlex.split(line):
        if word.startswith("$") and not word.startswith("${"):
            words += variables.get(word[1:], "").split()
        else:
            words.append(variables[word[2:-1]] if word.startswith("${") else word)
    assert words[0] == PROGRAM
    return [sys.executable, "-m", "inferd", *words[1:]]


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    place = f"\0inferd-units-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(place)
        yield listening


@pytest.fixture
def place() -> Iterator[str]:
    """A folder that others may enter, as /run/inferd is."""
    with tempfile.TemporaryDirectory(prefix="units-") as folder:
        Path(folder).chmod(0o755)
        yield folder


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[KernelProcess]:
    with kernel_process(tmp_path / "kernel", environment={"INFERD_BACKENDS": "[]"}) as process:
        yield process


def wait_for(process: subprocess.Popen[bytes], manager: socket.socket, word: str, said: list[str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while word not in said:
        if select.select([manager], [], [], 0.5)[0]:
            said += manager.recv(1 << 16).decode().split("\n")
        elif process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(word)


@pytest.mark.parametrize("unit", ["inferd", "inferd-host", "inferd-http"])
def test_the_command_tells_that_it_serves_lives_and_ends(
    unit: str, tmp_path: Path, place: str, manager: socket.socket, request: pytest.FixtureRequest
) -> None:
    """READY comes once it serves, then signs of life; SIGTERM is STOPPING, its end is 0, and no child is left."""
    own, variables = {}, {}
    if unit != "inferd":
        kernel: KernelProcess = request.getfixturevalue("kernel")
        variables = {"KERNEL": kernel.address, "LABELS": "--label=zone=a --label=rack=b"}
    if unit == "inferd-http":
        own = {"INFERD_ADDRESS": kernel.address, "INFERD_HTTP__LISTEN": "127.0.0.1:0"}
    command = command_of(unit, variables)
    if unit == "inferd":
        command[command.index("inferd", 3)] = grp.getgrgid(os.getgid()).gr_name
        command += ["--listen", f"unix:{place}/k"]
    environment = {
        "INFERD_DATA_DIR": str(tmp_path / "data"),
        "INFERD_STATE_DIR": str(tmp_path / "state"),
        "INFERD_CONFIG": str(tmp_path / "none.toml"),
        "INFERD_PLUGIN_MODULES": json.dumps([FAKE_PLUGIN]),
        "INFERD_BACKENDS": "[]",
        "INFERD_METRICS_LISTEN": "",
        "NOTIFY_SOCKET": "@" + manager.getsockname()[1:].decode(),
        "WATCHDOG_USEC": "600000",
    }
    log = tmp_path / "log"
    with log.open("w") as written:
        process = subprocess.Popen(command, env={**os.environ, **environment, **own}, stdout=written, stderr=written)
    said: list[str] = []
    try:
        wait_for(process, manager, "READY=1", said)
        said.clear()
        wait_for(process, manager, "WATCHDOG=1", said)
        if lines_of(unit, "ExecReload"):
            process.send_signal(signal.SIGHUP)
            wait_for(process, manager, "RELOADING=1", said)
            wait_for(process, manager, "READY=1", said)
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        wait_for(process, manager, "STOPPING=1", said)
        assert process.wait(DEADLINE_S) == 0
        assert psutil.wait_procs(children, DEADLINE_S)[1] == []
    except (TimeoutError, AssertionError):
        pytest.fail(f"{unit} said {said}: {log.read_text()}")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("unit", ["inferd", "inferd-host", "inferd-http"])
def test_a_unit_names_users_and_settings_that_there_are(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user is one of sysusers, its variables are settings, and a kernel does not lose what its workers need."""
    users = [line.split()[1] for line in (UNITS / "inferd.sysusers").read_text().splitlines() if line.startswith("u ")]
    assert lines_of(unit, "User") == lines_of(unit, "Group")
    assert lines_of(unit, "User")[0] in users
    assert lines_of(unit, "Type") == ["notify"]
    assert lines_of(unit, "KillMode") == ["mixed"]  # else each worker gets SIGTERM before what it does has ended
    for line in lines_of(unit, "Environment"):
        for each in line.split():
            name, _, value = each.partition("=")
            monkeypatch.setenv(name, value)
    assert str(Settings().state_dir) == f"/var/lib/{lines_of(unit, 'StateDirectory')[0]}"
    if unit != "inferd-http":
        assert lines_of(unit, "RestrictNamespaces") == ["user net"]
        assert "landlock_restrict_self" in " ".join(lines_of(unit, "SystemCallFilter"))
        assert not lines_of(unit, "LimitCORE")  # the processes bound it themselves, lower than that lets them
        assert not lines_of(unit, "PrivateUsers")


@pytest.mark.skipif(not ANALYZE, reason="systemd-analyze is not here: units are not verified")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """The program that reads them finds nothing wrong in them, and calls their exposure no more than 2.5 of 10."""
    for unit in UNITS.glob("*.service"):
        text = unit.read_text().replace(PROGRAM, sys.executable)
        (tmp_path / unit.name).write_text("\n".join(each for each in text.splitlines() if "Documentation" not in each))
    files = sorted(map(str, tmp_path.glob("*.service")))
    done = subprocess.run([ANALYZE, "verify", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for file in files:
        judged = [ANALYZE, "security", "--offline=true", "--threshold=25", file]
        done = subprocess.run(judged, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
