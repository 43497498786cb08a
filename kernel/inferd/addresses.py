"""Where a kernel listens: what an address may be, and who may have it.

A socket in a file belongs to the one who holds the lock beside it. gRPC binds it under a name of its own and removes
that name when it ends; the real name is given by a rename, which takes the place of what a kernel that died has left,
and is taken away only while it is ours.
"""

import errno
import fcntl
import ipaddress
import os
import re
import secrets
import socket
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

import structlog

from inferd.errors import InvalidFieldError, words_of
from inferd.places import prepare_folder
from inferd.sharing import Sharing

UNIX = "unix:"
TLS = "tls:"
MUTUAL_TLS = "mtls:"
TICKETS = ".id"  # behind the name of a socket: that of the one that gives tickets for it
LONGEST_PATH = 107  # of a socket in a file, in bytes; see unix(7)
LARGEST_PORT = 65535
PRIVATE_TRIES = 100
NO_PATH = re.compile(r"[%?#\0]")  # gRPC reads addresses as URIs: clients would look elsewhere
FORMS = "host:port, tls:host:port, mtls:host:port or unix:/path"

log = structlog.get_logger()

AddPort = Callable[[str], int]
"""Has gRPC listen on a target and gives the port; RuntimeError where it cannot."""
NO_PORTS: Mapping[str, AddPort] = {}
TicketsAt = Callable[[Path, Path], AbstractContextManager[None]]
"""Has tickets given at a path, made under a free name beside it, as long as the block."""


def check_address(address: str) -> None:
    """Refuse an address without TLS that others than this host could reach.

    Raises:
        InvalidFieldError: It is not on the loopback, or no address at all.
    """
    if address.startswith(UNIX):
        socket_path(address)
    else:
        loopback_port(address)


def loopback_port(address: str) -> tuple[str, int]:
    """The host and the port of an address on the loopback.

    Raises:
        InvalidFieldError: It is not on the loopback, or no such address at all.
    """
    host, port = split_address(address)
    if not is_loopback(host):
        _refuse(
            f"listen {address!r} is not on the loopback, and without TLS and authentication anyone could use it; "
            f"listen on tls:{address} with a certificate, or on 127.0.0.1:{port} and tunnel to it"
        )
    return host, port


def is_loopback(host: str) -> bool:
    """Whether only this host reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_scheme(address: str) -> tuple[str, str]:
    """What stands before an address with TLS, "" for one without; and the rest."""
    scheme = next((each for each in (TLS, MUTUAL_TLS) if address.startswith(each)), "")
    return scheme, address.removeprefix(scheme)


def socket_path(address: str) -> Path:
    """The file of a socket.

    Raises:
        InvalidFieldError: The address names none, or one that cannot be.
    """
    path = address.removeprefix(UNIX)
    if path.startswith("//"):
        path = path.removeprefix("//")
        if not path.startswith("/"):
            _refuse(f"listen {address!r} has a host; write unix:/path")
    if not path or path.endswith("/"):
        _refuse(f"listen {address!r} names no file; write unix:/path")
    if (wrong := NO_PATH.search(path)) is not None:
        _refuse(f"listen {address!r} has {wrong[0]!r} in its path, which clients cannot say; choose another path")
    found = Path(path).absolute()
    size_bytes = len(os.fsencode(found))
    if size_bytes > LONGEST_PATH:
        _refuse(f"listen {address!r} has a path of {size_bytes} bytes; at most {LONGEST_PATH}")
    return found


@contextmanager
def listening(
    addresses: Sequence[str],
    add_port: AddPort,
    *,
    sharing: Sharing,
    tickets_at: TicketsAt,
    besides: str = "",
    secure: Mapping[str, AddPort] = NO_PORTS,
) -> Iterator[tuple[str, ...]]:
    """Have gRPC listen until the block ends; where it does, with ports filled in.

    Args:
        addresses: As `check_address` accepts them.
        add_port: Of the server.
        sharing: Who may use sockets in files.
        tickets_at: How those are told apart who may use a shared one.
        secure: The same as `add_port` for addresses with TLS, by what stands before them.
        besides: A socket in a file where to listen, too, if that can be; "" for none.

    Raises:
        OSError: An address is taken, or cannot be had; says which and why.
    """
    with ExitStack() as held:
        bound = []
        for address in dict.fromkeys(addresses):
            if address.startswith(UNIX):
                bound.append(held.enter_context(_listening_in_file(address, add_port, sharing, tickets_at)))
            else:
                scheme, bare = split_scheme(address)
                bound.append(scheme + _listen_on_port(bare, secure.get(scheme, add_port)))
        if besides:
            try:
                bound.append(held.enter_context(_listening_in_file(besides, add_port, sharing, tickets_at)))
            except (OSError, InvalidFieldError) as error:
                log.info("there is no socket besides", why=words_of(error))
        yield tuple(bound)


def _refuse(message: str) -> NoReturn:
    raise InvalidFieldError(message, field="listen")


def split_address(address: str) -> tuple[str, int]:
    """The host and the port of an address, without brackets.

    Raises:
        InvalidFieldError: It is none.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal():
        _refuse(f"listen {address!r} is not {FORMS}")
    if int(port) > LARGEST_PORT:
        _refuse(f"listen {address!r} has port {port}; a port is at most {LARGEST_PORT}")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        _refuse(f"listen {address!r} is not {FORMS}: an IPv6 address stands in brackets, [{host}]:{port}")
    if bracketed and ":" not in host:
        _refuse(f"listen {address!r} is not {FORMS}: only an IPv6 address stands in brackets")
    return host.strip("[]"), int(port)


