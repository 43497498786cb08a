"""A client in another language, made from the proto files alone."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs
import pytest

from inferd.testing.kernel import KernelProcess

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
