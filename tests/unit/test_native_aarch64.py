"""The path for aarch64, cross-compiled and run under an emulator."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "plugins/inferd_cpu/native/build.py"
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = next(filter(shutil.which, ("qemu-aarch64", "qemu-aarch64-static")), None)

pytestmark = [
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"{COMPILER} is not installed"),
    pytest.mark.skipif(EMULATOR is None, reason="qemu-aarch64 is not installed"),
    pytest.mark.timeout(300),
]


def test_neon_gives_what_plain_gives() -> None:
    """The check of the products passes on aarch64, with NEON's dot products among the paths that run."""
    program = ROOT / "build" / "check_linear.aarch64"
    command = [sys.executable, BUILD, "--target", "aarch64", "--program", "check_linear", "--out", program]
    built = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "neon" in built.stdout
    assert EMULATOR is not None
    done = subprocess.run([EMULATOR, "-cpu", "max", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "neon" in done.stdout
