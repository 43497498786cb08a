import pytest

from inferd.engine.pace import Pace


def planned_s(pace: Pace, *, decode: int, decode_s: float, prompt_s: float) -> float:
    """Seconds of the step that is planned next, for a machine that takes so long for a token of each kind."""
    return decode * decode_s + pace.prompt_tokens(decode=decode) * prompt_s


def test_nothing_is_known() -> None:
    """Before a prompt was measured as little as possible of one goes beside running streams."""
    pace = Pace(gap_s=0.2)
    assert pace.prompt_tokens(decode=4) == 0
    pace.measure(0.01, decode=4, prompt=0)
    assert pace.prompt_tokens(decode=4) == 0


@pytest.mark.parametrize(("decode_s", "prompt_s"), [(0.005, 0.0005), (0.0001, 0.01), (0.001, 0.001)])
def test_steps_come_near_the_gap(decode_s: float, prompt_s: float) -> None:
    """Whatever tokens cost, the planned steps come near to the longest gap, and not over it by more than 2 %."""
    pace = Pace(gap_s=0.2)
    pace.measure(512 * prompt_s, decode=0, prompt=512)
    for _ in range(20):
        pace.measure(16 * decode_s, decode=16, prompt=0)
    for _ in range(20):
        prompt = pace.prompt_tokens(decode=16)
        pace.measure(16 * decode_s + prompt * prompt_s, decode=16, prompt=prompt)
        assert 0.15 < planned_s(pace, decode=16, decode_s=decode_s, prompt_s=prompt_s) < 0.204


def test_slower_machine_is_followed() -> None:
    """When tokens begin to take three times as long, steps are near the gap again within ten of them."""
    pace = Pace(gap_s=0.1)
    pace.measure(0.5, decode=0, prompt=500)
    for _ in range(10):
        prompt = pace.prompt_tokens(decode=1)
        pace.measure(0.003 * (1 + prompt), decode=1, prompt=prompt)
    assert planned_s(pace, decode=1, decode_s=0.003, prompt_s=0.003) < 0.11


def test_no_room_beside_slow_streams() -> None:
    """Streams that need the whole gap themselves leave nothing for prompts."""
    pace = Pace(gap_s=0.1)
    pace.measure(0.1, decode=0, prompt=100)
    for _ in range(20):
        pace.measure(0.3, decode=3, prompt=0)
    assert pace.prompt_tokens(decode=3) == 0
