import random

from inferd.core.alarms import Alarms


def test_alarms_ring_in_order_and_once() -> None:
    """Alarms come out by their instant, each key once, and none before its time."""
    alarms: Alarms[str] = Alarms()
    for key, when in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        alarms.set(key, when)
    alarms.set("a", 2.5)
    assert [alarms.pop_due(1.9), alarms.pop_due(2.0), alarms.pop_due(9.0), alarms.pop_due(9.0)] == [None, "b", "a", "c"]
    assert alarms.pop_due(9.0) is None
    assert alarms.next() is None


def test_a_cancelled_alarm_never_rings() -> None:
    """What was cancelled is neither next nor due."""
    alarms: Alarms[str] = Alarms()
    alarms.set("a", 1.0)
    alarms.set("b", 2.0)
    alarms.cancel("a")
    alarms.cancel("unknown")
    assert alarms.next() == 2.0
    assert alarms.pop_due(5.0) == "b"
    assert len(alarms) == 0


def test_alarms_agree_with_a_plain_list_and_stay_small() -> None:
    """Whatever is set and cancelled, the earliest is found, and forgotten entries do not pile up."""
    rng = random.Random(1)
    alarms: Alarms[int] = Alarms()
    plain: dict[int, float] = {}
    for _ in range(5000):
        key = rng.randrange(50)
        if rng.random() < 0.7:
            plain[key] = rng.random()
            alarms.set(key, plain[key])
        else:
            plain.pop(key, None)
            alarms.cancel(key)
        assert alarms.next() == min(plain.values(), default=None)
    assert len(alarms.heap) <= 64 + 2 * 50 + 1
