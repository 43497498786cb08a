import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_mypy_knows_the_options_of_the_client() -> None:
    """Every right call of the client passes mypy, and it finds every wrong keyword and value."""
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(Path(__file__).parent / "client_calls.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
