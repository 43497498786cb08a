"""What a call asks is held against the rules and the keys of the moment, not only against those of when it was made."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.core.demand import Demand
from inferd.core.ids import InstanceId, ModelName, TaskId, Tenant
from inferd.core.policy import Grant, Rule
from inferd.core.task import TaskSpec
from inferd.runtime.ask_grants import MayRun, allow_asks, asker_of
from inferd.runtime.front.access import Access
from inferd.runtime.front.asking import Asking
from inferd.runtime.front.authority import Authority
from inferd.runtime.moderation import Question
from inferd.services.ask_values import AskWire
from inferd_api.worker.v1 import task_pb2 as wp

ALL = Grant(("*",))
ASKED = {"do": "write", "task": {"model": "chat", "prompt": "x"}}


def call(may_run: MayRun) -> TaskSpec:
    """A call of a function by somebody."""
    spec = TaskSpec(
        task_id=TaskId("t"),
        tenant=Tenant("a"),
        model=ModelName("functions@f"),
        demand=Demand(memory_bytes=1),
        work=wp.Work(call=wp.Call(name="f")),
    )
    return allow_asks(spec, may_run)


def authority(access: Access, keys: set[str]) -> Any:
    """What decides, with these keys."""
    nothing: Any = None
    keyring: Any = SimpleNamespace(has=keys.__contains__)
    return Authority(keyring=keyring, tokens=nothing, certificates=nothing, access=access, auth=nothing)


async def answered(spec: TaskSpec, holds: Any) -> str:
    """The reason for which a question of a call is refused; that of a model that is not known, where it is not."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    driver: Any = SimpleNamespace(
        asks=SimpleNamespace(run_by=lambda _: None, answer=lambda *_, error: told.put_nowait(error)),
        views=SimpleNamespace(find_task=lambda _: SimpleNamespace(spec=spec), aliases={}),
        clock=SimpleNamespace(now=lambda: 0.0),
    )
    nothing: Any = None
    asking = Asking(driver, nothing, AskWire(1 << 16), in_flight=1, timeout_s=60, memos=nothing, holds=holds)
    asking.asked(Question(InstanceId("i"), TaskId("t"), 1, 0), json.dumps(ASKED).encode())
    async with asyncio.timeout(60):
        error = await told.get()
    return "" if error is None else error.reason


@pytest.mark.asyncio
async def test_a_rule_or_a_revoked_key_ends_what_a_call_may_ask() -> None:
    """With its right it goes as far as the model; after a rule that denies, or without its key, it is refused."""
    access, keys = Access([Rule(who="role:user")]), {"k"}
    who = authority(access, keys)
    spec = call(MayRun(grant=ALL, name="anna", roles=("user",), key_id="k"))
    assert asker_of(spec) == MayRun(grant=ALL, name="anna", roles=("user",), key_id="k")
    assert await answered(spec, who.holds) == "INTERNAL"  # there are no tasks here, which it has come to
    access.set_rules([Rule(who="principal:anna", allow=False, models="chat", rule_id="r")])
    assert await answered(spec, who.holds) == "PERMISSION_DENIED"
    access.set_rules([])
    assert await answered(spec, who.holds) == "INTERNAL"
    keys.clear()
    assert await answered(spec, who.holds) == "PERMISSION_DENIED"
    assert await answered(call(MayRun(grant=ALL)), who.holds) == "INTERNAL"  # of a kernel that said no more
