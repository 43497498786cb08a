"""The run of the whole suite, by `tests/whole.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "whole.py"
ONCE = """
def test_{number}(tmp_path_factory):
    from pathlib import Path
    seen = Path(__file__).with_suffix(".{number}")
    first, _ = not seen.exists(), seen.touch()
    assert not first or {held}
"""


@pytest.mark.parametrize(
    ("tests", "status", "told"),
    [
        ([False, True], 0, "UNSTEADY test_it.py::test_0: failed beside others (above), passed alone"),
        ([False] * 11, 1, "11 tests failed, more than the 10 that are run again alone"),
    ],
)
def test_what_failed_is_run_once_more_and_named(tmp_path: Path, tests: list[bool], status: int, told: str) -> None:
    """What fails beside others and holds alone is named, and the run counts; of many that fail none is run again."""
    (tmp_path / "test_it.py").write_text("".join(ONCE.format(number=n, held=held) for n, held in enumerate(tests)))
    ran = run(tmp_path)
    assert (ran.returncode, told in ran.stdout) == (status, True), ran.stdout
    assert ran.stdout.count("UNSTEADY") == (1 if status == 0 else 0)


def test_what_fails_twice_fails_the_run(tmp_path: Path) -> None:
    """A test that fails alone, too, fails the suite."""
    (tmp_path / "test_it.py").write_text("def test_bad(): assert False\ndef test_good(): pass\n")
    ran = run(tmp_path)
    assert (ran.returncode, "UNSTEADY" in ran.stdout) == (1, False), ran.stdout


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """The suite of a folder of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "xdist.plugin",
    }  # the others take long to import
    return subprocess.run(
        [sys.executable, str(PROGRAM), "-c", os.devnull, "--rootdir", "."],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
