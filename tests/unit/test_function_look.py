"""The look for packages of functions: what a package answers to it, and who waits for it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferd.core.function import CallLimits
from inferd.plugin import child
from inferd.runtime import functions as runtime
from inferd.runtime.function_packages import find_packages
from inferd.runtime.functions import Functions

GOOD = (
    b'{"path": "/x", "functions": [{"name": "f", "version": 1, "description": "", "input_schema": "{}",'
    b' "output_schema": "{}", "streams": false, "timeout_s": null, "memory_bytes": null, "asks": 0}]}'
)


def answers(patch: pytest.MonkeyPatch, answer: Callable[[str], bytes]) -> None:
    """Have children that are asked about a module answer so."""

    async def run_program(_: str, module: str, *, limit_s: float) -> child.Ending:
        assert limit_s
        return child.Ending(status=0, document=answer(module), stderr=b"", limit_s=None)

    monkey = child.__name__ + ".run_program"
    patch.setattr(monkey, run_program)


@pytest.mark.parametrize(
    "said",
    [
        b"[" * 60_000,
        GOOD.replace(b'"version": 1', b'"version": Infinity'),
        GOOD.replace(b'"description": ""', b'"description": "\\ud800"'),
    ],
)
async def test_a_package_that_answers_anything_takes_no_other_away(
    said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON nested too deep, a version that is no number, half of a character: the package is at fault, and no other."""
    answers(monkeypatch, lambda module: said if module == "evil" else GOOD)
    evil, good = await find_packages(
        allow=(), modules=("evil", "good"), limits=CallLimits(), timeout_s=5, log_dir=tmp_path
    )
    assert (evil.functions, evil.why) == ((), "answered with something that is no document of discovery")
    assert [each.name for each in good.functions] == ["f"]


async def test_a_caller_that_leaves_ends_no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes after it joins the same look; what is known serves while a later one takes long."""
    asked: list[str] = []
    clock, go, begun = [100.0], asyncio.Event(), asyncio.Event()

    async def run_program(_: str, module: str, **__: Any) -> child.Ending:
        asked.append(module)
        begun.set()
        await go.wait()
        return child.Ending(status=0, document=GOOD, stderr=b"", limit_s=None)

    stamps: dict[str, frozenset[tuple[str, int]]] = {"good": frozenset()}
    monkeypatch.setattr(child, "run_program", run_program)
    monkeypatch.setattr(runtime, "source_stamps", lambda _: dict(stamps))
    driver: Any = None  # nothing is made known
    functions = Functions(driver, CallLimits(), allow=(), modules=("good",), now=lambda: clock[0])
    first = asyncio.create_task(functions.find("f"))
    await begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(functions.find("f"))
    await asyncio.sleep(0)
    go.set()
    assert (await second).name == "f"
    assert asked == ["good"]
    go.clear()
    begun.clear()
    stamps["good"] = frozenset({("/x", 1)})
    third = asyncio.create_task(functions.packages())
    await begun.wait()
    clock[0] += 10
    assert (await functions.find("f")).name == "f"
    assert not third.done()
    go.set()
    assert await third
