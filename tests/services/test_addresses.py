"""Where a kernel listens, and that it is there alone."""

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from inferd.addresses import LONGEST_PATH, check_address
from inferd.errors import InvalidFieldError
from inferd.testing.kernel import kernel_here, kernel_process
from inferd_api.v1.host_service_pb2 import GetHostRequest
from inferd_api.v1.host_service_pb2_grpc import HostServiceStub

DEADLINE_S = 60.0


@contextmanager
def bound(path: Path, *, listens: bool) -> Iterator[socket.socket]:
    """A socket in a file, which stays when the block ends."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        if listens:
            made.listen()
        yield made


async def pid_at(address: str) -> int:
    """The process that serves at an address."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = HostServiceStub(channel)
        return int((await stub.GetHost(GetHostRequest(), timeout=DEADLINE_S)).host.pid)  # type: ignore[misc]


async def refusal(folder: Path, address: str) -> str:
    """Why a kernel cannot listen there."""
    with pytest.raises(OSError, match="cannot listen") as caught:
        async with kernel_here(folder, listen=(address,)):
            pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("::1:7411", r"brackets, \[::1\]:7411"),
        ("::1", "brackets"),
        ("[127.0.0.1]:7411", "only an IPv6 address"),
        ("127.0.0.1:٧٤١١", "not host:port"),
        ("127.0.0.1:-1", "not host:port"),
        ("127.0.0.1:99999", "port 99999; a port is at most 65535"),
        ("unix:", "names no file"),
        ("unix:/tmp/", "names no file"),
        ("unix://host/path", "has a host"),
        ("unix:/tmp/a#b", "'#' in its path"),
        ("unix:/tmp/%41", "'%' in its path"),
        (f"unix:/{'x' * LONGEST_PATH}", f"{LONGEST_PATH + 1} bytes; at most {LONGEST_PATH}"),
        ("unix-abstract:name", "not host:port, tls:host:port, mtls:host:port or unix:/path"),
    ],
)
def test_what_is_no_address_says_why(address: str, why: str) -> None:
    """What gRPC would take for something else, or clients could not say, is a typed error with the right form."""
    with pytest.raises(InvalidFieldError, match=why) as caught:
        check_address(address)
    assert caught.value.field == "listen"


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A socket in a folder that does not exist, or that is a file, is told by the folder."""
    (tmp_path / "file").touch()
    assert f"the folder {tmp_path}/none is not there" in await refusal(tmp_path, f"unix:{tmp_path}/none/k.sock")
    assert f"Not a directory: {tmp_path}/file" in await refusal(tmp_path, f"unix:{tmp_path}/file/k.sock")


async def test_a_socket_has_one_kernel(tmp_path: Path) -> None:
    """A second kernel on the path of a living one ends with its process id; the first one serves on."""
    path = tmp_path / "k.sock"
    with kernel_process(tmp_path / "a", listen=f"unix:{path}") as first:
        assert first.address == f"unix:{path}"
        why = await refusal(tmp_path / "b", f"unix:{path}")
        assert why.endswith(f"another kernel is running there (pid {first.pid})")
        assert await pid_at(first.address) == first.pid
    assert not path.exists()


async def test_what_a_dead_kernel_left_is_replaced(tmp_path: Path) -> None:
    """A kernel that was killed leaves its socket and its lock; the next one takes their place, and leaves nothing."""
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "k.sock"
    with kernel_process(tmp_path / "a", listen=f"unix:{path}") as first:
        first.process.kill()
        first.process.wait(DEADLINE_S)
        assert path.is_socket()
        async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path / "b", listen=(f"unix:{path}",)) as kernel:
            assert await pid_at(kernel.addresses[0]) == os.getpid()
            assert {entry.name for entry in folder.iterdir()} == {"k.sock", "k.sock.lock"}
    assert list(folder.iterdir()) == []


async def test_the_socket_of_another_program_stays(tmp_path: Path) -> None:
    """Where another program listens, or a file stands that is no socket, nothing is replaced."""
    with bound(tmp_path / "other.sock", listens=True) as other:
        assert "another program listens there" in await refusal(tmp_path, f"unix:{tmp_path}/other.sock")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "other.sock"))
            other.accept()[0].close()
    (tmp_path / "notes").write_text("mine")
    assert "no socket" in await refusal(tmp_path, f"unix:{tmp_path}/notes")
    assert (tmp_path / "notes").read_text() == "mine"
    assert "No such file" in await refusal(tmp_path, f"unix:{tmp_path}/none/k.sock")


async def test_what_took_its_place_stays(tmp_path: Path) -> None:
    """A kernel whose socket was removed and made anew by another leaves that one alone when it ends."""
    path = tmp_path / "k.sock"
    async with kernel_here(tmp_path / "a", listen=(f"unix:{path}",)):
        path.unlink()
        (tmp_path / "k.sock.lock").unlink()
        async with kernel_here(tmp_path / "b", listen=(f"unix:{path}",)) as second:
            pass
        with bound(path, listens=False):
            pass
    assert second.addresses == (f"unix:{path}",)
    assert path.is_socket()


@pytest.mark.parametrize(("settings", "mode"), [({}, 0o600), ({"socket_mode": "0660"}, 0o660)])
async def test_permissions(tmp_path: Path, settings: dict[str, str], mode: int) -> None:
    """A socket is its owner's alone, unless the configuration says otherwise; the process's own mask stays."""
    before = os.umask(0o022)
    try:
        async with kernel_here(tmp_path, listen=(f"unix:{tmp_path}/k.sock",), **settings):
            assert stat.S_IMODE((tmp_path / "k.sock").stat().st_mode) == mode
            assert stat.S_IMODE((tmp_path / "k.sock.lock").stat().st_mode) == 0o600
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("length", [LONGEST_PATH, LONGEST_PATH - 1])
async def test_the_longest_path(tmp_path: Path, length: int) -> None:
    """A path as long as a socket's may be can be listened on, also where the file's own name is short."""
    folder = tmp_path / ("d" * (length - len(str(tmp_path)) - len("//k")))
    folder.mkdir()
    async with kernel_here(tmp_path, listen=(f"unix:{folder}/k",)) as kernel:
        assert await pid_at(kernel.addresses[0]) == os.getpid()


@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
async def test_a_name_is_had_as_a_whole(tmp_path: Path, taken: str) -> None:
    """Where one of the addresses of localhost is another's, the port is taken: no two kernels answer to one name."""
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.socket(family) as other:
        try:
            other.bind((taken, 0))
        except OSError:
            pytest.skip(f"this host has no {taken}")
        other.listen()
        why = await refusal(tmp_path, f"localhost:{other.getsockname()[1]}")
        assert "is another kernel running?" in why


async def test_the_same_address_twice(tmp_path: Path) -> None:
    """An address that is named twice is listened on once."""
    async with kernel_here(tmp_path, listen=(f"unix:{tmp_path}/k.sock",) * 2) as kernel:
        assert kernel.addresses == (f"unix:{tmp_path}/k.sock",)
