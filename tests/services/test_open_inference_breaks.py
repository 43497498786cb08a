"""Streams of the Open Inference Protocol that break, some of the many of `make fuzz STREAMS=10000`."""

import pytest
from broken_streams import HOW, run

STREAMS = 200


@pytest.mark.timeout(900)  # workers of three models start, on a machine that may be busy
async def test_nothing_is_left_of_streams_that_break() -> None:
    """Streams that are cancelled, late, half closed or open as the kernel ends leave nothing behind."""
    found = await run(STREAMS)
    assert {how.partition(":")[0] for how in found} == {*HOW, "down"}
