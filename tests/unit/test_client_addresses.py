"""Where clients find their kernel: the forms of an address, and lists of them."""

import pytest

from inferd_client import AsyncClient, Client, KernelUnreachableError
from inferd_client.addresses import split_addresses
from inferd_client.channel import target


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:7411", "dns:///127.0.0.1:7411"),
        ("localhost:1", "dns:///localhost:1"),
        ("[::1]:7411", "dns:///[::1]:7411"),
        ("unix:/run/inferd.sock", "unix:/run/inferd.sock"),
    ],
)
def test_addresses(address: str, expected: str) -> None:
    """The forms of an address that a kernel can listen on are understood."""
    assert target(address) == expected


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


@pytest.mark.parametrize(
    "address", ["", "localhost", "localhost:", ":7411", "::1:7411", "host:70000", "http://h:1", "unix:"]
)
def test_wrong_addresses_are_refused_at_once(address: str) -> None:
    """A malformed address is told with the forms that are possible, before any call."""
    with pytest.raises(ValueError, match="host:port or unix:/path"):
        target(address)
