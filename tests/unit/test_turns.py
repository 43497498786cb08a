"""Whose prompt is read next: short ones beside long ones. The loop's beats, one call after the other."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from beats import Engine, greedy, make_engine

from inferd.core.ids import Tenant
from inferd.core.priority import Priority
from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.submission import Share
from inferd.engine.token.turns import MOST_PASSED

STEP = 64  # tokens
LONG = 1500


def load(folder: Path, **room: int) -> Engine:
    wide = {"blocks": 512, "block_tokens": 8, "context_tokens": 2048, "max_sequences": 32, "max_step_tokens": STEP}
    return make_engine(folder, EngineLimits(step_tokens=STEP), **{**wide, **room})


def submit(
    engine: Engine,
    handle: int,
    *,
    prompt: int,
    tenant: str,
    priority: Priority = Priority.NORMAL,
    weight: float = 1.0,
    max_tokens: int = 1,
) -> None:
    task = greedy((97 + handle % 26,) * prompt, max_tokens=max_tokens, priority=priority, prefix_cache=False)
    engine.submit(handle, replace(task, share=Share(tenant=Tenant(tenant), expected_tokens=prompt, weight=weight)))


def read(engine: Engine, handle: int) -> int:
    """Tokens of a prompt that were read."""
    return next((int(engine.places.computed[s.place.row]) for s in engine.places.rows if s.handle == handle), 0)


def test_a_short_prompt_shares_the_next_step_with_a_long_one(tmp_path: Path) -> None:
    """Its first token comes with the next step, in which as many tokens of the long one are read as of its own."""
    engine = load(tmp_path)
    submit(engine, 0, prompt=LONG, tenant="a")
    for steps in range(1, 4):
        engine.step()
        assert read(engine, 0) == steps * STEP
    submit(engine, 1, prompt=16, tenant="b")
    engine.step()
    assert len(engine.outputs[1, 0]) == 1
    assert read(engine, 0) == 3 * STEP + 16
    engine.step()
    assert read(engine, 0) == 4 * STEP + 16


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("own", [False, True])
def test_short_prompts_that_come_any_time_wait_for_one_step(tmp_path: Path, seed: int, *, own: bool) -> None:
    """Beside a long prompt, of the same tenant or of others, each short one has its first token with the next step.

    Of the same tenant as long as that has read fewer tokens than the long prompt has. The long one goes on in each of
    these steps: with as many tokens as end there, or all that are left.
    """
    rng, engine = random.Random(seed), load(tmp_path)
    submit(engine, 0, prompt=LONG, tenant="a")
    handle, steps, shorts = 1, 0, 0
    while (begun := read(engine, 0)) + shorts < LONG - STEP:
        new = range(handle, handle + rng.choice([0, 0, 1, 2]))
        lengths = [rng.randint(1, 12) for _ in new]
        for number, prompt in zip(new, lengths, strict=True):
            submit(engine, number, prompt=prompt, tenant="a" if own else f"t{number}")
        engine.step()
        assert all(len(engine.outputs[number, 0]) == 1 for number in new)
        assert read(engine, 0) - begun == (max(8, sum(lengths)) if new else STEP)
        handle, steps, shorts = new.stop, steps + 1, shorts + sum(lengths)
    assert steps > LONG // STEP


def test_two_tenants_read_long_prompts_by_weight(tmp_path: Path) -> None:
    """Of two that have long prompts, one with three times the weight has three times as many tokens read."""
    engine = load(tmp_path)
    submit(engine, 0, prompt=LONG, tenant="light")
    submit(engine, 1, prompt=LONG, tenant="heavy", weight=3.0)
    for _ in range(16):
        engine.step()
    assert (read(engine, 0), read(engine, 1)) == (4 * STEP, 12 * STEP)


def test_nobody_is_owed_what_a_long_prompt_has_taken(tmp_path: Path) -> None:
    """A tenant that comes while a long prompt is read shares with it from then on: it does not catch up first."""
    engine = load(tmp_path)
    submit(engine, 0, prompt=LONG, tenant="a")
    for _ in range(10):
        engine.step()
    submit(engine, 1, prompt=LONG, tenant="b")
    for _ in range(10):
        engine.step()
    assert (read(engine, 0), read(engine, 1)) == (15 * STEP, 5 * STEP)


def test_short_prompts_do_not_stop_a_long_one_of_their_tenant(tmp_path: Path) -> None:
    """Prompts that fill every step keep a long one of their tenant waiting for about as many tokens as it has."""
    engine, most = load(tmp_path), 6 * STEP
    submit(engine, 0, prompt=most, tenant="a")
    for handle in range(1, 40):
        submit(engine, handle, prompt=STEP, tenant="a")
        engine.step()
        if engine.outputs[0, 0]:
            break
    assert handle == 2 * most // STEP - 1


def test_equal_prompts_of_a_tenant_keep_their_order(tmp_path: Path) -> None:
    """Long prompts of one tenant are read one after the other: none is begun before the one before it is read."""
    engine = load(tmp_path)
    for handle in range(4):
        submit(engine, handle, prompt=2 * STEP + 1, tenant="a")
    while engine.step():
        assert sum(s.place.row >= engine.places.decoding for s in engine.places.rows) <= 1
    assert sorted(engine.ended) == list(engine.ended)


@pytest.mark.parametrize("priority", [Priority.LOW, Priority.NORMAL])
def test_a_class_is_not_passed_for_ever(tmp_path: Path, priority: Priority) -> None:
    """Beside prompts of class HIGH that fill every step, one of a lower class gets a part of one in so many steps."""
    engine = load(tmp_path)
    submit(engine, 0, prompt=2 * STEP, tenant="a", priority=priority)
    got = []
    for handle in range(1, 3 * MOST_PASSED):
        submit(engine, handle, prompt=STEP, tenant="b", priority=Priority.HIGH)
        before = read(engine, 0)
        engine.step()
        if engine.outputs[0, 0]:
            break
        got.append(read(engine, 0) > before)
    assert np.flatnonzero(got).tolist() == [MOST_PASSED - 1]
    assert handle == 2 * MOST_PASSED
