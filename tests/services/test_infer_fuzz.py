"""Damaged requests for tasks of tensors, some of the many that `make fuzz` sends."""

from pathlib import Path

from infer_fuzz import attack

from inferd.testing.kernel import kernel_here

COUNT = 600


async def test_damaged_requests(tmp_path: Path) -> None:
    """Each of some hundred ends well or with a typed error; no worker dies, and the kernel computes as before."""
    async with kernel_here(tmp_path) as kernel:
        found = await attack(kernel, tmp_path, range(COUNT))
    assert sum(found.values()) == COUNT
    assert {"OK", "INVALID_FIELD", "LIMIT_EXCEEDED", "UNSUPPORTED_INPUT", "no message"} <= set(found)
