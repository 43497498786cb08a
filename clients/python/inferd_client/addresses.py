"""Addresses of kernels: their forms, and lists of them."""

from __future__ import annotations

import os
from typing import Final

from inferd_client.tls import split_scheme

MAX_PORT: Final = 65535
LONGEST_PATH: Final = 107  # of a socket in a file, in bytes; see unix(7)
MOST: Final = 16  # in a list


def target(address: str) -> str:
    """The gRPC target of an address: `host:port`, `[ipv6]:port`, one of them behind `tls:` or `mtls:`, or `unix:/path`.

    Raises:
        ValueError: The address has none of these forms.
    """
    if address.startswith("unix:") and len(address) > len("unix:"):
        size_bytes = len(os.fsencode(address.removeprefix("unix:").removeprefix("//")))
        if size_bytes > LONGEST_PATH:
            raise ValueError(f"address {address!r} has a path of {size_bytes} bytes; at most {LONGEST_PATH}")
        return address
    _, bare = split_scheme(address)
    host, _, port = bare.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if host and port.isdecimal() and int(port) > MAX_PORT:
        raise ValueError(
            f"address {address!r} has port {port}; in host:port or unix:/path a port is at most {MAX_PORT}"
        )
    if not host or "/" in host or (":" in host and not bracketed) or not port.isdecimal():
        raise ValueError(f"address {address!r} is not of the form host:port, tls:host:port or unix:/path")
    return f"dns:///{bare}"


def split_addresses(text: str) -> tuple[str, ...]:
    """The addresses of a list with commas between them; each once, in their order.

    A comma in the path of a socket is one of that: what follows it is no address.

    Raises:
        ValueError: One is none, or there are too many.
    """
    found: list[str] = []
    for part in text.split(","):
        if found and found[-1].startswith("unix:") and not _is_address(part.strip()):
            found[-1] += f",{part}"
        else:
            found.append(part.strip())
    for address in found:
        target(address)
    if len(found) > MOST:
        raise ValueError(f"{len(found)} addresses are given; at most {MOST}")
    return tuple(dict.fromkeys(found))


def _is_address(text: str) -> bool:
    try:
        target(text)
    except ValueError:
        return False
    return True
