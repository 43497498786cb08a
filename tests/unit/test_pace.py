import pytest

from inferd.engine.token.pace import Pace


def added_s(pace: Pace, *, prompt_s: float) -> float:
    """Seconds that prompts add to the step that is planned next, on a machine that takes so long for their tokens."""
    return pace.prompt_tokens * prompt_s


def test_nothing_is_known() -> None:
    """Before a prompt was measured as little as possible of one goes beside running streams."""
    pace = Pace(gap_s=0.2)
    assert pace.prompt_tokens == 0
    pace.measure(0.01, decode=4, prompt=0)
    assert pace.prompt_tokens == 0


@pytest.mark.parametrize(("decode_s", "prompt_s"), [(0.005, 0.0005), (0.0001, 0.01), (0.001, 0.001)])
def test_steps_come_near_the_gap(decode_s: float, prompt_s: float) -> None:
    """Whatever tokens cost, prompts add to a step nearly the part of the gap that is planned for, and no more."""
    pace = Pace(gap_s=0.2)
    pace.measure(512 * prompt_s, decode=0, prompt=512)
    for _ in range(20):
        pace.measure(16 * decode_s, decode=16, prompt=0)
    for _ in range(20):
        prompt = pace.prompt_tokens
        pace.measure(16 * decode_s + prompt * prompt_s, decode=16, prompt=prompt)
        assert 0.075 < added_s(pace, prompt_s=prompt_s) < 0.093


def test_slower_machine_is_followed() -> None:
    """When tokens begin to take three times as long, steps are near the gap again within ten of them."""
    pace = Pace(gap_s=0.1)
    pace.measure(0.5, decode=0, prompt=500)
    for _ in range(10):
        prompt = pace.prompt_tokens
        pace.measure(0.003 * (1 + prompt), decode=1, prompt=prompt)
    assert added_s(pace, prompt_s=0.003) < 0.11


def test_slow_streams_do_not_stop_prompts() -> None:
    """Streams that are slow by themselves leave prompts what these may add, so that they are read at all."""
    pace = Pace(gap_s=0.1)
    pace.measure(0.1, decode=0, prompt=100)
    for _ in range(20):
        pace.measure(0.3, decode=3, prompt=0)
    assert 45 <= pace.prompt_tokens < 50


def test_a_step_has_a_price_of_its_own() -> None:
    """After steps of few streams, which take nearly as long as those of many, a burst is read in whole steps."""
    pace = Pace(gap_s=0.2)

    def take(decode: int, prompt: int) -> None:
        pace.measure(0.0045 + 0.0003 * decode + 0.000125 * prompt, decode=decode, prompt=prompt)

    take(0, 32)
    for burst in (1, 8, 32, 64):
        for streams in range(0, burst, 4):
            assert burst < 64 or streams == 0 or pace.prompt_tokens > 512 - streams
            take(streams, 512 - streams)
        for streams in [burst] * 128 + list(range(burst, 0, -1)):
            take(streams, 0)


def test_a_short_first_prompt_is_not_taken_for_cheap() -> None:
    """Where a step takes long whatever is in it, a prompt of eight tokens lets no step come beyond the gap."""
    pace = Pace(gap_s=0.2)
    pace.measure(0.03 + 8 * 0.004, decode=0, prompt=8)
    for _ in range(20):
        pace.measure(0.03, decode=1, prompt=0)
        prompt = pace.prompt_tokens
        assert 0 < added_s(pace, prompt_s=0.004) < 0.2
        pace.measure(0.03 + prompt * 0.004, decode=1, prompt=prompt)


def test_one_quick_step_makes_no_prompt_unknown() -> None:
    """After slow steps a quick one leaves an estimate: prompts do not fall back to the least that a step may take."""
    pace = Pace(gap_s=0.2)
    pace.measure(0.064, decode=0, prompt=512)
    for _ in range(50):
        pace.measure(0.1, decode=32, prompt=0)
    pace.measure(0.02, decode=32, prompt=16)
    assert pace.prompt_tokens > 0


def test_those_that_decode_wait_within_the_gap_whatever_a_step_takes_at_least() -> None:
    """What they wait for a step without them, with its fixed part, comes near two thirds of the gap and no nearer."""
    pace = Pace(gap_s=0.2)
    assert pace.alone_tokens == 0
    for number in range(3000):
        decode, prompt = (16, 0, 32, 16)[number % 4], (0, 256, 64, 128)[number % 4]
        pace.measure(0.06 + 0.0005 * decode + 0.0002 * prompt, decode=decode, prompt=prompt)
    assert 0.11 < 0.06 + 0.0002 * pace.alone_tokens < 0.14
