"""Requests that are sent many times over while kernels are killed, as `make storm` does it for longer."""

from collections import Counter
from pathlib import Path

import pytest
from storm import Found, Size, Storm

pytestmark = pytest.mark.e2e


async def test_a_key_that_is_sent_again_over_killed_kernels_makes_one_task(tmp_path: Path) -> None:
    """Each key is answered with one task by all kernels, which there is once; some were cut off, and sent again."""
    size = Size(keys=60, times=3, connections=8, restarts=2)
    found = await Storm(size, tmp_path, {"INFERD_STORE__URL": f"sqlite:{tmp_path}/store"}).run()
    assert found.wrong(size) == []
    assert (len(found.tasks), found.kills, len(found.known)) == (60, 2, 2)
    assert found.cut


def test_what_is_wrong_in_a_storm_is_told() -> None:
    """A key with two tasks, one that is there twice, one that is lost and a call that was not answered are seen."""
    size = Size(keys=2, times=1, connections=1, restarts=0)
    right = Found(tasks={"0": {"a"}, "1": {"b"}}, answers=2, known=[Counter("01")])
    assert right.wrong(size) == []
    right.tasks["0"].add("c")
    assert right.wrong(size) == ["key 0 was answered with 2 tasks"]
    right = Found(tasks={"0": {"a"}, "1": {"b"}}, answers=1, known=[Counter("00"), Counter("0")])
    assert right.wrong(size) == [
        "1 answers and 0 kills",
        "there are 2 tasks of 1 keys, for kernel 0 of the last two",
        "key 0 has 2 tasks",
        "there are 1 tasks of 1 keys, for kernel 1 of the last two",
    ]
