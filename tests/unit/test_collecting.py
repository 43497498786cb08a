"""Programs that go on for long collect garbage as usual once they have started: clients' messages hang on little."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.cli import host, http
from inferd.cli.output import Format, Output
from inferd.config import Settings
from inferd.starts import STARTING_OBJECTS, begin_start, end_start


@pytest.fixture(autouse=True)
def starting() -> Iterator[None]:
    """A process that starts."""
    begin_start()
    assert gc.get_threshold()[0] == STARTING_OBJECTS
    yield
    end_start()
    gc.unfreeze()


def test_a_gateway_collects_as_usual_once_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request that fails leaves its body in a cycle of a few objects."""
    pytest.importorskip("uvicorn")
    seen = []

    async def serve(*_: Any, ready: Callable[[], None], **__: Any) -> None:
        ready()

    client = SimpleNamespace(get_host=lambda: None, address="unix:/k")
    monkeypatch.setattr(http, "connected", lambda *_, **__: nullcontext(client))
    monkeypatch.setattr(http, "own_key", lambda *_: ("key", ""))
    monkeypatch.setattr(http, "set_up_logs", lambda: None)
    monkeypatch.setattr(http, "tell", lambda *_, **__: seen.append(gc.get_threshold()[0]))
    monkeypatch.setattr("inferd.http.serving.listen", lambda _: None)
    monkeypatch.setattr("inferd.http.serving.url_of", lambda *_: "")
    monkeypatch.setattr("inferd.http.serving.serve", serve)
    http.serve_http(Output(Format.JSON), Settings(state_dir=tmp_path, data_dir=tmp_path), address="unix:/k")
    assert seen == [seen[0]]
    assert seen[0] < STARTING_OBJECTS


def test_an_agent_collects_as_usual_while_it_is_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of files and frames pass through it for as long as its host is there."""
    seen = []

    class Agent:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        async def run(self, _: asyncio.Event) -> None:
            seen.append(gc.get_threshold()[0])

    async def here(_: Settings) -> Any:
        return SimpleNamespace(facts=lambda *_: None)

    monkeypatch.setattr(host, "Found", SimpleNamespace(here=here))
    monkeypatch.setattr(host, "Agent", Agent)
    for name in ("set_up_logs", "forbid_cores"):
        monkeypatch.setattr(host, name, lambda: None)
    monkeypatch.setattr("inferd.cli.host.descriptors.raise_limit", lambda: None)
    monkeypatch.setattr("inferd.cli.host.logs.install", lambda **_: None)
    settings = Settings(state_dir=tmp_path / "state", data_dir=tmp_path / "data")
    host.serve_host(Output(Format.TABLE), settings, ["127.0.0.1:9"], name="b", labels={}, token_file=None)
    assert len(seen) == 1
    assert seen[0] < STARTING_OBJECTS
