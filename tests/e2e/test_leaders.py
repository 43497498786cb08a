"""The short form of `make chaos LEADERS=…`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from leader_ordeal import figures, ordeal
from postgres_server import PostgresServer

pytestmark = pytest.mark.e2e


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of this test alone: all of its connections are cut."""
    made = PostgresServer()
    yield made
    made.remove()


async def test_streams_go_on_where_the_leader_is_killed_or_stopped(server: PostgresServer, tmp_path: Path) -> None:
    """Kernels that are processes: nothing that was acknowledged is lost, nothing told twice, and each is followed."""
    told = figures(await ordeal(server, tmp_path, count=2, seed=1, kernels=2, kinds=8), 1)
    assert (told["lost"], told["double"], told["wrong"], told["tasks"]) == (0, 0, 0, 16)
    assert told["followed"] == 2
