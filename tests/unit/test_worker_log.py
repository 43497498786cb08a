import os
import subprocess
import sys
from pathlib import Path

import pytest

from inferd.runtime.worker_log import last_words, open_log, prune_logs


def write(folder: Path, name: str, age_s: int, text: str = "") -> Path:
    path = folder / f"{name}.log"
    path.write_text(text)
    os.utime(path, (10**9 - age_s, 10**9 - age_s))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def test_the_oldest_logs_go_but_those_of_living_workers_stay(tmp_path: Path) -> None:
    """However old, the log of a process that lives is kept; when that has ended, it goes like the others."""
    with open_log(tmp_path / "living.log") as log:
        worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=log, stderr=log)
    os.utime(tmp_path / "living.log", (1, 1))
    for age_s in range(5):
        write(tmp_path, f"ended-{age_s}", age_s)
    prune_logs(tmp_path, keep=2)
    assert names(tmp_path) == ["ended-0", "ended-1", "living"]
    worker.communicate(b"\n", timeout=30)
    prune_logs(tmp_path, keep=2)
    assert names(tmp_path) == ["ended-0", "ended-1"]
    prune_logs(tmp_path, keep=0)
    assert names(tmp_path) == []


TRACE = """2026 INFO loading
Fatal Python error: Segmentation fault

Current thread 0x00007f01 (most recent call first):
  File "/plugins/mine.py", line 7 in step
  File "/usr/lib/python3/threading.py", line 1 in run

Extension modules: numpy (total: 1)
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("one\ntwo\n\n", "; the last line of its log: two"),
        (TRACE, '; it was at File "/plugins/mine.py", line 7 in step'),
        (
            "Fatal Python error: Aborted\n\nThread 0x1:\n  <no Python frame>\n",
            "; the last line of its log: Fatal Python error: Aborted",
        ),
    ],
)
def test_last_words(tmp_path: Path, text: str, words: str) -> None:
    """Of a log the last line is told; of one that a signal ended, where in the program that was."""
    assert last_words(write(tmp_path, "a", 0, text)) == words
    assert last_words(tmp_path / "none.log") == ""
