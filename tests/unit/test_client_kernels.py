"""Clients that are given the addresses of several kernels."""

import pytest

from inferd_client import AsyncClient, Client
from inferd_client.addresses import split_addresses
from inferd_client.errors import KernelUnreachableError


def test_a_list_of_addresses_is_read_as_it_is_written() -> None:
    """With commas between them, each once; a comma in the path of a socket is one of that, and each must be one."""
    assert split_addresses("tls:a:1, tls:b:2,tls:a:1") == ("tls:a:1", "tls:b:2")
    assert split_addresses("unix:/tmp/a,b,unix:/c,h:1") == ("unix:/tmp/a,b", "unix:/c", "h:1")
    for wrong in ("tls:a:1,,tls:b:1", "a:1,b", ",".join(f"h:{port}" for port in range(1, 18))):
        with pytest.raises(ValueError, match="address"):
            split_addresses(wrong)


async def test_of_several_kernels_each_is_named_where_none_answers() -> None:
    """At once, with what was found at each address, as one error of both clients."""
    addresses = ["127.0.0.1:1", "127.0.0.1:2"]
    with (
        Client(",".join(addresses)) as sync,
        pytest.raises(KernelUnreachableError, match="no kernel answers") as caught,
    ):
        sync.get_host()
    async with AsyncClient(",".join(addresses)) as client:
        with pytest.raises(KernelUnreachableError) as other:
            await client.get_host()
    assert caught.value.message == other.value.message
    for address in addresses:
        assert f"{address}: the connection was refused" in caught.value.message
