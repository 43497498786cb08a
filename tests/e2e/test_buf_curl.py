"""A kernel explains itself: a generic tool calls it through reflection, with no proto file given."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inferd.testing.kernel import KernelProcess

pytestmark = pytest.mark.e2e

BUF = Path(sys.executable).with_name("buf")
TIMEOUT_S = 60


def call(kernel: KernelProcess, folder: Path, method: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The responses to one call, made in a folder without proto files."""
    url, path = f"http://kernel/inferd.v1.{method}", kernel.address.removeprefix("unix:")
    command = [str(BUF), "curl", "--unix-socket", path, "--protocol", "grpc", "--http2-prior-knowledge"]
    command += ["-d", json.dumps(request), url]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert result.returncode == 0, result.stderr
    decoder, rest, responses = json.JSONDecoder(), result.stdout.strip(), []
    while rest:
        response, end = decoder.raw_decode(rest)
        responses.append(response)
        rest = rest[end:].lstrip()
    return responses


def test_run_task(kernel: KernelProcess, tmp_path: Path) -> None:
    """`buf curl` runs a task: its events come in order and the last one says how it ended."""
    spec = {"model": "fake", "chat": {"messages": [{"role": "user", "content": "hello"}]}}
    events = [response["event"] for response in call(kernel, tmp_path, "TaskService/RunTask", {"spec": spec})]
    assert "".join(event.get("output", {}).get("text", "") for event in events) == "hello"
    assert events[-1]["finished"]["state"] == "TASK_STATE_SUCCEEDED"
    sequences = [int(event["sequence"]) for event in events]
    assert sequences == sorted(set(sequences))


def test_unary(kernel: KernelProcess, tmp_path: Path) -> None:
    """`buf curl` reads a model."""
    (response,) = call(kernel, tmp_path, "ModelService/GetModel", {"name": "fake"})
    assert response["model"]["backend"] == "fake"
