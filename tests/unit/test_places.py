"""Where kernels listen and are looked for when no address is named, and whose folders are trusted."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from inferd import places
from inferd.config import DEFAULT_ADDRESS, Settings
from inferd.listeners import listen_places
from inferd_client import Client, rpc_errors
from inferd_client import places as looked

UNCONNECTED = "failed to connect to all addresses; last error: UNKNOWN: unix:/x: "


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of a host, and a user of it who has no runtime folder."""
    for name, folder, mode in (("RUN", "run", 0o755), ("USERS", "run/user", 0o755), ("SHARED", "tmp", 0o777)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder).chmod(mode | (0o1000 if folder == "tmp" else 0))
        for module in (places, looked):
            monkeypatch.setattr(module, name, tmp_path / folder)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # and so they belong to somebody else where that is not so
    real, own = os.stat, os.getuid()

    def stat(path: int | str | Path, **how: object) -> os.stat_result:
        found = real(path, **how)  # type: ignore[arg-type] # as it was called
        return os.stat_result((*found[:4], 1000 if found.st_uid == own else found.st_uid, *found[5:]))

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "lstat", lambda path, **how: stat(path, follow_symlinks=False, **how))
    return tmp_path


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        made.listen()
        yield


def made(folder: Path, mode: int = 0o700) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(mode)
    return folder


def test_client_and_kernel_agree(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a kernel listens by itself a client looks first: runtime folder, /run/user/UID, /tmp; root's is in /run."""
    assert places.own_socket() == looked.sockets()[0] == host / "tmp/inferd-1000/inferd.sock"
    made(host / "run/user/1000")
    assert places.own_socket() == looked.sockets()[0] == host / "run/user/1000/inferd/inferd.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(made(host / "session")))
    assert places.own_socket() == looked.sockets()[0] == host / "session/inferd/inferd.sock"
    for wrong in (str(made(host / "open", 0o770)), str(host / "none"), "session", ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", wrong)
        assert places.own_socket() == looked.sockets()[0] == host / "run/user/1000/inferd/inferd.sock"
    assert looked.sockets()[-1] == places.system_socket() == host / "run/inferd/inferd.sock"
    monkeypatch.undo()
    assert (places.NAME, places.FOLDER, places.RUN) == (looked.NAME, looked.FOLDER, looked.RUN)
    assert (places.USERS, places.SHARED) == (looked.USERS, looked.SHARED)


def test_without_any_folder_it_is_the_loopback(host: Path) -> None:
    """Where others may rename what is in /tmp, and there is nothing else, a kernel has no socket by default."""
    (host / "tmp").chmod(0o777)
    assert listen_places(Settings()) == (DEFAULT_ADDRESS,)


def test_a_runtime_folder_of_somebody_else_is_passed_over(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `sudo -E` leaves in the environment is not used: the folder is another user's."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(made(host / "session")))
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    assert host / "session/inferd/inferd.sock" not in (places.own_socket(), *looked.sockets())


def test_the_folder_of_a_usual_place_is_made_for_its_user_alone(host: Path) -> None:
    """It is made with mode 0700 whatever the mask of the process, and taken again as it is."""
    path = places.own_socket()
    assert path is not None
    before = os.umask(0)
    try:
        places.prepare_folder(path)
        places.prepare_folder(path)
    finally:
        os.umask(before)
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert list((host / "tmp").iterdir()) == [path.parent]


def test_a_folder_that_others_have_made_is_refused(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link, a folder that others write to, and one of another user in the usual place are told with what to do."""
    path = places.own_socket()
    assert path is not None
    path.parent.symlink_to(made(host / "elsewhere"))
    with pytest.raises(OSError, match=r"is a link or a file.*--listen unix:/path"):
        places.prepare_folder(path)
    path.parent.unlink()
    made(path.parent, 0o770)
    with pytest.raises(OSError, match=f"mode 0770.*chmod go-w {path.parent}"):
        places.prepare_folder(path)
    path.parent.chmod(0o1777)
    with pytest.raises(OSError, match="others can write to the folder"):
        places.prepare_folder(path)
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    with pytest.raises(OSError, match="belongs to uid 1000"):
        places.prepare_folder(host / "elsewhere" / "k.sock")


@pytest.mark.usefixtures("host")
def test_a_kernel_is_found_in_the_first_place_where_one_listens() -> None:
    """Sockets of kernels that died, and unsafe folders, are passed over; then comes the socket of the host."""
    own, system = looked.sockets()
    made(own.parent)
    with listening(own):
        assert looked.find_address() == f"unix:{own}"
        own.parent.chmod(0o770)
        assert looked.look(own) == "passed over: others can write to its folder"
    own.parent.chmod(0o700)
    assert looked.look(own) == "its kernel has ended"
    assert looked.find_address() == f"unix:{own}"
    made(system.parent, 0o755)
    with listening(system):
        assert looked.find_address() == f"unix:{system}"


def test_a_link_in_a_usual_place_is_not_followed(host: Path) -> None:
    """Nobody has a client talk to a kernel of theirs by a link in /tmp."""
    own = looked.sockets()[0]
    own.parent.symlink_to(made(host / "theirs"))
    with listening(host / "theirs" / "inferd.sock"):
        assert looked.look(own).startswith("passed over")


def test_an_error_says_what_was_tried_and_the_fix(host: Path) -> None:
    """Where no kernel is found each place is named with what was seen there, and the command that starts one."""
    own, system = looked.sockets()
    refused = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), f"{UNCONNECTED}No such file or directory"
    )
    told = rpc_errors.from_rpc(refused, looked.find_address()).message
    assert told.startswith(
        f"no kernel answers; tried {own} (there is no such socket); {system} (there is no such socket)"
    )
    assert told.endswith("start one with: inferd serve, or name one: --address, INFERD_ADDRESS")
    made(host / "shared")
    with listening(host / "shared" / "s"):
        (host / "shared" / "s").chmod(0o660)
        denied = grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), f"{UNCONNECTED}Permission denied"
        )
        assert "usermod -aG" in rpc_errors.from_rpc(denied, f"unix:{host}/shared/s").message
        (host / "shared" / "s").chmod(0o600)
        assert "it is uid 1000's alone" in rpc_errors.from_rpc(denied, f"unix:{host}/shared/s").message


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`INFERD_ADDRESS` is the default, then the socket where the kernel of this user listens by default."""
    monkeypatch.setenv("INFERD_ADDRESS", "unix:/run/k.sock")
    with Client() as client:
        assert client.address == "unix:/run/k.sock"
    monkeypatch.delenv("INFERD_ADDRESS")
    with Client() as client:
        assert (client.address,) == listen_places(Settings())


def test_a_folder_in_run_is_trusted_as_root_gave_it(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket of the host may be another user's whose folder root has made, not one that anybody could make."""
    _, system = looked.sockets()
    made(system.parent, 0o755)
    real, run = os.stat, str(host / "run")

    def stat(path: int | str | Path, **how: object) -> os.stat_result:
        found = real(path, **how)  # type: ignore[arg-type] # as it was called
        return os.stat_result((*found[:4], 0 if str(path) == run else 990, *found[5:]))

    with listening(system):
        monkeypatch.setattr(os, "stat", stat)
        monkeypatch.setattr(os, "lstat", lambda path, **how: stat(path, follow_symlinks=False, **how))
        assert looked.look(system) == ""
        (host / "run").chmod(0o777)
        assert looked.look(system) == "passed over: its folder belongs to uid 990"