def _listen_on_port(address: str, add_port: AddPort) -> str:
    """Listen on every address that the name stands for, so that two kernels cannot share it."""
    name, port = split_address(address)
    shown = address.rpartition(":")[0]
    hosts = ["127.0.0.1", "::1"] if name == "localhost" else [name]
    usable = [host for host in hosts if _free(host, port, address, needed=len(hosts) == 1)]
    if not usable:
        raise OSError(f"cannot listen on {address}: this host has no such address")
    for host in usable:
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            port = add_port(target)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}; is another kernel running?") from None
    return f"{shown}:{port}"


def _free(host: str, port: int, address: str, *, needed: bool) -> bool:
    """Whether a port of a host can be had; False where the host has no such address and another one will do.

    Raises:
        OSError: It cannot; says why, which gRPC does not.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does: what is closing is no hindrance
            probe.bind((host, port))
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and not needed:
            return False
        hint = "; is another kernel running?" if error.errno == errno.EADDRINUSE else ""
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}{hint}") from None
    return True


@contextmanager
def _listening_in_file(address: str, add_port: AddPort, sharing: Sharing, tickets_at: TicketsAt) -> Iterator[str]:
    path = socket_path(address)
    try:
        prepare_folder(path)
        sharing.check_way(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None
    with _locked(path, address):
        _check_unused(path, address)
        private = _private(path)
        before = os.umask(0o177)  # so that it never was open to more than it is to be
        try:
            add_port(UNIX + quote(str(private)))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}; is the folder there, and may it be written?") from None
        finally:
            os.umask(before)
        try:
            sharing.give(private)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None
        with _tickets_beside(path, address, sharing, tickets_at):
            private.replace(path)
            ours = path.stat().st_ino
            try:
                yield UNIX + str(path)
            finally:
                with suppress(FileNotFoundError):
                    if path.stat().st_ino == ours:
                        path.unlink()


def _tickets_beside(path: Path, address: str, sharing: Sharing, tickets_at: TicketsAt) -> AbstractContextManager[None]:
    """What tells apart who may use a shared socket; for one of its owner alone an old one is removed."""
    ids = path.with_name(path.name + TICKETS)
    size_bytes = len(os.fsencode(ids))
    if sharing.is_shared and size_bytes > LONGEST_PATH:
        _refuse(
            f"listen {address!r} has with the {TICKETS} of the socket that gives tickets {size_bytes} bytes; at most "
            f"{LONGEST_PATH}"
        )
    _check_unused(ids, address)
    if sharing.is_shared:
        return tickets_at(ids, _private(ids))
    ids.unlink(missing_ok=True)
    return nullcontext()


def _private(path: Path) -> Path:
    """A path beside another one that is free and no longer, so that it can be that of a socket, too.

    Raises:
        OSError: None was found.
    """
    length = len(path.name)
    for _ in range(PRIVATE_TRIES):
        private = path.with_name((f".{secrets.token_hex(8)}" if length > 1 else secrets.token_hex(1))[:length])
        if not private.exists():
            return private
    raise OSError(errno.EEXIST, f"cannot listen on {UNIX}{path}: no name is free beside it; choose a longer one")


@contextmanager
def _locked(path: Path, address: str) -> Iterator[None]:
    """Hold the lock beside a socket; its file is gone afterwards.

    Raises:
        OSError: Another process holds it, or the file cannot be made.
    """
    lock = path.with_name(f"{path.name}.lock")
    descriptor = _lock(lock, address)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        with suppress(FileNotFoundError):
            if lock.stat().st_ino == os.fstat(descriptor).st_ino:
                lock.unlink()
        os.close(descriptor)


def _lock(lock: Path, address: str) -> int:
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError as error:
            why = f"{error.strerror}: the folder {lock.parent} is not there; make it first"
            raise OSError(error.errno, f"cannot listen on {address}: {why}") from None
        except NotADirectoryError as error:
            raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}: {lock.parent}") from None
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {address}: {lock}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.stat().st_ino == os.fstat(descriptor).st_ino:  # else its holder has just ended and removed it
                return descriptor
        except BlockingIOError:
            pid = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            message = f"cannot listen on {address}: another kernel is running there (pid {pid or 'unknown'})"
            raise OSError(errno.EADDRINUSE, message) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _check_unused(path: Path, address: str) -> None:
    """See that the path is free, or holds a socket on which nobody listens any more.

    Raises:
        OSError: It does not.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise OSError(errno.EEXIST, f"cannot listen on {address}: {path} is there and no socket; choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # else a full backlog would make it wait
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left by one that died
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            if error.errno not in (errno.EAGAIN, errno.EINPROGRESS):
                raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None
    raise OSError(errno.EADDRINUSE, f"cannot listen on {address}: another program listens there")
