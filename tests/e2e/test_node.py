"""A client in another language, made from the proto files alone."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs
import pytest

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_client import Client

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed"),
]

SOURCE = Path(__file__).with_name("node")
INCLUDES = (Path(__file__).parents[2] / "protos",)
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program beside its packages, which are installed once and cached outside the tree."""
    wanted = SOURCE / "package.json"
    cache = platformdirs.user_cache_path("inferd-tests")
    installed = cache / f"node-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:16]}"
    if not installed.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            fresh = Path(unfinished) / "fresh"
            fresh.mkdir()
            shutil.copy(wanted, fresh)
            install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
            subprocess.run(install, cwd=fresh, check=True, timeout=100)
            fresh.rename(installed)
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(installed / "node_modules")
    shutil.copy(SOURCE / "call.mjs", folder)
    return Path(shutil.copy(SOURCE / "chat.mjs", folder))


def chat(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["node", str(program), *arguments, *map(str, INCLUDES)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


def test_chat(kernel: KernelProcess, program: Path) -> None:
    """A Node.js program of under 60 lines streams a chat."""
    assert len((SOURCE / "chat.mjs").read_text().splitlines()) < 60
    result = chat(program, kernel.address, "fake", "Grüße, 世界 🐢")
    assert (result.returncode, result.stdout) == (0, "Grüße, 世界 🐢"), result.stderr
    assert "TASK_STATE_SUCCEEDED FINISH_REASON_END_OF_TEXT" in result.stderr


def test_error(kernel: KernelProcess, program: Path) -> None:
    """A Node.js program sees the canonical code and the message of an error."""
    result = chat(program, kernel.address, "fak", "hello")
    assert result.returncode == 1
    assert result.stderr.startswith("NOT_FOUND")
    assert "fake" in result.stderr


def test_a_function_of_a_package_that_asks_a_model(tmp_path: Path, program: Path) -> None:
    """A package of 20 lines with a function that asks a model is discovered, and called by a Node.js program."""
    source = Path(__file__).parents[2] / "examples/functions_of_models/moods.py"
    assert len(source.read_text().splitlines()) <= 22
    site = tmp_path / "site"
    metadata = site / "moods-1.0.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: moods\nVersion: 1.0.0\n")
    (metadata / "entry_points.txt").write_text("[inferd.functions]\nmoods = moods\n")
    shutil.copy(source, site)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "INFERD_FUNCTIONS__PACKAGES": '["moods"]'}
    with kernel_process(tmp_path / "kernel", environment=environment) as kernel, Client(kernel.address) as client:
        client.create_model("fake", str(write_fake_model(tmp_path, "fake")))
        called = program.with_name("call.mjs")
        given = json.dumps({"text": "gggg", "model": "fake"})
        result = chat(called, kernel.address, "mood", given)
        assert (result.returncode, result.stderr.split()) == (0, ["TASK_STATE_SUCCEEDED", "1", "asked"]), result.stderr
        assert json.loads(result.stdout) in ("glad", "sad")
        refused = chat(called, kernel.address, "mood", json.dumps({"text": "x", "model": "none"}))
        assert refused.returncode == 1
        assert "NOT_FOUND function 'mood': no model 'none'" in refused.stderr
