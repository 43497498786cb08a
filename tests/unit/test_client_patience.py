"""How long the client asks a kernel that is away."""

import time

import pytest

from inferd_client.errors import InferdError, KernelUnreachableError, ShuttingDownError
from inferd_client.patience import PATIENCE_S, Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands until it is set."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_kernel_is_waited_for_from_when_it_was_away(clock: list[float]) -> None:
    """However long it was silent before: from the first failure on, and anew once it was heard."""
    patience, away = Patience(), KernelUnreachableError("away")
    clock[0] += 10 * PATIENCE_S
    patience.check(away)
    clock[0] += PATIENCE_S
    patience.check(ShuttingDownError("it ends"))
    clock[0] += 0.1
    with pytest.raises(KernelUnreachableError):
        patience.check(away)
    patience.heard()
    patience.check(away)


def test_what_does_not_pass_is_not_waited_for(clock: list[float]) -> None:
    """An error that another try meets again is told at once, and so is a kernel that was never there."""
    assert clock
    with pytest.raises(InferdError, match="refused"):
        Patience().check(InferdError("refused"))
    patience = Patience(heard=False)
    with pytest.raises(KernelUnreachableError):
        patience.check(KernelUnreachableError("never there"))
    patience.heard()
    patience.check(KernelUnreachableError("away"))
