"""Models that do not fit together serve a mix of tasks, as `make swaps` has it for longer."""

import os
from pathlib import Path

from swaps import NAMES, fake_plan, problems, serve

from inferd.core.ids import ModelName
from inferd.testing.kernel import kernel_here

TASKS = 6


async def test_models_that_do_not_fit_together_serve_a_mix(tmp_path: Path) -> None:
    """No task fails, the workers take no more than the kernel may give at any time, and unloaded ones give it back."""
    plan = fake_plan(tmp_path)
    async with kernel_here(tmp_path, devices={"memory_bytes": {plan.device: plan.room_bytes}}) as kernel:
        seen = await serve(kernel.addresses[0], os.getpid(), plan, tasks=TASKS, clients=2, seed=7)
        loads = sum(kernel.driver.views.model(ModelName(name)).instance_count for name in NAMES)
    assert not problems(seen, TASKS), seen
    assert loads > 2, seen
