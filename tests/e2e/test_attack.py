"""A kernel under attack, in short; `make attack` is longer, and measures what others notice of it."""

from pathlib import Path

import pytest
from attack import KINDS, attack, attacked

pytestmark = pytest.mark.e2e

SECONDS = 0.1
BOUNDS = {"INFERD_LIMITS__CONNECTIONS": "100", "INFERD_LIMITS__HANDSHAKE_S": "1"}


def test_a_kernel_withstands_attacks(tmp_path: Path) -> None:
    """After each kind of attack the kernel lives, serves others meanwhile, and has not taken memory without a bound."""
    with attacked(tmp_path, BOUNDS) as (kernel, credential):
        outcomes = [attack(kernel, kind, SECONDS, credential) for kind in KINDS]
        assert kernel.process.poll() is None
    assert [f"{each.kind}: {each.wrong}" for each in outcomes if each.wrong] == []
    assert [each.kind for each in outcomes if not each.connections] == []
