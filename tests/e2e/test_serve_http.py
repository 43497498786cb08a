"""`inferd serve --http`: the gateway is a child of the kernel, and gone with it."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from inferd.testing.kernel import FAKE_PLUGIN

pytestmark = pytest.mark.e2e


def lines_of(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    yield from map(json.loads, process.stdout)


def test_the_gateway_lives_as_long_as_its_kernel(tmp_path: Path) -> None:
    """With the key that it made it answers, and the kernel's end is its own."""
    (tmp_path / "run").mkdir(mode=0o700)
    environment = {
        "INFERD_DATA_DIR": str(tmp_path / "data"),
        "INFERD_STATE_DIR": str(tmp_path / "state"),
        "INFERD_CONFIG": str(tmp_path / "none.toml"),
        "INFERD_PLUGIN_MODULES": json.dumps([FAKE_PLUGIN]),
        "INFERD_BACKENDS": "[]",
        "INFERD_METRICS_LISTEN": "",
    }
    kernel = subprocess.Popen(
        [*(sys.executable, "-m", "inferd", "serve", "--exit-with-parent", "-o", "json"), "--http", "127.0.0.1:0"],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        told = next(line for line in lines_of(kernel) if "url" in line)
        key = Path(told["key_file"]).read_text().strip()
        asked = urllib.request.Request(  # noqa: S310 - of this host
            f"{told['url']}/v1/models", headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 - as above
            assert json.load(answer) == {"object": "list", "data": []}
        gateway = psutil.Process(told["pid"])
        kernel.terminate()
        assert kernel.wait(60) == 0
        gateway.wait(60)
    finally:
        kernel.kill()
        kernel.wait()
        if kernel.stdout is not None:
            kernel.stdout.close()
