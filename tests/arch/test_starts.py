"""How much is imported until something is there: each module is time that the first token waits for."""

import json
import os
import subprocess
import sys
from pathlib import Path

from inferd.testing.kernel import kernel_process, write_fake_model

IMPORTED = "import time:"
"""How Python begins the line of a module, see `python -X importtime`."""
MOST = {"the kernel until READY": 1480, "a worker until its model is loaded": 614, "inferd run until it ends": 712}
"""Modules, a tenth more than there were when each was measured last."""


def count(text: str) -> int:
    """Modules that a process told of."""
    return text.count(IMPORTED) - 1  # the first line is a heading


def test_starts_import_little(tmp_path: Path) -> None:
    """A kernel until it serves, a worker until it has answered, and `inferd run` import no more than they did."""
    model = write_fake_model(tmp_path, "parrot")
    with kernel_process(tmp_path, environment={"PYTHONPROFILEIMPORTTIME": "1"}) as kernel:
        found = {"the kernel until READY": count((tmp_path / "kernel.log").read_text())}
        run = subprocess.run(
            [sys.executable, "-m", "inferd", "run", str(model), "Polly", "--address", kernel.address],
            env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1", "INFERD_CONFIG": str(tmp_path / "none.toml")},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        (log,) = (tmp_path / "state/workers").glob("*parrot*.log")
        found["a worker until its model is loaded"] = count(log.read_text())
        found["inferd run until it ends"] = count(run.stderr)
    print(json.dumps(found))  # noqa: T201 - what the bounds are set from
    assert run.stdout == "Polly\n"
    assert {name: number for name, number in found.items() if number > MOST[name]} == {}
