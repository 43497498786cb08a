"""The short form of `make chaos LEADERS=…`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from leader_ordeal import MANNERS, NAME, Course, ordeal
from postgres_server import PostgresServer
from rounds import summary

pytestmark = pytest.mark.e2e


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of this test alone: all of its connections are cut."""
    made = PostgresServer()
    yield made
    made.remove()


async def test_streams_go_on_where_the_leader_is_killed(server: PostgresServer, tmp_path: Path) -> None:
    """Kernels that are processes: nothing that was acknowledged is lost, told twice or late; the next one leads.

    One that is stopped and wakes up is in tests/services/test_standby.py.
    """
    report = tmp_path / "report"
    rounds = await ordeal(
        server, tmp_path, Course(begin=MANNERS.index("killed"), count=1, kernels=2, kinds=8, report=report)
    )
    assert [each.tasks for each in rounds if each.is_right and each.followed] == [8]
    (killed,) = summary(report.read_text().splitlines(), NAME).splitlines()
    right = "1 rounds, 8 tasks, 0 lost, 0 double, 0 wrong, 0 stale"
    assert killed.startswith(f"chaos.leaders.fake killed: {right}")
