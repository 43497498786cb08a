"""A clean Debian, made by debootstrap: the wheel, the unit's command, completion and the manual there.

It needs root, debootstrap and a mirror (INFERD_DEBIAN_MIRROR); INFERD_WHEEL names a wheel that is built already, and
INFERD_DEBIAN_BASE a folder in which debootstrap has put a system with PACKAGES, which is copied.
"""

import os
import select
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELEASE = "bookworm"
MIRROR = os.environ.get("INFERD_DEBIAN_MIRROR", "http://deb.debian.org/debian")
PACKAGES = "bash-completion,ca-certificates,man-db,python3-venv,systemd"
AUTHORITIES = Path("/usr/local/share/ca-certificates")  # those that this machine trusts besides
PROGRAM = "/opt/inferd/bin/inferd"
DEADLINE_S = 120.0
BOOTSTRAP = shutil.which("debootstrap") or ""


def why_not() -> str:
    if os.geteuid():
        return "no root: a folder cannot be entered as a system"
    if not BOOTSTRAP and "INFERD_DEBIAN_BASE" not in os.environ:
        return "debootstrap is not installed"
    try:
        with urllib.request.urlopen(f"{MIRROR}/dists/{RELEASE}/Release", timeout=20):  # noqa: S310 - as it is named
            return ""
    except OSError as error:
        return f"the mirror {MIRROR} cannot be reached: {error}"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A system with the wheel in /opt/inferd, its units, users and folders."""
    if why := why_not():
        pytest.skip(why)
    root = tmp_path_factory.mktemp("debian")
    if base := os.environ.get("INFERD_DEBIAN_BASE"):
        run(["cp", "--archive", "--one-file-system", f"{base}/.", str(root)])
    else:
        run([BOOTSTRAP, "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(root), MIRROR])
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    for file in AUTHORITIES.glob("*.crt"):
        shutil.copy(file, root / "usr/local/share/ca-certificates")
    inside(root, "update-ca-certificates")
    wheel = Path(os.environ["INFERD_WHEEL"]) if "INFERD_WHEEL" in os.environ else built(root / "tmp")
    if wheel.parent != root / "tmp":
        shutil.copy(wheel, root / "tmp")
    inside(root, "python3", "-m", "venv", "/opt/inferd")
    inside(root, "/opt/inferd/bin/pip", "install", "-q", f"/tmp/{wheel.name}[http]")  # noqa: S108 - in there
    for unit in (ROOT / "deploy/systemd").glob("*.service"):
        shutil.copy(unit, root / "etc/systemd/system")
    for name, folder in (("sysusers", "sysusers.d"), ("tmpfiles", "tmpfiles.d")):
        shutil.copy(ROOT / f"deploy/systemd/inferd.{name}", root / f"usr/lib/{folder}/inferd.conf")
    inside(root, "systemd-sysusers")
    mounted = [("proc", root / "proc"), ("tmpfs", root / "run"), ("tmpfs", root / "dev/shm")]
    for kind, place in mounted:
        run(["mount", "-t", kind, kind, str(place)])
    yield root
    for _, place in mounted:
        run(["umount", str(place)])


def built(folder: Path) -> Path:
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)])
    return next(folder.glob("inferd-*.whl"))


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def entered(root: Path, *words: str, user: str = "") -> list[str]:
    """A command that runs in there, with nothing of this environment."""
    who = [f"--userspec={user}:{user}"] if user else []
    usual = ["PATH=/opt/inferd/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/var/lib/inferd", "LANG=C.UTF-8"]
    trusted = "PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
    return ["chroot", *who, str(root), "/usr/bin/env", "-i", *usual, trusted, *words]


def inside(root: Path, *words: str) -> str:
    return run(entered(root, *words))


def test_it_is_installed(debian: Path) -> None:
    """The program tells its version, and the doctor finds a backend that is ready, native or not."""
    assert inside(debian, PROGRAM, "--version").startswith("inferd ")
    assert "backend cpu: READY" in inside(debian, PROGRAM, "doctor")


def test_manual_and_completion_are_where_they_are_looked_for(debian: Path) -> None:
    """`man inferd-run` finds the page by the path of the program; bash completes by what the wheel brought."""
    assert "inferd run" in inside(debian, "man", "-P", "cat", "inferd-run")
    assert "inferd serve" in inside(debian, "man", "-P", "cat", "-l", "/opt/inferd/share/man/man1/inferd.1")
    script = "/opt/inferd/share/bash-completion/completions/inferd"
    asked = (
        f'. {script}; COMP_WORDS=(inferd tasks --wa); COMP_CWORD=2; _inferd_completion inferd; echo "${{COMPREPLY[@]}}"'
    )
    assert inside(debian, "bash", "-c", asked).split() == ["--watch"]
    assert "_INFERD_COMPLETE" in inside(debian, PROGRAM, "completion", "zsh")


def test_systemd_takes_the_units_as_they_are(debian: Path) -> None:
    """Programs, users and manual pages that the units name are there."""
    inside(
        debian, "systemd-analyze", "verify", *(f"{each}.service" for each in ("inferd", "inferd-host", "inferd-http"))
    )


def test_the_unit_s_command_serves(debian: Path) -> None:
    """ExecStart as it is written, as the unit's user and with its variables: READY, then SIGTERM ends it in order."""
    lines = (debian / "etc/systemd/system/inferd.service").read_text().splitlines()
    command = next(line.removeprefix("ExecStart=").split() for line in lines if line.startswith("ExecStart="))
    variables = [each for line in lines if line.startswith("Environment=") for each in line.partition("=")[2].split()]
    inside(debian, "install", "-d", "-o", "inferd", "-g", "inferd", "-m", "755", "/run/inferd", "/var/lib/inferd")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(debian / "run/notify"))
        (debian / "run/notify").chmod(0o666)
        told = ["NOTIFY_SOCKET=/run/notify", *variables]
        words = ["/usr/bin/env", *told, *command]
        log = debian / "tmp/log"
        with log.open("w") as written:
            kernel = subprocess.Popen(entered(debian, *words, user="inferd"), stdout=written, stderr=written)
        try:
            said, deadline = "", time.monotonic() + DEADLINE_S
            while "READY=1" not in said:
                if select.select([manager], [], [], 0.5)[0]:
                    said += manager.recv(1 << 16).decode()
                assert kernel.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
            assert (debian / "run/inferd/inferd.sock").is_socket()
            assert "cpu" in run(
                entered(debian, PROGRAM, "plugins", "--address", "unix:/run/inferd/inferd.sock", user="inferd")
            )
            kernel.terminate()
            assert kernel.wait(DEADLINE_S) == 0
        finally:
            kernel.kill()
            kernel.wait()
