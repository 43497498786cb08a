"""Pages of lists."""

import base64

import grpc
import pytest
from connection import Connection, reason_of

from inferd.errors import InvalidFieldError
from inferd.services.pages import DEFAULT_PAGE, LARGEST_PAGE, page_of
from inferd_api.v1.host_service_pb2 import ListBackendsRequest
from inferd_api.v1.lease_service_pb2 import ListLeasesRequest
from inferd_api.v1.model_service_pb2 import ListModelsRequest
from inferd_api.v1.task_service_pb2 import ListTasksRequest

ITEMS = [(f"{n:05d}", n) for n in range(2 * LARGEST_PAGE)]
MOST = 2**32 - 1
GARBAGE = ("x", "zzzz", "AAAA", "not base64!", "é", "\0", base64.b64encode(b"00042").decode(), "A" * 100_000)


@pytest.mark.parametrize(
    ("size", "given"),
    [
        (0, DEFAULT_PAGE),
        (1, 1),
        (LARGEST_PAGE, LARGEST_PAGE),
        (LARGEST_PAGE + 1, LARGEST_PAGE),
        (2**32 - 1, LARGEST_PAGE),
    ],
)
def test_sizes(size: int, given: int) -> None:
    """No size means the default, and one above the largest is taken as the largest; the pages join to the whole."""
    page, token = page_of(ITEMS, size, "")
    assert page == list(range(given))
    rest, _ = page_of(ITEMS, size, token)
    assert rest[0] == given


def test_pages_join() -> None:
    """The tokens lead from page to page to the end, and the last page has none."""
    told, token = page_of(ITEMS, 300, "")
    while token:
        page, token = page_of(ITEMS, 300, token)
        told += page
    assert told == [n for _, n in ITEMS]


@pytest.mark.parametrize("token", GARBAGE, ids=range(len(GARBAGE)))
def test_a_token_that_was_never_given(token: str) -> None:
    """What is no token of ours is refused, also where it is well-formed, and named in part however long it is."""
    with pytest.raises(InvalidFieldError, match="page_token") as caught:
        page_of(ITEMS, 0, token)
    assert caught.value.field == "page_token"
    assert len(caught.value.message) < 200


async def test_every_list(connection: Connection) -> None:
    """Every list takes any size, and refuses a token that is none."""
    lists = (
        (connection.hosts.ListBackends, ListBackendsRequest),
        (connection.leases.ListLeases, ListLeasesRequest),
        (connection.models.ListModels, ListModelsRequest),
        (connection.tasks.ListTasks, ListTasksRequest),
    )
    for method, request in lists:
        assert not (await method(request(page_size=MOST))).next_page_token
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(request(page_token=GARBAGE[2]))
        assert reason_of(caught.value)[0] == "INVALID_FIELD"


async def test_a_token_of_another_list(connection: Connection) -> None:
    """A list of numbered things refuses a token whose key is a name, as it refuses one that was never given."""
    for name in ("one", "two"):
        await connection.create(name)
    token = (await connection.models.ListModels(ListModelsRequest(page_size=1))).next_page_token
    for method, request in (
        (connection.leases.ListLeases, ListLeasesRequest),
        (connection.tasks.ListTasks, ListTasksRequest),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(request(page_token=token))
        assert reason_of(caught.value)[0] == "INVALID_FIELD"
