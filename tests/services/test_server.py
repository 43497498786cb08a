from pathlib import Path

import pytest

from inferd.config import Settings
from inferd.errors import InvalidFieldError
from inferd.server import check_address, running_kernel
from inferd.testing.kernel import kernel_here


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:7411", "[::1]:7411", "127.8.8.8:1", "unix:/tmp/x.sock"])
def test_the_loopback_is_listened_on(address: str) -> None:
    """Addresses that only this host can reach are accepted."""
    check_address(address)


@pytest.mark.parametrize("address", ["0.0.0.0:7411", "[::]:7411", "192.168.1.2:7411", "example.org:7411"])
def test_the_network_is_refused(address: str) -> None:
    """Without authentication nothing is offered to other hosts, and the error says what to do instead."""
    with pytest.raises(InvalidFieldError, match="loopback"):
        check_address(address)


@pytest.mark.parametrize("address", ["7411", "127.0.0.1", "127.0.0.1:port", "127.0.0.1:70000", ""])
def test_what_is_no_address_is_named(address: str) -> None:
    """Something that is no address is refused as such."""
    with pytest.raises(InvalidFieldError, match="host:port"):
        check_address(address)


async def test_a_second_kernel_on_the_port_is_an_error(tmp_path: Path) -> None:
    """Two kernels never share a port: the second says which address is taken."""
    async with kernel_here(tmp_path / "a") as kernel:
        settings = Settings(
            listen=kernel.addresses, data_dir=tmp_path / "b", state_dir=tmp_path / "b", plugin_modules=()
        )
        with pytest.raises(OSError, match=kernel.addresses[0]):
            async with running_kernel(settings):
                pass
