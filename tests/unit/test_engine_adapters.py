"""Adapters between the steps: tasks that wait for one that goes away."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inferd.engine.token.adapters import Adapters
from inferd.errors import InferdError
from inferd.plugin import ReadAdapter
from inferd.plugin.session import AdaptingSession


@dataclass
class Session:
    """Holds adapters by their slots."""

    limits: Any = None
    slots: set[int] = field(default_factory=set)

    def step(self, batch: Any) -> Any: ...

    def copy_blocks(self, pairs: Any) -> None: ...

    def close(self) -> None: ...

    def read_adapter(self, path: Path) -> Any: ...

    def add_adapter(self, slot: int, adapter: ReadAdapter) -> None:  # noqa: ARG002 - as sessions have it
        self.slots.add(slot)

    def remove_adapter(self, slot: int) -> None:
        self.slots.remove(slot)


READ = ReadAdapter(content=None, rank=1, targets=("q_proj",), memory_bytes=1)


@pytest.mark.parametrize("others", [{}, {"sha256:y": "legal"}], ids=["unloaded", "replaced"])
def test_whoever_waits_for_an_adapter_that_goes_ends_with_that(others: dict[str, str]) -> None:
    """Each of them ends with ADAPTER_NOT_FOUND, the engine goes on, and what is read late takes no slot."""
    session, ended = Session(), dict[int, str]()
    assert isinstance(session, AdaptingSession)

    def fail(handle: int, error: InferdError) -> None:  # as the loop: who ends is dropped
        ended[handle] = error.reason
        adapters.drop(handle)

    adapters = Adapters(session, fail)
    adapters.expect({"sha256:x": "legal"})
    for handle in (1, 2):
        adapters.when_there(handle, "sha256:x", lambda: pytest.fail("it began"))
    adapters.expect(others)
    assert ended == {1: "ADAPTER_NOT_FOUND", 2: "ADAPTER_NOT_FOUND"}
    adapters.add("sha256:x", READ)
    assert not session.slots
    for digest in others:
        adapters.add(digest, READ)
    assert session.slots == set(range(len(others)))
