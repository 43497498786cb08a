"""Damaged requests of the Open Inference Protocol, some of the many that `make fuzz` sends."""

from pathlib import Path

from oip_fuzz import attack, attacked

COUNT = 800


async def test_damaged_open_inference_requests(tmp_path: Path) -> None:
    """Each of some hundred ends well or with a typed error, alone or on a stream, and the kernel computes as before."""
    async with attacked(tmp_path) as (kernel, channel):
        found = await attack(kernel, channel, range(COUNT))
    assert found.total() == COUNT
    assert {"OK", "INVALID_FIELD", "UNSUPPORTED_INPUT", "no message", "OK on a stream", "refused on a stream"} <= set(
        found
    )
