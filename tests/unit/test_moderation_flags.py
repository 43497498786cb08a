"""Flags that are more than are held: which of them go."""

from types import SimpleNamespace
from typing import Any

from inferd.core.moderation import FlagState
from inferd.runtime.front.flags import Flags


async def test_who_has_the_most_flags_loses_one() -> None:
    """A tenant that has many flags drives out none of others; what is resolved goes first."""
    driver: Any = SimpleNamespace(keeper=None)
    flags = Flags(driver, most=4, held_s=1e9)

    def add(tenant: str, excerpt: str) -> None:
        task: Any = SimpleNamespace(spec=SimpleNamespace(task_id=f"{tenant}-{excerpt}", tenant=tenant, model="m"))
        flags.add(task, "rule", excerpt, is_input=True)

    def left() -> list[str]:
        return [flag.excerpt for flag in flags.all((), has=lambda _: True)]

    add("quiet", "a")
    add("quiet", "a")  # the same task is sent again, and flagged again
    for number in range(5):
        add("loud", str(number))
    assert left() == ["4", "3", "2", "a"]
    newest = flags.all((), has=lambda _: True)[0]
    await flags.resolve(newest.flag_id, FlagState.UPHELD, by="p", note="", has=lambda _: True)
    add("quiet", "b")
    assert left() == ["b", "3", "2", "a"]
    assert [flag.excerpt for flag in flags.all((), has=lambda tenant: tenant == "quiet")] == ["b", "a"]
