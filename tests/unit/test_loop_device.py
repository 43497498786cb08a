from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from beats import Engine, Task, greedy, make_engine

from inferd.engine.token.limits import EngineLimits
from inferd.plugin import StepResult, TokenBatch
from inferd.sampling import Sampling


class Device:
    """An engine over a session that samples itself, as a device would: it gives the best token of each row.

    Attributes:
        engine: The engine.
        asked: For each step with rows, whether tokens were asked for and not logits.
        shift: Added to every token.
    """

    def __init__(self, folder: Path) -> None:
        model = make_engine(folder).model
        compute = model.session.step
        self.asked: list[bool] = []
        self.shift = 0

        def step(batch: TokenBatch) -> StepResult:
            result = compute(replace(batch, sampling=None))
            assert result.logits is not None
            self.asked += [batch.sampling is not None] * bool(len(batch.logit_rows))
            if batch.sampling is None:
                return result
            return StepResult(token_ids=result.logits.argmax(axis=1).astype(np.int32) + self.shift)

        model.session.step = step  # type: ignore[method-assign]
        model.session.limits = replace(model.session.limits, samples=True)  # type: ignore[misc]
        self.engine = Engine(model, EngineLimits())


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_the_session_chooses_where_it_can(device: Device) -> None:
    """A session that samples is asked for tokens, never for logits, and the text is the one that logits would give."""
    device.engine.submit(1, greedy((97, 98, 99), max_tokens=8))
    device.engine.finish()
    assert device.engine.outputs[1, 0] == [97, 98, 99, 97, 98, 99, 97, 98]
    assert device.asked == [True] * 8


def test_a_row_that_needs_its_logits_brings_them_back(device: Device) -> None:
    """While a task beside tells its probabilities the engine samples; afterwards the session does again."""
    device.engine.submit(1, greedy((97, 98), max_tokens=8))
    telling = Sampling(temperature=0, max_tokens=3, ignore_eos=True, logprobs=1)
    device.engine.submit(2, Task(prompt=(99, 100), sampling=telling))
    device.engine.finish()
    assert device.engine.outputs[1, 0] == [97, 98] * 4
    assert device.engine.outputs[2, 0] == [99, 100, 99]
    assert device.asked == [False] * 3 + [True] * 5


def test_tokens_outside_the_vocabulary_fail_the_step(device: Device) -> None:
    """A session that gives impossible tokens fails the tasks of the step with BACKEND_FAILED and what was wrong."""
    device.shift = 1 << 20
    device.engine.submit(1, greedy((97, 98), max_tokens=8))
    device.engine.finish()
    error = device.engine.ended[1].error
    assert error is not None
    assert error.reason == "BACKEND_FAILED"
    assert "vocabulary" in error.message
