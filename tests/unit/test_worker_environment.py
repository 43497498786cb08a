"""What of the kernel's environment those can read whose programs run in a worker."""

import os
from pathlib import Path

import pytest

from inferd.plugin import child
from inferd.runtime import local_launcher
from inferd.runtime.local_launcher import LocalLauncher
from inferd.runtime.sandboxing import group_bounds
from inferd.worker_settings import Workers
from inferd_api.worker.v1 import sandbox_pb2

WITHHELD = {
    "DATABASE_URL": "postgres://u:db_SECRET@h/d",
    "KUBECONFIG_DATA": "SECRET",
    "HTTPS_PROXY": "http://u:SECRET@p",
    "HF_TOKEN": "SECRET",
    "INFERD_STORE": "SECRET",
    "AWS_PROFILE": "SECRET",
}
GIVEN = {
    "PATH": os.environ.get("PATH", "/bin"),
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "0",
    "HF_HOME": "/h",
    "PYTHONPATH": "/p",
}


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (WITHHELD | GIVEN).items():
        monkeypatch.setenv(name, value)


def test_a_worker_is_given_variables_of_a_known_list() -> None:
    """Others stay out, whatever their names say; those that are named to it come in, but for secrets."""
    given = child.worker_environment()
    assert given.items() >= GIVEN.items()
    assert not any("SECRET" in value for value in given.values())
    named = child.worker_environment(("AWS_PROFILE", "HF_TOKEN", "INFERD_STORE"))
    assert named == {**given, "AWS_PROFILE": "SECRET"}


def test_what_the_configuration_names_comes_to_the_launcher() -> None:
    """`workers.variables` is what bounds a worker's environment on each host, and is empty where nothing is said."""
    for mode in (sandbox_pb2.SANDBOX_MODE_AUTO, sandbox_pb2.SANDBOX_MODE_OFF):
        limits = sandbox_pb2.SandboxLimits(mode=mode, variables=Workers(variables=("A_B",)).variables)
        assert group_bounds(limits).variables == ("A_B",)
    assert Workers().variables == ()


async def test_a_worker_is_started_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker was started with, which its programs find in /proc whatever it takes away, has none inside."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nexec cat /proc/self/environ > {tmp_path}/seen\n")
    program.chmod(0o755)
    monkeypatch.setattr(local_launcher.sys, "executable", str(program))
    launcher = LocalLauncher(tmp_path / "logs", frame_limit_bytes=1 << 20)
    worker = await launcher.launch("one", on_frame=lambda *_: None, on_closed=lambda *_: None)  # type: ignore[arg-type]
    await worker._process.wait()
    await worker.end(went=True, hangs=False)
    seen = (tmp_path / "seen").read_text()
    assert "OMP_NUM_THREADS=1" in seen
    assert "SECRET" not in seen
