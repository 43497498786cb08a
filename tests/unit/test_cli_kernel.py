"""Kernels that the command line starts: in the foreground, and private ones. No process may be left."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from inferd import __version__
from inferd.testing.kernel import FAKE_PLUGIN, write_fake_model

pytestmark = pytest.mark.e2e
WAIT_S = 60

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, unused_address: str) -> Start:
    """Starts `inferd` with folders of its own, the FakeBackend, and no kernel at its address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERD_")}
    environment |= {
        "INFERD_ADDRESS": unused_address,
        "INFERD_CONFIG": str(tmp_path / "none.toml"),
        "INFERD_DATA_DIR": str(tmp_path / "data"),
        "INFERD_STATE_DIR": str(tmp_path / "state"),
        "INFERD_BACKENDS": "[]",
        "INFERD_PLUGIN_MODULES": json.dumps([FAKE_PLUGIN]),
        "TMPDIR": str(tmp_path),
    }

    def start(*arguments: str, **other: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "inferd", *arguments],
            env=environment | other,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def private_pid(stderr: str) -> int:
    found = re.search(r"no kernel at \S+; started a private one \(pid (\d+)\)", stderr)
    assert found, stderr
    return int(found[1])


def test_serve_tells_where_it_listens_and_ends_in_order(start: Start, tmp_path: Path) -> None:
    """One line of JSON says that it serves, with its addresses and backends; SIGTERM ends it with 0."""
    with start("serve", "--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path}/k.sock", "-o", "json") as process:
        ready = json.loads(first_line(process))
        process.terminate()
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert (ready["version"], ready["pid"]) == (__version__, process.pid)
    tcp, unix = ready["addresses"]
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", tcp)
    assert unix == f"unix:{tmp_path}/k.sock"
    assert {"name": "fake", "state": "READY", "why": "", "fix": ""} in ready["backends"]


def test_serve_tells_people_one_line(start: Start, tmp_path: Path) -> None:
    """Without JSON the line is for people, and Ctrl-C ends the kernel with 0."""
    with start("serve", "--listen", "127.0.0.1:0", XDG_RUNTIME_DIR=str(tmp_path)) as process:
        line = first_line(process)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=WAIT_S)
    where = rf"\S+ and unix:{tmp_path}/inferd/inferd.sock"
    assert re.fullmatch(
        rf"inferd {__version__} listens on {where} \(0 models, backends: .*fake ready.*; keeps .*\)\n", line
    )
    assert "need a key: inferd keys create NAME --role user --write FILE; use it with" in " ".join(told.split())
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--listen", "0.0.0.0:0"], {}, "not on the loopback"),
        (["--listen", "mtls:unix:/tmp/x"], {}, "listen 'mtls:unix:/tmp/x' is not"),
        (["--listen", "nonsense"], {}, "not host:port, tls:host:port, mtls:host:port or unix:/path"),
        ([], {"INFERD_LIMITS__QUEUED_TASKS": "0"}, "'limits.queued_tasks'"),
        (["--config", "/none.toml"], {}, "does not exist"),
        (["--exit-with-parent", "--parent", "1"], {}, "has ended already"),
    ],
)
def test_serve_refuses_in_one_line(start: Start, arguments: list[str], environment: dict[str, str], said: str) -> None:
    """What cannot be served is an error line and exit code 1, without a traceback."""
    with start("serve", *arguments, **environment) as process:
        out, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert said in errors
    assert (out, "Traceback" in errors) == ("", False)


def test_a_taken_address_is_told(start: Start, scripted: Any) -> None:
    """A second kernel at the same address is refused with the likely cause."""
    with start("serve", "--listen", scripted.address, "-o", "json") as process:
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "is another kernel running?" in json.loads(out)["error"]["message"]


@pytest.mark.parametrize("nobody", ["", "unix:{}/none"], ids=["port", "socket"])
def test_run_starts_a_private_kernel_and_ends_it(start: Start, tmp_path: Path, nobody: str) -> None:
    """Where no kernel runs one is started, said so, used, and gone with its folder when the answer is there."""
    model = write_fake_model(tmp_path, "parrot")
    address = {"INFERD_ADDRESS": nobody.format(tmp_path)} if nobody else {}
    with start("run", str(model), "Polly wants a cracker", **address) as process:
        out, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    assert out == "Polly wants a cracker\n"
    assert not psutil.pid_exists(private_pid(errors))
    assert errors.splitlines()[-1].startswith("TTFT ")
    assert list(tmp_path.glob("inferd-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_run_ends_no_process_is_left(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and SIGKILL in mid-answer take the private kernel and its worker along."""
    model = write_fake_model(tmp_path, "parrot", step_s=0.01, context_tokens=16384, blocks=2048)
    with start("run", "--raw", str(model), "la la ") as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == "la la "
        family = psutil.Process(process.pid).children(recursive=True)
        assert not [each for one in family for each in one.net_connections("inet")]  # it takes no port from others
        process.send_signal(number)
        process.communicate(timeout=WAIT_S)
    assert len(family) >= 2
    assert psutil.wait_procs(family, timeout=WAIT_S)[1] == []
    if number is signal.SIGINT:
        assert process.returncode == 130
        assert list(tmp_path.glob("inferd-*")) == []


def test_a_start_looks_for_plugins_once(start: Start, tmp_path: Path) -> None:
    """What was found beside the imports of a kernel is what it serves with: no plugin is probed a second time."""
    (tmp_path / "counted.py").write_text(
        f"from inferd.testing.plugin import *\nopen({str(tmp_path / 'probed')!r}, 'a').write('once ')\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "INFERD_PLUGIN_MODULES": json.dumps(["counted"])}
    with start("serve", "--listen", f"unix:{tmp_path}/k", "-o", "json", **environment) as process:
        ready = json.loads(first_line(process))
        process.terminate()
        process.communicate(timeout=WAIT_S)
    assert "READY" in [each["state"] for each in ready["backends"]]
    assert (tmp_path / "probed").read_text() == "once "


def test_a_private_kernel_that_cannot_start_says_why(start: Start, tmp_path: Path) -> None:
    """The kernel's own words are the error of `inferd run`."""
    model = write_fake_model(tmp_path)
    with start("run", str(model), "x", INFERD_LIMITS__QUEUED_TASKS="0") as process:
        _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "the private kernel did not start" in errors
    assert "'limits.queued_tasks'" in errors
