"""Two machines: a kernel here and an agent in a network of its own, with TLS and an invitation; their link is cut."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from inferd.cli.cert_authority import CertAuthority
from inferd.testing.kernel import FAKE_PLUGIN, KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.model_pb2 import PlacementRules
from inferd_client import Client

IP = shutil.which("ip")
EXEC = [] if IP is None else [IP]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0 or IP is None, reason="networks are made by root, with `ip`"),
]
NAME = f"inferd-{os.getpid()}"
NEAR, FAR = f"inf{os.getpid()}a"[:15], f"inf{os.getpid()}b"[:15]
SUBNET = f"10.{200 + os.getpid() % 50}.{os.getpid() % 250}"
DEADLINE_S = 60.0
CUT_S = 1.0  # less than a host may be silent


def ip(*words: str) -> None:
    subprocess.run([*EXEC, *words], check=True, capture_output=True)


@contextmanager
def network() -> Iterator[None]:
    """A network of its own, with one link to it; skips where there may be none."""
    try:
        ip("netns", "add", NAME)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this system gives no network of its own: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", NAME)
        ip("addr", "add", f"{SUBNET}.1/24", "dev", NEAR)
        ip("link", "set", NEAR, "up")
        ip("-n", NAME, "addr", "add", f"{SUBNET}.2/24", "dev", FAR)
        ip("-n", NAME, "link", "set", FAR, "up")
        ip("-n", NAME, "link", "set", "lo", "up")
        yield
    finally:
        ip("netns", "delete", NAME)  # and its end of the link, which takes ours along


@contextmanager
def kernel(folder: Path) -> Iterator[KernelProcess]:
    """A kernel that listens on the link with TLS, and on a socket."""
    authority = CertAuthority.create(folder / "ca", name="test", days=1)
    _, cert_file, key_file = authority.issue(
        "kernel", hosts=[f"{SUBNET}.1"], uris=(), days=1, out=folder, replace=False
    )
    files = {"INFERD_TLS__CERT_FILE": str(cert_file), "INFERD_TLS__KEY_FILE": str(key_file), "INFERD_BACKENDS": "[]"}
    with kernel_process(folder / "kernel", environment=files, besides=(f"tls:{SUBNET}.1:0",)) as made:
        yield made


@contextmanager
def agent(folder: Path, kernel: KernelProcess, token: str = "") -> Iterator[subprocess.Popen[str]]:
    """An agent in that network, attached."""
    environment = {
        **{f"INFERD_{name}_DIR": str(folder / "agent" / name) for name in ("DATA", "STATE")},
        "INFERD_PLUGIN_MODULES": f'["{FAKE_PLUGIN}"]',
        "INFERD_BACKENDS": "[]",
    }
    words = ["--ca-file", str(folder / "ca" / "ca.pem"), "host", "--join", kernel.addresses[1], "--name", "b"]
    command = [*EXEC, "netns", "exec", NAME, sys.executable, "-m", "inferd", *words]
    process = subprocess.Popen(
        [*command, *(["--token-file", "-"] if token else [])],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(token)
        process.stdin.close()
        assert process.stdout.readline().startswith("host b is attached to tls:")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
        process.stdout.close()


def test_a_link_that_is_cut_and_an_agent_that_is_killed(tmp_path: Path) -> None:
    """A stream over a cut of the link goes on in one attempt; one whose agent is killed goes on when that is back."""
    with network(), kernel(tmp_path) as made, Client(made.address, timeout_s=DEADLINE_S) as client:
        path = write_fake_model(tmp_path, "far", step_s=0.005)
        with agent(tmp_path, made, client.create_invite("b").credential) as process:
            client.create_model("far", str(path), placement=PlacementRules(selector={"host": "b"}))
            mended = threading.Timer(CUT_S, ip, ("link", "set", NEAR, "up"))

            def cut() -> None:
                ip("link", "set", NEAR, "down")
                mended.start()

            assert run(client, cut) == ("la" * 400, [1])
            mended.join()
            assert process.poll() is None
            with ExitStack() as stack:

                def kill() -> None:
                    process.kill()
                    process.wait(DEADLINE_S)
                    stack.enter_context(agent(tmp_path, made))  # which has a credential of its own now

                assert run(client, kill) == ("la" * 400, [1, 2])


def run(client: Client, disturb: Callable[[], None]) -> tuple[str, list[int]]:
    """The text of a task that is disturbed soon after its first output, and its attempts."""
    text, attempts = "", []
    for event in client.run("far", "la", max_tokens=800, temperature=0):
        if event.WhichOneof("kind") in {"started", "resumed"}:
            attempts.append(event.started.attempt or event.resumed.attempt)
        before, text = text, text + event.output.text
        if text and not before:
            disturb()
    return text, attempts
