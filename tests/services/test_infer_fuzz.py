"""Damaged requests for tasks of tensors, some of the many that `make fuzz` sends."""

from pathlib import Path

from infer_fuzz import attack

from inferd.testing.kernel import kernel_here
from inferd.testing.spoilt_memory import HOWS

COUNT = 600


async def test_damaged_requests(tmp_path: Path) -> None:
    """Each of some hundred ends well or with a typed error; no worker dies, and the kernel computes as before."""
    async with kernel_here(tmp_path) as kernel:
        found = await attack(kernel, tmp_path, range(COUNT))
    spoilt = [reason for reason in found if reason.startswith("memory ")]
    assert sum(found.values()) == COUNT + sum(found[reason] for reason in spoilt)
    assert len(spoilt) == len(HOWS)
    assert {"OK", "UPLOAD_NOT_FOUND", "INVALID_FIELD", "LIMIT_EXCEEDED", "UNSUPPORTED_INPUT", "no message"} <= set(
        found
    )
