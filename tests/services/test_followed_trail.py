"""The audit trail of a store that one kernel after the other has, each with a key of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from inferd.testing.kernel import kernel_here
from inferd_client import AsyncClient


@pytest.mark.parametrize(("peppers", "told"), [(("p", "p"), "followed"), (("p", "q"), "key changed")])
async def test_a_kernel_knows_the_one_before_by_their_pepper(
    tmp_path: Path, peppers: tuple[str, str], told: str
) -> None:
    """With one pepper the next kernel has followed, and has the key of the one before; with another its key changed."""
    store: Any = {"url": f"sqlite:{tmp_path}/store", "key_file": tmp_path / "store.key"}
    folders = tmp_path / "one", tmp_path / "two"
    for folder, pepper in zip(folders, peppers, strict=True):
        async with (
            kernel_here(folder, store=store, auth={"pepper_file": tmp_path / pepper}) as kernel,
            AsyncClient(kernel.addresses[0]) as client,
        ):
            found = [json.loads(line) async for line in client.list_audit_lines()]
    events = [each["event"] for each in found if each.get("key") and each["type"] == "kernel"]
    assert events == [told]
    halves = [each.read_bytes() for each in (folders[1] / "state").glob("audit-*.pub")]
    assert halves == ([(folders[0] / "state/audit.pub").read_bytes()] if told == "followed" else [])
