"""How long the dashboard takes with 1,000 tasks and 50 models: `python tests/bench/dashboard.py`, one JSON line.

`drawn`: from when a message of the stream is there in the page until what has changed is in its tables and laid out.
`told`: from before a task is asked for at the kernel until its row stands in the page, by way of kernel, gateway and
stream. Both in milliseconds, with the machine's load, and how many messages came a second. `page_cpu`: what the page's
main thread computes for a message in the mean, which a busy machine does not change. Needs what
tests/system/test_dashboard.py does.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.async_api import CDPSession

ROOT = Path(__file__).parents[2]
for part in ("system", "services", "arch", "reference"):
    sys.path.insert(0, str(ROOT / "tests" / part))

from dashboard_browser import Ground, ground, until  # noqa: E402 - the paths come first

MODELS, TASKS = 50, 1000
SECONDS = 20.0
WATCH = """() => {
  window.drawnMs = [];
  document.addEventListener('inferd:drawn', (event) => {
    document.body.getBoundingClientRect();
    window.drawnMs.push(performance.now() - event.detail.received);
  });
}"""


async def prepare(at: Ground) -> None:
    """50 models, and 1,000 tasks that wait or run for longer than this takes."""
    for number in range(MODELS):
        await at.add_model(f"model-{number:02}", step_s=1.0 if number < MODELS - 1 else 0.001)
    gate = asyncio.Semaphore(32)

    async def create(number: int) -> None:
        async with gate:
            await at.client.create_task(f"model-{number % 10:02}", "goes on ", max_tokens=900, ignore_eos=True)

    await asyncio.gather(*map(create, range(TASKS)))


async def computed_s(profiler: CDPSession) -> float:
    """What the page's main thread has computed, in seconds of processor time."""
    told = await profiler.send("Performance.getMetrics")
    return float(next(each["value"] for each in told["metrics"] if each["name"] == "TaskDuration"))


async def measure(at: Ground) -> dict[str, object]:
    """Have tasks come and go, and note when the page shows them."""
    async with at.page() as page:
        await until(
            page, f"parseInt(document.querySelector('#task-count').textContent.replace(',', '')) >= {TASKS} - 100"
        )
        await page.evaluate(WATCH)
        profiler = await page.context.new_cdp_session(page)
        await profiler.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = await computed_s(profiler)
        told, begin = [], time.perf_counter()
        while time.perf_counter() - begin < SECONDS:
            asked = time.perf_counter()
            task = await at.client.create_task(f"model-{MODELS - 1}", "short")
            row = f"[data-task='{task.task_id}'], [data-ended='{task.task_id}']"
            await page.wait_for_selector(row, state="attached")
            told.append(1000 * (time.perf_counter() - asked))
        seconds = time.perf_counter() - begin
        drawn = await page.evaluate("window.drawnMs")
        computed = await computed_s(profiler) - before
        tasks = await page.text_content("#task-count")
    return {
        "models": MODELS,
        "tasks": tasks,
        "messages_a_second": round(len(drawn) / seconds, 1),
        "drawn_p50_ms": round(statistics.median(drawn), 1),
        "drawn_p95_ms": round(statistics.quantiles(drawn, n=20)[-1], 1),
        "told_p50_ms": round(statistics.median(told), 1),
        "told_p95_ms": round(statistics.quantiles(told, n=20)[-1], 1),
        "page_cpu_ms": round(1000 * computed / len(drawn), 1),
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
    }


async def main() -> None:
    """Measure once."""
    with tempfile.TemporaryDirectory() as folder:
        room = {"INFERD_LIMITS__QUEUED_TASKS": "10000", "INFERD_SCHEDULER__TENANT_QUEUED": "10000"}
        room["INFERD_LIMITS__DETACHED_TASKS"] = "10000"
        async with ground(Path(folder), environment=room) as at:
            await prepare(at)
            print(json.dumps(await measure(at)))


if __name__ == "__main__":
    asyncio.run(main())
