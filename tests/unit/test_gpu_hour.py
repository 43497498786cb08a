"""The script for a GPU's first hour, on the processor and with scripts in place of its phases."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "gpu"
sys.path.append(str(FOLDER))

from gpu_hour import PHASES, Hour, Phase, table  # noqa: E402 - it lies beside the tests for GPUs

SCRIPT = """
import sys
for line in iter(sys.stdin.readline, ""):
    name = line.split()[0]
    print('{"name": "%s", "value": 1}' % name, flush=True)
    if name == "dies":
        sys.exit(3)
    if name == "hangs":
        sys.stdin.read()
    print('{"event": "over"}', flush=True)
"""


def run(folder: Path, *phases: Phase, seconds: float = 60.0) -> list[dict[str, Any]]:
    script = folder / "phases.py"
    script.write_text(SCRIPT)
    hour = Hour(seconds, None, dry=False, script=script)
    hour.run(list(phases))
    return hour.lines


def test_a_phase_that_dies_or_is_late_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What died and what hung is told, and each phase behind it runs, in a new process."""
    monkeypatch.setattr("gpu_hour.GRACE_S", 0.2)
    monkeypatch.setattr("gpu_hour.STARTING_S", 0.5)
    lines = run(tmp_path, Phase("one", 9), Phase("dies", 9), Phase("hangs", 0.1), Phase("last", 9, alone=True))
    ended = [(line["phase"], line["event"]) for line in lines if line.get("event") not in {None, "begun"}]
    assert ended == [("one", "over"), ("dies", "died"), ("hangs", "late"), ("last", "over")]
    assert next(line for line in lines if line.get("event") == "died")["detail"] == "exit code 3"
    assert [line["name"] for line in lines if "value" in line] == ["one", "dies", "hangs", "last"]
    assert "dies                                                died  exit code 3" in table(lines)


def test_a_phase_that_has_no_time_left_is_skipped(tmp_path: Path) -> None:
    """Where less is left than a phase takes at least, it is not begun, and that is told."""
    lines = run(tmp_path, Phase("one", 9), Phase("long", 900, least_s=100))
    assert [(line["phase"], line["event"]) for line in lines if "event" in line][-1] == ("long", "skipped")


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed: pip install 'inferd[torch]'")
def test_the_hour_runs_on_a_processor(tmp_path: Path) -> None:
    """All phases run with tiny networks, without what a bare machine lacks, each figure a line, and none fails."""
    words = [sys.executable, FOLDER / "gpu_hour.py", "--dry", "--out", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines if line.get("event") == "over"] == [phase.name for phase in PHASES]
    figures = {line["name"]: line["value"] for line in lines if "value" in line}
    assert not [name for name, value in figures.items() if value == "none" and name != "triton"]
    assert figures["greedy.llama"] == figures["greedy.qwen3"] == 1.0
    assert figures["replay.b3"] < 1e-3
    assert figures["bad_rows"] == 3
    assert figures["contract.skipped"] > 100
    assert figures["8b.decode.b4.c32.top_p.of_limit"] > 0
