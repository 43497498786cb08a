"""Plugins that a running kernel looks for anew: when one of them was mended, too."""

from pathlib import Path

import pytest

from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime import plugins as module
from inferd.runtime.plugins import Plugins


@pytest.mark.parametrize("layout", ["mendable/plugin.py", "mendable.py"])
async def test_a_plugin_that_was_mended_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Once a file of a plugin that failed is changed, all are looked for again; of one that works no file is read."""
    source = tmp_path / layout
    source.parent.mkdir(exist_ok=True)
    source.write_text("wrong")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "read_installed", frozenset)
    name = "mendable.plugin" if "/" in layout else "mendable"
    looked: list[BackendState] = []

    async def look(**_: object) -> tuple[BackendReport, ...]:
        state = BackendState.FAILED if source.read_text() == "wrong" else BackendState.READY
        looked.append(state)
        return (BackendReport(name="mendable", state=state, module=name),)

    async def found(_: object) -> None: ...

    monkeypatch.setattr(module, "discover", look)
    plugins = Plugins(allow=None, modules=(), timeout_s=9, found=found)
    assert await plugins.refresh()
    assert not await plugins.refresh()
    source.write_text("right, and longer")
    assert await plugins.refresh()
    assert looked == [BackendState.FAILED, BackendState.READY]
    assert await plugins.refresh() is False
    source.write_text("changed again")
    assert not await plugins.refresh()
