"""Kernels that are killed at failpoints under load, as `make chaos COUNT=300` does it for longer."""

import json
import random
from pathlib import Path

import pytest
from histories import POINTS, History, Setting, Tally, wanted_of
from kernel_ordeal import SETTINGS, summary

from inferd.runtime.failpoints import POINTS as KNOWN
from inferd.testing.kernel import write_fake_model

pytestmark = pytest.mark.e2e

SEED = 2084  # of lives that end at a commit and at a frame


async def test_what_was_acknowledged_outlives_kernels_that_are_killed_at_failpoints(tmp_path: Path) -> None:
    """Every created task is there once, for each key one, with the one end and the stream that it has undisturbed."""
    setting = Setting(
        environment={**SETTINGS, "INFERD_STORE__URL": f"sqlite:{tmp_path}/store"},
        model="fake",
        source=str(write_fake_model(tmp_path, step_s=0.002, blocks=8192, max_sequences=6)),
        output_tokens=30,
        life_s=20.0,
    )
    tasks = wanted_of(setting, SEED)
    tally = Tally()
    await History(setting, tmp_path, tasks, tally).run(range(2), SEED)
    assert tally.wrong == []
    assert tally.kills.total() == 2
    assert tally.tasks >= 8


def test_kernels_are_killed_where_they_can_be() -> None:
    """Each place where the ordeal kills is a failpoint, and the lives of the short form end at a commit and a frame."""
    assert POINTS.keys() <= set(KNOWN)
    assert [random.Random(f"{SEED}.{life}").choice(list(POINTS)).partition(".")[0] for life in range(2)] == [
        "store",
        "frame",
    ]


def test_parts_of_a_report_are_summed() -> None:
    """What was done in several parts is told together, by model and store."""
    parts = [("a", "sqlite", 3, 1), ("b", "sqlite", 5, 0), ("a", "sqlite", 4, 0), ("a", "postgresql", 1, 0)]
    lines = [
        json.dumps({"name": name, "store": store, "kills": {"x": kills}, "tasks": 10, "wrong": wrong})
        for name, store, kills, wrong in parts
    ]
    assert summary(lines).splitlines() == [
        "a on sqlite: 7 kills, 20 tasks, 1 wrong",
        "b on sqlite: 5 kills, 10 tasks, 0 wrong",
        "a on postgresql: 1 kills, 10 tasks, 0 wrong",
    ]
