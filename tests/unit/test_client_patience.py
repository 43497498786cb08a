"""How long the client asks a kernel that is away."""

import time

import pytest

from inferd.config import Settings
from inferd_api.v1.task_service_pb2 import WatchTaskRequest
from inferd_client import Client
from inferd_client.errors import InferdError, KernelUnreachableError, ShuttingDownError
from inferd_client.orders import Orders
from inferd_client.patience import PATIENCE_S, VARIABLE, Patience
from inferd_client.tasks import run_order


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


def test_who_waited_in_vain_is_told_how_to_wait_for_longer(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the time and its variable, which counts: a kernel that needs longer to start is waited for."""
    monkeypatch.setenv(VARIABLE, "120")
    patience, away = Patience(), KernelUnreachableError("no kernel answers")
    patience.check(away)
    clock[0] += 119
    patience.check(away)
    clock[0] += 2
    with pytest.raises(
        KernelUnreachableError, match=r"no kernel answers; it was waited for 120 s \(INFERD_PATIENCE_S\)"
    ):
        patience.check(away)


def test_a_kernel_takes_the_patience_of_clients_for_no_setting_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are started with one environment."""
    monkeypatch.setenv(VARIABLE, "120")
    assert Settings()


@pytest.mark.parametrize("said", ["soon", "-1", "nan"])
def test_a_patience_that_is_no_time_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """A client is not made with it, rather than failing when its kernel is away."""
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(ValueError, match=f"INFERD_PATIENCE_S is '{said}'; it must be a number of seconds"):
        Client("unix:/nowhere")


def test_the_reader_of_a_kept_task_is_told_where_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no kernel came back in time, the error names the task and the event behind which it is watched on."""
    monkeypatch.setenv(VARIABLE, "50")
    orders, away = Orders(), KernelUnreachableError("no kernel answers")
    orders.begin(watch=WatchTaskRequest(task_id="t-7", after_sequence=3)).sequence = 12
    orders.begin(run=run_order("m", "x", {"detach_on_disconnect": True}))
    orders.begin(run=run_order("m", "x", {}))
    assert [tag for tag, _ in orders.lost(away, 49.0)] == [3]
    told = {tag: error.message for tag, error in orders.lost(away, 50.0)}
    assert "Task t-7 goes on with the next kernel, if it is kept: watch it from behind event 12" in told[1]
    assert told[2].endswith("waited for 50 s (INFERD_PATIENCE_S)")
    assert told[3] == "no kernel answers"
