"""The whole suite, as `make test` runs it: what fails beside others is run once more, alone, and named.

Three processes share the tests, beside whatever else the machine does; some hundred tests start real processes. A test
that fails there and holds alone is *unsteady*: a race of the test, or a fault that only a busy machine shows. It is
named in the last lines, and what it said the first time is above them, so that somebody mends it. More than `MOST`
failures are no accident, and are not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

MOST: Final = 10
TESTS_FAILED: Final = 1  # pytest's exit status where all were run and some failed; others mean that it could not go on
CACHE: Final = Path(".pytest_cache/v/cache/lastfailed")


def main(arguments: list[str]) -> int:
    """Run pytest with these arguments, those that failed once more; gives the exit status of the last run."""
    pytest = [sys.executable, "-m", "pytest"]
    CACHE.unlink(missing_ok=True)  # of an earlier run
    status = subprocess.run([*pytest, *arguments], check=False).returncode
    failed = failures() if status == TESTS_FAILED else []
    if not failed:
        return status
    if len(failed) > MOST:
        tell(f"{len(failed)} tests failed, more than the {MOST} that are run again alone")
        return status
    tell(f"running again, alone: {len(failed)} that failed beside others")
    files = sorted({name.partition("::")[0] for name in failed})
    again = subprocess.run([*pytest, "-n", "0", "--last-failed", *files], check=False).returncode
    held = sorted(set(failed) - set(failures())) if again in (0, TESTS_FAILED) else []
    for name in held:
        tell(f"UNSTEADY {name}: failed beside others (above), passed alone")
    return again


def tell(line: str) -> None:
    """Say it, in its place among what pytest says."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def failures() -> list[str]:
    """The tests that failed in the last run, by pytest's own record of them."""
    try:
        return sorted(json.loads(CACHE.read_bytes()))
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
